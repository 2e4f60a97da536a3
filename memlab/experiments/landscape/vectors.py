"""F1: mem vectors, as float32 and in the fewest bits that still decode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from memlab.decoding.decode import check, context_of
from memlab.experiments.landscape.layers import InEveryLayer
from memlab.experiments.landscape.method import Base, Context, LandscapeError, Method
from memlab.experiments.precision import exact_vectors
from memlab.models import FrozenLM, Passage
from memlab.probes.token_costs import token_scores
from memlab.results.mem_vector import MemVector
from memlab.results.store import Store


@dataclass(frozen=True)
class Vector(Base):
    """One trained vector per passage, from a store."""

    shelf: Store | None = None
    bits: int = 32
    """Bits per number: 32, or 0 for the fewest at which the passage is exact."""
    cued: bool = False
    family: str = "F1"
    system: str = "mem vector"

    @property
    def name(self) -> str:
        return "mem vector, float32" if self.bits == 32 else "mem vector, fewest bits"

    @property
    def detail(self) -> Mapping[str, Any]:
        return {"bits_a_number": self.bits or "fewest"}

    def store(self, lm: FrozenLM, passage: Passage) -> bytes:
        mem = vector_of(self.shelf, lm, passage)
        if self.bits == 32:
            return mem.mem.astype("<f4").tobytes()
        return in_fewest_bits(lm, mem)

    def context(self, lm: FrozenLM, data: bytes, tokens: int) -> Context:
        numbers = np.frombuffer(data, "<f4").reshape(-1, lm.d) if self.bits == 32 else unpack(data, lm.d)
        return Context(torch.from_numpy(numbers.copy()))


def in_fewest_bits(lm: FrozenLM, mem: MemVector) -> bytes:
    """``pack`` of a vector in the fewest bits per number at which it is exact, at most 16, or a ``LandscapeError``."""
    for bits in range(2, 17):  # rounding is not monotonic, but the coarsest exact form is the first that is found
        rounded = mem.quantise(bits)
        # A pass over the true text is ten times quicker than a decode, and finds most of those that fail.
        if token_scores(lm, mem.token_ids, context_of(lm, rounded))[1].all() and check(lm, rounded).exact:
            return pack(mem.mem, bits)
    raise LandscapeError(f"{mem!r} is not exact at 16 bits per number. Train it with a larger margin.")


def vector_of(shelf: Store | None, lm: FrozenLM, passage: Passage) -> MemVector:
    """The exact vector of a passage with the smallest k, in a store. Raises ``LandscapeError`` if there is none."""
    found = in_store(shelf, lm).get(passage.ids.tobytes()) if shelf else None
    if found is None:
        raise LandscapeError(
            f"The store has no exact vector of {passage!r} for {lm.name}. Make it with `memlab cram`, or give the "
            "store that has it."
        )
    return found


_KNOWN: dict[tuple[str, str, int], list[MemVector]] = {}
"""What ``input_vectors`` found, by store, model and number of results: reading a store takes a second."""


def input_vectors(store: Store, lm: FrozenLM) -> list[MemVector]:
    """The exact vectors of a store and a model that stand at its input, without a suffix; by key."""
    name = (str(store.path), lm.fingerprint, count := len(store.table()))
    if name not in _KNOWN:
        mems = exact_vectors(store, lm, count)
        _KNOWN[name] = [mem for mem in mems if not len(mem.suffix_ids) and mem.recipe.where == "input"]
    return _KNOWN[name]


def in_store(store: Store, lm: FrozenLM) -> dict[bytes, MemVector]:
    """{token ids: exact vector} of a store and a model: the first by key among those with the smallest k."""
    found: dict[bytes, MemVector] = {}
    for mem in input_vectors(store, lm):
        before = found.get(ids := mem.token_ids.tobytes())
        if before is None or mem.k < before.k:
            found[ids] = mem
    return found


def pack(numbers: np.ndarray, bits: int) -> bytes:
    """Vectors (k, d) as integers of 2 to 16 ``bits``, each with its scale (absmax, float32), after k and the bits.

    ``MemVector.quantise`` gives the same numbers.
    """
    top = 2 ** (bits - 1) - 1
    scale = np.maximum(np.abs(numbers).max(axis=1, keepdims=True), np.finfo(np.float32).tiny) / top
    levels = np.round(numbers / scale).astype(np.int64) + top
    planes = (levels.reshape(-1, 1) >> np.arange(bits)) & 1
    head = bytes([len(numbers), bits])
    return head + scale.astype("<f4").tobytes() + np.packbits(planes.astype(np.uint8).reshape(-1)).tobytes()


def unpack(data: bytes, d: int) -> np.ndarray:
    """(k, d) float32 of ``pack``."""
    k, bits = data[0], data[1]
    scale = np.frombuffer(data, "<f4", k, 2)[:, None]
    planes = np.unpackbits(np.frombuffer(data, np.uint8, offset=2 + 4 * k))[: k * d * bits].reshape(-1, bits)
    levels = (planes.astype(np.int64) << np.arange(bits)).sum(1) - (2 ** (bits - 1) - 1)
    return (levels.reshape(k, d) * scale).astype(np.float32)


def methods(shelf: Store) -> list[Method]:
    exact = Vector(shelf=shelf)
    return [exact, replace(exact, bits=0, fixed_size=False), InEveryLayer()]
