"""What a training will take on this machine, said before it begins."""

from __future__ import annotations

import functools
import statistics
from collections import deque
from weakref import WeakKeyDictionary

import numpy as np

from memlab.experiments.tables import stored
from memlab.measures import forecast
from memlab.measures.forecast import Forecaster
from memlab.models import FrozenLM
from memlab.recipes import Recipe
from memlab.scoring.timing import seconds_a_token

_PACE: WeakKeyDictionary[FrozenLM, deque[float]] = WeakKeyDictionary()
"""Seconds per position of the last training steps, by model."""


@functools.cache
def forecaster(model: str) -> Forecaster | None:
    """Fitted to the stored capacity runs; None for a model without any."""
    runs = stored("capacity")
    runs = runs[runs.model == model]
    return forecast.of_runs(runs) if len(runs) else None


def note_step(lm: FrozenLM, seconds: float, positions: int) -> None:
    """Remember how long a training step took: the next forecast uses it."""
    _PACE.setdefault(lm, deque(maxlen=40)).append(seconds / max(1, positions))


def pace(lm: FrozenLM) -> float:
    """Seconds per position of a training step: of the last steps in this session, or else measured now."""
    if lm not in _PACE:
        note_step(lm, seconds_a_token(lm, tokens=24, rows=1, steps=1), 1)
    return statistics.median(_PACE[lm])


def outlook(lm: FrozenLM, token_bits: np.ndarray, recipe: Recipe) -> str:
    """Sentences about the tokens whose costs are ``token_bits`` (n,), bits: will they fit, and how long will it take?

    For a model without stored capacity runs, only the bits are known.

    >>> from memlab import load
    >>> outlook(load("toy:llama"), np.array([3.0, 4.0]), Recipe.default())
    '7 bits.'
    """
    bits = f"{np.nansum(token_bits):,.0f} bits."
    if (known := forecaster(lm.name)) is None:
        return bits
    ahead = known.ahead(token_bits, recipe.k)
    vectors = "One vector holds" if recipe.k == 1 else f"{recipe.k} vectors hold"
    holds = f"{vectors} about {_round(ahead.holds.value)} bits of such text"
    holds += f" ({_round(ahead.holds.low)} to {_round(ahead.holds.high)}): {_verdict(ahead.chance)}."
    per_step = pace(lm) * (len(lm.prefix_ids(recipe.prefix)) + recipe.k + len(token_bits) - 1)
    if ahead.steps is None or ahead.steps.value > recipe.budget:
        return f"{bits} {holds} All {recipe.budget} steps take about {_seconds(recipe.budget * per_step)}."
    low, high = (_seconds(min(steps, recipe.budget) * per_step) for steps in ahead.steps[1:])
    spread = "" if low == high else f" ({low} to {high})"
    return f"{bits} {holds} About {_seconds(ahead.steps.value * per_step)} on this machine{spread}."


def _verdict(chance: float) -> str:
    if chance >= 0.95:
        return "it will fit"
    if chance >= 0.5:
        return "it will probably fit"
    return "it will probably not fit" if chance >= 0.05 else "it will not fit"


def _round(number: float) -> str:
    """Two digits, since a forecast has no more."""
    return f"{float(f'{number:.2g}'):,.0f}"


def _seconds(seconds: float) -> str:
    r"""
    >>> _seconds(0.4), _seconds(7.6), _seconds(134)
    ('1\xa0s', '8\xa0s', '2\xa0min')
    """
    return f"{max(1, seconds):.0f}\u00a0s" if seconds < 90 else f"{seconds / 60:.0f}\u00a0min"
