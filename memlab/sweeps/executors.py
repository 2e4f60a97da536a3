"""Runs in other processes or on other machines: what a worker is given, what it hands back, and who starts it.

A worker gets passages and recipes and gives back keys; vectors go through the store, which all of them write to. The
one interface is ``concurrent.futures.Executor``: whatever offers it will do, a Dask client's ``get_executor()`` say.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from memlab.errors import MemlabError
from memlab.models import ModelError, Passage
from memlab.results.mem_vector import MemVector
from memlab.results.store import Store, StoreError

ExecutorFactory = Callable[[], Executor]
"""Makes an executor: called again where the last one broke, as a process pool does when a worker is killed."""


class WorkerError(MemlabError, RuntimeError):
    """Workers that cannot be had; the message says what to install or what to give."""

    exit_code = 2


@dataclass(frozen=True)
class Chunk:
    """What one worker trains together: passages of one model."""

    model: str
    revision: str | None
    fingerprint: str
    store: str
    keys: tuple[str, ...]
    passages: tuple[Passage, ...]
    recipes: tuple[str, ...]
    """Canonical JSON, one a passage."""
    parents: tuple[MemVector | None, ...]
    portable: bool = False
    loaded_with: Mapping[str, Any] = field(default_factory=dict)
    """How the plan's own model was loaded, beside its name."""

    def only(self, keys: set[str]) -> Chunk:
        """The part of it with these keys."""
        return self.part([i for i, key in enumerate(self.keys) if key in keys])

    def part(self, at: Sequence[int]) -> Chunk:
        """The passages at these places."""

        def some(values: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(values[i] for i in at)

        return replace(
            self,
            keys=some(self.keys),
            passages=some(self.passages),
            recipes=some(self.recipes),
            parents=some(self.parents),
        )


@dataclass
class Outcome:
    """What a worker hands back: keys, never tensors."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """{key: error}; also recorded in the store."""


_training_lock = threading.Lock()
"""A worker may have many threads, as Dask's do by default; one bench fills it."""


def work(chunk: Chunk) -> Outcome:
    """Train a chunk into its store: in the worker, which loads the model the first time and keeps it."""
    from memlab.models import load
    from memlab.recipes import Recipe
    from memlab.sweeps.retry import train_with_retries

    lm = load(chunk.model, revision=chunk.revision, **chunk.loaded_with)
    if lm.fingerprint != chunk.fingerprint:
        raise ModelError(
            f"this worker's {chunk.model} has other weights ({lm.fingerprint[:12]}) than the plan was made with "
            f"({chunk.fingerprint[:12]}): a model that is only in memory cannot be sent; give its folder or name"
        )
    recipes = [Recipe.from_json(text) for text in chunk.recipes]
    with _training_lock:
        done, failed = train_with_retries(
            lm, chunk.keys, chunk.passages, recipes, chunk.parents, Store(chunk.store), portable=chunk.portable
        )
    return Outcome([mem.key for mem in done], failed)


@contextlib.contextmanager
def processes(count: int | None = None, *, threads: int | None = None) -> Iterator[ExecutorFactory]:
    """Spawned processes as executors: one a GPU where there are GPUs, else ``count`` that share the cores.

    ``threads`` of each (default: the cores, shared out). Yields a factory for ``runs.run(plan, store, executor=...)``.
    """
    cards = visible_gpus()
    number = count or len(cards) or 2
    each = threads or _share(number)
    made: list[_ProcessPool] = []

    def factory() -> Executor:
        made.append(_ProcessPool(number, cards, each))
        return made[-1]

    try:
        yield factory
    finally:
        for pool in made:
            pool.shutdown(wait=True, cancel_futures=True)


class _ProcessPool(Executor):
    """Worker processes, each a pool of its own: a pool that loses one of its processes ends all the others too."""

    def __init__(self, count: int, cards: list[str], threads: int) -> None:
        self.visible_gpus, self._threads = cards, threads
        self._processes: list[ProcessPoolExecutor | None] = [None] * count
        self._last: list[Future[Any] | None] = [None] * count
        self._max_workers = count

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Give work to a process that has none, else to the first."""
        idle = (i for i, future in enumerate(self._last) if future is None or future.done())
        rank = next(idle, 0)
        process = self._processes[rank]
        try:
            future = (process or self._start(rank)).submit(fn, *args, **kwargs)
        except BrokenExecutor:  # it was killed: another takes its place
            future = self._start(rank).submit(fn, *args, **kwargs)
        self._last[rank] = future
        return future

    def _start(self, rank: int) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        card = self.visible_gpus[rank % len(self.visible_gpus)] if self.visible_gpus else None
        made = ProcessPoolExecutor(1, mp_context=context, initializer=_begin, initargs=(card, self._threads))
        self._processes[rank] = made
        return made

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End all processes; what they have begun is finished first."""
        for process in self._processes:
            if process:
                process.shutdown(wait=wait, cancel_futures=cancel_futures)

    def kill(self) -> None:
        """End all processes now; where long trainings stand was kept minutes ago."""
        for pool in filter(None, self._processes):
            for process in list((pool._processes or {}).values()):  # no public way before Python 3.14
                process.terminate()


@contextlib.contextmanager
def dask_workers(where: str) -> Iterator[Workers]:
    """The workers of a Dask scheduler at that address, or of ``local`` (``local:3``: three processes) for the time.

    Yields ``Workers``, with the address of Dask's dashboard. Workers started with ``--resources "GPU=1"`` get one chunk
    a GPU at a time; ``local`` sees to that itself. Needs ``pip install 'memlab[dask]'``; the workers need memlab, the
    models, and the store under the same path.
    """
    try:
        from distributed import Client
    except ImportError:
        raise WorkerError("Dask needs one more package: pip install 'memlab[dask]'") from None
    with contextlib.ExitStack() as stack:
        address: Any = where
        if where == "local" or where.startswith("local:"):
            count = where.partition(":")[2] or str(len(visible_gpus()) or 2)
            if not count.isdigit() or not int(count):
                raise WorkerError(f"{where!r}; expected local or local:NUMBER")
            address = stack.enter_context(_local_cluster(int(count)))
        try:
            client = stack.enter_context(Client(address, timeout=10))
        except (OSError, ValueError) as error:
            raise WorkerError(f"no Dask scheduler answers at {where}: {error}") from None
        # A worker trains one chunk at a time: its model and its bench fill it. Where workers say that they have a GPU,
        # a chunk asks for one.
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        cards = int(sum(about["resources"].get("GPU", 0) for about in workers))
        asked = {"resources": {"GPU": 1}} if cards else {}
        yield Workers(
            lambda: client.get_executor(pure=False, retries=0, **asked), client.dashboard_link, cards or len(workers)
        )


@dataclass(frozen=True)
class Workers:
    """A ``Factory`` that also knows where one can watch."""

    start: ExecutorFactory
    dashboard: str
    count: int
    """Chunks that are worked on at once."""

    def __call__(self) -> Executor:
        return self.start()


def _local_cluster(count: int) -> Any:
    """Worker processes on this machine, each with its share of the cores and, where there are GPUs, one of them."""
    from distributed import Nanny, Scheduler, SpecCluster

    cards, share = visible_gpus(), _share(count)

    def worker(rank: int) -> dict[str, Any]:
        env = {"OMP_NUM_THREADS": str(share)} | ({"CUDA_VISIBLE_DEVICES": cards[rank % len(cards)]} if cards else {})
        # No limit: the bench looks after its memory, and a worker that is stopped at half of it would train nothing.
        options = {"nthreads": 1, "memory_limit": 0, "host": "127.0.0.1", "env": env}
        return {"cls": Nanny, "options": options | ({"resources": {"GPU": 1}} if cards else {})}

    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "port": 0, "dashboard_address": ":0"}}
    return SpecCluster(workers={rank: worker(rank) for rank in range(count)}, scheduler=scheduler)


def visible_gpus() -> list[str]:
    """The CUDA devices that this process may use, by the names that ``CUDA_VISIBLE_DEVICES`` takes."""
    import torch

    number = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return (os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(number)))).split(",")[:number]


def _share(count: int) -> int:
    return max(1, (os.cpu_count() or 1) // count)


def _begin(card: str | None, threads: int) -> None:
    """In a new process, before it first asks for a card: the one it is to see, and its share of the cores."""
    # Ctrl-C goes to all of a terminal's programs; here, what is begun is finished.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if card is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = card
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)


@dataclass(frozen=True)
class RunProgress:
    """What ``watch`` sees of a run elsewhere, about once a second."""

    total: int
    """Jobs that the store lacked."""
    finished: int
    """Of these in the store now, or failed for good."""
    failed: int
    given_out: int
    """With workers now."""


PATIENCE = 5.0
"""Seconds that a result may take to be seen, once its worker has written it."""


def dispatch(
    parts: Sequence[Chunk],
    store: Store,
    factory: ExecutorFactory,
    watch: Callable[[RunProgress], bool | None] | None = None,
) -> dict[str, str]:
    """Hand chunks to workers until each of their jobs is in the store or has failed for good; {key: error}.

    A chunk that raises, or whose worker dies, is tried again, and then each of its jobs alone: whose fault it was,
    nobody knows before. When ``watch`` asks to stop, nothing more is given out, and what is with workers is waited for.
    """
    desk = Dispatcher(parts, store, factory)
    try:
        while desk.submit():
            desk.collect()
            if watch and watch(desk.progress()):
                while desk.running:  # what is on a bench is finished there, and that is told too
                    desk.collect()
                    watch(desk.progress())
                break
    except KeyboardInterrupt:
        out = desk.progress().given_out
        print(f"\n{out} passages with workers are finished first; interrupt again to leave them", file=sys.stderr)
        raise
    finally:
        desk.close()
    return desk.failed


class Dispatcher:
    """What waits, what is with workers, what has failed."""

    def __init__(self, parts: Sequence[Chunk], store: Store, factory: ExecutorFactory) -> None:
        self.store, self.factory, self.executor = store, factory, factory()
        self.waiting = [(part, 1) for part in parts]
        self.alone: list[tuple[Chunk, int]] = []
        self.running: dict[Future[Outcome], tuple[Chunk, int]] = {}
        self.failed: dict[str, str] = {}
        self.total, self.finished = sum(len(part.keys) for part in parts), 0
        # More would only be lost with a worker, and be trained after a stop. Of a queue like SLURM's nothing is known.
        self.at_once = int(getattr(factory, "count", 0) or getattr(self.executor, "_max_workers", 64))

    def close(self) -> None:
        """Let workers finish what they have begun; an interrupt meanwhile ends ours at once."""
        try:
            while not all(future.done() for future in self.running):
                time.sleep(0.05)
        except KeyboardInterrupt:
            if hasattr(self.executor, "kill"):
                self.executor.kill()
            raise
        if hasattr(self.executor, "shutdown"):  # submitit's have none
            self.executor.shutdown(wait=True)

    def progress(self) -> RunProgress:
        out = sum(len(part.keys) for part, _ in self.running.values())
        return RunProgress(self.total, self.finished, len(self.failed), out)

    def submit(self) -> bool:
        """Keep the workers busy; whether there is anything left to do."""
        if self.alone and not self.waiting and not self.running:
            self.waiting.append(self.alone.pop(0))
        while self.waiting and len(self.running) < self.at_once:
            try:
                future = self.executor.submit(work, self.waiting[0][0])
            except BrokenExecutor:
                self.executor = self.factory()
                continue
            self.running[future] = self.waiting.pop(0)
        return bool(self.running)

    def collect(self) -> None:
        """Wait a second at most for what comes back."""
        # Asked again and again: what submitit hands out has done(), but is no future of the standard library.
        until = time.monotonic() + 1.0
        while not (done := [future for future in self.running if future.done()]) and time.monotonic() < until:
            time.sleep(0.02)
        for future in done:
            part, attempt = self.running.pop(future)
            error = future.exception()
            if isinstance(error, StoreError):
                raise error
            if error is None:
                self.complete(part, future.result())
            else:
                self.retry(part, attempt, error)

    def complete(self, part: Chunk, outcome: Outcome) -> None:
        """What a worker calls done must be here, too; a network's file system may take a moment to show it."""
        self.failed |= outcome.failed
        self.finished += len(part.keys)
        patience = time.monotonic() + PATIENCE
        left = [key for key in part.keys if key not in outcome.failed]
        while (left := [key for key in left if key not in self.store]) and time.monotonic() < patience:
            time.sleep(0.1)
        for key in left:
            self.failed[key] = (
                f"the worker says it is done, and {self.store.path} has it not: is that one folder for all?"
            )
            self.store.record_failure(key, self.failed[key])

    def retry(self, part: Chunk, attempt: int, error: BaseException) -> None:
        left = part.only({key for key in part.keys if key not in self.store})  # what it finished is there
        self.finished += len(part.keys) - len(left.keys)
        if not left.keys:
            return
        if attempt < 2:
            self.waiting.append((left, attempt + 1))
        elif attempt < 3 and (len(left.keys) > 1 or isinstance(error, BrokenExecutor)):
            self.alone += [(left.only({key}), attempt + 1) for key in left.keys]
        else:
            self.finished += len(left.keys)
            for key in left.keys:
                self.failed[key] = f"{type(error).__name__}: {error}"
                self.store.record_failure(key, self.failed[key])


def split_by_length(chunk: Chunk, size: int) -> list[Chunk]:
    """Parts of at most ``size`` passages, long ones together: what shares a bench should be alike."""
    order = sorted(range(len(chunk.keys)), key=lambda i: -len(chunk.passages[i]))
    return [chunk.part(sorted(order[i : i + size])) for i in range(0, len(order), size)]
