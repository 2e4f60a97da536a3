"""``Check``: what one free-running decode of a vector showed, and under which settings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One free-running greedy decode of a vector, with its settings and outcome."""

    dtype: str
    """Weights' and activations' dtype: ``float32`` or ``bfloat16``."""
    device: str
    batch: int
    """Rows decoded together: 1, or the vector repeated so many times."""
    cache: bool
    """With the model's key-value or state cache; without, every token is a forward pass over all before it."""
    first_given: bool
    """The true first token was fed after the vector, as the 2025 paper's code does. Never called exact."""
    tokens: int
    """Tokens decoded, the given first one not counted."""
    right: int
    """How many of them equal the passage's."""
    first_wrong: int | None
    """Position in the passage (from 0) of the first wrong token; None: all are right."""
    margin: float
    """Smallest lead, in logits, of the true token over the best other up to and including the first wrong one."""

    @property
    def passed(self) -> bool:
        """Every decoded token is right."""
        return self.first_wrong is None

    @property
    def exact(self) -> bool:
        """Passed, from the vector alone, in float32, batch 1, with the cache: what memlab calls exact."""
        return self.passed and self.settings == ("float32", 1, True, False)

    @property
    def settings(self) -> tuple[str, int, bool, bool]:
        """(dtype, batch, cache, first given)."""
        return self.dtype, self.batch, self.cache, self.first_given


PORTABLE = (
    ("float32", 1, True, False),
    ("bfloat16", 1, True, False),
    ("float32", 1, False, False),
    ("float32", 8, True, False),
)
"""Settings a portable vector passes in: exact, and also in bf16, without cache, and in a batch of 8."""


def portability(checks: Iterable[Check]) -> bool | None:
    """Whether every setting of ``PORTABLE`` was tried and passed; None while one was not tried."""
    checks = list(checks)
    if not {c.settings for c in checks} >= set(PORTABLE):
        return None
    return {c.settings for c in checks if c.passed} >= set(PORTABLE)
