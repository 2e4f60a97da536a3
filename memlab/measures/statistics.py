"""Estimates with 95 % intervals, for all measures that count passages. Arrays and tables in, no model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import binom

FEW = 6
"""Fewer passages get no interval: resampling them would make an estimate look too certain."""


class Estimate(NamedTuple):
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        low, high = (format(end, spec) if np.isfinite(end) else "–" for end in self[1:])
        return f"{format(self.value, spec)} [{low}, {high}]"


def median_interval(values: Sequence[float] | Any, *, open_above: Sequence[bool] | Any | None = None) -> Estimate:
    """Median with its 95 % interval over passages, from order statistics. No distribution is assumed or resampled.

    An end is infinite if there are too few values for it (fewer than ``FEW``). ``open_above`` marks values that are
    only lower bounds. If the upper end falls on a lower bound, it is infinite too.
    """
    array = np.asarray(values, float)
    order = np.argsort(array, kind="stable")
    n = len(array)
    # At most this number of values lie below the median by chance in 2.5 % of all samples.
    beyond = int(binom.ppf(0.025, n, 0.5)) - 1
    known = array if open_above is None else np.where(np.asarray(open_above, bool), np.inf, array)
    low = array[order][beyond] if beyond >= 0 else -np.inf
    high = np.sort(known)[n - 1 - beyond] if beyond >= 0 else np.inf
    return Estimate(float(np.median(array)), float(low), float(high))


def of_draws(values: Sequence[float] | Any) -> Estimate:
    """Point estimate ``values[0]`` with the 2.5 % to 97.5 % quantiles of the resamples ``values[1:]``.

    NaN resamples are ignored.
    """
    array = np.asarray(values, float)
    low, high = np.nanquantile(array[1:], [0.025, 0.975])
    return Estimate(float(array[0]), float(low), float(high))


def share_interval(hits: float, of: int) -> tuple[float, float]:
    """(low, high): Wilson interval of the share ``hits / of``.

    If trials come in clusters (seeds of one passage, say), ``hits`` is the sum of the clusters' shares and ``of`` is
    the number of clusters. All trials of a cluster then count as one trial, so the interval is rather too wide.
    """
    z, p = 1.959963984540054, hits / of
    middle, half = p + z * z / (2 * of), z * np.sqrt(p * (1 - p) / of + z * z / (4 * of * of))
    low, high = (middle - half) / (1 + z * z / of), (middle + half) / (1 + z * z / of)
    return float(max(0.0, low)), float(min(1.0, high))


def share_label(hits: Any) -> str:
    """``hits`` (n,), true or false, as "3/4 [0.30, 0.95]": with a 95 % Wilson interval."""
    count = int(np.sum(hits))
    low, high = share_interval(count, len(hits))
    return f"{count}/{len(hits)} [{low:.2f}, {high:.2f}]"


def bootstrap(
    statistic: Callable[[pd.DataFrame], float],
    table: pd.DataFrame,
    *,
    by: str = "text_id",
    within: str | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> Estimate:
    """``statistic`` of a table with a percentile interval. All rows of a passage (column ``by``) are drawn together.

    With ``within``, passages are drawn inside each of that column's groups, so that every group keeps its size. Draws
    with a statistic that is not finite are left out. If they are more than one in twenty, the interval is NaN. With
    fewer than ``FEW`` passages it is infinite.
    """
    if table[by].nunique() < FEW:
        return Estimate(float(statistic(table)), float("-inf"), float("inf"))
    rng = np.random.default_rng(seed)
    groups = table[within].to_numpy() if within else np.zeros(len(table))
    strata = [_by_label(table[by].to_numpy(), rows) for rows in _by_label(groups, np.arange(len(table)))]
    drawn = []
    for _ in range(draws):
        rows = [passages[i] for passages in strata for i in rng.integers(0, len(passages), len(passages))]
        drawn.append(statistic(table.iloc[np.concatenate(rows)]))
    finite = np.array(drawn)[np.isfinite(drawn)]
    low, high = np.quantile(finite, [0.025, 0.975]) if len(finite) > 0.95 * draws else (np.nan, np.nan)
    return Estimate(float(statistic(table)), float(low), float(high))


def mean_intervals(values: Any, *, draws: int = 2000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(low, high), each (columns,): ``bootstrap`` of the mean over rows of ``values`` (passages, columns), all at once.

    All columns are drawn together. With fewer than ``FEW`` passages the ends are infinite.

    >>> low, high = mean_intervals([[0.0, 1.0]] * 3 + [[1.0, 1.0]] * 3)
    >>> low.round(2).tolist(), high.round(2).tolist()
    ([0.17, 1.0], [0.83, 1.0])
    """
    array = np.asarray(values, float)
    if len(array) < FEW:
        return np.full(array.shape[1], -np.inf), np.full(array.shape[1], np.inf)
    drawn = np.random.default_rng(seed).integers(0, len(array), (draws, len(array)))
    low, high = np.quantile([array[rows].mean(0) for rows in drawn], [0.025, 0.975], axis=0)
    return low, high


def rank_correlation(
    table: pd.DataFrame, x: str, y: str, *, within: str | None = None, by: str = "text_id", draws: int = 2000
) -> Estimate:
    """Spearman's rank correlation of two columns, -1 to 1, with a bootstrap interval over passages (column ``by``).

    With ``within``, values are ranked inside each of that column's groups, and the ranks of all groups are correlated
    together. A correlation between the groups' levels then does not count.
    """
    if within is None:
        return bootstrap(lambda t: t[x].corr(t[y], method="spearman"), table, by=by, draws=draws)
    ranks = table.groupby(within)[[x, y]].rank().assign(**{by: table[by]})
    return bootstrap(lambda t: t[x].corr(t[y]), ranks, by=by, draws=draws)


def rank_correlation_p(table: pd.DataFrame, x: str, y: str, *, draws: int = 999) -> float:
    """One-sided p of a positive rank correlation: share of shuffles of ``y`` that correlate at least as much.

    Each row must be one independent passage. The smallest p is 1 / (1 + ``draws``).
    """
    first, second = (table[name].rank().to_numpy() for name in (x, y))
    # Generators with seeds 0, 1, 2 ...: the shuffles of ``DataFrame.sample(frac=1, random_state=seed)``.
    orders = (np.random.RandomState(seed).permutation(len(second)) for seed in range(draws))
    observed = np.corrcoef(first, second)[0, 1]
    shuffled = np.array([np.corrcoef(first, second[order])[0, 1] for order in orders])
    return float((1 + (shuffled >= observed - 1e-12).sum()) / (1 + draws))


def _by_label(labels: np.ndarray, rows: np.ndarray) -> list[np.ndarray]:
    """The rows of each label, in order of appearance, among these ``rows``."""
    return [rows[labels[rows] == label] for label in dict.fromkeys(labels[rows])]
