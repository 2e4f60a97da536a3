"""How a mem vector is trained: one frozen, hashable value with every setting that the training may vary.

The key of a stored result contains ``Recipe.canonical()``: the recipe's JSON *without the fields at their default*.
Therefore a new field does not change old keys. For the same reason **the default of a field never changes**: better
values are written out in ``Recipe.default()``.

``OPTIMIZERS``, ``SCHEDULES`` and ``STOP_RULES`` are the tables of names that a recipe may use. One line adds an entry.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from memlab.errors import MemlabError, are_ids, is_integer, is_number, plain_value
from memlab.stop_rules import STOP_RULES

PREFIXES = ("sink", "none", "bos")
PLACES = ("input", "every layer")
Entry = TypeVar("Entry")

OPTIMIZERS = {
    "rotation": "memlab.training.optimizers:Rotation",
    "fullmatrix": "memlab.training.optimizers:FullMatrix",
    "adamw": "memlab.training.optimizers:AdamW",
}
"""{name: "module:Class"}. ``make_optimizer`` imports the class when it is needed, so that recipes do not need torch."""

SCHEDULES: dict[str, Callable[[int, int], float]] = {
    "constant": lambda step, budget: 1.0,
    "cosine": lambda step, budget: 0.5 * (1 + math.cos(math.pi * (step / max(budget, 1)))),
    "inverse": lambda step, budget: (1 + step) ** -0.5,
}
"""{name: function of (step from 0, budget)}. The result is the factor of ``Recipe.lr`` at that step."""


RETIRED: dict[str, Any] = {
    "adapt": 0.0, "exponent": 0.5, "focus": 0.0, "hinge": 0.0, "init": "noise", "init_scale": 1.0, "rank": 0,
    "rounding": False, "split": 1, "temperature": 1.0, "warmup": 0, "worst": False,
}  # fmt: skip
"""Fields of earlier versions, each with the value that had no effect. Files with these values can still be read."""


class RecipeError(MemlabError, ValueError):
    """A recipe that cannot be run. The message names the field, its value and what is allowed.

    >>> from memlab import Recipe, RecipeError
    >>> try:
    ...     Recipe(rule="sgd")
    ... except RecipeError as error:
    ...     print(error)
    The recipe's rule is 'sgd'. Give one of: rotation, fullmatrix, adamw.
    """

    exit_code = 2


def look_up(table: Mapping[str, Entry], field: str, name: object) -> Entry:
    """The entry of that name in a table. Raises ``RecipeError``, which lists all names, for another name."""
    if not isinstance(name, str) or name not in table:
        raise RecipeError(f"The recipe's {field} is {name!r:.80}. Give one of: {', '.join(table)}.")
    return table[name]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Every setting that decides what is trained. Equal recipes, weights and token ids give equal keys.

    >>> from memlab import Recipe
    >>> Recipe.default(k=2, budget=100).canonical()
    '{"budget":100,"damping":0.01,"k":2,"lr":0.4,"norm":400.0,"rule":"rotation","schedule":"inverse","whiten":0.25}'
    """

    k: int = 1
    """Number of mem vectors before the text. With ``where``: number of their positions."""
    where: str = "input"
    """``"input"``: the vectors are inputs of the model. ``"every layer"``: at their positions, a vector of its own
    replaces the hidden state at the input of each layer. ``"layer 7"``: only at that layer's input, counted from 0.
    """
    prefix: str | tuple[int, ...] = "sink"
    """Tokens before the vectors: ``"sink"`` (the model's measured sink prefix), ``"none"``, ``"bos"``, or ids."""
    suffix: tuple[int, ...] = ()
    """Token ids between the vectors and the text."""
    contexts: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = ()
    """More contexts in which the same vectors have to write the text, as pairs of token ids: (before, behind). They
    stand between prefix and vectors, and between suffix and text. The loss is the mean over all contexts, with the
    plain one, and training ends when the text is right in each."""
    first_scored: int = 1
    """Number (from 1) of the first token in the loss. 1: all tokens. The 2025 paper's code scores from token 2."""
    stop: str = "exact"
    """A name in ``STOP_RULES``. ``"exact"``: an exact check with at least ``margin``. ``"teacher_forced"``: every
    scored token is argmax."""
    margin: float = 1.0
    """Smallest margin that an exact check must have before training ends early, logits. The margin of a token is its
    logit minus the best other logit."""
    budget: int = 400
    """Largest number of optimizer steps."""
    token_budget: int = 0
    """Largest number of token passes (tokens trained, summed over the steps). 0: only ``budget`` limits training."""
    patience: int = 0
    """Give up after this many steps without a better accuracy (with ``grow``: without growth). 0: never."""
    start: str = "noise"
    """``"noise"``, or ``"encoding"``: what the trained encoder writes for the passage, see ``memlab encoder``."""
    rule: str = "fullmatrix"
    """The optimizer, a name in ``OPTIMIZERS``."""
    lr: float = 2.0
    """Step size. ``rotation``: angle of a step, radians. ``fullmatrix``: length of a step, in units of sqrt(d)."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay of the gradient's mean and of its second moment, per step."""
    damping: float = 1e-4
    """``fullmatrix``, ``rotation``: added to the second moment's spectrum, as a share of its largest eigenvalue."""
    history: int = 200
    """``fullmatrix``, ``rotation``: number of past gradients in the second moment."""
    weight_decay: float = 0.0
    """``adamw``, ``fullmatrix``: share of the vectors that a step of size 1 takes away, as in torch's AdamW."""
    schedule: str = "cosine"
    """Step size over time, a name in ``SCHEDULES``: ``"constant"``, ``"cosine"`` (down to 0 over the budget), or
    ``"inverse"`` (divided by the square root of the step)."""
    norm: float = 0.0
    """``rotation``: the constant norm of each vector, in units of sqrt(d)."""
    whiten: float = 0.0
    """``rotation``: power of the preconditioner (the inverse second moment of the model's gradients at its input).
    0: not used. Only for input vectors."""
    grow: int = 0
    """Train a prefix of this many tokens first. When all its tokens are right, with ``margin`` where ``stop`` needs it,
    the prefix grows by this many tokens. 0: train the whole passage at once."""
    seed: int = 0

    def __post_init__(self) -> None:
        def need(ok: bool, field: str, expected: str) -> None:
            if not ok:
                raise RecipeError(f"The recipe's {field} is {getattr(self, field)!r:.80}. Give {expected}.")

        for name in self.__dataclass_fields__:
            depth = 3 if name == "contexts" else 1
            object.__setattr__(self, name, plain_value(getattr(self, name), depth))
        smallest = dict(k=1, first_scored=1, budget=0, patience=0, history=1, seed=0, grow=0, token_budget=0)
        for name, low in smallest.items():
            value = getattr(self, name)
            if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
                object.__setattr__(self, name, value := int(value))  # a row of a pandas table often holds only floats
            # Tables hold no larger integers, and torch takes no larger seeds.
            need(is_integer(value) and low <= value < 2**63, name, f"an integer from {low} to 2**63 - 1")
        for name in ("margin", "lr"):
            value = getattr(self, name)
            need(is_number(value) and value > 0, name, "a finite number > 0")
        for name in ("damping", "weight_decay", "norm", "whiten"):
            value = getattr(self, name)
            need(is_number(value) and value >= 0, name, "a finite number >= 0")
        look_up(STOP_RULES, "stop", self.stop)
        look_up(OPTIMIZERS, "rule", self.rule)
        look_up(SCHEDULES, "schedule", self.schedule)
        need(self.norm > 0 or self.rule != "rotation", "norm", "a number > 0, because the rule is rotation")
        pair = isinstance(self.betas, tuple) and len(self.betas) == 2
        need(pair and all(is_number(b) and 0 <= b < 1 for b in self.betas), "betas", "two numbers in [0, 1)")
        object.__setattr__(self, "betas", tuple(map(float, self.betas)))  # (0, .9) equals (0.0, .9)
        place = isinstance(self.where, str) and (
            self.where in PLACES or re.fullmatch(r"layer (0|[1-9]\d*)", self.where)
        )
        need(bool(place), "where", f"one of: {', '.join(PLACES)}, layer 0, layer 1, and so on")
        inside = self.where != "input"
        need(not (inside and self.whiten), "whiten", "0, as Recipe.layers does: the preconditioner is of inputs")
        need(self.start in ("noise", "" if inside else "encoding"), "start", "noise" + " or encoding" * (not inside))
        known = self.prefix in PREFIXES if isinstance(self.prefix, str) else are_ids(self.prefix)
        need(known, "prefix", f"one of: {', '.join(PREFIXES)}, or a list of token ids")
        need(are_ids(self.suffix), "suffix", "a list of token ids")
        pairs = isinstance(self.contexts, tuple) and all(
            isinstance(pair, tuple) and len(pair) == 2 and are_ids(pair[0]) and are_ids(pair[1]) and any(pair)
            for pair in self.contexts
        )
        need(pairs, "contexts", "a list of pairs of lists of token ids, (before, behind), not both empty")

    @classmethod
    def of(cls, recipe: Self | str | Mapping[str, Any]) -> Self:
        """A recipe, or the one of a name in ``NAMED``, or the default with other fields (a mapping or a JSON object).

        >>> from memlab import Recipe
        >>> Recipe.of("growing") == Recipe.growing(), Recipe.of({"k": 2}) == Recipe.default(k=2)
        (True, True)
        """
        if isinstance(recipe, cls):
            return recipe
        if isinstance(recipe, Mapping):
            return cls.default().replace(**_without_retired(recipe))
        if isinstance(recipe, str):
            return cls.from_json(recipe, cls.default()) if recipe.lstrip().startswith("{") else cls.named(recipe)
        raise RecipeError(f"The recipe is {recipe!r:.80}. Give a Recipe, or one of: {', '.join(NAMED)}.")

    @classmethod
    def default(cls, **changes: Any) -> Self:
        """The best known recipe, chosen with ``memlab bench optimizer``: a sink prefix, vectors on a sphere, whitened
        coordinates, a preconditioner from the passage's own gradients, until an exact check with a margin.
        """
        best = dict(rule="rotation", lr=0.4, schedule="inverse", norm=400.0, whiten=0.25, damping=0.01)
        return cls(**best).replace(**changes)  # type: ignore[arg-type]  # a dict of mixed types

    @classmethod
    def growing(cls, **changes: Any) -> Self:
        """The default for texts that may be too long. Training starts with 8 tokens. If all are right, it adds 8 more.

        The idea is Progressive Cramming (arXiv 2607.21231), which adds 1 token at a time. The length at the end is a
        horizon, found in one run. A run ends if a stage takes longer than ``patience``, or at ``token_budget``.
        """
        return cls.default(**(dict(grow=8, margin=0.3, budget=1_000_000, patience=150) | changes))

    @classmethod
    def warm(cls, **changes: Any) -> Self:
        """The default, from a trained encoder's vectors: about 0.6 times the steps, see ``memlab bench warm-start``."""
        return cls.default(**(dict(start="encoding") | changes))

    @classmethod
    def layers(cls, **changes: Any) -> Self:
        """The best known recipe for a vector of its own in every layer, or, with ``where``, in one layer.

        Prefix tuning (arXiv 2101.00190) of one passage: each layer's keys and values at the vector's position are free.
        """
        return cls.default(**(dict(where="every layer", whiten=0.0, lr=0.2) | changes))

    @classmethod
    def fullmatrix(cls, **changes: Any) -> Self:
        """The first default of this project: full-matrix preconditioning, free norm, cosine schedule."""
        return cls().replace(**changes)

    @classmethod
    def paper2025(cls, **changes: Any) -> Self:
        """The protocol of Kuratov et al. (ACL 2025, arXiv 2502.13063).

        The vector is at position 0, and tokens 2 to N are scored. AdamW with lr 0.01, betas (0.9, 0.9) and weight
        decay 0.01 runs for at most 5,000 steps. Training ends when the teacher-forced accuracy of the scored tokens is
        1.0, or, as in their code, after 2,000 steps without a better accuracy. One thing differs: memlab keeps the
        vector that was measured; their code saves the vector after the next step.
        """
        paper = dict(
            prefix="none", first_scored=2, stop="teacher_forced", budget=5000, patience=2000, rule="adamw", lr=0.01,
            betas=(0.9, 0.9), weight_decay=0.01, schedule="constant",
        )  # fmt: skip
        return cls(**paper).replace(**changes)  # type: ignore[arg-type]  # a dict of mixed types

    @classmethod
    def progressive2026(cls, **changes: Any) -> Self:
        """Progressive Cramming (Tarasov et al., ICML 2026, arXiv 2607.21231), as it was run on SmolLM2-135M.

        The text grows token by token. Each stage starts from the result of the last stage. Training ends when a stage
        is not all right, teacher-forced, within 10,000 steps. AdamW with lr 0.1; the first token is scored too; no
        token before the vector. Settings that the paper leaves open are as in arXiv 2502.13063, because the paper's
        code is derived from the code of that one. The paper's step size falls along a cosine over all stages, and
        changes little within one stage. Here it is constant.
        """
        theirs = dict(
            prefix="none", stop="teacher_forced", grow=1, budget=1_000_000, patience=10_000, rule="adamw", lr=0.1,
            betas=(0.9, 0.9), weight_decay=0.01, schedule="constant",
        )  # fmt: skip
        return cls(**theirs).replace(**changes)  # type: ignore[arg-type]  # a dict of mixed types

    @classmethod
    def named(cls, name: str, **changes: Any) -> Self:
        """The recipe with this name, one of ``NAMED``."""
        if name not in NAMED:
            raise RecipeError(f"No recipe is called {name!r:.80}. Choose one of: {', '.join(NAMED)}.")
        return getattr(cls, name)(**changes)

    def replace(self, **changes: Any) -> Self:
        """This recipe with some fields changed. Raises ``RecipeError`` for a field that recipes do not have."""
        known = sorted(self.__dataclass_fields__)
        if unknown := sorted(set(changes) - set(known)):
            near = sorted({name for field in unknown for name in difflib.get_close_matches(field, known, 1)})
            guess = f"Did you mean {' or '.join(near)}? " if near else ""
            raise RecipeError(f"A recipe has no field {', '.join(unknown)}. {guess}Its fields are: {', '.join(known)}.")
        return dataclasses.replace(self, **changes)

    def canonical(self) -> str:
        """Canonical JSON: sorted keys, no spaces, no field at its default. Part of a result's key."""
        changed = {}
        for f in dataclasses.fields(self):
            if (value := getattr(self, f.name)) != f.default:
                # 2 and 2.0 are the same step size, so they must give the same key.
                changed[f.name] = float(value) if isinstance(f.default, float) else value
        return json.dumps(changed, sort_keys=True, separators=(",", ":"))

    def to_json(self) -> str:
        """All fields as JSON, for people and files. ``from_json`` reads it.

        ``where``, ``start`` and ``contexts`` are left out at their defaults: older versions write the same files.
        """
        later = {"where": "input", "start": "noise", "contexts": ()}
        fields = {name: value for name, value in dataclasses.asdict(self).items() if value != later.get(name)}
        return json.dumps(fields, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, base: Self | None = None) -> Self:
        """The recipe that ``to_json`` or ``canonical`` wrote, in this version or in an older one.

        Fields that are not in ``text`` come from ``base``. Raises ``RecipeError`` for anything that is not a recipe,
        and for a retired field with an effect (see ``RETIRED``).
        """
        try:
            fields = json.loads(text)
        except (ValueError, TypeError, RecursionError) as error:
            raise RecipeError(f"This recipe is not valid JSON: {error}. Give an object of Recipe's fields.") from None
        if not isinstance(fields, dict):
            raise RecipeError(f"This recipe is a JSON {type(fields).__name__}. Give an object of Recipe's fields.")
        return (base or cls()).replace(**_without_retired(fields))

    @property
    def name(self) -> str:
        """Name for tables: the nearest of ``NAMED`` and the fields that differ, for instance ``default k=2 seed=1``."""
        # Compare as if k were 1: k vectors grow by k times the tokens, and that should not change the name.
        one = self.replace(k=1, seed=0, grow=self.grow // self.k if self.grow % self.k == 0 else self.grow)
        best = min(NAMED, key=lambda n: len(one._differences(Recipe.named(n))))
        return " ".join([best, *self._differences(Recipe.named(best))])

    def _differences(self, base: Recipe) -> list[str]:
        """Fields that differ from ``base``, as field=value."""
        names = [f.name for f in dataclasses.fields(self)]
        changed = {n: getattr(self, n) for n in names if getattr(self, n) != getattr(base, n)}
        return [f"{n}={len(value) if n == 'contexts' else value}" for n, value in changed.items()]


NAMED = ("default", "growing", "warm", "layers", "fullmatrix", "paper2025", "progressive2026")


def _without_retired(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in RETIRED or value != RETIRED[name]}
