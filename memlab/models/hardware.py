"""What this machine is best at: the device, and the dtype of training passes."""

from __future__ import annotations

import functools
import time
from typing import Any

import torch


def best_device() -> str:
    """CUDA, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def best_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies it, and quicker than float32; elsewhere it is emulated."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "cpu":
        has: Any = getattr(torch.cpu, "get_capabilities", dict)()
        able = has.get("avx512_bf16") or has.get("amx_bf16")
        return torch.bfloat16 if able and _quicker_in_bfloat16() else torch.float32
    return torch.float32


@functools.cache
def _quicker_in_bfloat16() -> bool:
    """Timed, 50 ms: of two processors with the same AVX-512 BF16, one needs half of float32's time, one twice as much.

    Clearly quicker, so that the answer does not change from one load to the next.
    """

    def seconds(dtype: torch.dtype) -> float:
        rows, weights = torch.ones(256, 576, dtype=dtype), torch.ones(1536, 576, dtype=dtype)
        took = []
        for _ in range(6):
            began = time.perf_counter()
            torch.nn.functional.linear(rows, weights)
            took.append(time.perf_counter() - began)
        return min(took)

    return seconds(torch.bfloat16) < 0.8 * seconds(torch.float32)
