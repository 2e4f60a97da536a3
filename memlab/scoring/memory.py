"""Memory budget: how many positions can be trained at once, and which rows share a pass so that padding is small."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import psutil
import torch

from memlab.models import FrozenLM

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_POSITIONS = {"cpu": 1024, "cuda": 32768}
"""Largest number of positions per step. Larger steps are not faster per position: on two CPU cores, 2,048 positions
gained nothing over 1,024. The figure for CUDA has not been measured."""
MEMORY_FRACTION = 0.6
"""Share of the free memory to use. The rest is for the work of the backward pass and for other programs."""
LAUNCH_COST = 64
"""Fixed cost of one more pass, in positions: kernel launches take the same time however small the pass is."""


@dataclass
class MemoryBudget:
    """How many positions fit into memory. ``positions`` is halved if memory still runs out."""

    positions: int
    """Positions at once, padding included."""
    bytes_per_position: float
    """Bytes that the backward pass keeps per position."""
    bytes_per_pair: float
    """Bytes that it keeps per pair of positions of a row (attention weights, if they are kept)."""
    free: int
    """Free bytes when this was measured."""

    def rows(self, length: int) -> int:
        """Number of rows of that length that fit into one step, at least 1."""
        by_memory = MEMORY_FRACTION * self.free / (length * (self.bytes_per_position + length * self.bytes_per_pair))
        return max(1, int(min(by_memory, self.positions / length)))

    def halve(self, used: int) -> None:
        """Shrink the budget, after memory ran out with ``used`` positions."""
        self.positions = max(1, min(self.positions, used) // 2)

    def record(self) -> dict[str, Any]:
        """The numbers for the provenance of a result."""
        return {
            "positions": self.positions,
            "bytes_per_position": round(self.bytes_per_position),
            "bytes_per_position_and_length": round(self.bytes_per_pair, 1),
            "free_gib": round(self.free / 2**30, 1),
        }


def measure_budget(lm: FrozenLM) -> MemoryBudget:
    """The budget for training passes of this model, in its dtype, with the memory that is free now.

    The bytes that a backward pass needs are measured on two short rows, not derived from the configuration.
    """
    short, long = saved_bytes(lm, 16), saved_bytes(lm, 48)
    # saved_bytes(n) = n (a + b n)
    pair = max(0.0, (long / 48 - short / 16) / 32)
    return MemoryBudget(
        MAX_POSITIONS.get(lm.device.type, 4096), max(1.0, short / 16 - 16 * pair), pair, free_bytes(lm.device)
    )


def saved_bytes(lm: FrozenLM, length: int) -> int:
    """Bytes kept for the backward pass of one row of ``length`` positions, without the weights."""
    kept: dict[int, torch.UntypedStorage] = {}
    weights = {p.untyped_storage().data_ptr() for p in lm.weights(lm.dtype).parameters()}

    def pack(tensor: torch.Tensor) -> None:
        # Keep the storage, not the tensor: a node that keeps its own output, as softmax does, would never be freed.
        # Keep it until all are counted: otherwise a freed address could be counted for two storages.
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage

    with lm.lock, torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        row = lm.embed([0] * length)[None].requires_grad_()
        lm.losses(
            row, torch.arange(length, device=lm.device), torch.zeros_like(row[0, :, 0], dtype=torch.long), lm.dtype
        )
    return sum(storage.nbytes() for storage in kept.values())


def free_bytes(device: torch.device) -> int:
    """Free memory for a pass, bytes."""
    if device.type == "cuda":
        # The allocator's cache may belong to a captured pass (``cuda_graphs``): count only what it gives back.
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def group_by_length(lengths: Sequence[int]) -> list[list[int]]:
    """Split rows into passes of similar length. Returns the row indices of each pass.

    Rows are sorted by length, and the split with the smallest cost is taken. Cost of a pass, in positions: rows x
    longest row + ``LAUNCH_COST``.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    best = [0.0] + [float("inf")] * len(order)  # smallest cost of the first i rows
    cut = [0] * (len(order) + 1)
    for end in range(1, len(order) + 1):
        for start in range(end):
            cost = best[start] + lengths[order[start]] * (end - start) + LAUNCH_COST
            if cost < best[end]:
                best[end], cut[end] = cost, start
    parts: list[list[int]] = []
    end = len(order)
    while end:
        parts.append(order[cut[end] : end])
        end = cut[end]
    return parts[::-1]


def trim_memory() -> None:
    """Return freed memory to the system. glibc keeps it in fragments, and a notebook kernel runs for a long time."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL("libc.so.6").malloc_trim(0)


_FULL = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out. CPUs, Apple's GPUs and cuBLAS have no exception type for it."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _FULL)
    )


def in_halves(compute: Callable[[Sequence[Item]], list[Result]], items: Sequence[Item]) -> list[Result]:
    """``compute(items)``, one result per item. If memory runs out, each half of the items is computed alone."""
    try:
        return compute(items)
    except Exception as error:
        if not out_of_memory(error) or len(items) < 2:
            raise
    half = len(items) // 2  # outside the handler, because the error holds what filled the memory
    return in_halves(compute, items[:half]) + in_halves(compute, items[half:])
