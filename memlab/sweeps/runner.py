"""Plans of many runs, and ``run``, which trains the missing ones and records failures without stopping the others."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

from memlab.errors import ArgumentError, MemlabError, as_list, require_count, require_function, require_type
from memlab.models import FrozenLM, ModelError, Passage, PassageError, load
from memlab.recipes import Recipe
from memlab.results.mem_vector import MemVector, VectorError
from memlab.results.store import Store
from memlab.sweeps.dispatch import Chunk, RunProgress, dispatch, split_by_length
from memlab.sweeps.executors import ExecutorFactory
from memlab.sweeps.retry import train_with_retries
from memlab.texts import Text
from memlab.training.cram import CramInterrupted, Progress, key_of
from memlab.training.job import ADOPTED

OnProgress = Callable[[RunProgress], bool | None]
"""Called during a run, about once a second or once a step. Returns True to stop the run."""


@dataclass(frozen=True)
class Job:
    """One run: a passage, the model that it was cut for, and the recipe to cram it with."""

    lm: FrozenLM
    passage: Passage
    recipe: Recipe
    key: str
    parent: MemVector | None = None
    """The vectors to start from. None: start from noise."""


@dataclass(frozen=True)
class Plan:
    """Jobs in order, each key once, and the passages that could not be made, each with the reason.

    >>> from memlab import Plan, Recipe, Text, load
    >>> text = Text("short", "Go on.")
    >>> plan = Plan.grid(load("toy:llama"), [text], tokens=[2, 50], recipes=Recipe.default(k=2), seeds=[0, 1])
    >>> len(plan)
    2
    >>> plan.rejected[0][0]
    'toy:llama, short, 50 tokens'
    """

    jobs: tuple[Job, ...]
    rejected: tuple[tuple[str, str], ...] = ()
    """Pairs: (model, text and length; reason)."""

    def __len__(self) -> int:
        return len(self.jobs)

    def __iter__(self) -> Iterator[Job]:
        return iter(self.jobs)

    @classmethod
    def of(
        cls,
        lm: FrozenLM,
        passages: Passage | Iterable[Passage],
        recipes: Recipe | str | Iterable[Recipe | str],
        *,
        start: Sequence[MemVector] | None = None,
    ) -> Plan:
        """Every passage with every recipe, on one model. ``start``: the vectors to start from, one per passage."""
        require_type("lm", lm, FrozenLM, "a model that load(name) returns")
        recipes = _recipes(recipes)
        passages = as_list("passages", passages, Passage, "passages, such as lm.passage(text)")
        parents = list(start) if start is not None else [None] * len(passages)
        if len(parents) != len(passages):
            raise ArgumentError(f"start has {len(parents)} vectors for {len(passages)} passages. Give one per passage.")
        pairs = itertools.product(zip(passages, parents, strict=True), recipes)
        return cls._unique((Job(lm, p, r, key_of(lm, p, r, parent), parent) for (p, parent), r in pairs), rejected=())

    @classmethod
    def grid(
        cls,
        models: str | FrozenLM | Sequence[str | FrozenLM],
        texts: Text | Iterable[Text],
        *,
        tokens: int | Sequence[int | None] | None,
        recipes: Recipe | str | Sequence[Recipe | str] | None = None,
        seeds: int | Sequence[int] | None = None,
        start: int | str = 0,
    ) -> Plan:
        """The grid model x text x length x recipe x seed. A text that is too short goes to ``rejected``."""
        chosen = _recipes("default" if recipes is None else recipes)
        if seeds is not None:
            chosen = [r.replace(seed=s) for r in chosen for s in as_list("seeds", seeds, Integral, "whole numbers")]
        models = as_list("models", models, (str, os.PathLike, FrozenLM), "models, or their names")
        texts = as_list("texts", texts, Text, 'texts, such as load_texts("originals")')
        lengths = as_list("tokens", tokens, (Integral, type(None)), "whole numbers, or None for the whole text")
        jobs: list[Job] = []
        rejected: list[tuple[str, str]] = []
        for lm in (m if isinstance(m, FrozenLM) else load(m) for m in models):
            for text, n in itertools.product(texts, lengths):
                name = f"{lm.name}, {text.id}, {n} tokens"
                try:
                    passage = lm.passage(text, n, start=start)
                except PassageError as error:
                    rejected.append((name, str(error)))
                    continue
                for recipe in chosen:
                    try:
                        jobs.append(Job(lm, passage, recipe, key_of(lm, passage, recipe)))
                    except (PassageError, ModelError) as error:
                        rejected.append((f"{name}, {recipe.name}", str(error)))
        return cls._unique(jobs, rejected)

    @classmethod
    def _unique(cls, jobs: Iterable[Job], rejected: Iterable[tuple[str, str]]) -> Plan:
        return cls(tuple({job.key: job for job in jobs}.values()), tuple(rejected))

    def missing(self, store: Store) -> Plan:
        """The jobs that have no result in the store yet."""
        return Plan(tuple(job for job in self.jobs if job.key not in store))


@dataclass
class RunReport:
    """The outcome of a run. ``results`` are in the plan's order, without the jobs that failed."""

    results: list[MemVector] = field(default_factory=list)
    trained: int = 0
    """How many of the results were trained in this run. The others came from the store."""
    failed: dict[str, str] = field(default_factory=dict)
    """{key: error}; also recorded in the store."""
    rejected: tuple[tuple[str, str], ...] = ()
    seconds: float = 0.0

    def whole(self) -> list[MemVector]:
        """``results``, if no job failed. Else raises ``RunsFailedError``: a mean over the rest would be biased."""
        if self.failed:
            key, why = next(iter(self.failed.items()))
            raise RunsFailedError(
                f"{len(self.failed)} of {len(self.failed) + len(self.results)} runs failed. Run {key[:12]} failed with "
                f"this error: {why}. Fix the cause and start again. Finished runs are in the store and are kept."
            )
        return self.results


def _recipes(given: Any) -> list[Recipe]:
    return [Recipe.of(one) for one in as_list("recipes", given, (Recipe, str, Mapping), "recipes, or their names")]


class RunsFailedError(MemlabError, RuntimeError):
    """Runs that an experiment needs have failed. The message gives the error of one of them."""


def run(
    plan: Plan,
    store: Store,
    *,
    portable: bool = False,
    progress: bool = True,
    executor: ExecutorFactory | None = None,
    chunk: int = 16,
    on_progress: OnProgress | None = None,
) -> RunReport:
    """Train what the store lacks, one model after the other. An interrupted run continues when it is called again.

    >>> import tempfile
    >>> from memlab import Plan, Recipe, Store, Text, load, run
    >>> plan = Plan.grid(load("toy:llama"), [Text("a", "Go on.")], tokens=2, recipes=Recipe.default(budget=9))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     reports = [run(plan, Store(folder), progress=False) for _ in range(2)]
    >>> [report.trained for report in reports]
    [1, 0]

    Jobs that fail are tried again, see ``retry.after_failure``. A job that fails for good is recorded with its error
    and does not stop the others. A store that cannot be written stops the run: no later result could be saved.

    By default the jobs train in this process. With an ``executor`` (``executors.processes()``, or any function that
    makes a ``concurrent.futures.Executor``) its workers train them, in chunks of ``chunk`` passages.

    ``on_progress`` stops the run by returning True. Workers then finish the chunks that they have begun. What is
    finished is in the store and in the report.
    """
    require_type("plan", plan, Plan, "a plan, such as Plan.grid(models, texts, tokens=16)")
    require_type("store", store, Store, "a Store, such as Store(folder)")
    require_count("chunk", chunk)
    require_function("executor", executor)
    require_function("on_progress", on_progress)
    began = time.perf_counter()
    report = RunReport(rejected=plan.rejected)
    stored = {job.key for job in plan if job.key in store}
    stop = _Stop(on_progress)
    for lm in {id(job.lm): job.lm for job in plan}.values():
        jobs = [job for job in plan if job.lm is lm]
        if stop.requested:
            break
        if executor is None:
            results, failed = _run_local(lm, jobs, store, portable, progress, stop)
        else:
            missing, failed = _missing_jobs(jobs, store)
            failed |= _run_remote(lm, missing, store, executor, chunk, portable, stop)
            results = _from_store(lm, [job for job in jobs if job.key not in failed], store, portable)
        report.failed |= failed
        report.results += [results[job.key] for job in jobs if job.key in results]
    place = {job.key: i for i, job in enumerate(plan)}
    report.results.sort(key=lambda mem: place[mem.key])
    report.trained = len({mem.key for mem in report.results if ADOPTED not in mem.provenance} - stored)
    report.seconds = time.perf_counter() - began
    return report


class _Stop:
    """Calls ``on_progress`` and remembers that it returned True, so that the next model is not begun."""

    def __init__(self, on_progress: OnProgress | None) -> None:
        self._on_progress, self.requested = on_progress, False

    def __call__(self, now: RunProgress) -> bool:
        self.requested = self.requested or bool(self._on_progress and self._on_progress(now))
        return self.requested


def _from_store(lm: FrozenLM, jobs: Sequence[Job], store: Store, portable: bool) -> dict[str, MemVector]:
    """The stored results of these jobs. ``cram`` reads them, restores token ids, and makes missing checks."""
    mems, _ = _train(lm, [job for job in jobs if job.key in store], store, portable=portable)
    return {mem.key: mem for mem in mems}


def _train(lm: FrozenLM, jobs: Sequence[Job], store: Store, **options: Any) -> tuple[list[MemVector], dict[str, str]]:
    keys, passages, recipes, parents = (
        [getattr(job, name) for job in jobs] for name in ("key", "passage", "recipe", "parent")
    )
    return train_with_retries(lm, keys, passages, recipes, parents, store, **options)


def _missing_jobs(jobs: Sequence[Job], store: Store) -> tuple[list[Job], dict[str, str]]:
    """Jobs without a result, and {key: error} of jobs whose result file cannot be read by this version."""
    missing, failed = list[Job](), dict[str, str]()
    for job in jobs:
        try:
            if store.fetch(job.key) is None:  # moves a damaged file to quarantine
                missing.append(job)
        except VectorError as error:
            failed[job.key] = f"{type(error).__name__}: {error}"
    return missing, failed


LOOKUP_ALWAYS = 1000
"""Up to this number of jobs, the store is searched for all of them each time a passage ends."""


def _run_local(
    lm: FrozenLM, jobs: Sequence[Job], store: Store, portable: bool, progress: bool, stop: _Stop
) -> tuple[dict[str, MemVector], dict[str, str]]:
    missing = [job for job in jobs if job.key not in store]
    failed: dict[str, str] = {}
    seen, finished, searched, took = (-1, -1), 0, 0.0, 0.0

    def on_step(now: Progress) -> bool:
        nonlocal seen, finished, searched, took
        began = time.perf_counter()
        # With more jobs, searching takes at most one hundredth of the time.
        if seen != (now.finished, now.total) and (len(missing) <= LOOKUP_ALWAYS or began - searched > 100 * took):
            seen, finished = (now.finished, now.total), sum(job.key in store for job in missing)
            searched = time.perf_counter()
            took = searched - began
        keys = [jobs[i].key for i in now.passages]
        training = dict(zip(keys, zip(now.steps, now.accuracy, strict=True), strict=True))
        return stop(RunProgress(len(missing), finished + len(failed), len(failed), len(keys), training))

    try:
        mems, _ = _train(lm, jobs, store, portable=portable, progress=progress, on_step=on_step, failed=failed)
    except CramInterrupted:
        if not stop.requested:
            raise
        return _from_store(lm, jobs, store, portable=False), failed
    return {mem.key: mem for mem in mems}, failed


def _run_remote(
    lm: FrozenLM,
    jobs: Sequence[Job],
    store: Store,
    factory: ExecutorFactory,
    size: int,
    portable: bool,
    stop: _Stop,
) -> dict[str, str]:
    """Train jobs in an executor's workers; returns {key: error}."""
    if not jobs:
        return {}
    all_jobs = Chunk(
        lm.origin, lm.revision, lm.fingerprint, str(store.path.absolute()), tuple(j.key for j in jobs),
        tuple(j.passage for j in jobs), tuple(j.recipe.canonical() for j in jobs), tuple(j.parent for j in jobs),
        portable, lm.loaded_with,
    )  # fmt: skip
    store.check_writable()
    return dispatch(split_by_length(all_jobs, size), store, factory, stop)
