"""Predicts, before any training, how much of a text will fit, from the bits of its tokens (one forward pass).

The assumption: a vector has a budget in bits, and every token costs its bits plus a constant. With a constant of 0
only information counts, as arXiv 2502.13063 claims. With a large constant only length counts. The constant is fitted to
the data. Arrays in, numbers out; no language model here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from memlab.measures.capacity import horizons
from memlab.measures.capacity_fits import passages, vectors_slope
from memlab.measures.statistics import Estimate

CONSTANTS = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 32.0, 64.0)
"""Candidates for the constant, bits per token."""
LEAST = 3
"""Smallest number of passages for a fit."""
FOLDS = 8
"""Number of cross-validation folds over passages, for a fit's errors."""


@dataclass(frozen=True)
class Predictor:
    """Result of ``fit``. ``horizon`` and ``vectors_needed`` apply it to a text."""

    budget: float
    """Budget of one vector, bits."""
    constant: float
    """Bits that each token costs in addition to its own."""
    slope: float
    """The budget of k vectors is k**slope budgets of one vector."""
    errors: tuple[float, ...]
    """log(true / predicted) of each passage by a fit without it, sorted. Intervals are quantiles of these.

    For a passage measured at several k, one of its errors is drawn. Their mean would vary less than a single error.
    """
    ks: tuple[int, ...] = (1,)
    """Numbers of vectors that were measured. Other numbers are extrapolations: their intervals are too narrow."""

    def horizon(self, token_bits: Sequence[float] | Any, k: int = 1, *, level: float = 0.9) -> Estimate:
        """Tokens, at most n, that k vectors will hold of a text with ``token_bits`` (n,), with a ``level`` interval.

        The ends of the interval are quantiles of ``errors``. With too few passages for the level (fewer than 19 for
        0.9) the interval is open: it starts at 1 token and ends at the text's end.
        """
        costs = np.nan_to_num(np.asarray(token_bits, float)) + self.constant
        middle = _tokens_paid(costs, self.budget * k**self.slope)
        below, above = self._error((1 - level) / 2), self._error(1 - (1 - level) / 2)
        size = float(len(costs))
        return Estimate(min(size, middle), min(size, max(1.0, middle * below)), min(size, middle * above))

    def _error(self, quantile: float) -> float:
        """True over predicted at this quantile, for the next passage. 0 or infinite with too few passages."""
        n = len(self.errors)
        # All orders of n errors and the next one are equally likely: ranks out of n + 1, rounded outwards.
        exact = quantile * (n + 1)
        rank = int(np.floor(exact + 1e-9)) if quantile < 0.5 else int(np.ceil(exact - 1e-9))
        if rank < 1:
            return 0.0
        return float(np.exp(self.errors[rank - 1])) if rank <= n else float("inf")

    def vectors_needed(self, token_bits: Sequence[float] | Any, *, sure: float = 0.5) -> int:
        """Smallest k that holds the whole text, for a share ``sure`` of passages.

        Raises ``ValueError`` if ``sure`` is above n / (n + 1) for n measured passages, or if more vectors did not hold
        more in the measured passages.
        """
        if self.slope <= 0:
            raise ValueError(
                f"In the measured passages more vectors held no more (slope {self.slope:.2f}). Measure "
                "passages with horizons that grow with k."
            )
        costs = np.nan_to_num(np.asarray(token_bits, float)) + self.constant
        # Predict a longer prefix, so that for a share ``sure`` of passages the true prefix is the whole text.
        slack = self._error(1 - sure) if sure > 0.5 else float(np.exp(np.median(self.errors)))
        if slack == 0:
            n = len(self.errors)
            raise ValueError(
                f"{n} passages measured are too few for sure={sure}. Measure more, or give at most {n / (n + 1):.2f}."
            )
        needed = float(costs.sum()) / slack
        return max(1, int(np.ceil((needed / self.budget) ** (1 / self.slope) - 1e-9)))


def fit(
    token_bits: Sequence[Sequence[float] | Any],
    horizons: Sequence[float],
    ks: Sequence[int] | None = None,
    *,
    passages: Sequence[Any] | None = None,
) -> Predictor:
    """A ``Predictor`` from rows of ``token_bits`` (an array of at least the horizon's length), ``horizons`` and ``ks``.

    The constant is the one of ``CONSTANTS`` with the smallest mean |log(true / predicted)|. The budget is the median
    over passages. The slope is 1 if only one k was measured. Each error is from a fit without one eighth of the
    passages, the error's own included. ``passages`` names each row's passage (default: one passage per row). Raises
    ``ValueError`` for fewer than ``LEAST`` passages, or for arguments of different lengths.
    """
    costs = [np.nan_to_num(np.asarray(bits, float)) for bits in token_bits]
    tokens, vectors = np.asarray(horizons, int), np.asarray(ks if ks is not None else [1] * len(costs))
    owner = np.asarray(pd.factorize(np.asarray(passages if passages is not None else range(len(costs))))[0])
    if not len(costs) == len(tokens) == len(vectors) == len(owner) or len(set(owner.tolist())) < LEAST:
        raise ValueError(
            f"There are {len(costs)} texts, {len(tokens)} horizons and {len(vectors)} ks of {len(set(owner.tolist()))} "
            f"passages. Give equal numbers of each, of at least {LEAST} passages."
        )
    for i, (bits, n) in enumerate(zip(costs, tokens, strict=True)):
        if len(bits) < n or n < 1:
            raise ValueError(
                f"Passage {i} has {len(bits)} tokens and a horizon of {n}. Give a horizon from 1 up to its length."
            )
    errors: dict[int, list[float]] = {}
    rng = np.random.default_rng(0)
    for fold in range(FOLDS):
        train, left_out = np.flatnonzero(owner % FOLDS != fold), np.flatnonzero(owner % FOLDS == fold)
        if len(train) and len(left_out):
            constant, budget, slope = _fitted([costs[i] for i in train], tokens[train], vectors[train], owner[train])
            for i in map(int, left_out):
                predicted = _tokens_paid(costs[i] + constant, budget * vectors[i] ** slope)
                errors.setdefault(int(owner[i]), []).append(float(np.log(tokens[i] / predicted)))
    constant, budget, slope = _fitted(costs, tokens, vectors, owner)
    drawn = tuple(sorted(of_passage[rng.integers(len(of_passage))] for of_passage in errors.values()))
    return Predictor(budget, constant, slope, drawn, tuple(sorted(set(map(int, vectors)))))


def measured(runs: pd.DataFrame) -> pd.DataFrame:
    """The input of ``fit`` and ``held_out``, from a table of ``memlab capacity``.

    One row per passage and k: ``passage text_id texts k horizon token_bits``. ``passage`` is a number; a text may have
    several passages. Censored horizons and horizons of 0 are left out.
    """
    exact = runs[runs.protocol == "exact"]
    limits = horizons(exact)
    if not len(limits):
        return pd.DataFrame(columns=["passage", "text_id", "texts", "k", "horizon", "token_bits"])
    limits = limits[limits.failed_at.notna() & (limits.horizon > 0)]
    numbers = passages(pd.concat([exact, limits], ignore_index=True))  # the same for a run and for its horizon
    exact, limits = exact.assign(passage=numbers[: len(exact)]), limits.assign(passage=numbers[len(exact) :])
    longest = exact.sort_values("tokens").groupby("passage").token_bits_without.last()
    bits = [np.asarray(longest[passage], float) for passage in limits.passage]
    return limits[["passage", "text_id", "texts", "k", "horizon"]].assign(token_bits=bits).reset_index(drop=True)


def of_runs(runs: pd.DataFrame) -> Predictor:
    """``fit`` of a table of ``memlab capacity``. Raises ``ValueError`` if it has fewer than ``LEAST`` passages."""
    return _fit(measured(runs))


def _fit(table: pd.DataFrame) -> Predictor:
    owner = table["passage" if "passage" in table else "text_id"]
    return fit(table.token_bits.tolist(), table.horizon.tolist(), table.k.tolist(), passages=owner.tolist())


def held_out(table: pd.DataFrame, *, by: str = "text_id", level: float = 0.9) -> pd.DataFrame:
    """Each passage predicted by a fit without it: ``text_id k true predicted low high baseline own_kind``, tokens.

    ``table``: ``text_id horizon k token_bits``, and optionally ``texts``, which is then kept. ``by="texts"`` leaves out
    the passage's whole kind. There are two baselines, both at the same k: ``baseline`` is the mean horizon of all
    passages in the fit, and ``own_kind`` the mean horizon of those of the passage's kind (missing if there are none).

    ``token_bits`` should extend far beyond the horizon. Beyond their end, tokens have their mean cost. A prediction is
    not cut at that end, because the length at which a text was no longer tried would reveal the answer.
    """
    rows = []
    for name, left_out in table.groupby(by, sort=False):
        others = table[table[by] != name]
        if others.text_id.nunique() < LEAST:
            continue
        model = _fit(others)
        for row in left_out.itertuples():
            predicted = model.horizon(_endless(row.token_bits), int(row.k), level=level)
            same_k = others[others.k == row.k]
            same_kind = same_k[same_k.texts == row.texts] if "texts" in table else same_k.iloc[:0]
            base, own = (float(t.horizon.mean()) if len(t) else float("nan") for t in (same_k, same_kind))
            rows.append((row.text_id, getattr(row, "texts", None), row.k, row.horizon, *predicted, base, own))
    columns = ["text_id", "texts", "k", "true", "predicted", "low", "high", "baseline", "own_kind"]
    result = pd.DataFrame(rows, columns=columns)
    return result if "texts" in table else result.drop(columns="texts")


def report(predicted: pd.DataFrame) -> dict[str, float]:
    """Summary of ``held_out``: median absolute errors of fit and baselines (tokens), and the share in the interval."""
    return {
        "passages": len(predicted),
        "median_error": float((predicted.true - predicted.predicted).abs().median()),
        "baseline_median_error": float((predicted.true - predicted.baseline).abs().median()),
        "own_kind_median_error": float((predicted.true - predicted.own_kind).abs().median()),
        "inside": float(((predicted.true >= predicted.low) & (predicted.true <= predicted.high)).mean()),
    }


def reports(predicted: pd.DataFrame) -> dict[int, dict[str, float]]:
    """``report`` per k: errors in tokens are larger with more vectors, so they are not pooled."""
    return {int(k): report(rows) for k, rows in predicted.groupby("k")}


def _endless(token_bits: Sequence[float] | Any, times: int = 50) -> np.ndarray:
    """Token bits, extended by ``times`` their length at their mean."""
    bits = np.nan_to_num(np.asarray(token_bits, float))
    return np.concatenate([bits, np.full(times * len(bits), bits.mean())])


def _tokens_paid(costs: np.ndarray, budget: float) -> float:
    """Tokens that ``budget`` (bits) pays for, the last one in part. Beyond the text, tokens have its mean cost."""
    total = np.concatenate([[0.0], np.cumsum(costs)])
    if budget >= total[-1]:
        return len(costs) + (budget - total[-1]) / max(float(costs.mean()), 1e-9)
    return max(1.0, float(np.interp(budget, total, np.arange(len(total)))))


def _fitted(
    costs: Sequence[np.ndarray], tokens: np.ndarray, ks: np.ndarray, owner: np.ndarray
) -> tuple[float, float, float]:
    """(constant, budget, slope)."""
    constant = _best_constant(costs, tokens, ks, owner)
    spent, slope = _spent_per_vector(costs, tokens, ks, owner, constant)
    return constant, _budget(spent, owner), slope


def _budget(spent: np.ndarray, owner: np.ndarray) -> float:
    """Median over passages of the bits of one vector. A passage measured at several k counts once."""
    rows = np.bincount(owner)
    means = np.bincount(owner, np.log(np.maximum(spent, 1e-9)))[rows > 0] / rows[rows > 0]
    return float(np.exp(np.median(means)))


def _spent_per_vector(
    costs: Sequence[np.ndarray], tokens: np.ndarray, ks: np.ndarray, owner: np.ndarray, constant: float
) -> tuple[np.ndarray, float]:
    """(bits that one vector pays for (rows,), slope over k).

    The slope is fitted within passages, because many vectors are only tried on long texts. If no passage was measured
    at two k, it is fitted over all passages.
    """
    spent = np.array([float((bits[:n] + constant).sum()) for bits, n in zip(costs, tokens, strict=True)])
    slope = 1.0
    if len(set(ks.tolist())) > 1:
        slope = vectors_slope(pd.DataFrame({"text_id": owner, "k": ks, "spent": spent}), "spent")
        if np.isnan(slope):
            slope = vectors_slope(pd.DataFrame({"text_id": 0, "k": ks, "spent": spent}), "spent")
    return spent / ks**slope, slope


def _best_constant(costs: Sequence[np.ndarray], tokens: np.ndarray, ks: np.ndarray, owner: np.ndarray) -> float:
    def loss(constant: float) -> float:
        spent, slope = _spent_per_vector(costs, tokens, ks, owner, constant)
        budgets = _budget(spent, owner) * ks**slope
        predicted = [_tokens_paid(bits + constant, budget) for bits, budget in zip(costs, budgets, strict=True)]
        return float(np.mean(np.abs(np.log(tokens / np.array(predicted)))))

    return min(CONSTANTS, key=loss)
