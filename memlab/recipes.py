"""How a mem vector is trained: one frozen, hashable value that says everything the engine may vary.

The key of a stored result contains ``Recipe.canonical()``, the recipe's JSON *without the fields at their default*.
So a field added later leaves old keys alone, and for the same reason **a field's default never changes**: a better
default recipe is a better ``Recipe.default()``, with its values written out.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any, Literal, Self

from memlab.errors import MemlabError

PREFIXES = ("sink", "none", "bos")
OPTIMIZERS = ("rotation", "fullmatrix", "adamw")
SCHEDULES = ("constant", "cosine", "inverse")
STOPS = ("exact", "teacher_forced")
RETIRED: dict[str, Any] = {
    "adapt": 0.0, "exponent": 0.5, "focus": 0.0, "hinge": 0.0, "init": "noise", "init_scale": 1.0, "rank": 0,
    "rounding": False, "split": 1, "temperature": 1.0, "warmup": 0, "worst": False,
}  # fmt: skip
"""Fields that recipes once had, each at the value that changed nothing: files written then are still read."""


class RecipeError(MemlabError, ValueError):
    """A recipe that cannot be run; the message names the field, the value given and what it may be."""

    exit_code = 2


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides what is trained. Two runs with equal recipes, weights and token ids share one key."""

    k: int = 1
    """Number of mem vectors before the text."""
    prefix: str | tuple[int, ...] = "sink"
    """Tokens before the vectors: ``"sink"`` (the model's measured sink prefix), ``"none"``, ``"bos"``, or ids."""
    suffix: tuple[int, ...] = ()
    """Token ids between the vectors and the text."""
    first_scored: int = 1
    """Number (from 1) of the first token the loss sees. 1: all of them. The 2025 paper's code scores from token 2."""
    stop: Literal["exact", "teacher_forced"] = "exact"
    """``"exact"``: an exact check with at least ``margin``. ``"teacher_forced"``: every scored token is argmax."""
    margin: float = 1.0
    """Smallest margin (lead of the right token's logit over all others, logits) that an exact check must show before
    training ends early."""
    budget: int = 400
    """Optimiser steps at most."""
    token_budget: int = 0
    """Token passes at most (tokens trained, summed over the steps); 0: no limit but ``budget``."""
    patience: int = 0
    """Give up after so many steps without a better teacher-forced accuracy (``grow``: without growth); 0: never."""
    rule: Literal["rotation", "fullmatrix", "adamw"] = "fullmatrix"
    """Update rule, see ``memlab.training.optimizers``."""
    lr: float = 2.0
    """Step size. For ``rotation``: the angle of a step, radians; for ``fullmatrix``: its length over sqrt(d)."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay of the gradient's mean and of its second moment."""
    damping: float = 1e-4
    """``fullmatrix``, ``rotation``: added to the second moment's spectrum, as a share of its largest eigenvalue."""
    history: int = 200
    """``fullmatrix``, ``rotation``: how many of the last gradients make up the second moment."""
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine", "inverse"] = "cosine"
    """Step size: ``"constant"``, ``"cosine"`` down to 0 over the budget, or ``"inverse"``: over the square root of the
    step."""
    norm: float = 0.0
    """``rotation``: norm each vector is held at, in units of sqrt(d)."""
    whiten: float = 0.0
    """``rotation``: power of the inverse second moment of the model's gradients in which steps are measured."""
    grow: int = 0
    """Train a prefix of this many tokens first and let it grow by as many whenever it is all right, with the margin
    that an exact check would need; 0: all at once."""
    seed: int = 0

    def __post_init__(self) -> None:
        # JSON knows lists only, and a list is not hashable: tuples whatever came in.
        for name in ("prefix", "suffix", "betas"):
            value = getattr(self, name)
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
        if isinstance(self.betas, tuple) and all(_number(b) for b in self.betas):
            object.__setattr__(self, "betas", tuple(float(b) for b in self.betas))  # (0, .9) is (0.0, .9)

        def need(ok: bool, field: str, expected: str) -> None:
            if not ok:
                raise RecipeError(f"recipe.{field} is {getattr(self, field)!r}; expected {expected}")

        def whole(name: str, low: int) -> None:
            value = getattr(self, name)
            number = isinstance(value, int) and not isinstance(value, bool)
            # Tables hold no larger integers, and torch no larger seeds.
            need(number and low <= value < 2**63, name, f"an integer >= {low}, below 2**63")

        def real(name: str, low: float, open_end: bool) -> None:
            value = getattr(self, name)
            number = _number(value)
            need(
                number and (value > low if open_end else value >= low),
                name,
                f"a number {'>' if open_end else '>='} {low}",
            )

        for name, low in (
            ("k", 1),
            ("first_scored", 1),
            ("budget", 0),
            ("patience", 0),
            ("history", 1),
            ("seed", 0),
            ("grow", 0),
            ("token_budget", 0),
        ):
            whole(name, low)
        for name in ("margin", "lr"):
            real(name, 0, open_end=True)
        for name in ("damping", "weight_decay", "norm", "whiten"):
            real(name, 0, open_end=False)
        need(self.stop in STOPS, "stop", f"one of {STOPS}")
        need(self.rule in OPTIMIZERS, "rule", f"one of {OPTIMIZERS}")
        need(self.norm > 0 or self.rule != "rotation", "norm", "a number > 0 where the rule is rotation")
        need(self.schedule in SCHEDULES, "schedule", f"one of {SCHEDULES}")
        need(
            isinstance(self.betas, tuple)
            and len(self.betas) == 2
            and all(_number(b) and 0 <= b < 1 for b in self.betas),
            "betas",
            "two numbers in [0, 1)",
        )
        need(
            self.prefix in PREFIXES if isinstance(self.prefix, str) else _ids(self.prefix),
            "prefix",
            f"one of {PREFIXES} or token ids",
        )
        need(_ids(self.suffix), "suffix", "token ids")

    @classmethod
    def default(cls, **changes: Any) -> Self:
        """The best we know, by ``memlab bench recipe``: behind a sink prefix, on a sphere, in whitened coordinates,
        preconditioned with the passage's own gradients, until an exact check with a margin.
        """
        best = dict(rule="rotation", lr=0.4, schedule="inverse", norm=400.0, whiten=0.25, damping=0.01)
        return cls(**(best | changes))  # type: ignore[arg-type]  # a dict of mixed types

    @classmethod
    def growing(cls, **changes: Any) -> Self:
        """The default for texts that may be too long: eight tokens at first, and eight more whenever all are right, as
        Progressive Cramming has it (arXiv 2607.21231) with one. Where it ends is a horizon, found in one run.

        It goes on until a stage takes longer than the patience, or for a ``token_budget``.
        """
        more = dict(grow=8, margin=0.3, budget=1_000_000, patience=150)
        return cls.default(**(more | changes))

    @classmethod
    def fullmatrix(cls, **changes: Any) -> Self:
        """The first default of this project: full-matrix preconditioning, a free norm, a cosine over the budget."""
        return cls(**changes)

    @classmethod
    def paper2025(cls, **changes: Any) -> Self:
        """The protocol of Kuratov et al. (ACL 2025, arXiv 2502.13063), to the letter.

        The vector stands at position 0, tokens 2 to N are scored, AdamW with lr 0.01, betas (0.9, 0.9) and weight
        decay 0.01 runs for at most 5,000 steps and ends once the teacher-forced accuracy of the scored tokens is 1.0,
        or, as in their code, after 2,000 steps without a better one. One thing differs: the vector kept is the one
        that was measured, where their code saves the one after the next step.
        """
        paper = dict(
            prefix="none",
            first_scored=2,
            stop="teacher_forced",
            budget=5000,
            patience=2000,
            rule="adamw",
            lr=0.01,
            betas=(0.9, 0.9),
            weight_decay=0.01,
            schedule="constant",
        )
        return cls(**(paper | changes))  # type: ignore[arg-type]  # a dict of mixed types

    @classmethod
    def progressive2026(cls, **changes: Any) -> Self:
        """Progressive Cramming (Tarasov et al., ICML 2026, arXiv 2607.21231), as it was run on SmolLM2-135M.

        The text grows token by token, each stage going on from the last, until a stage is not all right,
        teacher-forced, within 10,000 steps: AdamW with lr 0.1, the first token scored too, no token before the vector.
        What their settings leave open is as in arXiv 2502.13063, whose code theirs descends from; their step size falls
        along a cosine over the run of all stages, of which a stage sees little, and is constant here.
        """
        theirs = dict(
            prefix="none",
            stop="teacher_forced",
            grow=1,
            budget=1_000_000,
            patience=10_000,
            rule="adamw",
            lr=0.1,
            betas=(0.9, 0.9),
            weight_decay=0.01,
            schedule="constant",
        )
        return cls(**(theirs | changes))  # type: ignore[arg-type]  # a dict of mixed types

    @classmethod
    def named(cls, name: str, **changes: Any) -> Self:
        """The recipe of that name, one of ``NAMED``."""
        if name not in NAMED:
            raise RecipeError(f"no recipe is called {name!r}; there are: {', '.join(NAMED)}")
        recipe: Self = getattr(cls, name)(**changes)
        return recipe

    def replace(self, **changes: Any) -> Self:
        """This recipe with some fields changed."""
        return dataclasses.replace(self, **changes)

    def canonical(self) -> str:
        """Canonical JSON: sorted keys, no spaces, no field that is at its default. Part of a result's key."""
        changed = {
            f.name: getattr(self, f.name) for f in dataclasses.fields(self) if getattr(self, f.name) != f.default
        }
        # 2 and 2.0 are one step size, and must be one key.
        plain = {n: float(v) if isinstance(f, float) else v for n, v in changed.items() for f in [_default(n)]}
        return json.dumps(plain, sort_keys=True, separators=(",", ":"))

    def to_json(self) -> str:
        """All fields as JSON, for people and files; ``from_json`` reads it back."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str, base: Self | None = None) -> Self:
        """The recipe that ``to_json`` or ``canonical`` wrote, an older version's too unless it used what is gone.

        Fields it does not name are those of ``base``. Raises ``RecipeError`` for anything else.
        """
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise RecipeError(f"a recipe is a JSON object of Recipe's fields; this is no JSON: {error}") from None
        if not isinstance(fields, dict):
            raise RecipeError(f"a recipe is a JSON object of Recipe's fields, not a {type(fields).__name__}")
        fields = {name: value for name, value in fields.items() if name not in RETIRED or value != RETIRED[name]}
        known = {f.name for f in dataclasses.fields(cls)}
        if strange := sorted(set(fields) - known):
            raise RecipeError(f"a recipe has no field {', '.join(strange)}; it has: {', '.join(sorted(known))}")
        return base.replace(**fields) if base else cls(**fields)

    @property
    def name(self) -> str:
        """A name of ``NAMED``, or that with what was changed, for tables: ``default k=2 seed=1``."""
        # By what one vector would have: k vectors grow by k times as much, which should not give them another name.
        one = self.replace(k=1, seed=0, grow=self.grow // self.k if self.grow % self.k == 0 else self.grow)
        best = min(NAMED, key=lambda n: len(one._beside(Recipe.named(n))))
        return " ".join([best, *self._beside(Recipe.named(best))])

    def _beside(self, base: Recipe) -> list[str]:
        """What differs from ``base``, as field=value."""
        names = [f.name for f in dataclasses.fields(self)]
        return [f"{n}={getattr(self, n)}" for n in names if getattr(self, n) != getattr(base, n)]


NAMED = ("default", "growing", "fullmatrix", "paper2025", "progressive2026")


def _number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that no float can hold
        return False


def _ids(value: Any) -> bool:
    return isinstance(value, tuple) and all(
        isinstance(i, int) and not isinstance(i, bool) and 0 <= i < 2**63 for i in value
    )


def _default(field: str) -> Any:
    return Recipe.__dataclass_fields__[field].default
