"""Limits fitted to many runs: saturation in bits, the size that half the passages reach, the gain of more vectors.

These measures read the tables of ``capacity``. Information is in **bits**. Intervals are bootstraps over passages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import expit

from memlab.measures.capacity import horizons as exact_horizons
from memlab.measures.capacity import require_one_recipe
from memlab.measures.statistics import Estimate, bootstrap


def saturation(bits_without: Sequence[float] | Any, bits_with: Sequence[float] | Any) -> float:
    """C, bits: least-squares fit of with = max(0, without - C) (arXiv 2502.13063, fig. 4). A vector removes C bits.

    The slope is fixed at 1. The fit is exact: between the bits of two neighbouring texts, the error is a parabola in C.
    """
    x, y = np.asarray(bits_without, float), np.asarray(bits_with, float)
    order = np.argsort(x)
    x, y = x[order], y[order]
    if not len(x):
        return float("nan")
    # For each i: if texts i, i+1, ... cost more than C, the best C is the mean of their gains, clipped to that range.
    gains = x - y
    above, count = gains[::-1].cumsum()[::-1], np.arange(len(x), 0, -1)
    c = np.clip(above / count, np.concatenate([[0.0], x[:-1]]), x)
    below = np.concatenate([[0.0], (y**2).cumsum()[:-1]])
    error = below + (gains**2)[::-1].cumsum()[::-1] - 2 * c * above + count * c**2
    return float(c[np.argmin(error)])


def saturation_interval(runs: pd.DataFrame, *, draws: int = 2000, seed: int = 0) -> Estimate:
    """``saturation`` of a table (``text_id bits_without bits_with``) with its bootstrap interval over passages.

    The upper end is infinite if every vector removes at least 99 % of its text's bits: C is then only known to be at
    least the bits of the largest text.
    """
    slim = runs[["text_id", "bits_without", "bits_with"]]
    estimate = bootstrap(lambda t: saturation(t.bits_without, t.bits_with), slim, draws=draws, seed=seed)
    above = runs.bits_with > 0.01 * runs.bits_without
    return estimate if above.any() else estimate._replace(high=float("inf"))


def saturations(runs: pd.DataFrame) -> pd.DataFrame:
    """``saturation_interval`` by protocol, k and kind of text, and of all kinds together, with the fit's error.

    ``runs``: ``protocol k texts text_id exact tried tokens bits_without bits_with``. Only runs that were trained on all
    their text count: a growing vector was never trained on what follows the prefix it reached. ``C``: bits. ``off``:
    root mean square error of the fit, bits. Kinds share one C if ``off`` of all together is about as small as of each.
    """
    # After a concat with a table without rows, this column holds objects, and ~ of an object is not a negation.
    runs = runs.astype({"exact": bool})
    complete = runs[runs.exact | (runs.tried == runs.tokens)] if "tried" in runs else runs
    rows = []
    for (protocol, k), group in complete.groupby(["protocol", "k"], sort=False):
        require_one_recipe(group)
        kinds = dict(tuple(group.groupby("texts", sort=False)))
        for kind, part in {**kinds, **({"all": group} if len(kinds) > 1 else {})}.items():
            c = saturation_interval(part)
            residual = part.bits_with - np.maximum(0, part.bits_without - c.value)
            failed = int((~part.exact).sum())
            rows.append((protocol, k, kind, len(part), failed, c, float(np.sqrt(np.mean(residual**2)))))
    return pd.DataFrame(rows, columns=["protocol", "k", "texts", "runs", "not exact", "C", "off"])


def n50(size: Sequence[float] | Any, exact: Sequence[bool] | Any) -> float:
    """The size at which half the passages are exact: where a logistic fit of ``exact`` on log size crosses 1/2.

    Sizes are in tokens or in bits. A weak ridge keeps the slope finite if all exact sizes are below all failed ones.
    NaN if all or no passages are exact, or if longer passages seem easier.
    """
    from sklearn.linear_model import LogisticRegression

    x, y = np.log(np.asarray(size, float)), np.asarray(exact, bool)
    if y.all() or not y.any():
        return float("nan")
    scale = x.std() or 1.0
    fit = LogisticRegression(C=100.0).fit(((x - x.mean()) / scale)[:, None], y)
    slope, bias = float(fit.coef_[0, 0]), float(fit.intercept_[0])
    if slope >= 0:  # longer texts cannot be easier, so these runs say nothing about the size
        return float("nan")
    return float(np.exp(x.mean() - scale * bias / slope))


def n50_interval(runs: pd.DataFrame, size: str = "length", *, draws: int = 1000, seed: int = 0) -> Estimate:
    """``n50`` of a table (``text_id exact`` and the column ``size``) with its bootstrap interval over passages.

    Every passage must have been tried at every size. A search tries each passage near its own limit only; use
    ``n50_of_search`` for that.
    """
    return bootstrap(lambda t: n50(t[size], t.exact), runs, draws=draws, seed=seed)


def n50_of_search(reached: Sequence[float] | Any, failed: Sequence[float] | Any) -> float:
    """The size at which half the passages are exact, from a search that brackets each passage's own limit.

    A passage's limit lies between ``reached`` (0: nothing was exact) and ``failed`` (NaN: nothing failed, so there is
    no upper bound). Maximum likelihood under log-logistic limits: the share of exact passages is then a logistic
    function of log size. NaN if no limit has an upper bound.
    """
    low = np.asarray(reached, float)
    high = np.asarray(pd.to_numeric(pd.Series(failed), errors="coerce"), float)
    high = np.where(np.isnan(high), np.inf, high)
    bracketed = np.isfinite(high)
    if not bracketed.any():
        return float("nan")
    start = float(np.log(np.median(np.where(low > 0, low, np.where(bracketed, high, 1.0) / 2))))

    def negative_log_likelihood(parameters: np.ndarray) -> float:
        middle, steepness = parameters[0], np.exp(parameters[1])

        def beyond(size: np.ndarray) -> np.ndarray:  # share of passages with a limit above that size
            with np.errstate(divide="ignore"):
                return np.asarray(expit(-steepness * (np.log(size) - middle)))

        share = np.clip(beyond(low) - beyond(high), 1e-12, 1)
        return float(-np.log(share).sum() + 0.01 * (parameters[1] - 2) ** 2)  # keeps the slope finite

    options = {"xatol": 1e-4, "fatol": 1e-6, "maxiter": 2000}
    best = minimize(negative_log_likelihood, [start, 2.0], method="Nelder-Mead", options=options)
    return float(np.exp(best.x[0]))


def n50_of_search_interval(
    horizons: pd.DataFrame, column: str = "horizon", *, draws: int = 300, seed: int = 0
) -> Estimate:
    """``n50_of_search`` of a table of ``horizons`` (``column``: tokens or bits), with a bootstrap over passages."""
    failed = {"horizon": "failed_at", "horizon_bits": "failed_bits"}[column]
    slim = horizons[["text_id", column, failed]]
    return bootstrap(lambda t: n50_of_search(t[column], t[failed]), slim, draws=draws, seed=seed)


def vectors_slope(horizons: pd.DataFrame, column: str = "horizon") -> float:
    """Exponent a of horizon = c·k^a over passages measured at several k (1: each vector holds as much as the first).

    ``horizons``: ``text_id k`` and ``column``. Least squares on logarithms, with one constant c per passage. Rows with
    horizon 0 are left out. If there is a column ``failed_at``, censored rows are left out too: they show the end of the
    search, not a limit.
    """
    # A bootstrap calls this thousands of times. Arrays, because pandas would need milliseconds per call.
    sizes = horizons[column].to_numpy(float)
    usable = sizes > 0
    if "failed_at" in horizons:
        usable &= horizons.failed_at.notna().to_numpy()
    owner = pd.factorize(passages(horizons)[usable])[0]
    x, y = (_centred(np.log(v[usable]), owner) for v in (horizons.k.to_numpy(float), sizes))
    return float((x * y).sum() / (x**2).sum()) if (x**2).sum() else float("nan")


def at_several_k(horizons: pd.DataFrame) -> pd.DataFrame:
    """The rows that ``vectors_slope`` reads: horizons above 0, not censored, of passages measured at several k."""
    usable = horizons[horizons.horizon > 0]
    if "failed_at" in usable:
        usable = usable[usable.failed_at.notna()]
    return usable[usable.groupby(passages(usable)).k.transform("nunique") > 1]


def doublings(horizons: pd.DataFrame) -> pd.DataFrame:
    """Horizon with 2k vectors divided by the horizon with k, per passage. 2: twice the vectors hold twice the text.

    ``horizons``: ``text_id texts k horizon horizon_bits``; only the rows of ``at_several_k`` are read. One row per kind
    of text and doubling, and for all kinds together: ``texts k twice passages``, the median ratios in ``tokens`` and
    ``bits``, and the ``least`` and ``most`` of the ratios in tokens.
    """
    usable = at_several_k(horizons)
    usable = usable.assign(passage=passages(usable))
    rows = []
    for k in sorted(usable.k.unique()):
        once, twice = (usable[usable.k == n].set_index("passage") for n in (k, 2 * k))
        once = once.loc[once.index.intersection(twice.index)]
        twice = twice.loc[once.index]
        kinds = list(dict.fromkeys(once.texts))
        for kind in [*kinds, *(["all"] if len(kinds) > 1 else [])]:
            rows_of_kind = (once.texts == kind) | (kind == "all")
            tokens = (twice.horizon / once.horizon)[rows_of_kind]
            bits = (twice.horizon_bits / once.horizon_bits)[rows_of_kind]
            rows.append((kind, k, 2 * k, len(tokens), tokens.median(), tokens.min(), tokens.max(), bits.median()))
    return pd.DataFrame(rows, columns=["texts", "k", "twice", "passages", "tokens", "least", "most", "bits"])


def passages(table: pd.DataFrame) -> np.ndarray:
    """(rows,) the number of each row's passage.

    Rows of one ``text_id`` are different passages if they differ in model, kind of text, or first token.
    """
    number = np.zeros(len(table), np.int64)
    for name in ("model", "texts", "text_id", "start"):
        if name in table:
            codes, values = pd.factorize(table[name].to_numpy(), use_na_sentinel=False)
            number = np.asarray(pd.factorize(number * len(values) + codes)[0])
    return number


def _centred(values: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Each value minus the mean of its group."""
    return np.asarray(values - (np.bincount(owner, values) / np.bincount(owner))[owner]) if len(values) else values


# Information, not length -----------------------------------------------------------------------------------------


def tokens_held(token_bits: Sequence[float] | Any, bits: float) -> int:
    """Longest prefix, tokens, that costs at most ``bits``. A token that was not scored costs nothing."""
    return int(np.searchsorted(np.nancumsum(np.asarray(token_bits, float)), bits, side="right"))


def equal_information(token_bits: Sequence[float] | Any, bits: float) -> list[tuple[int, int]]:
    """Consecutive windows (start, end), in tokens, that cost ``bits`` each, to the nearest token.

    A shorter rest at the end is left out. Raises ``ValueError`` unless ``bits`` > 0.
    """
    if bits <= 0:
        raise ValueError(f"A window of bits={bits} is empty. Give more than 0.")
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
    """Distance between kinds of text: standard deviation over ``texts`` of the mean log2 of ``column``, octaves."""
    kinds = pd.factorize(horizons.texts.to_numpy())[0]
    means = np.bincount(kinds, np.log2(horizons[column].to_numpy(float))) / np.bincount(kinds)
    return float(means.std(ddof=1)) if len(means) > 1 else float("nan")


def charged(horizons: pd.DataFrame, bits: float) -> pd.DataFrame:
    """Horizons where each token costs ``bits`` more. A charge of 0 measures information, a very large one length.

    ``horizons``: ``horizon horizon_bits``, and optionally ``failed_at failed_bits``.
    """
    pairs = (("horizon", "horizon_bits"), ("failed_at", "failed_bits"))
    added = {cost: horizons[cost] + bits * horizons[tokens] for tokens, cost in pairs if cost in horizons}
    return horizons.assign(**added)


def information_not_length(horizons: pd.DataFrame, *, draws: int = 2000, seed: int = 0) -> pd.DataFrame:
    """The main claim of arXiv 2502.13063 as a test: do kinds of text agree in bits, although they differ in tokens?

    ``horizons``, one row per passage: ``text_id texts horizon horizon_bits``, optionally ``failed_at failed_bits``. A
    horizon is known only to lie between the last success and the first failure. We use their geometric mean: a step of
    8 tokens is more bits in high-entropy text, so using the lower end would understate differences between kinds.

    Rows: ``tokens``, ``bits``, and ``tokens less bits``, the difference of the two spreads. ``spread``: see ``spread``,
    octaves, with a bootstrap interval (passages drawn within their kind). ``p``: null model, passages assigned to kinds
    at random (a passage keeps its pair of tokens and bits). Kinds with equal limits have a spread above 0, because
    means of a few passages differ. So ``p``, not the lower end, shows if kinds differ; the upper end shows how much
    they may differ. ``chance``: the spread that 95 % of those assignments stay below. ``left_out`` counts passages with
    horizon 0, which have no logarithm. If all passages of a kind are left out, the row is NaN. ``censored`` counts
    horizons that are lower bounds. Many of them in one kind make the kinds look closer than they are.
    """
    table = horizons[(horizons.horizon > 0) & (horizons.horizon_bits > 0)].copy()
    for column, failed in (("horizon", "failed_at"), ("horizon_bits", "failed_bits")):
        first_failure = pd.to_numeric(table[failed]) if failed in table else table[column]
        table[column] = np.sqrt(table[column] * first_failure.fillna(table[column]))
    columns = {"tokens": "horizon", "bits": "horizon_bits"}
    counts = {
        "left_out": len(horizons) - len(table),
        "censored": int(table.failed_at.isna().sum()) if "failed_at" in table else 0,
    }
    measures: dict[str, Callable[[pd.DataFrame], float]] = {
        unit: partial(spread, column=column) for unit, column in columns.items()
    }
    measures["tokens less bits"] = lambda t: spread(t, "horizon") - spread(t, "horizon_bits")
    table = table[["text_id", "texts", *columns.values()]]  # drawn thousands of times: fewer columns are faster
    testable = table.texts.nunique() == horizons.texts.nunique() and table.texts.nunique() > 1
    unknown = Estimate(float("nan"), float("nan"), float("nan"))
    rng = np.random.default_rng(seed)
    assigned = [table.assign(texts=rng.permutation(table.texts.to_numpy())) for _ in range(draws if testable else 0)]
    rows = []
    for unit, measure in measures.items():
        estimate = bootstrap(measure, table, within="texts", draws=draws, seed=seed) if testable else unknown
        shuffled = np.array([measure(t) for t in assigned])
        p = float((1 + (shuffled >= estimate.value).sum()) / (1 + draws)) if testable else float("nan")
        chance = float(np.quantile(shuffled, 0.95)) if testable else float("nan")
        rows.append((unit, *estimate, p, chance, *counts.values()))
    return pd.DataFrame(rows, columns=["unit", "spread", "low", "high", "p", "chance", *counts])


def charges(horizons: pd.DataFrame, bits: Sequence[float], *, draws: int = 500) -> pd.DataFrame:
    """``information_not_length`` in bits, for several charges per token (``charged``): ``charge spread p chance``.

    ``charge``: bits added per token. Null model: see ``information_not_length``.
    """
    rows = []
    for charge in bits:
        test = information_not_length(charged(horizons, charge), draws=draws).set_index("unit").loc["bits"]
        rows.append((charge, test.spread, test.p, test.chance))
    return pd.DataFrame(rows, columns=["charge", "spread", "p", "chance"])


def bits_a_token(horizons: pd.DataFrame) -> pd.Series:
    """Bits per token of the exact prefixes, by kind of text: median over passages of ``horizon_bits / horizon``."""
    return (horizons.horizon_bits / horizons.horizon).groupby(horizons.texts, sort=False).median()


def spread_within_kinds(horizons: pd.DataFrame) -> pd.DataFrame:
    """Coefficient of variation (standard deviation over mean) of the horizons of one kind of text, one row per kind.

    ``horizons``, one row per passage: ``texts horizon horizon_bits``. Columns: ``horizon`` (in tokens),
    ``horizon_bits``.
    """
    kinds = horizons.groupby("texts", sort=False)[["horizon", "horizon_bits"]]
    return kinds.std() / kinds.mean()


def typical(runs: pd.DataFrame) -> pd.DataFrame:
    """One passage per kind of text: the one nearest to its kind's medians, in tokens and in bits.

    ``runs``: runs of the protocol ``exact`` with one vector each. Columns: ``texts text_id horizon horizon_bits``, and
    ``token_bits`` (horizon,), the cost of each token without the vector.
    """
    one = exact_horizons(runs[runs.k == 1])
    medians = one.groupby("texts")[["horizon", "horizon_bits"]].transform("median")
    away = np.log(one[["horizon", "horizon_bits"]] / medians).abs().sum(axis=1)
    chosen = one.loc[away.groupby(one.texts, sort=False).idxmin()]
    longest = runs.sort_values("tokens").groupby("text_id").token_bits_without.last()
    bits = [np.asarray(longest[row.text_id], float)[: row.horizon] for row in chosen.itertuples()]
    return chosen[["texts", "text_id", "horizon", "horizon_bits"]].assign(token_bits=bits).reset_index(drop=True)
