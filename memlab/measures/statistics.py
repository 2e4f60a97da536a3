"""Estimates with 95 % intervals, shared by all that counts passages. Arrays and tables in, no model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import binom

FEW = 6
"""Passages below which no interval is given: so few, drawn again and again, look surer than they are."""


class Estimate(NamedTuple):
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        low, high = (format(end, spec) if np.isfinite(end) else "–" for end in self[1:])
        return f"{format(self.value, spec)} [{low}, {high}]"


def median_interval(values: Sequence[float] | Any, *, open_above: Sequence[bool] | Any | None = None) -> Estimate:
    """Median with its 95 % interval over passages, from order statistics: no shape is assumed, and none is drawn.

    An end for which there are too few values (below ``FEW``) is infinite. ``open_above``: values that are only known to
    be at least so large; an end that falls on one of them is infinite too.
    """
    array = np.asarray(values, float)
    order = np.argsort(array, kind="stable")
    n = len(array)
    # So many values may lie below the median by chance, at most, in 2.5 % of all samples.
    beyond = int(binom.ppf(0.025, n, 0.5)) - 1
    known = array if open_above is None else np.where(np.asarray(open_above, bool), np.inf, array)
    low = array[order][beyond] if beyond >= 0 else -np.inf
    high = np.sort(known)[n - 1 - beyond] if beyond >= 0 else np.inf
    return Estimate(float(np.median(array)), float(low), float(high))


def of_draws(values: Sequence[float] | Any) -> Estimate:
    """The first of ``values`` with the middle 95 % of the others, which are draws of it; a draw that is NaN is none."""
    array = np.asarray(values, float)
    low, high = np.nanquantile(array[1:], [0.025, 0.975])
    return Estimate(float(array[0]), float(low), float(high))


def share_interval(hits: float, of: int) -> tuple[float, float]:
    """(low, high): Wilson interval of the share ``hits / of``.

    Where trials come in clusters (seeds of one passage, say), give the clusters: ``hits`` the sum of their shares,
    ``of`` how many they are. That takes trials of one cluster for one and the same, which errs on the side of wide.
    """
    z, p = 1.959963984540054, hits / of
    middle, half = p + z * z / (2 * of), z * np.sqrt(p * (1 - p) / of + z * z / (4 * of * of))
    low, high = (middle - half) / (1 + z * z / of), (middle + half) / (1 + z * z / of)
    return float(max(0.0, low)), float(min(1.0, high))


def bootstrap(
    statistic: Callable[[pd.DataFrame], float],
    table: pd.DataFrame,
    *,
    by: str = "text_id",
    within: str | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> Estimate:
    """``statistic`` of a table with a percentile interval, all rows of a passage (column ``by``) drawn together.

    With ``within`` passages are drawn inside each of that column's groups, so that every group stays as large as it is.
    Draws for which the statistic is no finite number are left out; where that is more than one in twenty, so is the
    interval (NaN). Of fewer than ``FEW`` passages it is open (infinite).
    """
    if table[by].nunique() < FEW:
        return Estimate(float(statistic(table)), float("-inf"), float("inf"))
    rng = np.random.default_rng(seed)
    strata = [
        [np.flatnonzero(part) for part in _indicators(table[by].to_numpy(), np.flatnonzero(rows))]
        for rows in (_indicators(table[within].to_numpy()) if within else [np.ones(len(table), bool)])
    ]
    drawn = []
    for _ in range(draws):
        rows = [passages[i] for passages in strata for i in rng.integers(0, len(passages), len(passages))]
        drawn.append(statistic(table.iloc[np.concatenate(rows)]))
    finite = np.array(drawn)[np.isfinite(drawn)]
    low, high = np.quantile(finite, [0.025, 0.975]) if len(finite) > 0.95 * draws else (np.nan, np.nan)
    return Estimate(float(statistic(table)), float(low), float(high))


def _indicators(labels: np.ndarray, among: np.ndarray | None = None) -> list[np.ndarray]:
    """For each label a mask over all rows, restricted to the rows ``among``."""
    allowed = np.ones(len(labels), bool)
    if among is not None:
        allowed[:] = False
        allowed[among] = True
    return [(labels == label) & allowed for label in dict.fromkeys(labels[allowed])]
