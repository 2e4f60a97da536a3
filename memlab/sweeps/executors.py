"""Executors: worker processes on this machine, or the workers of a Dask cluster.

A run accepts anything that makes a ``concurrent.futures.Executor``, for example a Dask client's ``get_executor()``.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memlab.errors import MemlabError, require_count

ExecutorFactory = Callable[[], Executor]
"""Makes an executor. Called again if the last one broke, as a process pool does when a worker is killed."""


GUARD = (
    "Worker processes run the script again when they start. Put the code that starts the run under "
    '`if __name__ == "__main__":`.'
)


class WorkerError(MemlabError, RuntimeError):
    """Workers that cannot be started or reached. The message says what to install, to change or to give."""

    exit_code = 2


@contextlib.contextmanager
def processes(count: int | None = None, *, threads: int | None = None) -> Iterator[ExecutorFactory]:
    """Worker processes on this machine: one per GPU if there are GPUs, else ``count`` (2) that share the cores.

    Each uses ``threads`` threads (default: its share of the cores). Yields a factory for
    ``run(plan, store, executor=...)``. In a script, call it under ``if __name__ == "__main__":``, because each process
    runs the script again when it starts. Raises ``WorkerError``.
    """
    for name, value in (("count", count), ("threads", threads)):
        if value is not None:
            require_count(name, value)
    _check_main_module()
    gpus = visible_gpus()
    number = count or len(gpus) or 2
    threads_each = threads or _share(number)
    pools: list[_ProcessPool] = []

    def factory() -> Executor:
        pools.append(_ProcessPool(number, gpus, threads_each))
        return pools[-1]

    try:
        yield factory
    finally:
        for pool in pools:
            pool.shutdown(wait=True, cancel_futures=True)


class _ProcessPool(Executor):
    """Worker processes, each in a pool of its own, so that a killed one does not end the others."""

    # In a pool of the standard library or of loky, one killed process ends all the others. pebble replaces a killed
    # process, but its pool is not an Executor and cannot give each process a different GPU.

    def __init__(self, count: int, gpus: list[str], threads: int) -> None:
        self._gpus, self._threads = gpus, threads
        self._context = multiprocessing.get_context("spawn")
        self._pools: list[ProcessPoolExecutor | None] = [None] * count
        self._began = [self._context.Event() for _ in range(count)]
        self._last: list[Future[Any] | None] = [None] * count
        self._max_workers = count

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Give work to an idle process, or to the first one if none is idle. Raises ``WorkerError``."""
        idle = (i for i, future in enumerate(self._last) if future is None or future.done())
        rank = next(idle, 0)
        pool = self._pools[rank] or self._start(rank)
        try:
            future = pool.submit(fn, *args, **kwargs)
        except BrokenExecutor:  # the process was killed: start another in its place
            self._check_began(pool, rank)
            future = self._start(rank).submit(fn, *args, **kwargs)
        self._last[rank] = future
        return future

    def _start(self, rank: int) -> ProcessPoolExecutor:
        gpu = self._gpus[rank % len(self._gpus)] if self._gpus else None
        arguments = (gpu, self._threads, self._began[rank])
        pool = ProcessPoolExecutor(1, mp_context=self._context, initializer=_begin, initargs=arguments)
        self._pools[rank] = pool
        return pool

    def _check_began(self, pool: ProcessPoolExecutor, rank: int) -> None:
        """Raise ``WorkerError`` if a process ended by itself before it could take work: the next one would, too."""
        for process in list((pool._processes or {}).values()):
            process.join(5)
            # A negative code means a signal, for example from the kernel because memory was short.
            if not self._began[rank].is_set() and (process.exitcode or 0) >= 0:
                raise WorkerError(f"A worker process ended while it started; see the lines above. {GUARD}") from None

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End all processes after their current work."""
        for pool in filter(None, self._pools):
            pool.shutdown(wait=wait, cancel_futures=cancel_futures)

    def kill(self) -> None:
        """End all processes now. Long trainings can resume from their last checkpoint, at most a few minutes old."""
        for pool in filter(None, self._pools):
            for process in list((pool._processes or {}).values()):  # public from Python 3.14 on: terminate_workers()
                process.terminate()


@dataclass(frozen=True)
class Workers:
    """An ``ExecutorFactory`` with the address of a dashboard."""

    start: ExecutorFactory
    dashboard: str
    count: int
    """Chunks that are trained at the same time."""

    def __call__(self) -> Executor:
        return self.start()


@contextlib.contextmanager
def dask_workers(where: str) -> Iterator[Workers]:
    """The workers of the Dask scheduler at address ``where``. ``local``, or ``local:3`` for three processes, starts a
    cluster on this machine, which ends with the context.

    Workers started with ``--resources "GPU=1"`` get one chunk per GPU at a time. ``local`` starts such workers.
    Needs ``pip install 'memlab[dask]'``. The workers need memlab, the models, and the store under the same path.
    """
    try:
        from distributed import Client
    except ImportError:
        raise WorkerError("Dask is not installed. Run: pip install 'memlab[dask]'") from None
    with contextlib.ExitStack() as stack:
        address: Any = where
        if where == "local" or where.startswith("local:"):
            count = where.partition(":")[2] or str(len(visible_gpus()) or 2)
            if not count.isdigit() or not int(count):
                raise WorkerError(f"{where!r} has no valid number of workers. Give local, local:NUMBER, or an address.")
            _check_main_module()
            try:
                address = stack.enter_context(_local_cluster(int(count)))
            except RuntimeError as error:
                raise WorkerError(f"The Dask workers did not start ({error}); see the lines above. {GUARD}") from None
        try:
            client = stack.enter_context(Client(address, timeout=10))
        except (OSError, ValueError) as error:
            raise WorkerError(
                f"There is no Dask scheduler at {where}: {error}. Start one with `dask scheduler`, or give its address."
            ) from None
        # A chunk requests a GPU if the workers report GPUs. A worker trains one chunk at a time, because one model and
        # one batch fill its memory.
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        gpus = int(sum(worker["resources"].get("GPU", 0) for worker in workers))
        options = {"resources": {"GPU": 1}} if gpus else {}
        yield Workers(
            lambda: client.get_executor(pure=False, retries=0, **options), client.dashboard_link, gpus or len(workers)
        )


def _local_cluster(count: int) -> Any:
    """A Dask cluster on this machine. Each worker has its share of the cores and, if there are GPUs, one GPU."""
    from distributed import Nanny, Scheduler, SpecCluster

    gpus, share = visible_gpus(), _share(count)

    def worker(rank: int) -> dict[str, Any]:
        env = {"OMP_NUM_THREADS": str(share)} | ({"CUDA_VISIBLE_DEVICES": gpus[rank % len(gpus)]} if gpus else {})
        # No memory limit: training limits its own memory, and Dask's default would pause a worker long before that.
        options = {"nthreads": 1, "memory_limit": 0, "host": "127.0.0.1", "env": env}
        return {"cls": Nanny, "options": options | ({"resources": {"GPU": 1}} if gpus else {})}

    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "port": 0, "dashboard_address": ":0"}}
    return SpecCluster(workers={rank: worker(rank) for rank in range(count)}, scheduler=scheduler)


def visible_gpus() -> list[str]:
    """The CUDA devices that this process may use, under the names that ``CUDA_VISIBLE_DEVICES`` takes."""
    import torch

    number = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return (os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(number)))).split(",")[:number]


def _share(count: int) -> int:
    return max(1, (os.cpu_count() or 1) // count)


def _check_main_module() -> None:
    """Raise ``WorkerError`` if new processes cannot run the main script again, and end a process that is doing so."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # as multiprocessing itself tests this
        raise SystemExit(f"memlab: error: {GUARD}")
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    if not file or getattr(main, "__spec__", None) is not None:  # a notebook, python -c, or python -m
        return
    try:
        source = Path(file).read_text(errors="replace")
    except OSError:  # "<stdin>"
        raise WorkerError(f"Worker processes cannot run {file}. Save the script in a file, and run it.") from None
    # Nothing but these names can tell the script that a worker runs it. Without them, no process needs to be tried.
    if not any(name in source for name in ("__name__", "_process")):
        raise WorkerError(GUARD)


def _begin(gpu: str | None, threads: int, began: Any) -> None:
    """Set up a new process before it uses CUDA: the GPU that it may see, and its number of threads."""
    began.set()
    # A terminal sends Ctrl-C to all its processes. Workers ignore it, so that they can finish their chunks.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)
