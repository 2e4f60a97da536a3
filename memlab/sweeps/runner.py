"""Plans of many runs, and the one runner: what is missing is trained, what fails is recorded and stops no other."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from memlab.errors import MemlabError
from memlab.models import FrozenLM, ModelError, Passage, PassageError, load
from memlab.recipes import Recipe
from memlab.results.mem_vector import MemVector, VectorError
from memlab.results.store import Store
from memlab.sweeps.executors import Chunk, ExecutorFactory, RunProgress, dispatch, split_by_length
from memlab.sweeps.retry import train_with_retries
from memlab.texts import Text
from memlab.training.cram import CramInterrupted, Progress, key_of


@dataclass(frozen=True)
class Job:
    """One run: a passage, the model it was cut for, and how to cram it."""

    lm: FrozenLM
    passage: Passage
    recipe: Recipe
    key: str
    parent: MemVector | None = None
    """The vectors to go on from, if not from noise."""


@dataclass(frozen=True)
class Plan:
    """Jobs in order, each key once, and the passages that could not be made, with the reason."""

    jobs: tuple[Job, ...]
    rejected: tuple[tuple[str, str], ...] = ()
    """(model, text and length; why)."""

    def __len__(self) -> int:
        return len(self.jobs)

    def __iter__(self) -> Iterator[Job]:
        return iter(self.jobs)

    @classmethod
    def of(
        cls,
        lm: FrozenLM,
        passages: Iterable[Passage],
        recipes: Recipe | Iterable[Recipe],
        *,
        start: Sequence[MemVector] | None = None,
    ) -> Plan:
        """Every passage with every recipe, on one model; ``start`` has the vectors each passage goes on from."""
        recipes = [recipes] if isinstance(recipes, Recipe) else list(recipes)
        passages = list(passages)
        parents = list(start) if start is not None else [None] * len(passages)
        pairs = itertools.product(zip(passages, parents, strict=True), recipes)
        return cls._unique((Job(lm, p, r, key_of(lm, p, r, parent), parent) for (p, parent), r in pairs), rejected=())

    @classmethod
    def grid(
        cls,
        models: str | FrozenLM | Sequence[str | FrozenLM],
        texts: Iterable[Text],
        *,
        tokens: int | Sequence[int | None] | None,
        recipes: Recipe | Sequence[Recipe] | None = None,
        seeds: Sequence[int] | None = None,
        start: int | str = 0,
    ) -> Plan:
        """The grid model x text x length x recipe x seed. A text too short for a length is rejected, not fatal."""
        recipes = [recipes or Recipe.default()] if not isinstance(recipes, Sequence) else list(recipes)
        if seeds is not None:
            recipes = [r.replace(seed=s) for r in recipes for s in seeds]
        models = [models] if isinstance(models, (str, FrozenLM)) else list(models)
        texts = list(texts)
        lengths = list(tokens) if isinstance(tokens, Sequence) else [tokens]
        jobs: list[Job] = []
        rejected: list[tuple[str, str]] = []
        for lm in (m if isinstance(m, FrozenLM) else load(m) for m in models):
            for text, n in itertools.product(texts, lengths):
                what = f"{lm.name}, {text.id}, {n} tokens"
                try:
                    passage = lm.passage(text, n, start=start)
                except PassageError as error:
                    rejected.append((what, str(error)))
                    continue
                for recipe in recipes:
                    try:
                        jobs.append(Job(lm, passage, recipe, key_of(lm, passage, recipe)))
                    except (PassageError, ModelError) as error:
                        rejected.append((f"{what}, {recipe.name}", str(error)))
        return cls._unique(jobs, rejected)

    @classmethod
    def _unique(cls, jobs: Iterable[Job], rejected: Iterable[tuple[str, str]]) -> Plan:
        return cls(tuple({job.key: job for job in jobs}.values()), tuple(rejected))

    def missing(self, store: Store) -> Plan:
        """The jobs that have no result in the store yet."""
        return Plan(tuple(job for job in self.jobs if job.key not in store))


@dataclass
class RunReport:
    """What became of a plan. ``results`` are in the plan's order, without the jobs that failed."""

    results: list[MemVector] = field(default_factory=list)
    trained: int = 0
    """How many were trained now; the others came from the store."""
    failed: dict[str, str] = field(default_factory=dict)
    """{key: error}; also recorded in the store."""
    rejected: tuple[tuple[str, str], ...] = ()
    seconds: float = 0.0

    def whole(self) -> list[MemVector]:
        """``results``, where nothing failed: a share or a mean of those that did not would say too much.

        Raises ``RunsFailedError``.
        """
        if self.failed:
            key, why = next(iter(self.failed.items()))
            raise RunsFailedError(
                f"{len(self.failed)} of {len(self.failed) + len(self.results)} runs failed, {key[:12]} with: {why}. "
                "What is done is in the store and is not trained again: mend that, and start it once more"
            )
        return self.results


class RunsFailedError(MemlabError, RuntimeError):
    """Runs of an experiment failed, which it cannot do without; the message names one of them and its error."""


def run(
    plan: Plan,
    store: Store,
    *,
    portable: bool = False,
    progress: bool = True,
    executor: ExecutorFactory | None = None,
    chunk: int = 16,
    watch: Callable[[RunProgress], bool | None] | None = None,
) -> RunReport:
    """Train what the store lacks, model by model; interrupt and call again, and it goes on.

    Where something fails, the jobs not done yet are tried again in halves, down to single ones, since nobody knows
    whose fault it was; a job that fails alone, twice, is recorded with its error and stops no other. A store that
    cannot be written ends the run: nothing after it could be kept.

    In process, or with an ``executor`` (``workers.processes()``, or any function that makes a
    ``concurrent.futures.Executor``) in ``chunk``s of passages elsewhere, see ``workers.dispatch``. ``watch`` is told
    how it goes, and stops the run by returning True: what is finished is in the store and in the report; what is on a
    bench elsewhere is finished there first.
    """
    began = time.perf_counter()
    report = RunReport(rejected=plan.rejected)
    known = {job.key for job in plan if job.key in store}
    stop = _Stop(watch)
    for lm in {id(job.lm): job.lm for job in plan}.values():
        jobs = [job for job in plan if job.lm is lm]
        if stop.asked:
            break
        if executor is None:
            found, failed = _run_local(lm, jobs, store, portable, progress, stop)
        else:
            lacked, failed = _missing_jobs(jobs, store)
            failed |= _run_remote(lm, lacked, store, executor, chunk, portable, stop)
            found = _known(lm, [job for job in jobs if job.key not in failed], store, portable)
        report.failed |= failed
        report.results += [found[job.key] for job in jobs if job.key in found]
    place = {job.key: i for i, job in enumerate(plan)}
    report.results.sort(key=lambda mem: place[mem.key])
    report.trained = len({mem.key for mem in report.results} - known)
    report.seconds = time.perf_counter() - began
    return report


class _Stop:
    """Remembers that ``watch`` has asked to stop: what comes after is not begun."""

    def __init__(self, watch: Callable[[RunProgress], bool | None] | None) -> None:
        self._watch, self.asked = watch, False

    def __call__(self, going: RunProgress) -> bool:
        self.asked = self.asked or bool(self._watch and self._watch(going))
        return self.asked


def _known(lm: FrozenLM, jobs: Sequence[Job], store: Store, portable: bool) -> dict[str, MemVector]:
    """What the store has of these jobs, as ``cram`` gives it back: ids put back, checks that were asked for made."""
    there = [job for job in jobs if job.key in store]
    made, _ = train_with_retries(
        lm, [j.key for j in there], [j.passage for j in there], [j.recipe for j in there], [j.parent for j in there],
        store, portable=portable,
    )  # fmt: skip
    return {mem.key: mem for mem in made}


def _missing_jobs(jobs: Sequence[Job], store: Store) -> tuple[list[Job], dict[str, str]]:
    """Jobs without a result, and {key: error} of those whose file is there and cannot be used."""
    lacked, failed = list[Job](), dict[str, str]()
    for job in jobs:
        try:
            if store.fetch(job.key) is None:  # a damaged file gives way
                lacked.append(job)
        except VectorError as error:
            failed[job.key] = f"{type(error).__name__}: {error}"
    return lacked, failed


OFTEN = 1000
"""Jobs of which it is looked up, whenever one has ended, which of them are in the store."""


def _run_local(
    lm: FrozenLM, jobs: Sequence[Job], store: Store, portable: bool, progress: bool, stop: _Stop
) -> tuple[dict[str, MemVector], dict[str, str]]:
    lacked = [job for job in jobs if job.key not in store]
    failed: dict[str, str] = {}
    seen, finished, looked, took = (-1, -1), 0, 0.0, 0.0

    def heard(now: Progress) -> bool:
        nonlocal seen, finished, looked, took
        began = time.perf_counter()
        # Looked up when a passage has ended; of many thousands for a hundredth of the time at most.
        if seen != (now.finished, now.total) and (len(lacked) <= OFTEN or began - looked > 100 * took):
            seen, finished = (now.finished, now.total), sum(job.key in store for job in lacked)
            looked = time.perf_counter()
            took = looked - began
        return stop(RunProgress(len(lacked), finished + len(failed), len(failed), len(now.passages)))

    try:
        made, _ = train_with_retries(
            lm, [j.key for j in jobs], [j.passage for j in jobs], [j.recipe for j in jobs], [j.parent for j in jobs],
            store, portable=portable, progress=progress, watch=heard, failed=failed,
        )  # fmt: skip
    except CramInterrupted:
        if not stop.asked:
            raise
        return _known(lm, jobs, store, portable=False), failed
    return {mem.key: mem for mem in made}, failed


def _run_remote(
    lm: FrozenLM,
    jobs: Sequence[Job],
    store: Store,
    factory: ExecutorFactory,
    size: int,
    portable: bool,
    stop: _Stop,
) -> dict[str, str]:
    """Hand jobs to an executor's workers; {key: error}."""
    if not jobs:
        return {}
    whole = Chunk(
        lm.origin, lm.revision, lm.fingerprint, str(store.path.absolute()), tuple(j.key for j in jobs),
        tuple(j.passage for j in jobs), tuple(j.recipe.canonical() for j in jobs), tuple(j.parent for j in jobs),
        portable, lm.loaded_with,
    )  # fmt: skip
    store.check_writable()
    return dispatch(split_by_length(whole, size), store, factory, stop)
