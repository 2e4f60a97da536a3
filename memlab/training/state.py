"""Declared state: a dataclass lists everything that a checkpoint holds, and its field names are the names on disk.

Renaming or adding a field therefore changes the checkpoint format. Raise ``STATE`` then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np
import torch

STATE = 2
"""Version of the checkpoint format: the fields of ``JobState`` and of the optimizers' ``State``."""


@dataclass
class Best:
    """The vectors to keep if none pass the stop rule: most tokens right, then the lowest loss."""

    mem: torch.Tensor
    right: int = -1
    loss: float = np.inf
    done: int = 0
    """Number of tokens then in training, if all were right with the recipe's margin; else 0."""


@dataclass
class JobState:
    """Everything that changes while a passage trains. A checkpoint holds these fields, by name."""

    mem: torch.Tensor
    """(k, d) float32."""
    best: Best
    length: int
    """Tokens of the passage in training: all, or those that a growing recipe has reached."""
    steps: int = 0
    passes: int = 0
    """Token passes: tokens fed and scored, summed over the steps."""
    trace: list[tuple[float, float, float]] = field(default_factory=list)
    """Points (step, bits per scored token, accuracy)."""
    trace_every: int = 1
    """Steps between two points."""
    next_check: int = 0
    """First step at which the next decode is allowed."""
    improved_at: int = 0
    """Step from which patience counts."""
    resumed: list[int] = field(default_factory=list)
    """Steps at which training resumed from a checkpoint."""
    seconds: float = 0.0
    """Seconds of training up to the checkpoint."""


def state_arrays(state: Any) -> dict[str, np.ndarray]:
    """{field: array} of a state dataclass. A field inside another state is named ``outer.inner``.

    Fields are tensors, numbers, lists of numbers or states. A field that is None is left out.
    """
    arrays: dict[str, np.ndarray] = {}
    for f in fields(state):
        value = getattr(state, f.name)
        if is_dataclass(value):
            arrays |= {f"{f.name}.{name}": array for name, array in state_arrays(value).items()}
        elif value is not None:
            arrays[f.name] = value.cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    return arrays


def load_state_arrays(state: Any, arrays: Mapping[str, np.ndarray]) -> None:
    """Fill a fresh state in place. Raises ``ValueError`` if names are missing or unknown."""
    unknown, missing = set(arrays) - _names(state), set(state_arrays(state)) - set(arrays)
    if unknown or missing:
        what = f"unknown {sorted(unknown)}" if unknown else f"missing {sorted(missing)}"
        raise ValueError(f"the arrays do not fit {type(state).__qualname__}: {what}")
    for name, array in arrays.items():
        owner: Any = state
        *path, last = name.split(".")
        for inner in path:
            owner = getattr(owner, inner)
        fresh = getattr(owner, last)
        if isinstance(fresh, (bool, int, float)):
            setattr(owner, last, type(fresh)(array.item()))
        elif isinstance(fresh, list):
            setattr(owner, last, array.tolist())
        else:
            setattr(owner, last, torch.from_numpy(np.array(array)))


def _names(state: Any) -> set[str]:
    """The names of all arrays that a state may have, also of fields that are None now."""
    inner = {f.name: getattr(state, f.name) for f in fields(state) if is_dataclass(getattr(state, f.name))}
    plain = {f.name for f in fields(state)} - set(inner)
    return plain | {f"{outer}.{name}" for outer, value in inner.items() for name in _names(value)}
