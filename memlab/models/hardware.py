"""The best device of this machine, and the fastest dtype of training passes on it."""

from __future__ import annotations

import functools
import time
from typing import Any

import torch


def best_device() -> str:
    """CUDA if available, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def best_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 if the hardware multiplies it, and faster than float32; else float32, since bfloat16 is emulated."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "cpu":
        return torch.bfloat16 if bfloat16_units() and _faster_in_bfloat16() else torch.float32
    return torch.float32


def bfloat16_units() -> list[str]:
    """Names of the CPU's units that multiply bfloat16. Empty if it has no such unit."""
    features: Any = getattr(torch.cpu, "get_capabilities", dict)()
    return [unit for unit in ("avx512_bf16", "amx_bf16") if features.get(unit)]


@functools.cache
def _faster_in_bfloat16() -> bool:
    """Whether bfloat16 takes less than 0.8 of the time of float32 here. Timed, because CPU flags do not show it.

    Of two processors with the same AVX-512 BF16, one needed half the time of float32, and one needed twice the
    time. The factor 0.8 keeps the answer the same from one load to the next. The measurement takes 50 ms.
    """

    def seconds(dtype: torch.dtype) -> float:
        rows, weights = torch.ones(256, 576, dtype=dtype), torch.ones(1536, 576, dtype=dtype)
        times = []
        for _ in range(6):
            began = time.perf_counter()
            torch.nn.functional.linear(rows, weights)
            times.append(time.perf_counter() - began)
        return min(times)

    return seconds(torch.bfloat16) < 0.8 * seconds(torch.float32)
