"""Training passages chosen by a score, after Compress & Align (arXiv 2312.06726).

The score of a window is how close its bits per token are to those of ordinary prose: the bundled texts' median. A pool
of windows is drawn once and scored in one pass; a training draws from the chosen share of it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from memlab.models import FrozenLM
from memlab.texts import load_texts
from memlab.training.encoders.corpus import Corpus
from memlab.training.encoders.learning import Draws
from memlab.training.encoders.losses import window_bits
from memlab.training.encoders.settings import EncoderError, Settings
from memlab.training.encoders.windows import Windows

POOL = 4096
"""Windows that are drawn and scored."""


class Pool:
    """A fixed table of windows (N, longest). A draw of n tokens gives the first n of random rows."""

    def __init__(self, windows: np.ndarray) -> None:
        self.windows = windows

    def draw(self, random: np.random.Generator, n: int, rows: int) -> np.ndarray:
        """Token ids (rows, n)."""
        if n > self.windows.shape[1]:
            raise EncoderError(f"The windows of this pool have {self.windows.shape[1]} tokens, not {n}.")
        return self.windows[random.integers(len(self.windows), size=rows), :n]


def closeness(bits: np.ndarray, median: float) -> np.ndarray:
    """Scores (N,), larger is better: minus the distance of the bits per token (N,) from a median."""
    return -np.abs(np.asarray(bits, float) - median)


def chosen(scores: np.ndarray, share: float, choice: str, *, seed: int = 0) -> np.ndarray:
    """Rows of a share of the scores (N,), ascending: the ``best``, the ``worst``, or a ``random`` share.

    >>> chosen(np.array([3.0, 1.0, 2.0, 0.0]), 0.5, "best").tolist()
    [0, 2]
    """
    count = round(share * len(scores))
    if not 0 < share <= 1 or not count:
        raise EncoderError(f"A share of {share} of {len(scores)} windows is nothing. Give more, up to 1.")
    if choice == "random":
        return np.sort(np.random.default_rng(seed).permutation(len(scores))[:count])
    if choice not in ("best", "worst"):
        raise EncoderError(f"choice={choice!r} is not known. Use best, random or worst.")
    order = np.argsort(-scores if choice == "best" else scores, kind="stable")
    return np.sort(order[:count])


def draws_of(lm: FrozenLM, corpus: Corpus, settings: Settings, log: Callable[[str], object]) -> Draws:
    """Where a training with these settings draws its texts."""
    windows = Windows(lm, corpus.pieces("train"), longest=settings.longest)
    log(f"{len(windows):,} sentences to begin at")
    if settings.chosen >= 1:
        return windows
    longest = max(n for stage in settings.curriculum for n, _ in stage.tasks)
    table = windows.draw(np.random.default_rng([settings.seed, 2]), longest, POOL)
    log(f"scoring {POOL:,} windows of {longest} tokens")
    ordinary = np.array([lm.passage(text, longest).ids for text in load_texts("originals")[12:]])
    scores = closeness(window_bits(lm, table), float(np.median(window_bits(lm, ordinary))))
    return Pool(table[chosen(scores, settings.chosen, settings.choice, seed=settings.seed)])
