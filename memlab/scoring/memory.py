"""How many positions are trained at once, and in which company: what memory allows, and little padding."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import torch

from memlab.models import FrozenLM

MAX_POSITIONS = {"cpu": 1024, "cuda": 32768}
"""Positions at once beyond which nothing is gained. On two CPU cores a step of 2,048 is no quicker, a position, than
one of 1,024; the figure for CUDA has not been measured."""
MEMORY_FRACTION = 0.6
"""Of the free memory; the rest is for what a backward pass needs besides, and for others on the machine."""
LAUNCH_COST = 64
"""What one more pass costs, in positions: the launches that do not shrink with it."""


@dataclass
class MemoryBudget:
    """How many positions fit. ``positions`` shrinks when memory runs out all the same."""

    positions: int
    """At once, padding included."""
    bytes_per_position: float
    """Held for the backward pass: the part that grows with positions alone."""
    bytes_per_pair: float
    """And the part that grows with positions x length (attention weights, where they are held)."""
    free: int
    """Bytes free when this was measured."""

    def rows(self, length: int) -> int:
        """Rows of that length that may stand side by side; one always may."""
        by_memory = MEMORY_FRACTION * self.free / (length * (self.bytes_per_position + length * self.bytes_per_pair))
        return max(1, int(min(by_memory, self.positions / length)))

    def halve(self, used: int) -> None:
        """After running out of memory with ``used`` positions."""
        self.positions = max(1, min(self.positions, used) // 2)

    def record(self) -> dict[str, Any]:
        """For the provenance of a result."""
        return {
            "positions": self.positions,
            "bytes_per_position": round(self.bytes_per_position),
            "bytes_per_position_and_length": round(self.bytes_per_pair, 1),
            "free_gib": round(self.free / 2**30, 1),
        }


def measure_budget(lm: FrozenLM) -> MemoryBudget:
    """Positions for training passes of this model, in its dtype, on this machine as it is now.

    What one pass holds for its backward is counted on two short rows; nothing is guessed from the configuration.
    """
    short, long = saved_bytes(lm, 16), saved_bytes(lm, 48)
    # held(n) = n (a + b n)
    pair = max(0.0, (long / 48 - short / 16) / 32)
    return MemoryBudget(
        MAX_POSITIONS.get(lm.device.type, 4096), max(1.0, short / 16 - 16 * pair), pair, free_bytes(lm.device)
    )


def saved_bytes(lm: FrozenLM, length: int) -> int:
    """Bytes that the backward pass of one row of ``length`` positions keeps, weights not counted."""
    held: dict[int, torch.UntypedStorage] = {}
    weights = {p.untyped_storage().data_ptr() for p in lm.weights(lm.dtype).parameters()}

    def pack(tensor: torch.Tensor) -> None:
        # The storage alone, and until all are counted: a node that held its own output, as a softmax does, would never
        # be freed, and storages freed at once would share an address.
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = storage

    with lm.lock, torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        row = lm.embed([0] * length)[None].requires_grad_()
        lm.losses(
            row, torch.arange(length, device=lm.device), torch.zeros_like(row[0, :, 0], dtype=torch.long), lm.dtype
        )
    return sum(storage.nbytes() for storage in held.values())


def free_bytes(device: torch.device) -> int:
    """Memory that a pass can have now, bytes."""
    if device.type == "cuda":
        # What the allocator holds back may be a recorded pass's own (``replay``): only what it can give back counts.
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def group_by_length(lengths: Sequence[int]) -> list[list[int]]:
    """Indices in passes of like lengths: the split, in order of length, that costs the fewest positions.

    Cost of a pass: rows x longest row, and ``PASS_COST``.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    best = [0.0] + [float("inf")] * len(order)  # of the first i rows
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
    """Hand memory that work has freed back to the system: glibc keeps it, torn into pieces, and a kernel lives long."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library, which has its own ways
        ctypes.CDLL("libc.so.6").malloc_trim(0)


_FULL = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def out_of_memory(error: BaseException) -> bool:
    """Whether that is what an error says; CPUs, Apple's GPUs and cuBLAS have no type of their own for it."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(said in str(error) for said in _FULL)
    )
