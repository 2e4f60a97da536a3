"""Token ids, masks and numbers as bytes. What varies in size is told apart by the length that ``measure`` adds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from memlab.experiments import codecs as model_codes
from memlab.experiments.landscape.method import LandscapeError
from memlab.measures import codecs
from memlab.models import FrozenLM


def stored_bits(data: bytes, *, fixed_size: bool) -> int:
    """Bits of ``data``, and of its length in bytes by Elias's gamma code if the size is not known beforehand."""
    length = 0 if fixed_size else 2 * int(math.log2(len(data) + 1)) + 1
    return 8 * len(data) + length


def pack_ids(lm: FrozenLM, ids: Sequence[int] | np.ndarray) -> bytes:
    """Token ids as an arithmetic code of the frozen model. ``unpack_ids`` needs the same machine and thread count.

    A token costs what the model expects of it, given the tokens before it in ``ids``: mostly less than its id, and more
    than in its place in the text.
    """
    return model_codes.encode(lm, ids).data


def unpack_ids(lm: FrozenLM, data: bytes, count: int) -> np.ndarray:
    """The ``count`` ids of ``pack_ids``."""
    return model_codes.decode(lm, codecs.Coded(data, 8 * len(data)), count)


def pack_mask(kept: Sequence[int] | np.ndarray, n: int) -> bytes:
    """Which ``m`` of ``n`` positions are kept, as the number of this choice among all choices of m. m is not stored.

    >>> pack_mask([0, 2], 4).hex(), unpack_mask(pack_mask([0, 2], 4), 2, 4).tolist()
    ('01', [0, 2])
    """
    kept = sorted({int(i) for i in kept})
    if kept and not 0 <= kept[0] <= kept[-1] < n:
        raise LandscapeError(f"Position {kept[-1]} is not one of {n} tokens. Give positions from 0 to {n - 1}.")
    rank = sum(math.comb(position, i + 1) for i, position in enumerate(kept))
    return rank.to_bytes(-(-(math.comb(n, len(kept)) - 1).bit_length() // 8), "big")


def unpack_mask(data: bytes, m: int, n: int) -> np.ndarray:
    """The m kept positions, ascending."""
    rank, kept = int.from_bytes(data, "big"), []
    for i in range(m, 0, -1):
        position = max(p for p in range(i - 1, n) if math.comb(p, i) <= rank)
        rank -= math.comb(position, i)
        kept.append(position)
    return np.array(kept[::-1], np.int64)
