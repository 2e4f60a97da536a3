"""Where a training step's time and memory go: its own matrix products, timed bare in the same run, against the step."""

from __future__ import annotations

import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from memlab.models import FrozenLM, ModelError
from memlab.objective import Batch, Row
from memlab.replay import RECORD_AT, frames_of, unrecorded
from memlab.slots import give_back

SHAPES: dict[str, dict[str, Any]] = {
    "llama-3.1-8b": dict(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, vocab_size=128256, max_position_embeddings=131072, rope_theta=500000.0,
    ),
}  # fmt: skip
"""Models of the Llama architecture by their published sizes, for timing: weights are random."""

_PRODUCTS = {"mm", "addmm", "bmm", "baddbmm"}


class _Products(TorchDispatchMode):
    """Shapes and strides of the matrix products that happen while this is on."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[tuple[Any, ...]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in _PRODUCTS:
            a, b = [x for x in args if isinstance(x, torch.Tensor)][-2:]
            self.seen[(a.dtype, tuple(a.shape), tuple(a.stride()), tuple(b.shape), tuple(b.stride()))] += 1
        return func(*args, **(kwargs or {}))


def random_weights(shape: str, device: str | None = None) -> FrozenLM:
    """A model of that shape with random weights: a step takes as long as with trained ones, and nothing is fetched."""
    from transformers import LlamaConfig, LlamaForCausalLM

    if shape not in SHAPES:
        raise ModelError(f"no shape {shape!r}; there are: {', '.join(SHAPES)}")
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with where:
        model = LlamaForCausalLM(LlamaConfig(**SHAPES[shape]))
    return FrozenLM.from_model(model, name=f"random weights, shape of {shape}", device=where)


def training_step(lm: FrozenLM, rows: int, tokens: int, *, seed: int = 0) -> Callable[[], None]:
    """A step on random passages: one pass with its gradient, as the engine does it."""
    rng = np.random.default_rng(seed)
    prefix = lm.sink_prefix
    passages = [Row(rng.integers(0, lm.vocabulary, tokens), prefix, (), 1) for _ in range(rows)]
    mems = [torch.randn(1, lm.d) for _ in passages]
    batch = Batch(lm, passages)

    def step() -> None:
        batch.scores(mems, lm.dtype, gradient=True)
        _wait(lm.device)

    return step


def step_work(lm: FrozenLM, shapes: Sequence[tuple[int, int]], *, repeats: int = 7) -> pd.DataFrame:
    """One row a shape (passages, tokens): seconds of a step, of its bare matrix products, and peak memory.

    ``share_linear`` counts the products with weights only, ``share`` those of attention too (on a GPU they are inside
    fused kernels, and not counted). Peak memory is what the process (or the card) holds above the loaded model while
    the step runs. A shape that is recorded (``replay``) has a second row, ``replayed``, without a peak: its memory is
    there all the time.
    """
    out = []
    for rows, tokens in shapes:
        step = training_step(lm, rows, tokens)
        with unrecorded():
            step()
            with _Products() as products:
                step()
            flops = step_flops(step)
        bare = {shape: _bare(shape, lm.device) for shape in products.seen}
        linear = sum(bare[s] * n for s, n in products.seen.items() if len(s[1]) == 2)
        attention = sum(bare[s] * n for s, n in products.seen.items() if len(s[1]) == 3)
        for replayed in (False, True):
            if replayed and not _recorded(lm, step):
                continue
            with nullcontext() if replayed else unrecorded():
                seconds = sorted(_timed(step) for _ in range(repeats))
                peak = np.nan if replayed else peak_memory(step, lm.device)
            middle = statistics.median(seconds)
            out.append(
                {
                    "passages": rows,
                    "tokens": tokens,
                    "replayed": replayed,
                    "seconds": middle,
                    "fastest": seconds[0],
                    "slowest": seconds[-1],
                    "linear_seconds": linear,
                    "attention_seconds": attention,
                    "share_linear": linear / middle,
                    "share": (linear + attention) / middle,
                    "tflops": flops / middle / 1e12,
                    "peak_gib": peak / 2**30,
                    "dtype": str(lm.dtype).removeprefix("torch."),
                    "threads": torch.get_num_threads(),
                    "device": device_name(lm.device),
                }
            )
    return pd.DataFrame(out)


def _recorded(lm: FrozenLM, step: Callable[[], None]) -> bool:
    """Whether the step is replayed by now, having been taken often enough."""
    if not (frames := frames_of(lm)):
        return False
    for _ in range(RECORD_AT):
        step()
    before = frames.replayed
    step()
    return frames.replayed > before


def _bare(shape: tuple[Any, ...], device: torch.device, repeats: int = 9) -> float:
    """Median seconds of one matrix product of that shape and layout, on data that no cache holds warm for long."""
    dtype, size_a, stride_a, size_b, stride_b = shape

    def operand(size: tuple[int, ...], stride: tuple[int, ...]) -> torch.Tensor:
        extent = 1 + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
        return torch.randn(extent, device=device).to(dtype).as_strided(size, stride)

    a, b = operand(size_a, stride_a), operand(size_b, stride_b)

    def product() -> None:
        torch.matmul(a, b)
        _wait(device)

    product()
    return statistics.median(_timed(product) for _ in range(repeats))


def seconds_a_token(lm: FrozenLM, *, tokens: int = 32, rows: int = 8, steps: int = 2) -> float:
    """Seconds of a training step for each token in it, at this shape, now: a median of ``steps``."""
    step = training_step(lm, rows, tokens)
    with unrecorded():
        step()
        return statistics.median(_timed(step) for _ in range(steps)) / (rows * tokens)


def peak_memory(work: Callable[[], Any], device: torch.device) -> int:
    """Bytes held at most while ``work`` runs, above what was held before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return int(torch.cuda.max_memory_allocated(device) - before)
    # A model that only a cycle still holds would be freed while the work runs, and hide as much of it.
    # And what earlier work has freed and the C library keeps would not be counted.
    give_back()
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
        _wait(device)

    product()
    return 2 * size**3 / statistics.median(_timed(product) for _ in range(5))


def step_flops(step: Callable[[], Any]) -> int:
    """Multiplications and additions in the matrix products of ``step``."""
    with unrecorded(), FlopCounterMode(display=False) as counter:  # a replay would count nothing
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


def _timed(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
