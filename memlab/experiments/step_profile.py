"""Where a training step spends its time and memory: the step compared with its matrix products alone, in one run."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from memlab.models import FrozenLM, ModelError
from memlab.scoring.cuda_graphs import CAPTURE_AT, eager, graph_cache_of
from memlab.scoring.timing import device_name, peak_memory, step_flops, timed, training_step, wait_for_device

SHAPES: dict[str, dict[str, Any]] = {
    "llama-3.1-8b": dict(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, vocab_size=128256, max_position_embeddings=131072, rope_theta=500000.0,
    ),
}  # fmt: skip
"""Published sizes of models of the Llama architecture. They are built with random weights, for timing only."""

_PRODUCTS = {"mm", "addmm", "bmm", "baddbmm"}


class _Products(TorchDispatchMode):
    """Records shapes and strides of the matrix products inside the ``with`` block."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[tuple[Any, ...]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in _PRODUCTS:
            a, b = [x for x in args if isinstance(x, torch.Tensor)][-2:]
            self.seen[(a.dtype, tuple(a.shape), tuple(a.stride()), tuple(b.shape), tuple(b.stride()))] += 1
        elif func.overloadpacket.__name__ == "_linear_pointwise":  # packed weights (o, i) have no strides
            a, (o, i) = args[0], args[1].shape
            self.seen[(a.dtype, tuple(a.shape), tuple(a.stride()), (i, o), (1, i))] += 1
        return func(*args, **(kwargs or {}))


def random_weights(shape: str, device: str | None = None) -> FrozenLM:
    """A model of this shape with random weights, which needs no download. A step takes as long as with trained weights.

    Raises ``ModelError``.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    if shape not in SHAPES:
        raise ModelError(f"There is no shape {shape!r}. Use one of: {', '.join(SHAPES)}.")
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with where:
        model = LlamaForCausalLM(LlamaConfig(**SHAPES[shape]))
    return FrozenLM.from_model(model, name=f"random weights, shape of {shape}", device=where)


def profile_steps(lm: FrozenLM, shapes: Sequence[tuple[int, int]], *, repeats: int = 7) -> pd.DataFrame:
    """One row per shape (passages, tokens): seconds of a step, of its matrix products alone, and peak memory.

    ``share_linear`` counts only products with weights, ``share`` also those of attention (except on a GPU, where they
    are inside fused kernels). Peak memory is what the process (or the GPU) holds above the loaded model while the step
    runs. A shape that is captured as a CUDA graph has a second row, ``replayed``, without a peak: a graph keeps its
    memory all the time.
    """
    rows = []
    for passages, tokens in shapes:
        step = training_step(lm, passages, tokens)
        with eager():
            step()
            with _Products() as products:
                step()
            flops = step_flops(step)
        bare = {shape: _bare(shape, lm.device) for shape in products.seen}
        linear = sum(bare[s] * n for s, n in products.seen.items() if len(s[1]) == 2)
        attention = sum(bare[s] * n for s, n in products.seen.items() if len(s[1]) == 3)
        for replayed in (False, True):
            if replayed and not _is_replayed(lm, step):
                continue
            with nullcontext() if replayed else eager():
                seconds = sorted(timed(step) for _ in range(repeats))
                peak = np.nan if replayed else peak_memory(step, lm.device)
            middle = statistics.median(seconds)
            rows.append(
                {
                    "passages": passages,
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
    return pd.DataFrame(rows)


def _is_replayed(lm: FrozenLM, step: Callable[[], None]) -> bool:
    """Whether the step is replayed from a CUDA graph after enough repetitions."""
    if not (graphs := graph_cache_of(lm)):
        return False
    for _ in range(CAPTURE_AT):
        step()
    before = graphs.replayed
    step()
    return graphs.replayed > before


def _bare(shape: tuple[Any, ...], device: torch.device, repeats: int = 9) -> float:
    """Median seconds of one matrix product of this shape and layout."""
    dtype, size_a, stride_a, size_b, stride_b = shape

    def operand(size: tuple[int, ...], stride: tuple[int, ...]) -> torch.Tensor:
        extent = 1 + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
        return torch.randn(extent, device=device).to(dtype).as_strided(size, stride)

    a, b = operand(size_a, stride_a), operand(size_b, stride_b)

    def product() -> None:
        torch.matmul(a, b)
        wait_for_device(device)

    product()
    return statistics.median(timed(product) for _ in range(repeats))
