"""Intervals that several experiments share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest


def median_interval(values: Sequence[float] | Any, *, draws: int = 10_000, seed: int = 0) -> tuple[float, float, float]:
    """(median, low, high): 95 % bootstrap interval over passages."""
    array = np.asarray(values, float)
    drawn = np.median(np.random.default_rng(seed).choice(array, (draws, len(array))), axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(np.median(array)), float(low), float(high)


def share_interval(hits: int, of: int) -> tuple[float, float]:
    """(low, high): 95 % Wilson interval of a share."""
    low, high = binomtest(int(hits), of).proportion_ci(0.95, method="wilson")
    return float(low), float(high)
