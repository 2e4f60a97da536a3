"""How well stored keys tell passages apart: ranks, bits, and BM25 as the reference.

A key does not contain its passage. It says which of N passages is meant, which is worth at most log2 N bits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

SPREAD = 2.0**-10
"""Share of a posterior that lies on all passages alike, so that no passage is impossible."""
TEMPERATURES = tuple(2.0**e for e in range(-12, 3))
"""Tried by ``fit_temperature``, in units of the scores."""


def ranks(scores: np.ndarray, own: Sequence[int] | np.ndarray) -> np.ndarray:
    """(q,) rank of passage ``own[i]`` in row i of ``scores`` (q, N), 1 is the best. Ties share their mean rank.

    >>> ranks(np.array([[3.0, 1, 2], [1, 1, 0]]), [2, 0]).tolist()
    [2.0, 1.5]
    """
    mine = np.take_along_axis(scores, np.asarray(own)[:, None], 1)
    return 1 + (scores > mine).sum(1) + ((scores == mine).sum(1) - 1) / 2


def mean_reciprocal_rank(ranked: np.ndarray) -> float:
    """Mean of 1 / rank."""
    return float(np.mean(1 / np.asarray(ranked, float)))


def recall(ranked: np.ndarray, at: int) -> float:
    """Share of ranks up to ``at``."""
    return float(np.mean(np.asarray(ranked, float) <= at))


def posterior(scores: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities (q, N) of the passages, from scores (q, N): softmax of scores / temperature, and ``SPREAD``."""
    raised = np.exp((scores - scores.max(1, keepdims=True)) / temperature)
    return (1 - SPREAD) * raised / raised.sum(1, keepdims=True) + SPREAD / scores.shape[1]


def bits_found(scores: np.ndarray, own: Sequence[int] | np.ndarray, temperature: float) -> np.ndarray:
    """(q,) bits by which passage ``own[i]`` has been narrowed down among N: log2 N + log2 of its probability.

    At most log2 N. Negative if the posterior makes it less likely than a guess. If each passage is meant equally often,
    the mean over all N is at most the bits of the key, whatever the posterior: it is a bound on their mutual
    information.

    >>> bits_found(np.array([[1.0, 1, 1, 1]]), [2], 1.0).tolist()
    [0.0]
    """
    mine = np.take_along_axis(posterior(scores, temperature), np.asarray(own)[:, None], 1)[:, 0]
    return np.minimum(np.log2(scores.shape[1] * mine), np.log2(scores.shape[1]))


def fit_temperature(scores: np.ndarray, own: Sequence[int] | np.ndarray) -> float:
    """The temperature of ``TEMPERATURES`` at which the own passages are narrowed down most, on the mean."""
    return max(TEMPERATURES, key=lambda t: float(bits_found(scores, own, t).mean()))


def bm25(
    queries: Sequence[Sequence[Hashable]], passages: Sequence[Sequence[Hashable]], *, k1: float = 1.2, b: float = 0.75
) -> np.ndarray:
    """(q, N) BM25 scores of passages for queries, both as lists of words. Words that no passage has count nothing.

    A word's weight is log(1 + (N - df + 0.5) / (df + 0.5)), never negative; df: passages with the word.
    """
    counts = [Counter(words) for words in passages]
    lengths = np.array([len(words) for words in passages], float)
    normed = k1 * (1 - b + b * lengths / max(lengths.mean(), 1e-12))
    frequencies = Counter(word for words in counts for word in words)
    scores = np.zeros((len(queries), len(passages)))
    for i, query in enumerate(queries):
        for word, times in Counter(query).items():
            if df := frequencies[word]:
                found = np.array([words[word] for words in counts], float)
                weight = np.log1p((len(passages) - df + 0.5) / (df + 0.5))
                scores[i] += times * weight * found * (k1 + 1) / (found + normed)
    return scores
