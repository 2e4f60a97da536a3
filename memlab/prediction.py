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

from memlab.capacity import vectors_slope
from memlab.statistics import Estimate

CONSTANTS = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 32.0, 64.0)
"""Bits besides its own that a token may be charged."""
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
    """log(true / predicted) of each passage by a fit without it, sorted: what intervals are made of."""

    def horizon(self, token_bits: Sequence[float] | Any, k: int = 1, *, level: float = 0.9) -> Estimate:
        """Tokens that k vectors will hold of a text whose tokens cost ``token_bits`` (n,), with a ``level`` interval.

        At most n: a text that ends sooner says no more. The interval is between two of the errors that passages had
        when they were left out; with too few passages for the level (19 for 0.9) it is open: from 1 token, or to the
        text's end.
        """
        costs = np.nan_to_num(np.asarray(token_bits, float)) + self.constant
        middle = _held(costs, self.budget * k**self.slope)
        n, tail = len(self.errors), (1 - level) / 2
        # The quantiles of n errors for the next one: ranks out of n + 1.
        below, above = int(np.floor(tail * (n + 1) + 1e-9)) - 1, int(np.ceil((1 - tail) * (n + 1) - 1e-9)) - 1
        low = middle * np.exp(self.errors[below]) if below >= 0 else 1.0
        high = middle * np.exp(self.errors[above]) if above < n else np.inf
        size = float(len(costs))
        return Estimate(min(size, middle), min(size, low), min(size, high))

    def vectors_needed(self, token_bits: Sequence[float] | Any, *, sure: float = 0.5) -> int:
        """Smallest k that holds the whole text; ``sure``: the share of held-out passages for which it would have."""
        costs = np.nan_to_num(np.asarray(token_bits, float)) + self.constant
        # The prefix that must be predicted so that, of so many passages as asked for, the true one is the whole text.
        slack = float(np.quantile(self.errors, 1 - sure))
        want = float(costs.sum()) * float(np.exp(-slack))
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
    if not len(costs) == len(tokens) == len(vectors) or len(costs) < 3:
        raise ValueError(
            f"{len(costs)} passages, {len(tokens)} horizons, {len(vectors)} ks; expected as many of each, at least 3"
        )
    for i, (bits, n) in enumerate(zip(costs, tokens, strict=True)):
        if len(bits) < n or n < 1:
            raise ValueError(f"passage {i} has {len(bits)} tokens and a horizon of {n}; expected 1 up to its length")
    owner = np.asarray(pd.factorize(np.asarray(passages if passages is not None else range(len(costs))))[0])
    errors = []
    for fold in range(FOLDS):
        kept, left_out = np.flatnonzero(owner % FOLDS != fold), np.flatnonzero(owner % FOLDS == fold)
        if len(kept) and len(left_out):
            constant, budget, slope = _fitted([costs[i] for i in kept], tokens[kept], vectors[kept])
            for bits, n, k in zip((costs[i] for i in left_out), tokens[left_out], vectors[left_out], strict=True):
                errors.append(float(np.log(n / _held(bits + constant, budget * k**slope))))
    constant, budget, slope = _fitted(costs, tokens, vectors)
    return Predictor(budget, constant, slope, tuple(sorted(errors)))


def held_out(table: pd.DataFrame, *, by: str = "text_id", level: float = 0.9) -> pd.DataFrame:
    """Each passage predicted by a fit without it: ``true predicted low high baseline``, tokens.

    ``table``: ``text_id horizon k token_bits``; ``by="texts"`` leaves the passage's whole kind out. ``baseline`` is the
    mean horizon of what was left in (at the same k), which is what one would say knowing nothing of the text.
    """
    rows = []
    for name, out in table.groupby(by, sort=False):
        left = table[table[by] != name]
        if len(left) < 3:
            continue
        model = fit(left.token_bits.tolist(), left.horizon.tolist(), left.k.tolist(), passages=left.text_id.tolist())
        for row in out.itertuples():
            found = model.horizon(row.token_bits, int(row.k), level=level)
            alike = left[left.k == row.k]
            base = float(alike.horizon.mean()) if len(alike) else float("nan")
            rows.append((row.text_id, row.k, row.horizon, *found, base))
    return pd.DataFrame(rows, columns=["text_id", "k", "true", "predicted", "low", "high", "baseline"])


def report(predicted: pd.DataFrame) -> dict[str, float]:
    """``held_out`` in numbers: median absolute errors (tokens), the baseline's, and the share inside the interval."""
    return {
        "passages": len(predicted),
        "median_error": float((predicted.true - predicted.predicted).abs().median()),
        "baseline_median_error": float((predicted.true - predicted.baseline).abs().median()),
        "inside": float(((predicted.true >= predicted.low) & (predicted.true <= predicted.high)).mean()),
    }


def _held(costs: np.ndarray, budget: float) -> float:
    """Tokens that ``budget`` pays for, the last in part; past the end of the text at its mean cost."""
    total = np.concatenate([[0.0], np.cumsum(costs)])
    if budget >= total[-1]:
        return len(costs) + (budget - total[-1]) / max(float(costs.mean()), 1e-9)
    return max(1.0, float(np.interp(budget, total, np.arange(len(total)))))


def _fitted(costs: Sequence[np.ndarray], tokens: np.ndarray, ks: np.ndarray) -> tuple[float, float, float]:
    """(constant, budget, slope)."""
    constant = _best_constant(costs, tokens, ks)
    each, slope = _pays(costs, tokens, ks, constant)
    return constant, float(np.median(each)), slope


def _pays(costs: Sequence[np.ndarray], tokens: np.ndarray, ks: np.ndarray, constant: float) -> tuple[np.ndarray, float]:
    """What one of each passage's vectors pays for (passages,), bits, and the slope over k by which that was found."""
    spent = np.array([float((bits[:n] + constant).sum()) for bits, n in zip(costs, tokens, strict=True)])
    slope = 1.0
    if len(set(ks.tolist())) > 1:
        slope = vectors_slope(pd.DataFrame({"text_id": 0, "k": ks, "spent": spent}), "spent")
    return spent / ks**slope, slope


def _best_constant(costs: Sequence[np.ndarray], tokens: np.ndarray, ks: np.ndarray) -> float:
    def loss(constant: float) -> float:
        each, slope = _pays(costs, tokens, ks, constant)
        budgets = float(np.median(each)) * ks**slope
        predicted = [_held(bits + constant, budget) for bits, budget in zip(costs, budgets, strict=True)]
        return float(np.mean(np.abs(np.log(tokens / np.array(predicted)))))

    return min(CONSTANTS, key=loss)
