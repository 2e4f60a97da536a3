"""Do two spaces arrange the same things similarly? Relative representations (arXiv 2209.15430) and a null model.

Cosines in, numbers out, no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from memlab.measures.geometry.distances import cosines, unit
from memlab.measures.statistics import Estimate, of_draws


def relative(x: Any, anchors: Any) -> np.ndarray:
    """(n, m): cosines of ``x`` (n, d) to ``anchors`` (m, d), the relative representation of ``x`` (arXiv 2209.15430).

    A rotation of the whole space does not change it.
    """
    return cosines(x, anchors)


@dataclass(frozen=True)
class Agreement:
    """Result of ``agreement``: how similarly two spaces arrange the same things."""

    correlation: Estimate
    """Mean Spearman correlation of a thing's cosines to all others in the two spaces; 95 % bootstrap over things."""
    retrieval: float
    """Share of things whose most similar row in the other space is that thing's row. By chance: 1 / n."""
    null: float
    """Mean correlation if things of one kind are exchanged in one of the spaces."""
    p: float
    """Share of such exchanges that reach ``correlation``."""


def agreement(a: Any, b: Any, kinds: Sequence[Any] | None = None, *, draws: int = 999, seed: int = 0) -> Agreement:
    """Do two spaces agree? ``a`` and ``b`` (n, n): cosines of the same n things with each other, one table per space.

    Relative representations (arXiv 2209.15430); the anchors of a thing are all other things. A thing's cosine to itself
    is left out: it is 1 in every space, and would make any two spaces agree. Null model: things exchanged (rows and
    columns together) inside ``kinds`` (n,), so that separating prose from word lists does not count as agreement.
    Raises ``ValueError`` unless both tables are square, of one size, with at least four things.
    """
    from scipy.stats import rankdata

    first, second = np.asarray(a, float), np.asarray(b, float)
    n = len(first)
    if first.shape != (n, n) or second.shape != (n, n) or n < 4:
        raise ValueError(
            f"Tables of shapes {first.shape} and {second.shape} cannot be compared. Give two square tables of the same "
            "things, at least 4."
        )
    labels = np.asarray(kinds if kinds is not None else np.zeros(n))
    others = ~np.eye(n, dtype=bool)

    def ranked(square: np.ndarray) -> np.ndarray:
        ranks = rankdata(square[others].reshape(n, n - 1), axis=1)
        return unit(ranks - ranks.mean(1, keepdims=True))

    first_ranks = ranked(first)
    by_thing = (first_ranks * ranked(second)).sum(1)
    rng = np.random.default_rng(seed)
    null = np.empty(draws)
    for draw in range(draws):
        order = np.arange(n)
        for kind in set(labels.tolist()):
            order[labels == kind] = rng.permutation(order[labels == kind])
        null[draw] = (first_ranks * ranked(second[np.ix_(order, order)])).sum(1).mean()
    alike = np.empty((n, n))
    for i in range(n):
        for j in range(n):
            both = (np.arange(n) != i) & (np.arange(n) != j)  # neither thing may be an anchor
            x, y = rankdata(first[i, both]), rankdata(second[j, both])
            alike[i, j] = unit(x - x.mean()) @ unit(y - y.mean())
    drawn = np.concatenate([[by_thing.mean()], rng.choice(by_thing, (2000, n)).mean(1)])
    p = (1 + np.sum(null >= by_thing.mean() - 1e-12)) / (1 + draws)
    retrieval = float(np.mean(alike.argmax(1) == np.arange(n)))
    return Agreement(of_draws(drawn), retrieval, float(null.mean()), float(p))
