"""What a training will take, before it begins: whether the text will fit, and about how many steps it needs.

Both come from stored runs of one model (``memlab capacity``). The load of a vector is what its text costs, in bits, as
a share of what such a vector holds. Steps grow slowly with the load, and without bound as it nears 1:
``steps = c * load**0.5 * (1 - load)**-q``, with c and q fitted to the runs that came to an exact end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from memlab.measures import prediction
from memlab.measures.prediction import Predictor
from memlab.measures.statistics import Estimate

FULL = 0.98
"""Loads above this one have no estimate of their steps."""


@dataclass(frozen=True)
class Forecast:
    """What k vectors will do with one text."""

    bits: float
    """Bits of the text."""
    holds: Estimate
    """Bits of such a text that the vectors hold, with a 90 % interval over passages."""
    chance: float
    """Share of measured passages whose vectors held at least as much, 0 to 1."""
    steps: Estimate | None
    """Steps to an exact end, with a 90 % interval; None if the vectors are too full for an estimate."""


@dataclass(frozen=True)
class Forecaster:
    """Result of ``of_runs``. ``ahead`` applies it to a text.

    >>> found = Forecaster(Predictor(1000, 1, 1, (-0.2, 0.0, 0.2)), scale=40, growth=0.8, spread=(0.7, 1.4))
    >>> ahead = found.ahead([4.0] * 25)
    >>> round(ahead.holds.value), ahead.chance, round(ahead.steps.value)
    (800, 1.0, 16)
    """

    predictor: Predictor
    scale: float
    """c: steps at a small load, over the root of the load."""
    growth: float
    """q: how fast steps grow as a vector fills up."""
    spread: tuple[float, float]
    """Quantiles 5 % and 95 % of true over fitted steps."""

    def ahead(self, token_bits: Any, k: int = 1) -> Forecast:
        """The forecast for the tokens whose costs are ``token_bits`` (n,), bits."""
        costs = np.nan_to_num(np.asarray(token_bits, float))
        bits, load = float(costs.sum()), _load(self.predictor, costs, k)
        errors = np.exp(self.predictor.errors)
        middle = bits / load
        steps = None
        if load < FULL:
            fitted = self.scale * load**0.5 * (1 - load) ** -self.growth
            steps = Estimate(fitted, *(fitted * factor for factor in self.spread))
        low, high = np.quantile(errors, [0.05, 0.95]).tolist()
        return Forecast(bits, Estimate(middle, middle * low, middle * high), float((errors >= load).mean()), steps)


def of_runs(runs: pd.DataFrame) -> Forecaster:
    """Fit a table of ``memlab capacity``: the predictor, and steps of its runs with fixed and equal amounts of text."""
    predictor = prediction.of_runs(runs)
    done = runs[runs.protocol.isin(["fixed", "equal"]) & runs.exact.astype(bool)]
    load = np.array(
        [_load(predictor, np.nan_to_num(bits), k) for bits, k in zip(done.token_bits_without, done.k, strict=True)]
    )
    inside = load < FULL
    load, steps = load[inside], done.steps.to_numpy(float)[inside]
    rest = np.log(steps) - 0.5 * np.log(load)
    terms = np.column_stack([np.ones(len(load)), -np.log(1 - load)])
    (start, growth), *_ = np.linalg.lstsq(terms, rest, rcond=None)
    low, high = np.quantile(np.exp(rest - terms @ (start, growth)), [0.05, 0.95])
    return Forecaster(predictor, float(np.exp(start)), float(growth), (float(low), float(high)))


def _load(predictor: Predictor, costs: np.ndarray, k: int) -> float:
    """What the tokens cost, as a share of what k vectors hold."""
    return float((costs + predictor.constant).sum() / (predictor.budget * k**predictor.slope))
