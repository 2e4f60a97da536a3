"""Keys and values as bytes: bfloat16, or rounded to a few bits, keys per channel and values per token."""

from __future__ import annotations

import numpy as np
import torch

from memlab.experiments.landscape.method import LandscapeError

PLAIN = {32: torch.float32, 16: torch.bfloat16}
"""Bits per number that need no scales: their dtype."""


def pack(rows: torch.Tensor, bits: int, axis: int) -> bytes:
    """Numbers (m, e) in ``bits`` each. Below 16 bits, each line along ``axis`` has its own lowest value and step.

    Axis 0: the lines are channels, m numbers each. Axis 1: they are tokens, e numbers each. Lowest value and step are
    bfloat16, rounded so that all numbers lie between the lowest and the highest level. So no number moves by more than
    half a step. Raises ``LandscapeError`` for other bits.
    """
    rows = rows.detach().cpu().float()
    if bits in PLAIN:
        return _raw(rows.to(PLAIN[bits]))
    if not 1 <= bits <= 8:
        raise LandscapeError(f"Numbers of {bits} bits cannot be stored. Use 1 to 8, 16 or 32.")
    top = 2**bits - 1
    if not len(rows):
        rows = torch.zeros(1, rows.shape[1])[: 1 - axis]  # one scale per channel is stored all the same
    low, high = (rows.amin(axis), rows.amax(axis)) if rows.numel() else (rows.new_zeros(0), rows.new_zeros(0))
    low16 = _towards(low, -torch.inf)
    step16 = _towards((high - low16.float()) / top, torch.inf)
    levels = (rows - low16.float().unsqueeze(axis)) / step16.float().clamp(min=1e-30).unsqueeze(axis)
    whole = levels.round().clamp(0, top).to(torch.int64).numpy()
    planes = (whole.reshape(-1, 1) >> np.arange(bits)) & 1
    return _raw(low16) + _raw(step16) + np.packbits(planes.astype(np.uint8).reshape(-1)).tobytes()


def unpack(data: bytes, at: int, m: int, e: int, bits: int, axis: int) -> tuple[torch.Tensor, int]:
    """(numbers (m, e) float32, where they end) of ``pack``, from byte ``at`` on."""
    if bits in PLAIN:
        size = m * e * bits // 8
        return _numbers(data[at : at + size], PLAIN[bits]).view(m, e), at + size
    lines, held = (e, max(m, 1)) if axis == 0 else (m, m)
    low, step = (_numbers(data[start : start + 2 * lines], torch.bfloat16) for start in (at, at + 2 * lines))
    at += 4 * lines
    size = -(-held * e * bits // 8)
    planes = np.unpackbits(np.frombuffer(data, np.uint8, size, at))[: held * e * bits].reshape(-1, bits)
    levels = (planes.astype(np.int64) << np.arange(bits)).sum(1).reshape(held, e)
    rows = torch.from_numpy(levels).float() * step.unsqueeze(axis) + low.unsqueeze(axis)
    return rows[:m], at + size


def _towards(numbers: torch.Tensor, end: float) -> torch.Tensor:
    """bfloat16, rounded in the direction of ``end``."""
    near = numbers.to(torch.bfloat16)
    beyond = near.float() > numbers if end < 0 else near.float() < numbers
    return torch.where(beyond, torch.nextafter(near, torch.full_like(near, end)), near)


def _raw(rows: torch.Tensor) -> bytes:
    if rows.dtype == torch.bfloat16:
        return bytes(rows.contiguous().view(torch.int16).numpy().astype("<i2").tobytes())
    return bytes(rows.contiguous().numpy().astype("<f4").tobytes())


def _numbers(data: bytes, dtype: torch.dtype) -> torch.Tensor:
    if dtype == torch.bfloat16:
        return torch.from_numpy(np.frombuffer(data, "<i2").astype(np.int16)).view(torch.bfloat16).float()
    return torch.from_numpy(np.frombuffer(data, "<f4").astype(np.float32))
