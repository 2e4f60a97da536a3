"""A part of the cache as bytes, and back: what all methods of F4 share. What is kept is chosen in ``caches``.

The cache is that of the sink prefix and the passage, each position seeing all before it. A reader gets the kept keys
and values at their old positions and nothing of the others. Stored: kept numbers as bfloat16, or rounded to fewer bits
with their scales, and one bit per layer, KV head and token for what is kept. The keys and values of the sink prefix are
not stored: they depend on the sink token alone, so the reader computes them, and they are in no budget. A model without
a sink prefix keeps its first token in each layer and head, and this token is stored and counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from memlab.experiments.landscape import cache_bytes, cache_scores
from memlab.experiments.landscape.measure import cue_ids
from memlab.experiments.landscape.method import Base, Context, LandscapeError
from memlab.models import FrozenLM, Passage
from memlab.probes.attention import attention_shares
from memlab.probes.kept_cache import KeptCache, prefill

WINDOW = 4
"""Fewest last positions whose attention is looked at, if the cue is shorter."""


@dataclass(frozen=True)
class Row:
    """What is read before a passage is written: sink prefix, passage, cue."""

    lm: FrozenLM
    ids: np.ndarray
    cue: tuple[int, ...]

    @property
    def first(self) -> int:
        """Positions of the sink prefix."""
        return len(self.lm.sink_prefix)

    @property
    def own(self) -> slice:
        """The passage's positions."""
        return slice(self.first, self.first + len(self.ids))

    @property
    def kv_heads(self) -> int:
        return self.lm.kv.shape[1]

    @property
    def window(self) -> int:
        """Last positions, of the passage and the cue, whose attention decides: the cue's, but at least ``WINDOW``."""
        return min(max(len(self.cue), WINDOW), len(self.ids) + len(self.cue))

    @cached_property
    def cache(self) -> KeptCache:
        """The cache of sink prefix and passage."""
        return prefill(self.lm, [*self.lm.sink_prefix, *self.ids])

    @cached_property
    def shares(self) -> list[torch.Tensor]:
        """Per layer (heads, positions, positions): attention while sink prefix, passage and cue are read."""
        return self._shares(())

    @cached_property
    def repeated(self) -> list[torch.Tensor]:
        """The same while sink prefix, passage, cue and the passage again are read."""
        return self._shares(self.ids)

    def _shares(self, more: Any) -> list[torch.Tensor]:
        return attention_shares(self.lm, self.lm.embed([*self.lm.sink_prefix, *self.ids, *self.cue, *more]))


@dataclass(frozen=True)
class Kept(Base):
    """A part of the cache, chosen per layer and KV head. This one keeps everything."""

    share: float = 1.0
    """Share of the passage's positions, on average over layers and heads."""
    bits: int = 16
    """Bits per number: 32 (float32), 16 (bfloat16), or 1 to 8 with scales."""
    sink: bool = True
    """Whether later tokens see the sink prefix, or the first token of a model without one."""
    compact: bool = False
    """Whether the kept positions are moved together, behind the sink prefix."""
    cue: str = ""
    """Words between the cache and the passage."""
    what: str = "whole cache"
    family: str = "F4"
    system: str = "full cache"

    @property
    def name(self) -> str:
        share = "" if self.share == 1 and not self.compact else f", {self.share:.0%}"
        bits = {32: ", float32", 16: ""}.get(self.bits, f", {self.bits} bits a number")
        return f"{self.what}{share}{bits}{', moved together' * self.compact}{', without the sink' * (not self.sink)}"

    @property
    def detail(self) -> Mapping[str, Any]:
        return {
            "share": self.share, "bits_a_number": self.bits, "sink": self.sink,
            "positions": "moved together" if self.compact else "kept",
        }  # fmt: skip

    def with_cue(self, cue: str) -> Kept:
        return replace(self, cue=cue)

    def row(self, lm: FrozenLM, passage: Passage) -> Row:
        return Row(lm, passage.ids, cue_ids(lm, self.cue))

    def store(self, lm: FrozenLM, passage: Passage) -> bytes:
        row = self.row(lm, passage)
        whole = row.cache
        keep = self.choose(row)
        keys, values = (part[:, :, row.own] for part in (whole.keys, whole.values))
        if self.compact:
            keys = together(lm, keys, keep)
        return self.pack_choice(row, keep) + pack_numbers(keys, values, keep, self.bits)

    def context(self, lm: FrozenLM, data: bytes, tokens: int) -> Context:
        keep, at = self.unpack_choice(lm, data, tokens)
        if self.compact:
            keep = keep.new_ones(*keep.shape[:2], int(keep[0, 0].sum()))
        keys, values = unpack_numbers(data[at:], keep, lm.kv.shape[2], self.bits)
        start = prefill(lm, list(lm.sink_prefix)) if lm.sink_prefix else None
        if start is not None:
            keys, values = torch.cat([start.keys.cpu(), keys], 2), torch.cat([start.values.cpu(), values], 2)
            keep = torch.cat([torch.full_like(start.keep.cpu(), self.sink), keep], 2)
        return Context(cache=KeptCache(keys.to(lm.device), values.to(lm.device), keep.to(lm.device)))

    # What the methods differ in --------------------------------------------------------------------------------------

    def choose(self, row: Row) -> torch.Tensor:
        """(layers, KV heads, n) bool: what is kept of the passage."""
        known = self.known(row.lm, len(row.ids))
        if known is not None:
            return known
        scores = self.scores(row)
        budgets = torch.full(scores.shape[:2], count_of(self.share, scores.shape[2]))
        return cache_scores.top(scores, budgets, self.forced(row.lm, scores.shape[2])).cpu()

    def scores(self, row: Row) -> torch.Tensor:
        """(layers, KV heads, n): the largest are kept."""
        raise NotImplementedError

    def known(self, lm: FrozenLM, tokens: int) -> torch.Tensor | None:
        """What is kept, if it does not depend on the passage: then it is not stored."""
        layers, heads, _ = lm.kv.shape
        return torch.ones(layers, heads, tokens, dtype=torch.bool)

    def forced(self, lm: FrozenLM, tokens: int) -> torch.Tensor:
        """(n,) bool: tokens that are kept whatever their score. The first one, if there is no sink prefix."""
        kept = torch.zeros(tokens, dtype=torch.bool, device=lm.device)
        kept[: int(self.sink and not lm.sink_prefix)] = True
        return kept

    def pack_choice(self, row: Row, keep: torch.Tensor) -> bytes:
        if self.compact or self.known(row.lm, len(row.ids)) is not None:
            return b""  # keys that were moved together have the positions 0, 1, 2 ...
        return np.packbits(keep.numpy().reshape(-1)).tobytes()

    def unpack_choice(self, lm: FrozenLM, data: bytes, tokens: int) -> tuple[torch.Tensor, int]:
        layers, heads, _ = lm.kv.shape
        known = self.known(lm, tokens)
        if known is None and self.compact:
            known = torch.arange(tokens).expand(layers, heads, -1) < count_of(self.share, tokens)
        if known is not None:
            return known, 0
        size = -(-layers * heads * tokens // 8)
        flat = np.unpackbits(np.frombuffer(data, np.uint8, size))[: layers * heads * tokens]
        return torch.from_numpy(flat.astype(bool)).view(layers, heads, tokens), size


def count_of(share: float, tokens: int) -> int:
    """Positions that a budget allows: the whole part of ``share * tokens``.

    >>> count_of(0.12, 64), count_of(0.29, 100)
    (7, 29)
    """
    return int(np.floor(round(share * tokens, 9)))


def together(lm: FrozenLM, keys: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """``keys`` (layers, KV heads, n, e), with the kept ones turned to the positions 0, 1, 2 ... of the passage."""
    counts = keep.sum(-1)
    if counts.unique().numel() != 1:
        raise LandscapeError("Heads that keep different numbers of positions cannot be moved together. Keep positions.")
    by = (keep.cumsum(-1) - 1 - torch.arange(keep.shape[2])) * keep
    return lm.kv.rotate(keys, by.to(keys.device))


def pack_numbers(keys: torch.Tensor, values: torch.Tensor, keep: torch.Tensor, bits: int) -> bytes:
    """Kept keys and values (layers, KV heads, n, e), head by head: keys have scales per channel, values per token."""
    parts = []
    for layer, head in np.ndindex(*keep.shape[:2]):
        kept = keep[layer, head].to(keys.device)
        parts.append(cache_bytes.pack(keys[layer, head, kept], bits, 0))
        parts.append(cache_bytes.pack(values[layer, head, kept], bits, 1))
    return b"".join(parts)


def unpack_numbers(data: bytes, keep: torch.Tensor, e: int, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values (layers, KV heads, n, e) of ``pack_numbers``. Numbers of dropped positions are 0."""
    keys, values, at = torch.zeros(*keep.shape, e), torch.zeros(*keep.shape, e), 0
    for layer, head in np.ndindex(*keep.shape[:2]):
        m = int(keep[layer, head].sum())
        for axis, whole in enumerate((keys, values)):
            numbers, at = cache_bytes.unpack(data, at, m, e, bits, axis)
            whole[layer, head, keep[layer, head]] = numbers
    return keys, values
