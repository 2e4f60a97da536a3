"""Plan files: a study as a small TOML file, the grid models x texts x lengths x k x recipes x seeds.

    models = ["smollm2-135m"]
    texts = ["originals", "random"]    # names or paths, as on the command line
    column = "text"                    # column with the texts, for tables and data sets
    count = 16                         # number of texts per name
    tokens = [16, 32]
    k = [1, 2]
    recipes = ["default", "paper2025"] # names, or tables of Recipe fields that change the default recipe
    seeds = [0, 1, 2]

Only ``texts`` and ``tokens`` are required.
"""

from __future__ import annotations

import itertools
import math
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memlab.errors import MemlabError
from memlab.recipes import Recipe
from memlab.results.store import Store
from memlab.texts import TextError, load_texts, with_unique_ids

if TYPE_CHECKING:
    from memlab.sweeps.runner import Plan


MOST_TEXTS, LONGEST = 1_000_000, 1 << 20
"""Limits for ``count`` and ``tokens``. A larger number is taken for a typing error."""


class PlanError(MemlabError, ValueError):
    """A plan file that cannot be run. The message names the field and its value, and says what to give."""

    exit_code = 2


@dataclass(frozen=True)
class PlanFile:
    """The contents of a plan file. An empty ``k`` or ``seeds`` means: as the recipes say."""

    texts: tuple[str, ...]
    tokens: tuple[int, ...]
    models: tuple[str, ...] = ("smollm2-135m",)
    count: int = 16
    k: tuple[int, ...] = ()
    recipes: tuple[Recipe, ...] = ()
    seeds: tuple[int, ...] = ()
    start: int | str = 0
    column: str | None = None

    @classmethod
    def read(cls, file: str | Path) -> PlanFile:
        """The plan in a TOML file. Raises ``PlanError``, or ``RecipeError`` for an invalid recipe."""
        path = Path(file)
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise PlanError(f"{path} cannot be read: {error.strerror or error}. Give a readable plan file.") from None
        except (ValueError, RecursionError) as error:  # errors of TOML and of the encoding are ValueErrors
            raise PlanError(f"{path} is not a TOML file: {error}. Correct it, or give another file.") from None
        return cls.of(table, str(path))

    @classmethod
    def of(cls, table: dict[str, Any], name: str = "the plan") -> PlanFile:
        """The plan in a table, as ``tomllib`` returns it. ``name`` is used in messages. Raises as ``read`` does."""
        if unknown := sorted(set(table) - set(cls.__dataclass_fields__)):
            known = ", ".join(sorted(cls.__dataclass_fields__))
            raise PlanError(f"{name} has unknown fields: {', '.join(unknown)}. The known fields are: {known}.")
        for field in ("texts", "tokens"):
            if field not in table:
                raise PlanError(f"{name} does not set {field}. Add {field} = [{_FIELDS[field].example}].")
        values = {field: rule.check(name, field, table[field]) for field, rule in _FIELDS.items() if field in table}
        given = table.get("recipes", ["default"])
        given = given if isinstance(given, list) else [given]
        for field, of_plan in (("k", "k"), ("seed", "seeds")):
            if of_plan in table and any(isinstance(recipe, dict) and field in recipe for recipe in given):
                raise PlanError(f"{name} sets {of_plan}, and one of its recipes sets {field}. Set only one of the two.")
        if not given:
            raise PlanError(f"{name}: recipes is empty. Give names of recipes, or tables of recipe fields.")
        if wrong := [recipe for recipe in given if not isinstance(recipe, (str, dict))]:
            raise PlanError(f"{name}: a recipe is {wrong[0]!r}. Give the name of a recipe, or a table of its fields.")
        return cls(**values, recipes=tuple(map(Recipe.of, given)))

    def plan(self) -> Plan:
        """The plan of all runs. Loads the models, and reads and cuts the texts."""
        from memlab.sweeps.runner import Plan

        widest = max(self.tokens)
        loaded = [load_texts(name, count=self.count, words=max(400, widest), column=self.column) for name in self.texts]
        texts = with_unique_ids(itertools.chain(*loaded))
        if not texts:
            raise TextError(f"{', '.join(self.texts)} contain no texts. Give other names or paths in the field texts.")
        recipes = [
            r.replace(k=k, seed=seed)
            for r in self.recipes
            for k in self.k or (r.k,)
            for seed in self.seeds or (r.seed,)
        ]
        return Plan.grid(list(self.models), texts, tokens=list(self.tokens), recipes=recipes, start=self.start)


@dataclass(frozen=True)
class TimeEstimate:
    """How long the missing runs of a plan will take, in seconds."""

    likely: float
    """If each run takes the median steps of its model and recipe in the store, or else a quarter of its budget."""
    at_most: float
    """If every run uses its full budget."""
    runs: int


def estimate(plan: Plan, store: Store, *, steps: int = 2, workers: int = 1) -> TimeEstimate:
    """Estimate the time of the missing runs from the time of a training step, measured now with ``steps`` steps.

    Each of the ``workers`` is assumed to be as fast as this process.
    """
    from memlab.scoring.timing import seconds_a_token

    missing = plan.missing(store)
    known = store.table()
    known["recipe"] = known.recipe.astype(str).str.replace(r" seed=\d+", "", regex=True)
    usual = known.groupby(["model", "recipe"]).steps.median().to_dict()
    likely = most = 0.0
    for lm in {id(job.lm): job.lm for job in missing}.values():
        jobs = [job for job in missing if job.lm is lm]
        longest = max(len(job.passage) for job in jobs)
        seconds = seconds_a_token(lm, tokens=min(longest, 128), steps=steps)
        for job in jobs:
            top = _token_passes_at_most(job.recipe, len(job.passage))
            usual_steps = usual.get((lm.name, job.recipe.replace(seed=0).name))
            # A growing text has half its length on average.
            tokens = len(job.passage) / (2 if job.recipe.grow else 1)
            likely += seconds * min(top, top / 4 if usual_steps is None else usual_steps * tokens)
            most += seconds * top
    return TimeEstimate(likely / workers, most / workers, len(missing))


def _token_passes_at_most(recipe: Recipe, tokens: int) -> float:
    """Limit from the recipe's budgets and, if the text grows, from ``patience`` at each of its stages."""
    top = float(recipe.budget * tokens)
    if recipe.grow and recipe.patience:
        stages = range(recipe.grow, tokens + recipe.grow, recipe.grow)
        top = min(top, recipe.patience * sum(min(stage, tokens) for stage in stages))
    return min(top, recipe.token_budget or top)


@dataclass(frozen=True)
class _Field:
    """The rule for a field of a plan file: which values are valid, in words and in an example."""

    valid: Callable[[Any], bool]
    expected: str
    example: str = ""
    single: bool = False

    def check(self, name: str, field: str, value: Any) -> Any:
        """The value, a tuple unless the field is single; one value counts as a list of one. Raises ``PlanError``."""
        values = value if isinstance(value, list) and not self.single else [value]
        if not values or not all(map(self.valid, values)):
            raise PlanError(f"{name}: {field} is {value!r}. Give {self.expected}.")
        return value if self.single else tuple(values)


def _whole(low: int, high: float) -> Callable[[Any], bool]:
    return lambda n: isinstance(n, int) and not isinstance(n, bool) and low <= n <= high


def _is_name(word: Any) -> bool:
    return isinstance(word, str) and bool(word.strip())


_FIELDS = {
    "texts": _Field(_is_name, "names or paths of texts", '"originals"'),
    "tokens": _Field(_whole(1, LONGEST), f"whole numbers from 1 to {LONGEST}", "32"),
    "column": _Field(_is_name, "the name of a column", single=True),
    "models": _Field(_is_name, "names of models"),
    "k": _Field(_whole(1, 2**63 - 1), "whole numbers from 1 to 2**63 - 1"),
    "seeds": _Field(_whole(0, 2**63 - 1), "whole numbers from 0 to 2**63 - 1"),
    "count": _Field(_whole(1, MOST_TEXTS), f"one whole number from 1 to {MOST_TEXTS}", single=True),
    "start": _Field(
        lambda start: start == "paper" or _whole(0, math.inf)(start),
        'the position of a character, 0 or more, or "paper"',
        single=True,
    ),
}
