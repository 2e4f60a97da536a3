"""Dispatches jobs to an executor's workers. Workers get passages and recipes, and write their results to the store."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Future
from dataclasses import dataclass, field, replace
from typing import Any

from memlab.models import ModelError, Passage, load
from memlab.recipes import Recipe
from memlab.results.mem_vector import MemVector
from memlab.results.store import Store, StoreError
from memlab.sweeps.executors import ExecutorFactory
from memlab.sweeps.retry import after_failure, train_with_retries

STORE_DELAY = 5.0
"""Seconds to wait until a worker's result is visible in the store here. Network file systems can be slow."""


@dataclass(frozen=True)
class Chunk:
    """Passages of one model that one worker trains together."""

    model: str
    revision: str | None
    fingerprint: str
    store: str
    keys: tuple[str, ...]
    passages: tuple[Passage, ...]
    recipes: tuple[str, ...]
    """Canonical JSON, one per passage."""
    parents: tuple[MemVector | None, ...]
    portable: bool = False
    loaded_with: Mapping[str, Any] = field(default_factory=dict)
    """The other arguments of ``load`` that the plan's model was loaded with."""

    def part(self, places: Sequence[int]) -> Chunk:
        """A chunk with the passages at these places only."""
        columns: dict[str, Any] = {
            name: tuple(getattr(self, name)[i] for i in places) for name in ("keys", "passages", "recipes", "parents")
        }
        return replace(self, **columns)


@dataclass
class Outcome:
    """What a worker returns: keys, never tensors."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """{key: error}; also recorded in the store."""


@dataclass(frozen=True)
class RunProgress:
    """What ``on_progress`` gets, about once a second."""

    total: int
    """Jobs that had no result in the store at the start."""
    finished: int
    """Of these: jobs that now have a result, or have failed for good."""
    failed: int
    given_out: int
    """Jobs that workers are training now."""
    training: Mapping[str, tuple[int, float] | None] = field(default_factory=dict)
    """{key: (steps taken, share of scored tokens that are argmax, teacher-forced)} of these jobs. None: a worker
    trains it, and tells no more."""


_training_lock = threading.Lock()
"""A worker may have many threads (Dask's default), but one chunk fills its memory."""


def work(chunk: Chunk) -> Outcome:
    """Train a chunk into its store. Runs in the worker, which loads the model once and keeps it."""
    lm = load(chunk.model, revision=chunk.revision, **chunk.loaded_with)
    if lm.fingerprint != chunk.fingerprint:
        raise ModelError(
            f"The worker loaded {chunk.model} with weights {lm.fingerprint[:12]}, but the plan was made with "
            f"{chunk.fingerprint[:12]}. A model that is only in memory cannot be sent to workers. Save the model, and "
            "make the plan with its folder or name."
        )
    recipes = [Recipe.from_json(text) for text in chunk.recipes]
    with _training_lock:
        mems, failed = train_with_retries(
            lm, chunk.keys, chunk.passages, recipes, chunk.parents, Store(chunk.store), portable=chunk.portable
        )
    return Outcome([mem.key for mem in mems], failed)


def dispatch(
    chunks: Sequence[Chunk],
    store: Store,
    factory: ExecutorFactory,
    on_progress: Callable[[RunProgress], bool | None] | None = None,
) -> dict[str, str]:
    """Give chunks to workers until each job has a result in the store or has failed for good; returns {key: error}.

    A chunk that raises, or whose worker dies, is retried as ``retry.after_failure`` says. If ``on_progress`` returns
    True, no more chunks are given out, and the workers finish what they have begun.
    """
    dispatcher = Dispatcher(chunks, store, factory)
    try:
        while dispatcher.submit():
            dispatcher.collect()
            if on_progress and on_progress(dispatcher.progress()):
                while dispatcher.running:
                    dispatcher.collect()
                    on_progress(dispatcher.progress())
                break
    except KeyboardInterrupt:
        begun = dispatcher.progress().given_out
        print(f"\nInterrupted: workers finish the {begun} passages that they have begun. ", end="", file=sys.stderr)
        print("Press Ctrl-C again to stop at once.", file=sys.stderr)
        raise
    finally:
        dispatcher.close()
    return dispatcher.failed


class Dispatcher:
    """Waiting chunks and running chunks, each with its number of failures, and the jobs that have failed for good."""

    def __init__(self, chunks: Sequence[Chunk], store: Store, factory: ExecutorFactory) -> None:
        self.store, self.factory, self.executor = store, factory, factory()
        self.waiting = [(chunk, 0) for chunk in chunks]
        self.running: dict[Future[Outcome], tuple[Chunk, int]] = {}
        self.failed: dict[str, str] = {}
        self.total, self.finished = sum(len(chunk.keys) for chunk in chunks), 0
        # One chunk per worker. Further chunks would be lost if the executor broke, and would be trained after a stop.
        # A queue such as SLURM's does not say how many workers it has.
        self.at_once = int(getattr(factory, "count", 0) or getattr(self.executor, "_max_workers", 64))

    def close(self) -> None:
        """Wait until the workers finish their chunks. An interrupt during this wait kills processes that we started."""
        try:
            while not all(future.done() for future in self.running):
                time.sleep(0.05)
        except KeyboardInterrupt:
            if hasattr(self.executor, "kill"):
                self.executor.kill()
            raise
        if hasattr(self.executor, "shutdown"):  # submitit's executors have no shutdown
            self.executor.shutdown(wait=True)

    def progress(self) -> RunProgress:
        training = {key: None for chunk, _ in self.running.values() for key in chunk.keys}
        return RunProgress(self.total, self.finished, len(self.failed), len(training), training)

    def submit(self) -> bool:
        """Keep the workers busy. Returns whether anything is left to do."""
        # ``waiting`` is in order of failures. A job that has failed twice runs alone: if all workers
        # of an executor die together, another job's crash would count as a failure of this job.
        while self.waiting and len(self.running) < (self.at_once if self.waiting[0][1] < 2 else 1):
            try:
                future = self.executor.submit(work, self.waiting[0][0])
            except BrokenExecutor:
                self.executor = self.factory()
                continue
            self.running[future] = self.waiting.pop(0)
        return bool(self.running)

    def collect(self) -> None:
        """Wait up to one second for finished chunks, and record their outcomes."""
        # Polling, because submitit's futures have done() but do not work with concurrent.futures.wait().
        until = time.monotonic() + 1.0
        while not (done := [future for future in self.running if future.done()]) and time.monotonic() < until:
            time.sleep(0.02)
        for future in done:
            chunk, failures = self.running.pop(future)
            error = future.exception()
            if isinstance(error, StoreError):
                raise error
            if error is None:
                self.complete(chunk, future.result())
            else:
                self.retry(chunk, failures + 1, error)

    def complete(self, chunk: Chunk, outcome: Outcome) -> None:
        """Record a finished chunk. Each job that the worker reports as done must also be in the store here."""
        self.failed |= outcome.failed
        self.finished += len(chunk.keys)
        until = time.monotonic() + STORE_DELAY
        absent = [key for key in chunk.keys if key not in outcome.failed]
        while (absent := [key for key in absent if key not in self.store]) and time.monotonic() < until:
            time.sleep(0.1)
        for key in absent:
            self.fail(
                key,
                f"The worker reported this job as finished, but {self.store.path} has no result for it. "
                "Use a store folder that the workers and the main process share.",
            )

    def retry(self, chunk: Chunk, failures: int, error: BaseException) -> None:
        """Retry the jobs of a failed chunk that have no result in the store, or record them as failed."""
        left = [i for i, key in enumerate(chunk.keys) if key not in self.store]
        self.finished += len(chunk.keys) - len(left)
        if retries := after_failure(left, failures, worker_failed=True):
            self.waiting += [(chunk.part(jobs), count) for jobs, count in retries if jobs]
            self.waiting.sort(key=lambda item: item[1])
            return
        self.finished += len(left)
        for i in left:
            self.fail(chunk.keys[i], f"{type(error).__name__}: {error}")

    def fail(self, key: str, why: str) -> None:
        self.failed[key] = why
        self.store.record_failure(key, why)


def split_by_length(chunk: Chunk, size: int) -> list[Chunk]:
    """Parts of at most ``size`` passages, longest passages first: passages of one length need no padding."""
    order = sorted(range(len(chunk.keys)), key=lambda i: -len(chunk.passages[i]))
    return [chunk.part(sorted(order[i : i + size])) for i in range(0, len(order), size)]
