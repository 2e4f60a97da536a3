"""Timing of training steps, and what the machine can do: seconds, peak bytes, multiplications."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch.utils.flop_counter import FlopCounterMode

from memlab.models import FrozenLM
from memlab.scoring.cuda_graphs import eager
from memlab.scoring.memory import trim_memory
from memlab.scoring.objective import Batch, Row


def training_step(lm: FrozenLM, rows: int, tokens: int, *, seed: int = 0) -> Callable[[], None]:
    """A step on random passages: one pass with its gradient, as the engine does it."""
    rng = np.random.default_rng(seed)
    prefix = lm.sink_prefix
    passages = [Row(rng.integers(0, lm.vocabulary, tokens), prefix, (), 1) for _ in range(rows)]
    mems = [torch.randn(1, lm.d) for _ in passages]
    batch = Batch(lm, passages)

    def step() -> None:
        batch.scores(mems, lm.dtype, gradient=True)
        wait_for_device(lm.device)

    return step


def seconds_a_token(lm: FrozenLM, *, tokens: int = 32, rows: int = 8, steps: int = 2) -> float:
    """Seconds of a training step for each token in it, at this shape, now: a median of ``steps``."""
    step = training_step(lm, rows, tokens)
    with eager():
        step()
        return statistics.median(timed(step) for _ in range(steps)) / (rows * tokens)


def peak_memory(work: Callable[[], Any], device: torch.device) -> int:
    """Bytes held at most while ``work`` runs, above what was held before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return int(torch.cuda.max_memory_allocated(device) - before)
    # A model that only a cycle still holds would be freed while the work runs, and hide as much of it.
    # And what earlier work has freed and the C library keeps would not be counted.
    trim_memory()
    process = psutil.Process()
    before = most = process.memory_info().rss
    over = threading.Event()

    def watch() -> None:
        nonlocal most
        while not over.wait(0.002):
            most = max(most, process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        work()
    finally:
        over.set()
        watcher.join()
    return int(most - before)


def machine_rate(device: torch.device, dtype: torch.dtype, *, size: int = 2048) -> float:
    """Multiplications and additions a second, of a square matrix product: what this machine can do, now."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))

    def product() -> None:
        torch.matmul(a, b)
        wait_for_device(device)

    product()
    return 2 * size**3 / statistics.median(timed(product) for _ in range(5))


def step_flops(step: Callable[[], Any]) -> int:
    """Multiplications and additions in the matrix products of ``step``."""
    with eager(), FlopCounterMode(display=False) as counter:  # a replay would count nothing
        step()
    return int(counter.get_total_flops())


def device_name(device: torch.device) -> str:
    """The card's or the processor's name; of a processor also what its vector units can do, since rented machines call
    several generations by one name.
    """
    import platform

    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    name = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration):  # Linux has it
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        name = next(s.partition(":")[2].strip() for s in lines if s.startswith("model name"))
    has: Any = getattr(torch.cpu, "get_capabilities", dict)()
    units = [torch.backends.cpu.get_cpu_capability(), *(unit for unit in ("avx512_bf16", "amx_bf16") if has.get(unit))]
    return f"{device.type} {name} ({', '.join(unit.upper().replace('_', ' ') for unit in units)})"


def timed(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def wait_for_device(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
