"""What the frozen model says about the tokens, words and sentences of a passage. Hard prompts are chosen by it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import update_wrapper
from itertools import chain, zip_longest
from typing import Concatenate, ParamSpec, TypeVar

import numpy as np
import torch

from memlab.experiments.landscape.method import LandscapeError
from memlab.measures import selection
from memlab.measures.systems import ROWS
from memlab.models import FrozenLM, Passage, PassageError
from memlab.models.sentences import sentence_starts
from memlab.probes.token_costs import own_bits
from memlab.texts import load_texts

_S = ParamSpec("_S")
_R = TypeVar("_R")
_POSITIONS = 2048
"""Positions of a pass."""


def once(function: Callable[Concatenate[FrozenLM, _S], _R]) -> Callable[Concatenate[FrozenLM, _S], _R]:
    """``function(lm, …)``, computed once per model and arguments. Only for what ``store`` needs, or for fits.

    So the first rate of a method takes the time for all its rates.
    """
    known: dict[tuple[object, ...], _R] = {}

    def cached(lm: FrozenLM, /, *args: _S.args, **kwargs: _S.kwargs) -> _R:
        key = (lm.fingerprint, *args, *kwargs.items())
        if key not in known:
            known[key] = function(lm, *args, **kwargs)
        return known[key]

    update_wrapper(cached, function)
    return cached


@once
def fit_passages(lm: FrozenLM, tokens: int, count: int) -> tuple[Passage, ...]:
    """The first ``tokens`` tokens of ``count`` bundled texts that are in no row: prose and random words in turn.

    Texts that the tokenizer cannot write are left out. Raises ``LandscapeError`` if none is left.
    """
    kinds = load_texts("originals")[ROWS:], load_texts("random", count=ROWS + count)[ROWS:]
    found: list[Passage] = []
    for text in chain.from_iterable(zip_longest(*kinds)):
        try:
            found += [lm.passage(text, tokens)] if text is not None and len(found) < count else []
        except PassageError:
            continue
    if not found:
        raise LandscapeError(f"{lm.name} cannot write the bundled texts, and this method needs them. Leave it out.")
    return tuple(found)


@once
def surprisal(lm: FrozenLM, passage: Passage) -> np.ndarray:
    """Bits (n,) of each token behind the sink prefix. The first is log2 V if nothing precedes it."""
    return own_bits(lm, passage.ids)


@torch.no_grad()
def costs(lm: FrozenLM, prompts: Sequence[np.ndarray], targets: Sequence[np.ndarray], cue: Sequence[int]) -> np.ndarray:
    """Bits (rows,) of each target after its prompt and the cue, behind the sink prefix. Float32, many rows per pass."""
    heads = [[*lm.sink_prefix, *(int(i) for i in prompt), *cue] for prompt in prompts]
    size = max((len(h) + len(t) - 1 for h, t in zip(heads, targets, strict=True)), default=1)
    total = np.zeros(len(heads))
    for start in range(0, len(heads), per_pass := max(1, _POSITIONS // max(size, 1))):
        rows = range(start, min(start + per_pass, len(heads)))
        fed = np.zeros((len(rows), size), np.int64)
        at: list[int] = []
        ids: list[int] = []
        owner: list[int] = []
        for i, row in enumerate(rows):
            head, target = heads[row], [int(t) for t in targets[row]]
            if not head:  # nothing precedes the first token
                total[row] += np.log2(lm.vocabulary)
            line = [*head, *target[:-1]]
            fed[i, : len(line)] = line
            scored = target if head else target[1:]
            at += range(i * size + len(line) - len(scored), i * size + len(line))
            ids += scored
            owner += [row] * len(scored)
        if ids:
            with lm.lock:
                embedded = lm.embed(torch.from_numpy(fed))
                nats, _ = lm.losses(
                    embedded, torch.tensor(at, device=lm.device), torch.tensor(ids, device=lm.device), torch.float32
                )
            np.add.at(total, owner, nats.cpu().double().numpy() / np.log(2))
    return total


@once
@torch.no_grad()
def states(lm: FrozenLM, passage: Passage, *, last: bool = False) -> np.ndarray:
    """Hidden states (n, d) of the tokens after the middle layer, or the last one, behind the sink prefix."""
    prefix = list(lm.sink_prefix)
    fed = torch.cat([lm.embed(prefix), lm.embed(passage.ids)])[None]
    with lm.lock:
        layers = lm.model(inputs_embeds=fed.clone(), use_cache=False, output_hidden_states=True).hidden_states
    return layers[-1 if last else len(layers) // 2][0, len(prefix) :].float().cpu().numpy()


def characters(lm: FrozenLM, passage: Passage) -> list[int]:
    """The character of ``passage.string`` at which each token begins."""
    return [len(lm.decode_ids(passage.ids[:i])) if i else 0 for i in range(len(passage))]


def sentences(lm: FrozenLM, passage: Passage) -> list[int]:
    """The tokens with which sentences begin. No sentences without a tokenizer."""
    if lm.tokenizer is None:
        return []
    begin = np.array(characters(lm, passage))
    return [int(np.searchsorted(begin, start, side="right")) - 1 for start in sentence_starts(passage.string)]


@once
def units(lm: FrozenLM, passage: Passage) -> list[tuple[int, int]]:
    """Sentences as spans of tokens, or windows of 8 tokens if there are fewer than 4 sentences."""
    return selection.units(sentences(lm, passage), len(passage))


@once
def words(lm: FrozenLM, passage: Passage) -> list[tuple[int, int]]:
    """Words as spans of tokens: a token that begins with white space begins a word. Without a tokenizer, each token."""
    n = len(passage)
    if lm.tokenizer is None:
        return [(i, i + 1) for i in range(n)]
    begin = characters(lm, passage)
    return selection.spans([i for i in range(n) if passage.string[begin[i] : begin[i] + 1].isspace()], n)


@once
def _usual(lm: FrozenLM) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (d,) of the last layer's states, over passages in no row."""
    inner = np.concatenate([states(lm, passage, last=True) for passage in fit_passages(lm, 64, 12)])
    return inner.mean(axis=0), np.maximum(inner.std(axis=0), 1e-6)


def unit_vectors(lm: FrozenLM, passage: Passage) -> np.ndarray:
    """(units, d) mean of the last layer's states in each unit, standardised per coordinate.

    Two coordinates of the default model hold most of a state's length: without the scaling, all cosines would be
    theirs. The units are read in context. Read alone they say less of their topic.
    """
    mean, deviation = _usual(lm)
    inner = (states(lm, passage, last=True) - mean) / deviation
    return np.stack([inner[start:stop].mean(axis=0) for start, stop in units(lm, passage)])


@once
def unit_gains(lm: FrozenLM, passage: Passage, cue: tuple[int, ...]) -> np.ndarray:
    """Bits (units,) that each unit alone, read before the cue, saves on the whole passage: an oracle's label."""
    parts = [np.empty(0, np.int64), *(passage.ids[start:stop] for start, stop in units(lm, passage))]
    total = costs(lm, parts, [passage.ids] * len(parts), cue)
    return total[0] - total[1:]


def page_rank(vectors: np.ndarray, neighbours: int = 3) -> np.ndarray:
    """Personalised PageRank (n,) in the graph of nearest neighbours; the walk restarts at things close to the mean."""
    import networkx as nx  # type: ignore[import-untyped]  # comes with torch

    similarity = selection.cosines(vectors)
    graph = nx.Graph()
    graph.add_nodes_from(range(len(vectors)))
    for i, row in enumerate(similarity - 2 * np.eye(len(vectors))):
        graph.add_weighted_edges_from((i, int(j), float(row[j])) for j in selection.top(row, neighbours) if row[j] > 0)
    query = selection.cosines(np.vstack([vectors.mean(axis=0), vectors]))[0, 1:]
    ranks = nx.pagerank(graph, personalization=dict(enumerate(query)) if query.sum() > 0 else None)
    return np.array([ranks[i] for i in range(len(vectors))])
