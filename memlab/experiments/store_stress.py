"""Stress tests of a store: writers killed at random moments, and 100,000 entries. The vectors are made up."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from memlab.recipes import Recipe
from memlab.results.mem_vector import MemVector, VectorError
from memlab.results.store import Store


def random_result(number: int, *, k: int = 4, d: int = 512) -> MemVector:
    """A made-up result. Each number gives another key."""
    rng = np.random.default_rng(number)
    return MemVector(
        mem=rng.standard_normal((k, d)).astype(np.float32),
        token_ids=np.array([number % 5000, number // 5000, 7], np.int64),
        prefix_ids=np.array([0], np.int64),
        suffix_ids=np.array([], np.int64),
        model="made-up",
        fingerprint="f" * 64,
        recipe=Recipe(k=k, seed=number % 97),
    )


def write(path: Path, rank: int, writers: int, count: int) -> None:
    """Write one writer's share of the plan, except what the store has. A journal records begun and finished keys."""
    store = Store(path)
    journal = os.open(path / f"journal-{rank}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for number in range(rank, count, writers):
        mem = random_result(number)
        if mem.key in store:
            continue
        os.write(journal, f"begun {mem.key}\n".encode())
        store.put(mem)
        os.write(journal, f"done {mem.key}\n".encode())


@dataclass
class CrashReport:
    """The result of ``crash_writers``."""

    kills: int
    writes: int
    """Keys of the plan."""
    begun: int
    """Times that a writer began a key. At most ``writes``, plus one for each key that was lost with its writer."""
    lost: list[str]
    """Keys that a writer recorded as done but that are missing or damaged. Must be empty."""
    unreadable: list[str]
    """Errors of a reader while the writers ran. Must be empty."""
    damaged: dict[str, Exception]
    """The result of ``Store.verify`` at the end. Must be empty."""
    temporary_files: int
    """Temporary files that killed writers left, and that ``gc`` removed at the end."""
    seconds: float


def crash_writers(path: Path, kills: int, *, writers: int = 4, count: int = 400, seed: int = 0) -> CrashReport:
    """Let several processes write one plan into one store. ``kills`` times, kill one (SIGKILL) and start it again.

    Meanwhile, read from the store. At the end the writers run undisturbed until the plan is complete.
    """
    rng, started = random.Random(seed), time.perf_counter()
    path.mkdir(parents=True, exist_ok=True)
    store, unreadable, killed = Store(path), list[str](), 0
    running = [_start(path, rank, writers, count) for rank in range(writers)]
    sizes = [_journal_size(path, rank) for rank in range(writers)]
    while killed < kills:
        time.sleep(rng.random() * 0.05)
        unreadable += _read_all(store, rng)
        rank = rng.randrange(writers)
        alive = running[rank].poll() is None
        # Kill only a process that has written since its start. At first a process only loads.
        if alive and _journal_size(path, rank) > sizes[rank]:
            running[rank].send_signal(signal.SIGKILL)
            running[rank].wait()
            killed += 1
            sizes[rank] = _journal_size(path, rank)
            running[rank] = _start(path, rank, writers, count)
        elif not alive:
            count += 400  # the plan was complete before enough kills, so it grows
            running = [p if p.poll() is None else _start(path, rank, writers, count) for rank, p in enumerate(running)]
    for process in running:
        process.wait()
    for process in [_start(path, rank, writers, count) for rank in range(writers)]:
        process.wait()
    lines = [line.split() for file in path.glob("journal-*") for line in file.read_text().splitlines()]
    damaged = store.verify()
    done = {key for what, key in lines if what == "done"}
    lost = sorted(key for key in done if key not in store or key in damaged)
    missing = [n for n in range(count) if random_result(n).key not in store]
    assert not missing, f"{len(missing)} keys of the plan are missing at the end"
    temporary_files = len(store.gc(older=0))
    begun = sum(what == "begun" for what, _ in lines)
    seconds = time.perf_counter() - started
    return CrashReport(killed, count, begun, lost, unreadable, damaged, temporary_files, seconds)


def time_large_store(path: Path, entries: int) -> dict[str, str]:
    """Time common operations on a store of made-up results: {operation: its time, or a size}."""
    store = Store(path)
    present = set(store.keys())
    for number in range(entries):
        mem = random_result(number, k=1, d=16)
        if mem.key not in present:
            file = store.file(mem.key)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(mem.to_bytes())  # not store.put: this does not time 100,000 fsyncs
    timed = {}

    def time_of(what: str, work: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        result = work()
        timed[what] = f"{time.perf_counter() - began:.2f} s"
        return result

    time_of("index (every file is read)", store.reindex)
    table = time_of("list", store.table)
    time_of("filter", lambda: table[(table.seed == 3) & (table.k == 1)])
    some = random.Random(0).sample(sorted(table.key), min(1000, len(table)))
    time_of(f"verify {len(some)} entries", lambda: [store.get(key) for key in some])
    timed["entries"] = str(len(table))
    timed["index"] = f"{(path / 'index.parquet').stat().st_size / 1e6:.1f} MB"
    return timed


def _start(path: Path, rank: int, writers: int, count: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "memlab.experiments.store_stress", str(path), str(rank), str(writers), str(count)]
    return subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})


def _journal_size(path: Path, rank: int) -> int:
    """Bytes that a writer has written to its journal."""
    journal = path / f"journal-{rank}"
    return journal.stat().st_size if journal.exists() else 0


def _read_all(store: Store, rng: random.Random) -> list[str]:
    """Errors from reading some of the entries."""
    errors = []
    keys = list(store.keys())
    for key in rng.sample(keys, min(5, len(keys))):
        try:
            store.get(key)
        except (VectorError, OSError, KeyError) as error:
            errors.append(f"{key}: {error}")
    return errors


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
