"""Timing of training steps, and the speed of the machine: seconds, peak bytes, multiplications per second."""

from __future__ import annotations

import platform
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
from memlab.models.hardware import bfloat16_units
from memlab.scoring.cuda_graphs import eager
from memlab.scoring.memory import trim_memory
from memlab.scoring.objective import Batch, Row


def training_step(lm: FrozenLM, rows: int, tokens: int, *, seed: int = 0) -> Callable[[], None]:
    """A function that runs one training pass, with gradient, on random passages."""
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
    """Seconds of a training step per token, at this shape, on this machine now: the median of ``steps``."""
    step = training_step(lm, rows, tokens)
    with eager():
        step()
        return statistics.median(timed(step) for _ in range(steps)) / (rows * tokens)


def peak_memory(work: Callable[[], Any], device: torch.device) -> int:
    """Largest number of bytes in use while ``work`` runs, minus the bytes in use before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return int(torch.cuda.max_memory_allocated(device) - before)
    # First free garbage (a model in a reference cycle, for instance) and the memory that the C library keeps.
    # Otherwise the work could use that memory, which would not be counted.
    trim_memory()
    process = psutil.Process()
    before = peak = process.memory_info().rss
    finished = threading.Event()

    def sample() -> None:
        nonlocal peak
        while not finished.wait(0.002):
            peak = max(peak, process.memory_info().rss)

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    try:
        work()
    finally:
        finished.set()
        sampler.join()
    return int(peak - before)


def machine_rate(device: torch.device, dtype: torch.dtype, *, size: int = 2048) -> float:
    """Multiplications and additions per second in a square matrix product, on this machine now."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))

    def product() -> None:
        torch.matmul(a, b)
        wait_for_device(device)

    product()
    return 2 * size**3 / statistics.median(timed(product) for _ in range(5))


def _packed_flops(rows: Any, weight: Any, *args: Any, **kwargs: Any) -> int:
    """Of a product of rows (n, i) with packed weights (o, i)."""
    return 2 * int(rows[0]) * int(weight[0]) * int(weight[1])


def step_flops(step: Callable[[], Any]) -> int:
    """Multiplications and additions in the matrix products of ``step``."""
    own = {torch.ops.mkldnn._linear_pointwise: _packed_flops} if torch.backends.mkldnn.is_available() else {}
    with eager(), FlopCounterMode(display=False, custom_mapping=own) as counter:  # a replayed pass is not counted
        step()
    return int(counter.get_total_flops())


def device_name(device: torch.device) -> str:
    """Name of the GPU or the processor. A processor's name includes its vector units, because cloud providers use one
    name for several generations.
    """
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    name = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration):  # only Linux has this file
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        name = next(s.partition(":")[2].strip() for s in lines if s.startswith("model name"))
    units = [torch.backends.cpu.get_cpu_capability(), *bfloat16_units()]
    return f"{device.type} {name} ({', '.join(unit.upper().replace('_', ' ') for unit in units)})"


def timed(work: Callable[[], Any]) -> float:
    """Wall seconds of ``work``."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def wait_for_device(device: torch.device) -> None:
    """Return when all work on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
