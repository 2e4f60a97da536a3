"""How much a mem vector holds: each measure with its formula, its unit and where it is from.

Arrays and tables in, numbers and tables out; no model here. Information is in **bits**, unless a name says nats.

Two protocols stand side by side. ``paper2025`` (arXiv 2502.13063) asks, while the true text is fed, how many tokens
are argmax. ``exact`` asks what comes back when the model writes freely from the stored vector alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from memlab.statistics import Estimate, bootstrap, median_interval

# One run ---------------------------------------------------------------------------------------------------------


def theoretical_tokens(d: int, vocabulary: int, *, bits: float = 16, k: int = 1) -> float:
    """Tokens that k·d numbers of so many ``bits`` could name at most: k·d·b / log2|V| (arXiv 2502.13063, eq. 4).

    The paper takes b = 16; what a vector needs is measured by ``experiments.precision``.
    """
    return k * d * bits / np.log2(vocabulary)


def token_gain(hits_with: Any, hits_without: Any) -> Any:
    """Tokens: those that are argmax with the vector less those without, while the true text is fed (2502.13063)."""
    return hits_with - hits_without


def information_gain(bits_without: Sequence[float] | Any, bits_with: Sequence[float] | Any) -> float:
    """Bits: cross-entropy (n,) without the vector less that with it, summed over the tokens scored in both.

    A token that was not scored is NaN. The paper's C_H (arXiv 2502.13063) in bits; its tables print nats.
    """
    without, given = np.asarray(bits_without, float), np.asarray(bits_with, float)
    if without.shape != given.shape:
        raise ValueError(f"{without.size} tokens without the vector, {given.size} with it; expected the same tokens")
    return float(np.nansum(without - given))


def nats(bits: float) -> float:
    """Nats of so many bits."""
    return float(bits * np.log(2))


def token_utilisation(gain: float, d: int, vocabulary: int, *, bits: float = 16, k: int = 1) -> float:
    """Token gain over ``theoretical_tokens`` (arXiv 2502.13063)."""
    return gain / theoretical_tokens(d, vocabulary, bits=bits, k=k)


def bits_per_dimension(gain_bits: float, d: int, *, k: int = 1) -> float:
    """Information gain over the k·d numbers that carry it, bits."""
    return gain_bits / (k * d)


def compression_ratio(text_bytes: int, stored_bits: float) -> float:
    """Size of the UTF-8 text over what is stored in its place; below 1 the text would have been smaller."""
    return 8 * text_bytes / stored_bits


def explain(
    bits_without: Sequence[float],
    bits_with: Sequence[float],
    right_without: Sequence[bool],
    right_with: Sequence[bool],
    decoded_right: Sequence[bool],
) -> pd.DataFrame:
    """Where the two protocols differ for one run; all arrays (n,), one entry a token of the passage.

    ``right_*``: argmax while the true text is fed; ``decoded_right``: in the free-running decode. Rows: measure,
    ``paper2025``, ``exact``, and why they differ.
    """
    without, given = np.asarray(bits_without, float), np.asarray(bits_with, float)
    fed = np.asarray(right_with, bool)
    free = np.asarray(decoded_right, bool)
    before = np.asarray(right_without, bool)
    n = len(fed)
    wrong = np.flatnonzero(~free)
    reached = int(wrong[0]) if len(wrong) else n
    accuracy = float(fed[1:].mean()) if n > 1 else float("nan")
    lost = "token 1 is never scored there, and the true text is fed" if n > 1 else "one token leaves nothing to score"
    rows = [
        ("tokens scored", n - 1, n, "the published code leaves token 1 out"),
        ("accuracy", accuracy, float(free.mean()), lost),
        ("holds the passage", accuracy >= 0.99, bool(free.all()), _verdict(accuracy >= 0.99, fed, reached, n)),
        (
            "tokens gained",
            token_gain(fed[1:].sum(), before[1:].sum()),
            token_gain(reached, before.sum()),
            "argmax under the true text, against tokens decoded before the first wrong one",
        ),
        (
            "information gained, bits",
            information_gain(without[1:], given[1:]),
            information_gain(without, given),
            f"token 1 holds {without[0] - given[0]:.1f} bits of it",
        ),
    ]
    return pd.DataFrame(rows, columns=["measure", "paper2025", "exact", "why"])


def _verdict(held: bool, fed: np.ndarray, reached: int, n: int) -> str:
    if reached == n:
        return "decoded freely to the end" + ("" if held else ", yet below 99 % by the published count")
    where = f"decoding goes wrong at token {reached + 1} of {n}"
    if not held:
        return where
    return f"{where}, {'which the published count leaves out' if reached == 0 else 'one miss in a hundred is let pass'}"


# Many runs -------------------------------------------------------------------------------------------------------


def paper_estimates(runs: pd.DataFrame, *, threshold: float = 0.99) -> pd.DataFrame:
    """The published table's estimators (arXiv 2502.13063), one row a group (``model texts k``, those there are).

    ``runs``, one row a run: ``length accuracy hits_with hits_without bits_with bits_without``, all over the tokens
    that the published code scores. ``max_tokens``: the largest length whose mean accuracy is at least ``threshold``.
    Gains: mean and standard deviation (n - 1) over the runs, of whatever length, with accuracy at most ``threshold``.
    """
    rows = []
    for names, group in _groups(runs):
        means = group.groupby("length").accuracy.mean()
        held = means[means >= threshold]
        failing = group[group.accuracy <= threshold]
        tokens = token_gain(failing.hits_with, failing.hits_without)
        gained = failing.bits_without - failing.bits_with
        rows.append(
            names
            | {
                "max_tokens": int(held.index.max()) if len(held) else 0,
                "runs": len(group),
                "failing": len(failing),
                "token_gain": tokens.mean(),
                "token_gain_sd": tokens.std(),
                "information_gain_bits": gained.mean(),
                "information_gain_bits_sd": gained.std(),
                "information_gain_nats": nats(gained.mean()),
                "information_gain_nats_sd": nats(gained.std()),
            }
        )
    return pd.DataFrame(rows)


def horizons(attempts: pd.DataFrame) -> pd.DataFrame:
    """One row a passage (and model, k, kind of text): horizon, what it took to find, loss left where it first failed.

    The horizon (tokens) is the longest prefix that one of the stored vectors decodes to, freely: also that of a longer
    text that was not exact to its end. It is a certified lower end. ``failed_at`` is the shortest length above it that
    failed in every attempt (missing: none did), no proof that no vector could. With ``token_bits_without`` in the
    attempts (``experiments.gains``) also ``horizon_bits``: what that prefix costs the model without the vector.
    """
    rows = []
    names = [name for name in ("model", "texts", "k", "text_id", "source") if name in attempts]
    for labels, group in attempts.groupby(names, sort=False, observed=True):
        exact = group[group.exact]
        best = group.loc[group.exact_prefix.idxmax()]
        failed = group[~group.exact & (group.length > best.exact_prefix)]
        first = failed[failed.length == failed.length.min()]
        row = dict(zip(names, labels, strict=True)) | {
            "horizon": int(best.exact_prefix),
            "longest_exact": int(exact.tokens.max()) if len(exact) else 0,
            "failed_at": int(failed.length.min()) if len(failed) else None,
            "attempts": len(group),
            "token_passes": int(group.token_passes.sum()),
            "bits_at_failure": float(first.bits.min()) if len(first) else None,
        }
        if "token_bits_without" in group:
            row["horizon_bits"] = float(np.nansum(np.asarray(best.token_bits_without)[: best.exact_prefix]))
        rows.append(row)
    return pd.DataFrame(rows)


def outcomes(attempts: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One passage's exact attempts, and those that failed at a length above all of them."""
    exact = attempts[attempts.exact]
    return exact, attempts[~attempts.exact & (attempts.length > (exact.length.max() if len(exact) else 0))]


def exact_estimates(horizons: pd.DataFrame) -> pd.DataFrame:
    """Median exact horizon in tokens and bits with bootstrap intervals over passages, one row a group.

    ``horizons``, one row a passage: ``horizon`` (tokens), ``horizon_bits``, and ``failed_at`` (tokens, missing where
    no attempt failed above it: the horizon is then only known to be at least that).
    """
    rows = []
    for names, group in _groups(horizons):
        rows.append(
            names
            | {
                "passages": len(group),
                "tokens": median_interval(group.horizon),
                "bits": median_interval(group.horizon_bits),
                "least": int(group.horizon.min()),
                "most": int(group.horizon.max()),
                "censored": int(group.failed_at.isna().sum()),
            }
        )
    return pd.DataFrame(rows)


def saturation(bits_without: Sequence[float] | Any, bits_with: Sequence[float] | Any) -> float:
    """C, bits, of with = max(0, without - C) by least squares: what one vector takes off a text (2502.13063, fig. 4).

    The slope is held at 1. Exact: each stretch of C between two texts' bits has a parabola of its own.
    """
    x, y = np.asarray(bits_without, float), np.asarray(bits_with, float)
    order = np.argsort(x)
    x, y = x[order], y[order]
    best, at = np.inf, float("nan")
    for first in range(len(x)):  # texts from ``first`` on are above C
        low, high = (x[first - 1] if first else 0.0), x[first]
        c = float(np.clip(np.mean(x[first:] - y[first:]), low, high))
        cost = float(np.sum(y[:first] ** 2) + np.sum((y[first:] - x[first:] + c) ** 2))
        if cost < best:
            best, at = cost, c
    return at


def saturation_interval(runs: pd.DataFrame, *, draws: int = 2000, seed: int = 0) -> Estimate:
    """``saturation`` of a table (``text_id bits_without bits_with``) with its bootstrap interval over passages."""
    return bootstrap(lambda t: saturation(t.bits_without, t.bits_with), runs, draws=draws, seed=seed)


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

    Every passage must have been tried at every size. A search that tries each near its own limit (``horizon``) has
    strong passages at long sizes and weak ones at short: give ``tried_everywhere`` of what it found.
    """
    return bootstrap(lambda t: n50(t[size], t.exact), runs, draws=draws, seed=seed)


def tried_everywhere(horizons: pd.DataFrame, column: str = "horizon", *, points: int = 24) -> pd.DataFrame:
    """Each passage at ``points`` sizes, exact up to its horizon and not above: what ``n50`` takes of a search.

    Sizes, in the unit of ``column``, are spread evenly on a logarithm over all horizons found, and a little beyond.
    """
    found = horizons[horizons[column] > 0]
    sizes = np.geomspace(0.7 * found[column].min(), 1.4 * found[column].max(), points)
    rows = [(t, float(n), bool(n <= h)) for t, h in zip(found.text_id, found[column], strict=True) for n in sizes]
    return pd.DataFrame(rows, columns=["text_id", "length", "exact"])


def vectors_slope(horizons: pd.DataFrame, column: str = "horizon") -> float:
    """Exponent a of horizon = c·k^a over passages measured at several k (1: each vector holds as much as the first).

    ``horizons``: ``text_id k`` and ``column``; least squares on logarithms, a level for each passage.
    """
    y, x = np.log(horizons[column].astype(float)), np.log(horizons.k.astype(float))
    each = horizons.text_id
    x, y = x - x.groupby(each).transform("mean"), y - y.groupby(each).transform("mean")
    return float((x * y).sum() / (x**2).sum()) if (x**2).sum() else float("nan")


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
    means = np.log2(horizons[column].astype(float)).groupby(horizons.texts).mean()
    return float(means.std(ddof=1))


def information_not_length(horizons: pd.DataFrame, *, draws: int = 2000, seed: int = 0) -> pd.DataFrame:
    """The paper's main claim as a test: do kinds of text agree in bits where in tokens they do not?

    ``horizons``, one row a passage: ``text_id texts horizon horizon_bits``. Rows: ``tokens``, ``bits``, and how much
    further apart kinds lie in tokens than in bits; ``spread`` in octaves with a bootstrap interval (passages drawn
    within their kind), and the p-value of a permutation test that the kinds are one (no such test for the difference).
    """
    table = horizons[(horizons.horizon > 0) & (horizons.horizon_bits > 0)]
    columns = {"tokens": "horizon", "bits": "horizon_bits"}
    rng = np.random.default_rng(seed)
    rows = []
    for unit, column in columns.items():
        found = bootstrap(partial(spread, column=column), table, within="texts", draws=draws, seed=seed)
        shuffled = np.array(
            [spread(table.assign(texts=rng.permutation(table.texts.to_numpy())), column) for _ in range(draws)]
        )
        rows.append((unit, *found, float((1 + (shuffled >= found.value).sum()) / (1 + draws))))
    apart = bootstrap(
        lambda t: spread(t, "horizon") - spread(t, "horizon_bits"), table, within="texts", draws=draws, seed=seed
    )
    rows.append(("tokens less bits", *apart, float("nan")))
    return pd.DataFrame(rows, columns=["unit", "spread", "low", "high", "p"])


def _groups(table: pd.DataFrame) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    names = [name for name in ("model", "texts", "k") if name in table]
    if not names:
        return [({}, table)]
    return [
        (dict(zip(names, key, strict=True)), group) for key, group in table.groupby(names, sort=False, observed=True)
    ]
