"""Tokens of a prompt as bytes: the shorter of their arithmetic code and their plain ids."""

from __future__ import annotations

import numpy as np

from memlab.experiments.landscape import bits
from memlab.experiments.landscape.prompt_scores import costs, once
from memlab.models import FrozenLM


def width(lm: FrozenLM) -> int:
    """Bits of a plain id: 16 for the default model."""
    return max(1, (lm.vocabulary - 1).bit_length())


def pack_plain(lm: FrozenLM, ids: np.ndarray) -> bytes:
    """Token ids (m,), each in ``width`` bits."""
    planes = (np.asarray(ids, np.int64)[:, None] >> np.arange(width(lm))) & 1
    return np.packbits(planes.astype(np.uint8).reshape(-1)).tobytes()


def unpack_plain(lm: FrozenLM, data: bytes, m: int) -> np.ndarray:
    """The m ids of ``pack_plain``."""
    planes = np.unpackbits(np.frombuffer(data, np.uint8))[: m * width(lm)].reshape(m, width(lm))
    return (planes.astype(np.int64) << np.arange(width(lm))).sum(axis=1)


def pack(lm: FrozenLM, ids: np.ndarray) -> bytes:
    """Token ids as an arithmetic code (``bits.pack_ids``), or as plain ids if these have no more bytes.

    The dearest tokens of a text cost the model more than plain ids do. A reader tells the two apart by the length,
    which ``stored_bits`` counts.
    """
    ids = np.asarray(ids, np.int64)
    plain = pack_plain(lm, ids)
    if not len(ids) or costs(lm, [ids[:0]], [ids], ())[0] > 8 * len(plain):  # one pass says that coding is no gain
        return plain
    coded = _coded(lm, ids.tobytes())
    return coded if len(coded) < len(plain) else plain


def unpack(lm: FrozenLM, data: bytes, m: int) -> np.ndarray:
    """The m ids of ``pack``."""
    if len(data) == -(-m * width(lm) // 8):
        return unpack_plain(lm, data, m)
    return bits.unpack_ids(lm, data, m)


@once
def _coded(lm: FrozenLM, ids: bytes) -> bytes:
    """Coded once for ``read`` and ``fill``: that takes a step of the model per token."""
    return bits.pack_ids(lm, np.frombuffer(ids, np.int64))
