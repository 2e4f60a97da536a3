"""Which parts of a text to keep: scores in, kept positions out. There is no model here.

Positions count from 0 and are returned in ascending order. A span is (first position, position after the last).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

WINDOW = 8
"""Tokens of a window."""
LEAST = 4
"""A text with fewer sentences than this is cut into windows."""


def count(n: int, share: float) -> int:
    """How many of ``n`` things a share is, at least one if the share is above 0.

    >>> [count(64, share) for share in (0, 0.001, 0.1, 0.5, 1)]
    [0, 1, 6, 32, 64]
    """
    if not 0 <= share <= 1:
        raise ValueError(f"The share is {share}. Give a number from 0 to 1.")
    return max(int(share * n + 0.5), 1 if share and n else 0)


def top(scores: Sequence[float] | np.ndarray, m: int) -> np.ndarray:
    """The ``m`` positions with the largest scores (n,). Of equal scores the earlier position is taken.

    >>> top([3, 1, 3, 3], 2).tolist()
    [0, 2]
    """
    return np.sort(np.argsort(-np.asarray(scores, float), kind="stable")[:m])


def above(scores: Sequence[float] | np.ndarray, threshold: float) -> np.ndarray:
    """The positions whose score is at least ``threshold``."""
    return np.flatnonzero(np.asarray(scores, float) >= threshold)


def spans(starts: Sequence[int], n: int) -> list[tuple[int, int]]:
    """The pieces of ``n`` positions that begin at ``starts``. The first begins at 0.

    >>> spans([3, 5], 9)
    [(0, 3), (3, 5), (5, 9)]
    """
    edges = sorted({0, *(int(s) for s in starts if 0 < s < n)})
    return list(zip(edges, [*edges[1:], n], strict=True))


def units(starts: Sequence[int], n: int) -> list[tuple[int, int]]:
    """Sentences that begin at ``starts``; windows of ``WINDOW`` tokens if there are fewer than ``LEAST`` sentences.

    64 tokens of prose have about three sentences, and random words have none.

    >>> units([0, 5], 20)
    [(0, 8), (8, 16), (16, 20)]
    """
    sentences = spans(starts, n)
    return sentences if len(sentences) >= LEAST else spans(range(0, n, WINDOW), n)


def within(order: Sequence[int], sizes: Sequence[int], budget: float) -> np.ndarray:
    """The pieces of ``order`` that bring the sum of their sizes closer to ``budget``, taken in that order.

    A piece that would lead further away is left out. At least one piece is kept, if there is one and ``budget`` > 0.

    >>> within([2, 0, 1], [4, 9, 5], 10).tolist()
    [0, 2]
    """
    kept: list[int] = []
    total = 0
    for piece in order:
        if budget > 0 and (not kept or abs(total + sizes[piece] - budget) < abs(total - budget)):
            kept.append(int(piece))
            total += sizes[piece]
    return np.array(sorted(kept), np.int64)


def inside(kept: Sequence[int] | np.ndarray, pieces: Sequence[tuple[int, int]]) -> np.ndarray:
    """The positions inside the kept pieces.

    >>> inside([0, 2], [(0, 2), (2, 3), (3, 5)]).tolist()
    [0, 1, 3, 4]
    """
    return np.concatenate([np.arange(0), *(np.arange(*pieces[int(piece)]) for piece in sorted(kept))])


def cosines(vectors: np.ndarray) -> np.ndarray:
    """Cosines (n, n) of vectors (n, d), with those below 0 set to 0, so that coverage is monotone and submodular."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(length > 0, length, 1)
    return np.clip(unit @ unit.T, 0, None)


def coverage(similarity: np.ndarray, kept: Sequence[int] | np.ndarray) -> float:
    """Facility location: the sum over all things i of their similarity (n, n), >= 0, to the closest kept thing j."""
    return float(similarity[:, list(kept)].max(axis=1).sum()) if len(kept) else 0.0


def by_coverage(similarity: np.ndarray, m: int | None = None) -> tuple[list[int], list[float]]:
    """(order, gains): ``m`` things, or all, in the greedy order of their gain in coverage, and these gains.

    The gains never increase, and the first m things cover at least 1 - 1/e of what any m things cover (Nemhauser,
    Wolsey and Fisher, 1978), because coverage is monotone and submodular.
    """
    similarity = np.asarray(similarity, float)
    if similarity.size and similarity.min() < 0:
        raise ValueError("A similarity is below 0, so the greedy order has no guarantee. Clip the similarities at 0.")
    order: list[int] = []
    gains: list[float] = []
    covered = np.zeros(len(similarity))
    for _ in range(len(similarity) if m is None else m):
        gain = np.maximum(similarity - covered[:, None], 0).sum(axis=0)
        gain[order] = -1
        order.append(int(gain.argmax()))
        gains.append(float(gain[order[-1]]))
        covered = np.maximum(covered, similarity[:, order[-1]])
    return order, gains


def least_change(sums: np.ndarray, sizes: Sequence[int] | np.ndarray, budget: int) -> np.ndarray:
    """The words that are left after greedy deletion down to at most ``budget`` tokens, at least one word.

    The vector of a text is the mean over its tokens. ``sums`` (w, d): each word's vectors, added; ``sizes`` (w,): its
    tokens. Each step deletes the word after which the vector is closest to that of the whole text. The first word to go
    is so the one with the smallest size * |its mean - mean of the text| / (tokens left).
    """
    sums, sizes = np.asarray(sums, float), np.asarray(sizes, float)
    left = np.ones(len(sums), bool)
    whole = sums.sum(axis=0) / max(sizes.sum(), 1)
    while left.sum() > 1 and sizes[left].sum() > budget:
        rest = (sums[left].sum(axis=0) - sums) / np.maximum(sizes[left].sum() - sizes, 1)[:, None]
        distance = np.where(left, np.linalg.norm(rest - whole, axis=1), np.inf)
        left[distance.argmin()] = False
    return np.flatnonzero(left)


def falls(vectors: np.ndarray, *, least: int = 2, level: float = 0.05, shuffles: int = 400, seed: int = 0) -> list[int]:
    """The things that begin a new chapter: where the similarity of what lies before and behind falls most.

    At a gap, the fall is n_before * n_behind / n * |mean before - mean behind|^2, with ``vectors`` (n, d) scaled to
    length 1. The gap with the largest fall becomes a boundary if the fall is above that of a share 1 - ``level`` of the
    same things in random order (``shuffles`` of them). Both sides are then searched again. A chapter has at least
    ``least`` things. A text without chapters so gets a boundary with the probability ``level``.
    """
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.asarray(vectors, float) / np.where(length > 0, length, 1)
    rng = np.random.default_rng(seed)

    def cut(start: int, stop: int) -> list[int]:
        piece = unit[start:stop]
        if len(piece) < 2 * least:
            return []
        found = _falls(piece)[least - 1 : len(piece) - least]
        null = [
            _falls(piece[rng.permutation(len(piece))])[least - 1 : len(piece) - least].max() for _ in range(shuffles)
        ]
        if found.max() <= np.quantile(null, 1 - level) + 1e-12:  # equal things have no boundary, but rounding errors
            return []
        at = start + least + int(found.argmax())
        return [*cut(start, at), at, *cut(at, stop)]

    return cut(0, len(unit))


def _falls(vectors: np.ndarray) -> np.ndarray:
    """(n - 1,) the fall at each gap."""
    n, sums = len(vectors), vectors.cumsum(axis=0)
    before = np.arange(1, n)[:, None]
    apart = sums[:-1] / before - (sums[-1] - sums[:-1]) / (n - before)
    return (before * (n - before) / n)[:, 0] * (apart**2).sum(axis=1)
