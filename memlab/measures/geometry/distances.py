"""Distances between vectors, and the null models that they are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from memlab.measures.statistics import Estimate, of_draws


def unit(x: Any) -> np.ndarray:
    """Rows of ``x`` (n, d) scaled to length 1. A row of zeros stays zero."""
    rows = np.asarray(x, float)
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1)


def cosines(x: Any, y: Any | None = None) -> np.ndarray:
    """(n, m): cosine of every row of ``x`` (n, d) with every row of ``y`` (m, d). Without ``y``: with ``x`` itself."""
    return unit(x) @ unit(x if y is None else y).T


@dataclass(frozen=True)
class Apart:
    """Result of ``within_and_between``: mean cosine distances and a permutation test."""

    within: Estimate
    """Mean distance of two vectors of one group, with a 95 % bootstrap interval over groups."""
    between: Estimate
    """Mean distance of two vectors of different groups, with the same kind of interval."""
    ratio: Estimate
    """``within`` over ``between``. 1: vectors of one group are no nearer to each other than to the rest."""
    p: float
    """Share of random regroupings whose ``within`` is as small. A small p: the groups hold together."""


def within_and_between(x: Any, groups: Sequence[Any], *, draws: int = 999, seed: int = 0) -> Apart:
    """Are vectors of one group nearer to each other (cosine distance) than to others? ``x`` (n, d), ``groups`` (n,).

    With solutions grouped by passage, this tests a claim of arXiv 2502.13063: seeds of one text lie nearly as far apart
    as different texts. The bootstrap draws groups, because solutions of one passage are not independent
    passages. Null model: group labels shuffled among vectors. Raises ``ValueError`` for fewer than two groups, or if no
    group has two vectors.
    """
    distance = 1 - cosines(x)
    labels = pd.factorize(np.asarray(groups))[0]
    count = int(labels.max()) + 1
    if count < 2 or np.bincount(labels).max() < 2:
        raise ValueError(
            f"{len(labels)} vectors in {count} groups have no distances within and between groups. Give two groups or "
            "more, one of them with two vectors."
        )
    rng = np.random.default_rng(seed)
    sums, pairs = _block_sums(distance, labels, count)
    weights = np.concatenate([np.ones((1, count)), _multinomial(rng, count, draws)])
    inner, outer, ratio = np.full((3, len(weights)), np.nan)
    for i, weight in enumerate(weights):
        # A pair inside a group counts once per draw of the group; a pair across groups, once per draw of both.
        own = weight * np.diag(pairs)
        across = np.outer(weight, weight) * (1 - np.eye(count)) * pairs
        if own.sum() and across.sum():
            inner[i] = (weight * np.diag(sums)).sum() / own.sum()
            outer[i] = (np.outer(weight, weight) * (1 - np.eye(count)) * sums).sum() / across.sum()
            ratio[i] = inner[i] / outer[i]
    shuffled = np.empty(draws)
    for i in range(draws):
        mixed_sums, mixed_pairs = _block_sums(distance, rng.permutation(labels), count)
        shuffled[i] = np.trace(mixed_sums) / np.trace(mixed_pairs)
    p = (1 + np.sum(shuffled <= inner[0] + 1e-12)) / (1 + draws)
    return Apart(of_draws(inner), of_draws(outer), of_draws(ratio), float(p))


def nearest(x: Any, table: Any, count: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """(indices, cosines), each (n, count): the rows of ``table`` (V, d) nearest to each row of ``x``, by cosine."""
    cosine = cosines(x, table)
    order = np.argsort(-cosine, axis=1)[:, :count]
    return order, np.take_along_axis(cosine, order, axis=1)


@dataclass(frozen=True)
class OwnWord:
    """Result of ``own_among_nearest``. Shares are of vectors, 0 to 1."""

    share: float
    """Share of vectors whose own word is among their nearest words."""
    null: float
    """Mean share if the words are assigned to groups at random."""
    p: float
    """Share of random assignments that reach ``share``."""


def own_among_nearest(
    nearest: Any, own: Sequence[Any], groups: Sequence[Any], *, draws: int = 999, seed: int = 0
) -> OwnWord:
    """How often is a vector's own word among its nearest words? ``nearest`` (n, count), ``own`` (n,), ``groups`` (n,).

    ``own`` is one word per group: the first word of a passage, say. Null model: the words are assigned to groups at
    random. A group keeps all its vectors, because solutions of one passage are not independent. Raises ``ValueError``
    if a group has several words.
    """
    near, words = np.asarray(nearest), np.asarray(own)
    names, owner = np.unique(np.asarray(groups), return_inverse=True)
    of_group = np.empty(len(names), words.dtype)
    of_group[owner] = words
    if (of_group[owner] != words).any():
        raise ValueError("A group has several words of its own. Give one word per group.")

    def share(order: np.ndarray) -> float:
        return float((near == of_group[order][owner][:, None]).any(1).mean())

    rng = np.random.default_rng(seed)
    observed = share(np.arange(len(names)))
    null = np.array([share(rng.permutation(len(names))) for _ in range(draws)])
    return OwnWord(observed, float(null.mean()), float((1 + (null >= observed).sum()) / (1 + draws)))


def spherical_null(n: int, d: int, *, seed: int = 0) -> np.ndarray:
    """(n, d) directions, unit length, drawn uniformly. Null model for vectors that have nothing in common."""
    return unit(np.random.default_rng(seed).standard_normal((n, d)))


def dropout_distance(share: Any) -> Any:
    """√share: how far a vector moves if a random ``share`` of its numbers is set to 0, as a share of its norm.

    The expected squared distance is ``share`` times the squared norm, for any vector.
    """
    return np.sqrt(share)


def binned(values: Sequence[float] | Any, kinds: Sequence[Any], *, bins: int = 40, log: bool = False) -> pd.DataFrame:
    """Histograms over shared bins: ``kind from to share`` (of the kind's values). ``log``: bins of equal ratio."""
    number, kind = np.asarray(values, float), np.asarray(kinds)
    scale = np.log2(number) if log else number
    edges = np.linspace(scale.min(), scale.max(), bins + 1)
    ends = 2**edges if log else edges
    rows = []
    for name in dict.fromkeys(kind.tolist()):
        counts, _ = np.histogram(scale[kind == name], edges)
        for left, right, count in zip(ends[:-1], ends[1:], counts, strict=True):
            rows.append((name, float(left), float(right), count / int(counts.sum())))
    return pd.DataFrame(rows, columns=["kind", "from", "to", "share"])


def _block_sums(distance: np.ndarray, labels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(sums, pairs), each (count, count): summed distances between the members of two groups, and numbers of pairs.

    A vector's distance to itself is left out.
    """
    member = np.eye(count)[labels]
    sums = member.T @ (distance * (1 - np.eye(len(labels)))) @ member
    sizes = member.sum(0)
    pairs = np.outer(sizes, sizes) - np.diag(sizes)
    return sums, pairs


def _multinomial(rng: np.random.Generator, count: int, draws: int) -> np.ndarray:
    return rng.multinomial(count, np.full(count, 1 / count), size=draws).astype(float)
