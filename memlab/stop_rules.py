"""When a training ends: the rules that a recipe's field ``stop`` names. One line in ``STOP_RULES`` adds one."""

from __future__ import annotations

from typing import Protocol


class HasMargin(Protocol):
    """What a rule reads of a recipe."""

    @property
    def margin(self) -> float:
        """Smallest margin that ends a training, logits."""


class StopRule(Protocol):
    """Decides whether training ends early. It is called only if every scored token is right, teacher-forced."""

    def worth_a_decode(self, recipe: HasMargin, min_margin: float) -> bool:
        """Whether vectors with this smallest teacher-forced margin (logits) should be decoded."""

    def is_met(self, recipe: HasMargin, exact: bool, min_margin: float) -> bool:
        """Whether training ends, given the decode: is it exact, and its smallest margin (logits)."""


class ExactStop:
    """The decode is exact, with at least the recipe's margin."""

    def worth_a_decode(self, recipe: HasMargin, min_margin: float) -> bool:
        return min_margin >= recipe.margin

    def is_met(self, recipe: HasMargin, exact: bool, min_margin: float) -> bool:
        return exact and min_margin >= recipe.margin


class TeacherForcedStop:
    """Every scored token is right, teacher-forced. The decode is recorded and decides nothing."""

    def worth_a_decode(self, recipe: HasMargin, min_margin: float) -> bool:
        return True

    def is_met(self, recipe: HasMargin, exact: bool, min_margin: float) -> bool:
        return True


STOP_RULES: dict[str, StopRule] = {"exact": ExactStop(), "teacher_forced": TeacherForcedStop()}
