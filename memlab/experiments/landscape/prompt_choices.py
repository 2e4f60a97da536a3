"""Which tokens of a passage are kept. A chooser takes model, passage, share and cue, and returns positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from memlab.experiments.landscape.prompt_head import keep_scores
from memlab.experiments.landscape.prompt_rewrites import yes_scores
from memlab.experiments.landscape.prompt_scores import (
    costs,
    fit_passages,
    page_rank,
    states,
    surprisal,
    unit_gains,
    unit_vectors,
    units,
    words,
)
from memlab.measures import selection
from memlab.models import FrozenLM, Passage

Cue = tuple[int, ...]
"""Token ids between a prompt and the passage."""
Chooser = Callable[[FrozenLM, Passage, float, Cue], np.ndarray]
HELPS = 0.05
"""Bits that a prompt must save before it is better than none: more than a float32 pass rounds away."""
OTHERS, HEAD = 15, 16
"""A prompt must find its passage among these others, by the first tokens of each."""


# Tokens: the reader knows how many are kept ------------------------------------------------------------------------


def dearest(lm: FrozenLM, passage: Passage, share: float, cue: Cue = ()) -> np.ndarray:
    """The tokens that cost the model most."""
    return selection.top(surprisal(lm, passage), selection.count(len(passage), share))


def cheapest(lm: FrozenLM, passage: Passage, share: float, cue: Cue = ()) -> np.ndarray:
    """The tokens that cost the model least: a control."""
    return selection.top(-surprisal(lm, passage), selection.count(len(passage), share))


def learnt(lm: FrozenLM, passage: Passage, share: float, cue: Cue = ()) -> np.ndarray:
    """The tokens that a learnt head keeps."""
    return selection.top(keep_scores(lm, passage, cue), selection.count(len(passage), share))


def drawn(n: int, share: float) -> np.ndarray:
    """Random positions, the same for all passages of ``n`` tokens."""
    return np.sort(np.random.default_rng(n).permutation(n)[: selection.count(n, share)])


def ends(n: int, share: float) -> np.ndarray:
    """The first and the last tokens, half of each."""
    m = selection.count(n, share)
    return np.array([*range(-(-m // 2)), *range(n - m // 2, n)], np.int64)


# Words and units: the number of kept tokens varies -----------------------------------------------------------------


def lasting(lm: FrozenLM, passage: Passage, share: float, cue: Cue = ()) -> np.ndarray:
    """The words left after deleting, one by one, the word that moves the mean hidden state least.

    The states are read once, with the whole text in view.
    """
    pieces, inner = words(lm, passage), states(lm, passage)
    sums = np.stack([inner[start:stop].sum(axis=0) for start, stop in pieces])
    sizes = [stop - start for start, stop in pieces]
    return selection.inside(selection.least_change(sums, sizes, selection.count(len(passage), share)), pieces)


def covering(lm: FrozenLM, passage: Passage, share: float, cue: Cue = ()) -> np.ndarray:
    """The units that cover the others best, in the greedy order of facility location."""
    return _units_in(selection.by_coverage(selection.cosines(unit_vectors(lm, passage)))[0], lm, passage, share)


def central(lm: FrozenLM, passage: Passage, share: float, cue: Cue = ()) -> np.ndarray:
    """The units with the largest personalised PageRank in their graph of nearest neighbours."""
    return _units_by(page_rank(unit_vectors(lm, passage)), lm, passage, share)


def agreed(lm: FrozenLM, passage: Passage, share: float, cue: Cue = ()) -> np.ndarray:
    """The units to which the frozen model says Yes most, more than with an empty document."""
    return _units_by(yes_scores(lm, passage), lm, passage, share)


def helping(lm: FrozenLM, passage: Passage, share: float, cue: Cue = ()) -> np.ndarray:
    """The units that alone save most bits. Of the best 0, 1, 2, … of them up to the share, those that save most.

    An oracle: it reads the passage after each candidate. Nothing is kept if nothing helps.
    """
    order = [int(i) for i in np.argsort(-unit_gains(lm, passage, cue), kind="stable")]
    pieces = units(lm, passage)
    most = len(_units_in(order, lm, passage, share))
    candidates = [selection.inside(order[:m], pieces) for m in range(len(order) + 1)]
    candidates = [kept for kept in candidates if len(kept) <= most]
    return cheapest_reading(lm, passage, candidates, cue)


def cheapest_reading(lm: FrozenLM, passage: Passage, candidates: Sequence[np.ndarray], cue: Cue) -> np.ndarray:
    """The positions, among ``candidates``, after which the passage costs least. The first, unless one saves bits."""
    # Without a prompt there is no cue either: that is what ``Kept`` gives the reader.
    total = np.array(
        [costs(lm, [passage.ids[kept]], [passage.ids], cue if len(kept) else ())[0] for kept in candidates]
    )
    best = int(total.argmin())
    return candidates[best if total[best] < total[0] - HELPS else 0]


def found(lm: FrozenLM, passage: Passage, share: float, cue: Cue = ()) -> np.ndarray:
    """The fewest tokens by which the passage is still found among ``OTHERS`` bundled ones; all, if no choice finds it.

    Candidates: the 0, 1, 2, 4, … dearest tokens, the words that move the mean state most, and the first tokens.
    """
    others = [other.ids for other in fit_passages(lm, HEAD, OTHERS)]
    n = len(passage)
    sizes = sorted({m for m in (0, 1, 2, 4, 8, 16, 32) if m <= n})
    candidates = [kept for m in sizes for kept in (dearest(lm, passage, m / n), np.arange(m))]
    candidates += [lasting(lm, passage, m / n) for m in sizes[1:]]
    return shortest_found(lm, passage, others, candidates, cue)


def shortest_found(
    lm: FrozenLM, passage: Passage, others: Sequence[np.ndarray], candidates: Sequence[np.ndarray], cue: Cue
) -> np.ndarray:
    """The candidate with the fewest tokens that saves more bits on the passage's head than on any of ``others``.

    Saved against the cue alone: that a text is cheap by itself, or after the cue, is no evidence. All positions if no
    candidate does.
    """
    heads = [passage.ids[:HEAD], *others]
    before = costs(lm, [np.empty(0, np.int64)] * len(heads), heads, cue)
    seen: set[bytes] = set()
    for kept in sorted(candidates, key=len):
        if not len(others):
            return kept
        if not len(kept) or kept.tobytes() in seen:
            continue
        seen.add(kept.tobytes())
        saved = before - costs(lm, [passage.ids[kept]] * len(heads), heads, cue)
        if saved[0] > saved[1:].max() + HELPS:
            return kept
    return np.arange(len(passage))


def _units_by(scores: np.ndarray, lm: FrozenLM, passage: Passage, share: float) -> np.ndarray:
    return _units_in([int(i) for i in np.argsort(-scores, kind="stable")], lm, passage, share)


def _units_in(order: Sequence[int], lm: FrozenLM, passage: Passage, share: float) -> np.ndarray:
    """The tokens of the first units of an order, up to about the share of all tokens."""
    pieces = units(lm, passage)
    kept = selection.within(order, [stop - start for start, stop in pieces], share * len(passage))
    return selection.inside(kept, pieces)
