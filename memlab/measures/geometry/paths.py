"""Paths between two vectors, the loss along them, and how far one direction can be followed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from memlab.measures.statistics import bootstrap


def line(a: Any, b: Any, t: Any) -> np.ndarray:
    """(m, ...) points (1 - t) a + t b at each of ``t`` (m,)."""
    share = np.asarray(t, float).reshape(-1, *[1] * np.ndim(a))
    return (1 - share) * np.asarray(a, float) + share * np.asarray(b, float)


def bezier(a: Any, middle: Any, b: Any, t: Any) -> np.ndarray:
    """(m, ...) points of the quadratic Bézier curve from ``a`` to ``b`` with control point ``middle`` (2505.21189)."""
    share = np.asarray(t, float).reshape(-1, *[1] * np.ndim(a))
    ends = (1 - share) ** 2 * np.asarray(a, float) + share**2 * np.asarray(b, float)
    return ends + 2 * share * (1 - share) * np.asarray(middle, float)


def barrier(t: Sequence[float], loss: Sequence[float]) -> float:
    """Largest height of the loss along a path above the straight line between its ends, in the loss's unit, >= 0.

    Raises ``ValueError`` if ``t`` and ``loss`` differ in length or have fewer than two places.
    """
    place, height = np.asarray(t, float), np.asarray(loss, float)
    if len(place) != len(height) or len(place) < 2:
        raise ValueError(
            f"A path has {len(place)} places and {len(height)} losses. Give one loss per place, at least 2."
        )
    order = np.argsort(place)
    place, height = place[order], height[order]
    share = (place - place[0]) / (place[-1] - place[0])
    return float(max(0.0, np.max(height - ((1 - share) * height[0] + share * height[-1]))))


def comparable_places(places: pd.DataFrame) -> pd.DataFrame:
    """The places that a path and its control can be compared at: the control is cut at half its length.

    ``places``: ``way t`` and more, one row per place (``experiments.geometry_tables.path_table``). Between two
    solutions, each place is at most half the path away from one. The control (``way`` is ``nowhere``) has one solution,
    at t = 0. So beyond t = 0.5 the control is farther from a solution than any place of a path.
    """
    return places[(places.way != "nowhere") | (places.t <= 0.5)]


def barriers(places: pd.DataFrame) -> pd.DataFrame:
    """Paths by kind of text and path (``way``): ``kind way pairs exact_throughout barrier share``.

    ``places``: ``kind way pair t text_id exact barrier``, one row per place. ``exact_throughout``: pairs with every
    place exact. ``barrier``: median over pairs, bits per token. ``share``: median over pairs of the share (0 to 1) of
    places that are exact. Both have a 95 % bootstrap interval that draws passages with all their pairs. Only
    ``comparable_places`` of the control (``nowhere``) count.
    """
    by_pair = (
        comparable_places(places)
        .groupby(["kind", "way", "pair"])
        .agg(barrier=("barrier", "first"), share=("exact", "mean"), text_id=("text_id", "first"))
        .reset_index()
    )
    rows = []
    for (kind, way), pairs in by_pair.groupby(["kind", "way"], sort=False):
        height = bootstrap(lambda t: t.barrier.median(), pairs)
        share = bootstrap(lambda t: t.share.median(), pairs)
        rows.append((kind, way, len(pairs), int((pairs.share == 1).sum()), height, share))
    return pd.DataFrame(rows, columns=["kind", "way", "pairs", "exact_throughout", "barrier", "share"])


def along_paths(places: pd.DataFrame) -> pd.DataFrame:
    """Mean over pairs at each of the ``comparable_places``, by path (``way``): ``way t bits right tokens exact``.

    ``places``: ``way t bits right tokens exact``. ``bits`` per token and tokens ``right`` are means; ``tokens`` is the
    passages' length; ``exact`` is True if all pairs are exact.
    """
    return (
        comparable_places(places)
        .groupby(["way", "t"], as_index=False)
        .agg(bits=("bits", "mean"), right=("right", "mean"), tokens=("tokens", "first"), exact=("exact", "all"))
    )


def exact_radius(
    holds: Callable[[float], bool], *, high: float, precision: float = 0.02, probes: int = 3
) -> tuple[float, float]:
    """(low, fails): radii between which ``holds`` first turns False; their ratio is at most 1 + ``precision``.

    ``holds(0)`` is assumed True. After bisection, ``probes`` places below the radius are tried too. If one of them
    fails, the search continues below that place, because a text can be lost and come back farther out. If
    ``holds(high)`` is True, the result is (high, inf): the radius is censored. Raises ``ValueError`` unless ``high`` >
    0.
    """
    if high <= 0:
        raise ValueError(f"high={high} leaves no radius to search. Give more than 0.")
    low, fails = (high, np.inf) if holds(high) else _bisected(holds, high, precision, high)
    while low > 0:
        failed = [r for r in low * np.arange(1, probes + 1) / (probes + 1) if not holds(float(r))][:1]
        if not failed:
            break
        low, fails = _bisected(holds, float(failed[0]), precision, high)
    return low, float(fails)


def _bisected(holds: Callable[[float], bool], fails: float, precision: float, scale: float) -> tuple[float, float]:
    low = 0.0
    while fails - low > precision * max(low, 1e-3 * scale):
        middle = (low + fails) / 2
        if holds(middle):
            low = middle
        else:
            fails = middle
    return low, fails
