"""The exact horizon: the longest prefix of a passage that comes back exactly, and what it took to find it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from memlab.experiments.tables import require_columns
from memlab.measures.capacity import outcomes
from memlab.models import FrozenLM, Passage, PassageError
from memlab.recipes import Recipe
from memlab.results.mem_vector import MemVector
from memlab.results.store import Store
from memlab.sweeps.executors import RunProgress
from memlab.sweeps.runner import Job, Plan, run
from memlab.texts import Text, TextError


@dataclass
class LengthSearch:
    """One passage's search over the lengths of a grid: up after an exact one, and on a failure another attempt."""

    lengths: Sequence[int]
    at: int
    """Index of the length to be tried next."""
    attempts: int
    """Seeds a length gets before it counts as failed."""
    best: int = -1
    """Index of the longest exact length so far."""
    failed: int = -1
    """Index of the shortest length above it that failed in every attempt; -1: none yet."""
    tries: int = 0

    @property
    def over(self) -> bool:
        """Whether the longest exact length and the failed one are neighbours, or the grid is at its end."""
        if self.best == len(self.lengths) - 1 or self.failed == 0:
            return True
        return self.failed >= 0 and self.failed - self.best == 1

    @property
    def next(self) -> tuple[int, int]:
        """(length, seed) of the next attempt."""
        return self.lengths[self.at], self.tries

    def report(self, exact: bool) -> None:
        """The outcome of that attempt."""
        if exact:
            self.best, self.tries = max(self.best, self.at), 0
            if self.failed <= self.best:  # a shorter one had failed: capacity is no step function
                self.failed = -1
            self.at = self.best + 1
            return
        self.tries += 1
        if self.tries == self.attempts:
            self.failed, self.tries = self.at, 0
            self.at = self.failed - 1 if self.failed - self.best > 1 else self.at


def horizon(
    lm: FrozenLM,
    texts: Sequence[Text],
    store: Store,
    *,
    lengths: Sequence[int],
    first: int,
    attempts: int = 3,
    recipe: Recipe | None = None,
    start: int | str = 0,
    known: pd.DataFrame | None = None,
    progress: bool = True,
    tell: Callable[[str], None] = lambda line: None,
    keep: Callable[[pd.DataFrame], None] = lambda rows: None,
) -> pd.DataFrame:
    """One row an attempt: text, tokens, seed, exact, token passes, loss; ``capacity.horizons`` sums them up.

    All passages climb at once, so the bench stays full. A length has failed once ``attempts`` seeds have; the horizon
    is a certified lower end (the longest exact length of the grid), not the longest there may be. The grid of a text
    that is shorter than it ends with the text.

    ``known``: rows of an earlier run, other machines' too; an attempt of the same key is not made again. ``keep`` is
    given the rows so far after each round.
    """
    recipe = recipe or Recipe.default()
    if len({text.id for text in texts}) < len(texts):
        raise TextError("two texts have one id: give each its own, since what was found is told by it")
    most = room(lm, recipe)
    grids = {text.id: _within(lm, text, [n for n in lengths if n <= max(first, most)], first, start) for text in texts}
    ladders = {text.id: LengthSearch(grids[text.id], list(lengths).index(first), attempts) for text in texts}
    rows: list[dict[str, Any]] = []
    while climbing := [text for text in texts if not ladders[text.id].over]:
        jobs = []
        for text in climbing:
            tokens, seed = ladders[text.id].next
            jobs.append((text, tokens, _job(lm, text, tokens, recipe.replace(seed=seed), start)))
        made = run_attempts(jobs, store, known=known, progress=progress, tell=tell)
        for (text, *_), row in zip(jobs, made, strict=True):
            ladders[text.id].report(bool(row and row["exact"]))
        rows += [row for row in made if row]
        keep(pd.DataFrame(rows))
        over = sum(attempts_by_length.over for attempts_by_length in ladders.values())
        tell(f"{len(rows)} attempts, {over} of {len(texts)} passages done")
    return pd.DataFrame(rows)


def _job(lm: FrozenLM, text: Text, tokens: int, recipe: Recipe, start: int | str) -> Job:
    return Plan.of(lm, [lm.passage(text, tokens, start=start)], recipe).jobs[0]


def run_attempts(
    jobs: Sequence[tuple[Text, int, Job]],
    store: Store,
    *,
    known: pd.DataFrame | None = None,
    progress: bool = True,
    tell: Callable[[str], None] = lambda line: None,
    keep: Callable[[list[dict[str, Any] | None]], object] | None = None,
) -> list[dict[str, Any] | None]:
    """The row of each attempt (text, length asked for, job), from ``known`` or trained now; None where it failed.

    Texts that begin alike share keys, and each has its own row. ``keep`` is given what there is whenever one has been
    added, None in place of those to come.
    """
    before: dict[str, dict[str, Any]] = {}
    if known is not None and len(known):
        require_columns(known, ATTEMPT)
        before = {row["key"]: row for row in known[[*ATTEMPT]].to_dict("records")}
    missing = {job.key: job for *_, job in jobs if job.key not in before}

    def rows(found: Mapping[str, MemVector]) -> list[dict[str, Any] | None]:
        made: list[dict[str, Any] | None] = []
        for text, tokens, job in jobs:
            if job.key in before:
                made.append(before[job.key] | {"text_id": text.id, "source": text.source, "length": tokens})
            elif job.key in found:
                made.append(attempt_row(text, tokens, job.recipe.seed, found[job.key]))
            else:
                made.append(None)
        return made

    finished, problems = 0, list[Exception]()

    def heard(now: RunProgress) -> bool:
        nonlocal finished
        if keep and now.finished > finished:
            finished = now.finished
            try:
                there = rows({key: store.get(key) for key in missing if key in store})
                keep(there)
                tell(f"{sum(row is not None for row in there)} of {len(jobs)} passages done")
            except Exception as error:  # a table that cannot be written is no failure of who is trained just now
                problems.append(error)
        return bool(problems)

    report = run(Plan(tuple(missing.values())), store, progress=progress, watch=heard)
    if problems:
        raise problems[0]
    for key, why in report.failed.items():
        tell(f"failed, and counted as not exact: {key[:12]}: {why}")
    made = rows({mem.key: mem for mem in report.results})
    if keep:
        keep(made)
    return made


def _within(lm: FrozenLM, text: Text, lengths: Sequence[int], first: int, start: int | str) -> list[int]:
    """The lengths that the text, and the model's context, have room for; ``first`` they must."""
    lm.passage(text, first, start=start)
    within = [n for n in lengths if n <= first]
    for n in lengths:
        if n > first:
            try:
                lm.passage(text, n, start=start)
            except PassageError:
                break
            within.append(n)
    return within


def growing(
    lm: FrozenLM,
    texts: Sequence[Text],
    store: Store,
    *,
    recipe: Recipe,
    token_passes: int | Mapping[str, int],
    longest: int,
    start: int | str = 0,
    known: pd.DataFrame | None = None,
    progress: bool = True,
    tell: Callable[[str], None] = lambda line: None,
    keep: Callable[[pd.DataFrame], None] = lambda rows: None,
) -> pd.DataFrame:
    """Horizons by a recipe that grows its text, with so many token passes each, or by the text's id as many as another
    search has spent on it (0: no limit but the recipe's patience).

    One row a passage, of the same columns; what counts is how many tokens its vector decodes to. A text that is shorter
    than ``longest`` is grown as far as it goes.
    """
    passages = [longest_of(lm, text, min(longest, room(lm, recipe)), start) for text in texts]
    given = {t.id: token_passes if isinstance(token_passes, int) else int(token_passes[t.id]) for t in texts}
    jobs = [
        (text, len(p), Plan.of(lm, [p], recipe.replace(token_budget=given[text.id])).jobs[0])
        for text, p in zip(texts, passages, strict=True)
    ]

    def told(made: Sequence[dict[str, Any] | None]) -> pd.DataFrame:
        return pd.DataFrame([row for row in made if row])

    return told(
        run_attempts(jobs, store, known=known, progress=progress, tell=tell, keep=lambda made: keep(told(made)))
    )


def longest_of(lm: FrozenLM, text: Text, tokens: int, start: int | str) -> Passage:
    """So many tokens of a text, or all of it, of one that has fewer; ``tokens`` fit into the model's context."""
    try:
        return lm.passage(text, tokens, start=start)
    except PassageError:
        return lm.passage(text, None, start=start)


def room(lm: FrozenLM, recipe: Recipe) -> int:
    """Tokens that fit into the model's context behind the recipe's vectors; the last one is said, and never fed."""
    before = len(lm.prefix_ids(recipe.prefix)) + recipe.k + len(recipe.suffix)
    return min(lm.context - before + 1, lm.context - 1) if lm.context else sys.maxsize


def retry_failures(
    lm: FrozenLM,
    texts: Sequence[Text],
    store: Store,
    attempts: pd.DataFrame,
    *,
    aim: int,
    recipe: Recipe | None = None,
    start: int | str = 0,
    known: pd.DataFrame | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Was it the search or the vector? Passages that failed below ``aim`` tokens, at that length, pressed further.

    Rows of ``horizon``'s columns, with ``way``: the failed attempt of least loss, four times its steps, other seeds,
    a start from the longest exact solution, and ``Recipe.fullmatrix`` (the same curvature, a free norm). If some still
    lower ``bits``, the failure says nothing about the vector.
    """
    recipe = recipe or Recipe.default()
    rows: list[dict[str, Any]] = []
    further: list[tuple[Text, str, Job]] = []
    for text in texts:
        tried = attempts[attempts.text_id == text.id]
        reached, failed = outcomes(tried)
        reached = reached.sort_values("length")
        if not len(failed) or failed.length.min() > aim:
            continue
        least = failed[failed.length == failed.length.min()].sort_values("bits").iloc[0]
        rows.append(least.to_dict() | {"way": "as it failed"})
        unused = int(tried.seed.max()) + 1
        ways: list[tuple[str, Recipe, MemVector | None]] = [
            ("four times the steps", recipe.replace(budget=4 * recipe.budget, seed=int(least.seed)), None),
            *(("another seed", recipe.replace(seed=unused + i), None) for i in range(3)),
            ("free norm", Recipe.fullmatrix(k=recipe.k, budget=2 * recipe.budget), None),
        ]
        if len(reached):
            longest = reached.iloc[-1]
            again = _job(lm, text, int(longest.length), recipe.replace(seed=int(longest.seed)), start)
            # A table knows its key, a store that is not this one has its vector: it is trained again if need be.
            ways.append(("from the longest exact", recipe, run(Plan((again,)), store, progress=progress).whole()[0]))
        passage = lm.passage(text, int(least.length), start=start)
        for way, r, parent in ways:
            plan = Plan.of(lm, [passage], r, start=[parent] if parent else None)
            further.append((text, way, plan.jobs[0]))
    jobs = [(text, len(job.passage), job) for text, _, job in further]
    made = run_attempts(jobs, store, known=known, progress=progress)
    rows += [row | {"way": way} for (_, way, _), row in zip(further, made, strict=True) if row]
    return pd.DataFrame(rows)


def extend_growth(
    lm: FrozenLM,
    texts: Sequence[Text],
    store: Store,
    attempts: pd.DataFrame,
    *,
    aim: int,
    recipe: Recipe,
    longest: int,
    start: int | str = 0,
    known: pd.DataFrame | None = None,
    progress: bool = True,
    tell: Callable[[str], None] = lambda line: None,
    keep: Callable[[pd.DataFrame], None] = lambda rows: None,
) -> pd.DataFrame:
    """What ``pressed`` asks, of rows of ``growing``: texts that ended below ``aim`` tokens are taken up to there, as a
    whole instead of by growing (the same rule, ``Recipe``'s own budget and margin), so with four times the steps, on
    from where they stood with four times the patience, by growing anew from another seed, and by
    ``Recipe.fullmatrix``'s rule (free norm).

    One way after the other, each for the texts that none before it has brought there: those that one does bring
    (``exact_prefix``) ended for want of search. ``keep`` is given the rows so far as they come. Vectors to go on from
    are those of the store or the ones that come with memlab; where neither has them they are trained again, up to
    ``longest`` as they were.
    """
    short = attempts[~attempts.exact & (attempts.exact_prefix < aim)]
    rows = [row | {"way": "as it ended"} for row in short.to_dict("records")]
    left = [text for text in texts if text.id in set(short.text_id)]
    whole = recipe.replace(grow=0, margin=Recipe.margin, budget=Recipe.budget, patience=0, token_budget=0)
    free = Recipe.fullmatrix(
        k=recipe.k, grow=recipe.grow, margin=recipe.margin, patience=recipe.patience, budget=recipe.budget,
        schedule="inverse", token_budget=recipe.token_budget,
    )  # fmt: skip

    def jobs(r: Recipe, tokens: int, stood: Mapping[str, MemVector] | None = None) -> list[tuple[Text, int, Job]]:
        made = []
        for text in left if stood is None else [text for text in left if text.id in stood]:
            passage = longest_of(lm, text, min(tokens, room(lm, r)), start)
            plan = Plan.of(lm, [passage], r, start=[stood[text.id]] if stood is not None else None)
            made.append((text, len(passage), plan.jobs[0]))
        return made

    def added(before: list[dict[str, Any]], way: str, made: Sequence[dict[str, Any] | None]) -> list[dict[str, Any]]:
        rows = [*before, *(row | {"way": way} for row in made if row)]
        keep(pd.DataFrame(rows))
        return rows

    def where_they_stood() -> dict[str, MemVector]:
        return _trained(jobs(recipe, longest), store, progress=progress)

    patient = recipe.replace(patience=4 * recipe.patience)
    further: dict[str, Callable[[], list[tuple[Text, int, Job]]]] = {
        "as a whole": lambda: jobs(whole, aim),
        "as a whole, four times the steps": lambda: jobs(whole.replace(budget=4 * whole.budget), aim),
        "four times the patience": lambda: jobs(patient, aim, where_they_stood()),
        "another seed": lambda: jobs(recipe.replace(seed=recipe.seed + 1), aim),
        "free norm": lambda: jobs(free, aim),
    }  # fmt: skip
    for way, of_it in further.items():
        if not left:
            break
        tell(f"{way}: {len(left)} passages")
        told = partial(added, rows, way)
        rows = told(run_attempts(of_it(), store, known=known, progress=progress, tell=tell, keep=told))
        there = {row["text_id"] for row in rows if row["exact"] or row["exact_prefix"] >= aim}
        left = [text for text in left if text.id not in there]
    return pd.DataFrame(rows)


def _trained(jobs: Sequence[tuple[Text, int, Job]], store: Store, *, progress: bool) -> dict[str, MemVector]:
    """The vectors of these jobs by their text's id, without those that fail: a table knows their keys, and a store
    that is not this one may have had them.
    """
    shelf = Store.bundled()
    found = {job.key: shelf.get(job.key) for *_, job in jobs if job.key not in store and job.key in shelf}
    missing = Plan(tuple({job.key: job for *_, job in jobs if job.key not in found}.values()))
    found |= {mem.key: mem for mem in run(missing, store, progress=progress).results}
    return {text.id: found[job.key] for text, _, job in jobs if job.key in found}


ATTEMPT = (
    "text_id", "source", "length", "tokens", "tried", "seed", "exact", "exact_prefix", "steps", "token_passes",
    "accuracy", "bits", "norm", "ended", "recipe", "key",
)  # fmt: skip
"""Columns of an attempt. ``tried``: the length (tokens) that it failed at, if it is not exact; of a text that grows,
the prefix it did not come beyond in the recipe's patience, and missing if its token passes ended before that."""


def _tried(mem: MemVector) -> float:
    if not mem.recipe.grow:
        return float(mem.n)
    return float(mem.provenance.get("stage", mem.n)) if mem.provenance.get("ended") == "patience" else float("nan")


def attempt_row(text: Text, tokens: int, seed: int, mem: MemVector) -> dict[str, Any]:
    """What one attempt at one length came to."""
    check = mem.checks[0]
    return {
        "text_id": text.id,
        "source": text.source,
        "length": tokens,
        "tokens": mem.n,
        "tried": _tried(mem),
        "seed": seed,
        "exact": mem.exact,
        "exact_prefix": mem.n if check.first_wrong is None else check.first_wrong,
        "steps": mem.steps,
        "token_passes": mem.provenance.get("token_passes"),
        "accuracy": mem.teacher_forced,
        "bits": mem.loss_bits,
        "norm": float(np.linalg.norm(mem.mem, axis=1).mean()),
        "ended": mem.provenance.get("ended"),
        "recipe": mem.recipe.name,
        "key": mem.key,
    }
