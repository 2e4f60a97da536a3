"""A study as a small TOML file: models x texts x lengths x k x recipes x seeds.

    models = ["smollm2-135m"]
    texts = ["originals", "random"]    # names or paths, as on the command line
    count = 16                         # texts of each
    tokens = [16, 32]
    k = [1, 2]
    recipes = ["default", "paper2025"] # names, or tables of Recipe's fields, laid over the default
    seeds = [0, 1, 2]

Only ``texts`` and ``tokens`` are needed.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memlab.errors import MemlabError
from memlab.recipes import Recipe
from memlab.results.store import Store
from memlab.texts import TextError, load_texts

if TYPE_CHECKING:
    from memlab.sweeps.runner import Plan


MOST_TEXTS, LONGEST = 1_000_000, 1 << 20
"""A plan's texts of a kind, and the tokens of one: beyond that it is a slip of the pen."""


class PlanError(MemlabError, ValueError):
    """A plan file that cannot be run; the message names the field, what was given and what was expected."""

    exit_code = 2


@dataclass(frozen=True)
class PlanFile:
    """What a plan file says."""

    texts: tuple[str, ...]
    tokens: tuple[int, ...]
    models: tuple[str, ...] = ("smollm2-135m",)
    count: int = 16
    k: tuple[int, ...] = ()
    """Empty: as the recipes say."""
    recipes: tuple[Recipe, ...] = ()
    seeds: tuple[int, ...] = ()
    """Empty: as the recipes say."""
    start: int | str = 0

    @classmethod
    def read(cls, file: str | Path) -> PlanFile:
        """The study of a TOML file. Raises ``PlanError``, or ``RecipeError`` for a recipe that cannot be."""
        path = Path(file)
        try:
            said = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise PlanError(f"{path} cannot be read: {error.strerror or error}") from None
        except (ValueError, RecursionError) as error:  # TOML's and the encoding's errors are ValueErrors
            raise PlanError(f"{path} is no TOML file: {error}") from None
        return cls.of(said, str(path))

    @classmethod
    def of(cls, said: dict[str, Any], name: str = "the plan") -> PlanFile:
        """The study that such a table says."""
        known = set(cls.__dataclass_fields__)
        if strange := sorted(set(said) - known):
            raise PlanError(f"{name}: no field is called {', '.join(strange)}; there are: {', '.join(sorted(known))}")
        for field in ("texts", "tokens"):
            if field not in said:
                raise PlanError(f"{name} does not say {field}")
        whole = {field: _numbers(name, field, said[field], low) for field, low in _WHOLE.items() if field in said}
        words = {field: _words(name, field, said[field]) for field in ("texts", "models") if field in said}
        start = said.get("start", 0)
        if start != "paper" and (not isinstance(start, int) or isinstance(start, bool) or start < 0):
            raise PlanError(f'{name}: start is {start!r}; expected a character\'s number, or "paper"')
        count = said.get("count", cls.count)
        if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MOST_TEXTS:
            raise PlanError(f"{name}: count is {count!r}; expected one whole number, 1 to {MOST_TEXTS}")
        if max(whole.get("tokens", (1,))) > LONGEST:
            raise PlanError(f"{name}: tokens is {said['tokens']!r}; expected at most {LONGEST}")
        given = _several(said.get("recipes", ["default"]))
        for field, where in (("k", "k"), ("seed", "seeds")):
            if where in said and any(isinstance(one, dict) and field in one for one in given):
                raise PlanError(f"{name} says {where}, and one of its recipes says {field}: expected one of the two")
        recipes = tuple(_recipe(name, one) for one in given)
        if not recipes:
            raise PlanError(f"{name}: recipes is empty; expected names or tables of a recipe's fields")
        return cls(**whole, **words, count=count, recipes=recipes, start=start)  # type: ignore[arg-type]

    def plan(self) -> Plan:
        """All its runs, each key once; models are loaded, texts read and cut."""
        from memlab.sweeps.runner import Plan

        widest = max(self.tokens)
        texts = [t for name in self.texts for t in load_texts(name, count=self.count, words=max(400, widest))]
        if not texts:
            raise TextError(f"no texts in {', '.join(self.texts)}")
        recipes = [
            r.replace(k=k, seed=seed)
            for r in self.recipes
            for k in self.k or (r.k,)
            for seed in self.seeds or (r.seed,)
        ]
        return Plan.grid(list(self.models), texts, tokens=list(self.tokens), recipes=recipes, start=self.start)


@dataclass(frozen=True)
class TimeEstimate:
    """``estimate``: seconds a plan will take."""

    likely: float
    """With as many steps as runs of this model and recipe took in this store, else a quarter of the budget."""
    at_most: float
    """With every run at its full budget."""
    runs: int


def estimate(plan: Plan, store: Store, *, steps: int = 2, workers: int = 1) -> TimeEstimate:
    """What is missing, times what a training step takes here: measured now, on a few passages of each model.

    Of several ``workers`` each is taken to be as fast as this process.
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
        each = seconds_a_token(lm, tokens=min(longest, 128), steps=steps)
        for job in jobs:
            top = _token_passes_at_most(job.recipe, len(job.passage))
            took = usual.get((lm.name, job.recipe.replace(seed=0).name))
            # A text that grows has, in the middle of it all, half its length.
            fed = len(job.passage) / (2 if job.recipe.grow else 1)
            likely += each * min(top, took * fed if took is not None else top / 4)
            most += each * top
    return TimeEstimate(likely / workers, most / workers, len(missing))


def _token_passes_at_most(recipe: Recipe, tokens: int) -> float:
    """By its budgets, and of a text that grows by its patience at each stage."""
    top = float(recipe.budget * tokens)
    if recipe.grow and recipe.patience:
        stages = range(recipe.grow, tokens + recipe.grow, recipe.grow)
        top = min(top, recipe.patience * sum(min(stage, tokens) for stage in stages))
    return min(top, recipe.token_budget or top)


_WHOLE = {"tokens": 1, "k": 1, "seeds": 0}


def _several(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]


def _numbers(name: str, field: str, value: Any, low: int) -> tuple[int, ...]:
    given = _several(value)
    if not given or not all(isinstance(n, int) and not isinstance(n, bool) and low <= n < 2**63 for n in given):
        raise PlanError(f"{name}: {field} is {value!r}; expected whole numbers of at least {low}, below 2**63")
    return tuple(given)


def _words(name: str, field: str, value: Any) -> tuple[str, ...]:
    given = _several(value)
    if not given or not all(isinstance(word, str) and word.strip() for word in given):
        raise PlanError(f"{name}: {field} is {value!r}; expected names")
    return tuple(given)


def _recipe(name: str, said: Any) -> Recipe:
    if isinstance(said, str):
        return Recipe.named(said)
    if isinstance(said, dict):
        import json

        return Recipe.from_json(json.dumps(said, default=str), Recipe.default())
    raise PlanError(f"{name}: a recipe is {said!r}; expected a name or a table of a recipe's fields")
