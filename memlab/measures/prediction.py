"""How much of a text will fit, said before any training: from what its tokens cost the frozen model, one forward pass.

A vector is taken to have a budget, and every token to cost its bits plus a constant. With the constant at 0 only
information counts, as arXiv 2502.13063 claims; with a large one only length does. The data choose. Arrays in, numbers
out; no model here.
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
"""Bits besides its own that a token may be charged."""
LEAST = 3
"""Passages that a fit needs."""
FOLDS = 8
"""Parts of the passages, each left out in turn, that a fit's errors come from."""


@dataclass(frozen=True)
class Predictor:
    """What ``fit`` found; ``horizon`` and ``vectors_needed`` apply it."""

    budget: float
    """What one vector pays for, bits."""
    constant: float
    """Bits each token costs besides its own."""
    slope: float
    """k vectors pay for k**slope times as much."""
    errors: tuple[float, ...]
    """log(true / predicted) of each passage by a fit without it, sorted: what intervals are made of.

    Where a passage was measured at several k, it is one of theirs, drawn: their mean is surer than any single k is."""
    ks: tuple[int, ...] = (1,)
    """Numbers of vectors that were measured: of others, what is said is extrapolated, and surer than it should be."""

    def horizon(self, token_bits: Sequence[float] | Any, k: int = 1, *, level: float = 0.9) -> Estimate:
        """Tokens that k vectors will hold of a text whose tokens cost ``token_bits`` (n,), with a ``level`` interval.

        At most n: a text that ends sooner says no more. The interval is between two of the errors that passages had
        when they were left out; with too few passages for the level (19 for 0.9) it is open: from 1 token, or to the
        text's end.
        """
        costs = np.nan_to_num(np.asarray(token_bits, float)) + self.constant
        middle = _held(costs, self.budget * k**self.slope)
        below, above = self._error((1 - level) / 2), self._error(1 - (1 - level) / 2)
        size = float(len(costs))
        return Estimate(min(size, middle), min(size, max(1.0, middle * below)), min(size, middle * above))

    def _error(self, quantile: float) -> float:
        """True over predicted, at that quantile of what the next passage may show; 0 or infinite with too few."""
        n = len(self.errors)
        # Of n errors and the next one all orders are alike: ranks out of n + 1, to the outer side.
        exact = quantile * (n + 1)
        rank = int(np.floor(exact + 1e-9)) if quantile < 0.5 else int(np.ceil(exact - 1e-9))
        if rank < 1:
            return 0.0
        return float(np.exp(self.errors[rank - 1])) if rank <= n else float("inf")

    def vectors_needed(self, token_bits: Sequence[float] | Any, *, sure: float = 0.5) -> int:
        """Smallest k that holds the whole text; ``sure``: the share of passages for which it will.

        Raises ``ValueError`` where too few passages were measured to be so sure (n of them go up to n / (n + 1)), and
        where more vectors held no more.
        """
        if self.slope <= 0:
            raise ValueError(f"of the passages measured more vectors held no more (slope {self.slope:.2f})")
        costs = np.nan_to_num(np.asarray(token_bits, float)) + self.constant
        # The prefix that must be predicted so that, of so many passages as asked for, the true one is the whole text.
        slack = self._error(1 - sure) if sure > 0.5 else float(np.exp(np.median(self.errors)))
        if slack == 0:
            n = len(self.errors)
            raise ValueError(f"sure={sure} with {n} passages measured; expected at most {n / (n + 1):.2f}")
        want = float(costs.sum()) / slack
        return max(1, int(np.ceil((want / self.budget) ** (1 / self.slope) - 1e-9)))


def fit(
    token_bits: Sequence[Sequence[float] | Any],
    horizons: Sequence[float],
    ks: Sequence[int] | None = None,
    *,
    passages: Sequence[Any] | None = None,
) -> Predictor:
    """A ``Predictor`` from passages: their tokens' bits (one array each, no shorter than the horizon), horizons, ks.

    The constant is the one with the smallest mean |log(true / predicted)|; the budget the median over passages; the
    slope is 1 where only one k was measured. For the errors all of it is fitted anew without the passage and an eighth
    of the others (``passages`` says which rows are one passage's, at several k; default: each row its own).
    """
    costs = [np.nan_to_num(np.asarray(bits, float)) for bits in token_bits]
    tokens, vectors = np.asarray(horizons, int), np.asarray(ks if ks is not None else [1] * len(costs))
    owner = np.asarray(pd.factorize(np.asarray(passages if passages is not None else range(len(costs))))[0])
    if not len(costs) == len(tokens) == len(vectors) == len(owner) or len(set(owner.tolist())) < LEAST:
        raise ValueError(
            f"{len(costs)} texts, {len(tokens)} horizons, {len(vectors)} ks of {len(set(owner.tolist()))} passages; "
            f"expected as many of each, of at least {LEAST} passages"
        )
    for i, (bits, n) in enumerate(zip(costs, tokens, strict=True)):
        if len(bits) < n or n < 1:
            raise ValueError(f"passage {i} has {len(bits)} tokens and a horizon of {n}; expected 1 up to its length")
    errors: dict[int, list[float]] = {}
    rng = np.random.default_rng(0)
    for fold in range(FOLDS):
        kept, left_out = np.flatnonzero(owner % FOLDS != fold), np.flatnonzero(owner % FOLDS == fold)
        if len(kept) and len(left_out):
            constant, budget, slope = _fitted([costs[i] for i in kept], tokens[kept], vectors[kept], owner[kept])
            for i in map(int, left_out):
                predicted = _held(costs[i] + constant, budget * vectors[i] ** slope)
                errors.setdefault(int(owner[i]), []).append(float(np.log(tokens[i] / predicted)))
    constant, budget, slope = _fitted(costs, tokens, vectors, owner)
    drawn = tuple(sorted(each[rng.integers(len(each))] for each in errors.values()))
    return Predictor(budget, constant, slope, drawn, tuple(sorted(set(map(int, vectors)))))


def measured(runs: pd.DataFrame) -> pd.DataFrame:
    """What ``fit`` and ``held_out`` take, of a table of ``memlab capacity``: ``text_id texts k horizon token_bits``,
    and a number for each ``passage``, of which a text may have several.

    Passages whose horizon is only known to be at least what it is are left out.
    """
    exact = runs[runs.protocol == "exact"]
    found = horizons(exact)
    if not len(found):
        return pd.DataFrame(columns=["passage", "text_id", "texts", "k", "horizon", "token_bits"])
    found = found[found.failed_at.notna() & (found.horizon > 0)]
    numbers = passages(pd.concat([exact, found], ignore_index=True))  # the same for a run and for its horizon
    exact, found = exact.assign(passage=numbers[: len(exact)]), found.assign(passage=numbers[len(exact) :])
    longest = exact.sort_values("tokens").groupby("passage").token_bits_without.last()
    bits = [np.asarray(longest[passage], float) for passage in found.passage]
    return found[["passage", "text_id", "texts", "k", "horizon"]].assign(token_bits=bits).reset_index(drop=True)


def of_runs(runs: pd.DataFrame) -> Predictor:
    """``fit`` of a table of ``memlab capacity``. Raises ``ValueError`` where it has fewer than three horizons."""
    return _fit(measured(runs))


def _fit(table: pd.DataFrame) -> Predictor:
    of = table["passage" if "passage" in table else "text_id"]
    return fit(table.token_bits.tolist(), table.horizon.tolist(), table.k.tolist(), passages=of.tolist())


def held_out(table: pd.DataFrame, *, by: str = "text_id", level: float = 0.9) -> pd.DataFrame:
    """Each passage predicted by a fit without it: ``true predicted low high baseline``, tokens.

    ``table``: ``text_id horizon k token_bits``; ``by="texts"`` leaves the passage's whole kind out. ``baseline`` is the
    mean horizon of what was left in (at the same k), which is what one would say knowing nothing of the text;
    ``own_kind`` the mean of those of them that are of its kind (``texts``; missing where there is none), which is what
    one would say knowing only what sort of text it is.

    ``token_bits`` should go on far beyond the horizon: a prediction past their end goes on at their mean cost, and is
    not cut there, since where a text was no longer tried would give the answer away.
    """
    rows = []
    for name, out in table.groupby(by, sort=False):
        left = table[table[by] != name]
        if left.text_id.nunique() < LEAST:
            continue
        model = _fit(left)
        for row in out.itertuples():
            found = model.horizon(_endless(row.token_bits), int(row.k), level=level)
            alike = left[left.k == row.k]
            kin = alike[alike.texts == row.texts] if "texts" in table else alike.iloc[:0]
            base, own = (float(t.horizon.mean()) if len(t) else float("nan") for t in (alike, kin))
            rows.append((row.text_id, row.k, row.horizon, *found, base, own))
    return pd.DataFrame(rows, columns=["text_id", "k", "true", "predicted", "low", "high", "baseline", "own_kind"])


def report(predicted: pd.DataFrame) -> dict[str, float]:
    """``held_out`` in numbers: median absolute errors (tokens), the baselines', and the share inside the interval."""
    return {
        "passages": len(predicted),
        "median_error": float((predicted.true - predicted.predicted).abs().median()),
        "baseline_median_error": float((predicted.true - predicted.baseline).abs().median()),
        "own_kind_median_error": float((predicted.true - predicted.own_kind).abs().median()),
        "inside": float(((predicted.true >= predicted.low) & (predicted.true <= predicted.high)).mean()),
    }


def reports(predicted: pd.DataFrame) -> dict[int, dict[str, float]]:
    """``report`` for each k: an error in tokens of many vectors is no error of one."""
    return {int(k): report(rows) for k, rows in predicted.groupby("k")}


def _endless(token_bits: Sequence[float] | Any, times: int = 50) -> np.ndarray:
    """The text, and then as much again at its mean cost."""
    bits = np.nan_to_num(np.asarray(token_bits, float))
    return np.concatenate([bits, np.full(times * len(bits), bits.mean())])


def _held(costs: np.ndarray, budget: float) -> float:
    """Tokens that ``budget`` pays for, the last in part; past the end of the text at its mean cost."""
    total = np.concatenate([[0.0], np.cumsum(costs)])
    if budget >= total[-1]:
        return len(costs) + (budget - total[-1]) / max(float(costs.mean()), 1e-9)
    return max(1.0, float(np.interp(budget, total, np.arange(len(total)))))


def _fitted(
    costs: Sequence[np.ndarray], tokens: np.ndarray, ks: np.ndarray, owner: np.ndarray
) -> tuple[float, float, float]:
    """(constant, budget, slope)."""
    constant = _best_constant(costs, tokens, ks, owner)
    each, slope = _pays(costs, tokens, ks, owner, constant)
    return constant, _budget(each, owner), slope


def _budget(each: np.ndarray, owner: np.ndarray) -> float:
    """Median over passages of what one vector pays for, whatever the number of k that a passage was measured at."""
    of = np.bincount(owner)
    means = np.bincount(owner, np.log(np.maximum(each, 1e-9)))[of > 0] / of[of > 0]
    return float(np.exp(np.median(means)))


def _pays(
    costs: Sequence[np.ndarray], tokens: np.ndarray, ks: np.ndarray, owner: np.ndarray, constant: float
) -> tuple[np.ndarray, float]:
    """What one of each passage's vectors pays for (passages,), bits, and the slope over k by which that was found.

    The slope is within passages, since many vectors are only tried on long texts; over all of them where none was
    measured at two k.
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
        each, slope = _pays(costs, tokens, ks, owner, constant)
        budgets = _budget(each, owner) * ks**slope
        predicted = [_held(bits + constant, budget) for bits, budget in zip(costs, budgets, strict=True)]
        return float(np.mean(np.abs(np.log(tokens / np.array(predicted)))))

    return min(CONSTANTS, key=loss)
