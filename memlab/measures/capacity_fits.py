"""Limits fitted to many runs: bits that vectors saturate at, sizes that half the passages reach, what more vectors add.

Pure, like ``capacity``, whose tables these read: information is in **bits**, intervals are bootstraps over passages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import expit

from memlab.measures.capacity import require_one_recipe
from memlab.measures.statistics import Estimate, bootstrap


def saturation(bits_without: Sequence[float] | Any, bits_with: Sequence[float] | Any) -> float:
    """C, bits, of with = max(0, without - C) by least squares: what one vector takes off a text (2502.13063, fig. 4).

    The slope is held at 1. Exact: each stretch of C between two texts' bits has a parabola of its own.
    """
    x, y = np.asarray(bits_without, float), np.asarray(bits_with, float)
    order = np.argsort(x)
    x, y = x[order], y[order]
    if not len(x):
        return float("nan")
    # Texts from the i-th on are above C, for each i at once: C is the mean of what they lost, as far as it may be.
    lost = x - y
    above, count = lost[::-1].cumsum()[::-1], np.arange(len(x), 0, -1)
    c = np.clip(above / count, np.concatenate([[0.0], x[:-1]]), x)
    below = np.concatenate([[0.0], (y**2).cumsum()[:-1]])
    cost = below + (lost**2)[::-1].cumsum()[::-1] - 2 * c * above + count * c**2
    return float(c[np.argmin(cost)])


def saturation_interval(runs: pd.DataFrame, *, draws: int = 2000, seed: int = 0) -> Estimate:
    """``saturation`` of a table (``text_id bits_without bits_with``) with its bootstrap interval over passages.

    Where a text that costs at least C is left with next to nothing, C is at least that: the upper end is infinite if no
    text of the table has more bits than its vector takes off (a bit a hundred, for those that are left over anyway).
    """
    slim = runs[["text_id", "bits_without", "bits_with"]]
    found = bootstrap(lambda t: saturation(t.bits_without, t.bits_with), slim, draws=draws, seed=seed)
    above = runs.bits_with > 0.01 * runs.bits_without
    return found if above.any() else found._replace(high=float("inf"))


def saturations(runs: pd.DataFrame) -> pd.DataFrame:
    """``saturation_interval`` by protocol, k and kind of text, and of all kinds together, with the fit's error.

    Runs (``protocol k texts text_id exact tried tokens bits_without bits_with``) that were trained on all their text:
    what one that grew costs beyond the prefix it came to was never asked of its vector. ``C``, bits; ``off``: root mean
    square of what the fit misses, bits. Kinds share one C where that of all fits each of them about as well.
    """
    # Beside a table of no rows, true and false become objects, whose ~ is another.
    runs = runs.astype({"exact": bool})
    whole = runs[runs.exact | (runs.tried == runs.tokens)] if "tried" in runs else runs
    rows = []
    for (protocol, k), group in whole.groupby(["protocol", "k"], sort=False):
        require_one_recipe(group)
        kinds = dict(tuple(group.groupby("texts", sort=False)))
        for kind, some in {**kinds, **({"all": group} if len(kinds) > 1 else {})}.items():
            found = saturation_interval(some)
            missed = some.bits_with - np.maximum(0, some.bits_without - found.value)
            failed = int((~some.exact).sum())
            rows.append((protocol, k, kind, len(some), failed, found, float(np.sqrt(np.mean(missed**2)))))
    return pd.DataFrame(rows, columns=["protocol", "k", "texts", "runs", "not exact", "C", "off"])


def n50(size: Sequence[float] | Any, exact: Sequence[bool] | Any) -> float:
    """The size at which half the passages come back: where a logistic fit of ``exact`` on log size crosses 1/2.

    Sizes in tokens or in bits. A weak ridge keeps the slope finite where sizes tell exact from failed without overlap;
    NaN where all or none came back.
    """
    from sklearn.linear_model import LogisticRegression

    x, y = np.log(np.asarray(size, float)), np.asarray(exact, bool)
    if y.all() or not y.any():
        return float("nan")
    scale = x.std() or 1.0
    fit = LogisticRegression(C=100.0).fit(((x - x.mean()) / scale)[:, None], y)
    slope, bias = float(fit.coef_[0, 0]), float(fit.intercept_[0])
    if slope >= 0:  # longer is never easier: the runs say nothing about where half come back
        return float("nan")
    return float(np.exp(x.mean() - scale * bias / slope))


def n50_interval(runs: pd.DataFrame, size: str = "length", *, draws: int = 1000, seed: int = 0) -> Estimate:
    """``n50`` of a table (``text_id exact`` and the column ``size``) with its bootstrap interval over passages.

    Every passage must have been tried at every size. A search tries each near its own limit, strong passages at long
    sizes and weak ones at short: that is what ``n50_of_search`` is for.
    """
    return bootstrap(lambda t: n50(t[size], t.exact), runs, draws=draws, seed=seed)


def n50_of_search(reached: Sequence[float] | Any, failed: Sequence[float] | Any) -> float:
    """The size at which half the passages come back, from a search that brackets each passage's own limit.

    A passage's limit is somewhere from ``reached`` (0: nothing came back) to ``failed`` (NaN: nothing failed, so it may
    be anywhere above). Limits are taken to be log-logistic, so that the share that comes back falls with log size as a
    logistic function does; maximum likelihood. NaN where no limit is bracketed from above.
    """
    low = np.asarray(reached, float)
    high = np.asarray(pd.to_numeric(pd.Series(failed), errors="coerce"), float)
    high = np.where(np.isnan(high), np.inf, high)
    bracketed = np.isfinite(high)
    if not bracketed.any():
        return float("nan")
    start = float(np.log(np.median(np.where(low > 0, low, np.where(bracketed, high, 1.0) / 2))))

    def lost(parameters: np.ndarray) -> float:
        middle, steepness = parameters[0], np.exp(parameters[1])

        def beyond(size: np.ndarray) -> np.ndarray:  # share of passages whose limit is above that size
            with np.errstate(divide="ignore"):
                return np.asarray(expit(-steepness * (np.log(size) - middle)))

        share = np.clip(beyond(low) - beyond(high), 1e-12, 1)
        return float(-np.log(share).sum() + 0.01 * (parameters[1] - 2) ** 2)  # keeps the slope finite

    found = minimize(lost, [start, 2.0], method="Nelder-Mead", options={"xatol": 1e-4, "fatol": 1e-6, "maxiter": 2000})
    return float(np.exp(found.x[0]))


def n50_of_search_interval(
    horizons: pd.DataFrame, column: str = "horizon", *, draws: int = 300, seed: int = 0
) -> Estimate:
    """``n50_of_search`` of a table of ``horizons``, in tokens or (``horizon_bits``) bits, drawn over passages."""
    failed = {"horizon": "failed_at", "horizon_bits": "failed_bits"}[column]
    slim = horizons[["text_id", column, failed]]
    return bootstrap(lambda t: n50_of_search(t[column], t[failed]), slim, draws=draws, seed=seed)


def vectors_slope(horizons: pd.DataFrame, column: str = "horizon") -> float:
    """Exponent a of horizon = c·k^a over passages measured at several k (1: each vector holds as much as the first).

    ``horizons``: ``text_id k`` and ``column``; least squares on logarithms, a level for each passage. Left out is what
    is 0, and where there is a column ``failed_at``, what ended only because the search did: a ceiling has no slope.
    """
    # A bootstrap asks this thousands of times: arrays, since pandas would take milliseconds each time.
    held = horizons[column].to_numpy(float)
    kept = held > 0
    if "failed_at" in horizons:
        kept &= horizons.failed_at.notna().to_numpy()
    each = pd.factorize(passages(horizons)[kept])[0]
    x, y = (_less_means(np.log(v[kept]), each) for v in (horizons.k.to_numpy(float), held))
    return float((x * y).sum() / (x**2).sum()) if (x**2).sum() else float("nan")


def at_several_k(horizons: pd.DataFrame) -> pd.DataFrame:
    """The rows that ``vectors_slope`` reads: horizons, found and not only ended, of passages that have several k."""
    found = horizons[horizons.horizon > 0]
    if "failed_at" in found:
        found = found[found.failed_at.notna()]
    return found[found.groupby(passages(found)).k.transform("nunique") > 1]


def doublings(horizons: pd.DataFrame) -> pd.DataFrame:
    """What twice the vectors hold, passage by passage, over what half of them do: 2 is as much again.

    ``horizons``: ``text_id texts k horizon horizon_bits``; read are the rows of ``at_several_k``. One row a kind of
    text and doubling, and of all kinds together: ``texts k twice passages``, ``tokens`` and ``bits`` (ratios, medians)
    and the ``least`` and ``most`` of the ratios in tokens.
    """
    found = at_several_k(horizons)
    found = found.assign(passage=passages(found))
    rows = []
    for k in sorted(found.k.unique()):
        once, twice = (found[found.k == n].set_index("passage") for n in (k, 2 * k))
        once = once.loc[once.index.intersection(twice.index)]
        twice = twice.loc[once.index]
        kinds = list(dict.fromkeys(once.texts))
        for kind in [*kinds, *(["all"] if len(kinds) > 1 else [])]:
            of = (once.texts == kind) | (kind == "all")
            tokens = (twice.horizon / once.horizon)[of]
            bits = (twice.horizon_bits / once.horizon_bits)[of]
            rows.append((kind, k, 2 * k, len(tokens), tokens.median(), tokens.min(), tokens.max(), bits.median()))
    return pd.DataFrame(rows, columns=["texts", "k", "twice", "passages", "tokens", "least", "most", "bits"])


def passages(table: pd.DataFrame) -> np.ndarray:
    """(rows,) a number for each passage: a text of one name may be another model's, kind's, or another part of it."""
    number = np.zeros(len(table), np.int64)
    for name in ("model", "texts", "text_id", "start"):
        if name in table:
            each, values = pd.factorize(table[name].to_numpy(), use_na_sentinel=False)
            number = np.asarray(pd.factorize(number * len(values) + each)[0])
    return number


def _less_means(values: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Each less the mean of its group."""
    return np.asarray(values - (np.bincount(of, values) / np.bincount(of))[of]) if len(values) else values


# Information, not length -----------------------------------------------------------------------------------------


def tokens_held(token_bits: Sequence[float] | Any, bits: float) -> int:
    """Longest prefix, tokens, that costs at most so many bits; a token that was not scored costs nothing."""
    return int(np.searchsorted(np.nancumsum(np.asarray(token_bits, float)), bits, side="right"))


def equal_information(token_bits: Sequence[float] | Any, bits: float) -> list[tuple[int, int]]:
    """Windows (start, end) of tokens, one after the other, that hold ``bits`` each, to the nearest token.

    What is left at the end and holds less is no window.
    """
    if bits <= 0:
        raise ValueError(f"bits={bits}: expected more than 0")
    total = np.concatenate([[0.0], np.nancumsum(np.asarray(token_bits, float))])
    windows, start = [], 0
    while total[-1] - total[start] >= bits:
        end = int(np.searchsorted(total, total[start] + bits))
        if end - 1 > start and total[start] + bits - total[end - 1] < total[end] - total[start] - bits:
            end -= 1
        windows.append((start, end))
        start = end
    return windows


def spread(horizons: pd.DataFrame, column: str) -> float:
    """How far kinds of text lie apart: standard deviation over ``texts`` of the mean log2 of ``column``, octaves."""
    kinds = pd.factorize(horizons.texts.to_numpy())[0]
    means = np.bincount(kinds, np.log2(horizons[column].to_numpy(float))) / np.bincount(kinds)
    return float(means.std(ddof=1)) if len(means) > 1 else float("nan")


def charged(horizons: pd.DataFrame, bits: float) -> pd.DataFrame:
    """Horizons with so many ``bits`` added to what each token costs by itself: 0 is information, a great many length.

    ``horizons``: ``horizon horizon_bits``, and ``failed_at failed_bits`` if they are there.
    """
    pairs = (("horizon", "horizon_bits"), ("failed_at", "failed_bits"))
    added = {cost: horizons[cost] + bits * horizons[tokens] for tokens, cost in pairs if cost in horizons}
    return horizons.assign(**added)


def information_not_length(horizons: pd.DataFrame, *, draws: int = 2000, seed: int = 0) -> pd.DataFrame:
    """The paper's main claim as a test: do kinds of text agree in bits where in tokens they do not?

    ``horizons``, one row a passage: ``text_id texts horizon horizon_bits``, and with ``failed_at failed_bits``, where a
    limit lies between what came back and what failed, it is taken to be in the (geometric) middle: a step of so many
    tokens is worth more bits in dear text, and lower ends would lie too near. Rows: ``tokens``, ``bits``, and how much
    further apart kinds lie in tokens than in bits; ``spread`` in octaves with a bootstrap interval (passages drawn
    within their kind), and the p-value of dealing the passages to kinds at random (for the difference, tokens and bits
    of a passage together).

    The spread of kinds that are one is above 0, since means of a few passages differ: read p, not the lower end, for
    whether kinds differ, and the upper end for how far they may. ``left_out`` counts passages without any horizon, of
    which a logarithm says nothing; where a whole kind is left out, nothing is said. ``censored`` counts those whose
    horizon is only known to be at least what it is: many of them in one kind make it look nearer than it is.
    """
    table = horizons[(horizons.horizon > 0) & (horizons.horizon_bits > 0)].copy()
    for column, failed in (("horizon", "failed_at"), ("horizon_bits", "failed_bits")):
        beyond = pd.to_numeric(table[failed]) if failed in table else table[column]
        table[column] = np.sqrt(table[column] * beyond.fillna(table[column]))
    columns = {"tokens": "horizon", "bits": "horizon_bits"}
    counts = {
        "left_out": len(horizons) - len(table),
        "censored": int(table.failed_at.isna().sum()) if "failed_at" in table else 0,
    }
    measures: dict[str, Callable[[pd.DataFrame], float]] = {
        unit: partial(spread, column=column) for unit, column in columns.items()
    }
    measures["tokens less bits"] = lambda t: spread(t, "horizon") - spread(t, "horizon_bits")
    table = table[["text_id", "texts", *columns.values()]]  # what is drawn thousands of times should be slim
    whole = table.texts.nunique() == horizons.texts.nunique() and table.texts.nunique() > 1
    nothing = Estimate(float("nan"), float("nan"), float("nan"))
    rng = np.random.default_rng(seed)
    dealt = [table.assign(texts=rng.permutation(table.texts.to_numpy())) for _ in range(draws if whole else 0)]
    rows = []
    for unit, measure in measures.items():
        found = bootstrap(measure, table, within="texts", draws=draws, seed=seed) if whole else nothing
        shuffled = np.array([measure(t) for t in dealt])
        p = float((1 + (shuffled >= found.value).sum()) / (1 + draws)) if whole else float("nan")
        rows.append((unit, *found, p, *counts.values()))
    return pd.DataFrame(rows, columns=["unit", "spread", "low", "high", "p", *counts])
