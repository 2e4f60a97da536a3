"""Do two spaces arrange the same things alike? Relative representations (arXiv 2209.15430), with what they are held
against. Pure: cosines in, numbers out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from memlab.measures.geometry import cosines, unit
from memlab.measures.statistics import Estimate, of_draws


def relative(x: Any, anchors: Any) -> np.ndarray:
    """(n, m): cosines of ``x`` (n, d) to ``anchors`` (m, d), its relative representation (arXiv 2209.15430).

    The same for a rotated copy of all, whatever the rotation.
    """
    return cosines(x, anchors)


@dataclass(frozen=True)
class Agreement:
    """``agreement``: how alike two spaces arrange the same things."""

    correlation: Estimate
    """Mean Spearman correlation of a thing's cosines to all others, here and there; 95 % bootstrap over things."""
    retrieval: float
    """Share of things whose most alike row in the other space is their own; by chance one in n."""
    null: float
    """Mean correlation with things exchanged in one of the spaces, inside their kind."""
    p: float
    """Share of such exchanges that agree as well."""


def agreement(a: Any, b: Any, kinds: Sequence[Any] | None = None, *, draws: int = 999, seed: int = 0) -> Agreement:
    """Do two spaces agree? ``a`` and ``b`` (n, n): cosines of the same n things with each other, in either space.

    Relative representations (arXiv 2209.15430) with all other things as anchors: a thing's cosine to itself, 1 in any
    space, takes no part, since it would make any two spaces agree. The null exchanges things, rows and columns
    together, inside ``kinds`` (n,): that both spaces tell prose from word lists is then no agreement.
    """
    from scipy.stats import rankdata

    first, second = np.asarray(a, float), np.asarray(b, float)
    n = len(first)
    if first.shape != (n, n) or second.shape != (n, n) or n < 4:
        raise ValueError(f"{first.shape} and {second.shape}; expected two square tables of the same things, at least 4")
    labels = np.asarray(kinds if kinds is not None else np.zeros(n))
    others = ~np.eye(n, dtype=bool)

    def ranked(square: np.ndarray) -> np.ndarray:
        ranks = rankdata(square[others].reshape(n, n - 1), axis=1)
        return unit(ranks - ranks.mean(1, keepdims=True))

    here = ranked(first)
    each = (here * ranked(second)).sum(1)
    rng = np.random.default_rng(seed)
    null = np.empty(draws)
    for draw in range(draws):
        order = np.arange(n)
        for kind in set(labels.tolist()):
            order[labels == kind] = rng.permutation(order[labels == kind])
        null[draw] = (here * ranked(second[np.ix_(order, order)])).sum(1).mean()
    alike = np.empty((n, n))
    for i in range(n):
        for j in range(n):
            both = (np.arange(n) != i) & (np.arange(n) != j)  # neither may be its own anchor
            x, y = rankdata(first[i, both]), rankdata(second[j, both])
            alike[i, j] = unit(x - x.mean()) @ unit(y - y.mean())
    drawn = np.concatenate([[each.mean()], rng.choice(each, (2000, n)).mean(1)])
    p = (1 + np.sum(null >= each.mean() - 1e-12)) / (1 + draws)
    retrieval = float(np.mean(alike.argmax(1) == np.arange(n)))
    return Agreement(of_draws(drawn), retrieval, float(null.mean()), float(p))
