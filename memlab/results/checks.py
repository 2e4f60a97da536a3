"""``Check``: what a free-running decode of a vector gives, with its settings and its proof."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from memlab.results.metadata import TOKENS, stored

EXACT = ("float32", 1, True, False)
PORTABLE = (EXACT, ("bfloat16", 1, True, False), ("float32", 1, False, False), ("float32", 8, True, False))
"""Settings that a portable vector passes: the exact check, and one each in bfloat16, without cache, in a batch of 8."""


DECODE, ONE_PASS = "decode", "one pass"
"""Proofs of a check."""


@dataclass(frozen=True)
class Check:
    """One free-running greedy decode of a vector: its settings and its outcome.

    >>> from memlab import Check
    >>> settings = dict(dtype="float32", device="cpu", batch=1, cache=True, first_given=False)
    >>> check = Check(**settings, tokens=8, right=8, first_wrong=None, margin=1.5)
    >>> check.passed, check.exact
    (True, True)
    """

    dtype: str
    """Dtype of weights and activations: ``float32`` or ``bfloat16``."""
    device: str
    batch: int
    """Number of rows decoded together. All rows are the same vector."""
    cache: bool
    """Uses the model's key-value or state cache. Without it, each token is a forward pass over all earlier tokens."""
    first_given: bool
    """The true first token was fed after the vector, as in the code of arXiv 2502.13063. Never called exact."""
    tokens: int = field(metadata=stored(TOKENS))
    """Number of decoded tokens. A given first token does not count."""
    right: int
    """Number of decoded tokens that equal the passage's."""
    first_wrong: int | None
    """Position in the passage (from 0) of the first wrong token. None: all tokens are right."""
    margin: float
    """Smallest margin up to and including the first wrong token: true token's logit minus the best other logit."""
    proof: str = field(default=DECODE, metadata=stored({"type": "string", "enum": [DECODE, ONE_PASS]}))
    """``decode``: token by token. ``one pass``: over the true tokens, with a margin that leaves no doubt (see
    ``decoding.one_pass``)."""

    @property
    def passed(self) -> bool:
        """Every decoded token is right."""
        return self.first_wrong is None

    @property
    def exact(self) -> bool:
        """Passed from the vector alone, in float32, batch 1, with the cache. Only this is called exact."""
        return self.passed and self.settings == EXACT

    @property
    def settings(self) -> tuple[str, int, bool, bool]:
        """(dtype, batch, cache, first_given)."""
        return self.dtype, self.batch, self.cache, self.first_given


def latest(checks: Iterable[Check]) -> dict[tuple[str, int, bool, bool], Check]:
    """The last check of each setting, by its settings. It says what is known now."""
    return {check.settings: check for check in checks}


def exact_check(checks: Iterable[Check]) -> Check | None:
    """The latest check in the settings of ``EXACT``, if it passed."""
    check = latest(checks).get(EXACT)
    return check if check and check.exact else None


def portability(checks: Iterable[Check]) -> bool | None:
    """Whether the latest check in each setting of ``PORTABLE`` passed. None if a setting has no check."""
    known = latest(checks)
    return all(known[settings].passed for settings in PORTABLE) if known.keys() >= set(PORTABLE) else None
