"""F4: part of the cache. Keys and values of some positions are stored, per layer and head, and the rest is dropped.

``sees``: scores by the cue's attention look at the cue (``cue``), and scores by the attention while the passage is read
a second time look at the passage as the reader's target (``target``, an oracle).

Sentences that are fetched by the running query save reading, not storing: the whole cache is stored. Their rows say in
``detail`` which share of it is read at a token (``share_read``), beside the row's stored bits.

Predicted before the run, on originals, as shares of what the whole cache recovers: in bfloat16 and in 8 bits nothing is
lost, in 4 bits 2 %, in 2 bits more than half. At 25 %: oracle 70 %, sentences fetched by the running query 75 %, random
positions 45 % (each position is still somewhere), cue's attention 40 %, short keys 35 %, windows 30 %, kinds of head
30 %, first and last 30 %. At 50 %: oracle 95 %, the others between 50 % and 80 %. Kinds of head lose against equal
budgets, because copying needs the contextual heads. Without the sink more than half is lost. Moving the kept positions
together changes less than a tenth. Each method's efficiency is below 0.1 %.

Predicted after the oracle's 12 % had recovered 93 % on 3 passages, and before ``CopyingHeads`` was run: few heads copy,
whatever the passage. So whole heads, chosen on other passages, recover 80 % at 12 % and 97 % at 25 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from memlab.experiments.landscape import cache_scores
from memlab.experiments.landscape.cache_heads import heads_that_copy, kinds_of
from memlab.experiments.landscape.kept import Kept, Row, count_of
from memlab.experiments.landscape.method import Context, Method
from memlab.models import FrozenLM
from memlab.probes.kept_cache import Fetch, best_parts, part_match
from memlab.results.store import Store

LONGEST = 16
"""Tokens after which a sentence is cut into parts. Random words have no sentence ends."""
FIRST = 4
"""First positions that ``FirstAndLast`` keeps, the sink prefix among them."""


@dataclass(frozen=True)
class FirstAndLast(Kept):
    """The first ``FIRST`` positions and the last ones."""

    what: str = "first and last positions"
    system: str = "StreamingLLM"

    def known(self, lm: FrozenLM, tokens: int) -> torch.Tensor | None:
        count = count_of(self.share, tokens)
        first = min(count, max(FIRST - len(lm.sink_prefix), 0)) if self.sink else 0
        kept = torch.zeros(tokens, dtype=torch.bool)
        kept[:first] = True
        kept[tokens - (count - first) :] = True
        return kept.expand(*lm.kv.shape[:2], -1)


@dataclass(frozen=True)
class RandomPositions(Kept):
    """Positions drawn anew for each layer and head, the same for all passages."""

    what: str = "random positions"
    system: str = "random"

    def known(self, lm: FrozenLM, tokens: int) -> torch.Tensor | None:
        drawn = torch.from_numpy(np.random.default_rng(0).random((*lm.kv.shape[:2], tokens)))
        budgets = torch.full(lm.kv.shape[:2], count_of(self.share, tokens))
        return cache_scores.top(drawn, budgets, self.forced(lm, tokens).cpu())


@dataclass(frozen=True)
class ShortKeys(Kept):
    """The positions whose keys are shortest."""

    what: str = "positions with short keys"
    system: str = "key norm"

    def known(self, lm: FrozenLM, tokens: int) -> torch.Tensor | None:
        return None

    def scores(self, row: Row) -> torch.Tensor:
        return -row.cache.keys[:, :, row.own].norm(dim=-1)


@dataclass(frozen=True)
class OfCue(ShortKeys):
    """The positions that the cue attends to, smoothed over neighbours."""

    what: str = "positions that the cue attends to"
    system: str = "SnapKV"
    sees: str = "cue"

    def scores(self, row: Row) -> torch.Tensor:
        every = [cache_scores.of_cue(shares, row.window, row.kv_heads) for shares in row.shares]
        return torch.stack(every)[:, :, row.own]


@dataclass(frozen=True)
class OfRepetition(ShortKeys):
    """The positions that get most attention while the passage is read a second time, in any layer and head."""

    what: str = "positions that its repetition attends to"
    system: str = "KVzip"
    sees: str = "target"

    def choose(self, row: Row) -> torch.Tensor:
        again = slice(row.own.stop, None)
        scores = torch.stack([cache_scores.of_reading(shares, again, row.kv_heads) for shares in row.repeated])
        scores = scores[:, :, row.own]
        scores = scores.masked_fill(self.forced(row.lm, len(row.ids)), torch.inf)
        total = torch.tensor([[count_of(self.share, len(row.ids)) * scores[..., 0].numel()]])
        return cache_scores.top(scores.reshape(1, 1, -1), total).view(scores.shape).cpu()


@dataclass(frozen=True)
class Windows(ShortKeys):
    """Windows of neighbours that the cue attends to. The layers of a group keep the same, deeper groups keep less."""

    what: str = "windows, layers in groups"
    system: str = "WindowKV"
    sees: str = "cue"
    size: int = 8
    groups: int = 5

    @property
    def detail(self) -> Mapping[str, Any]:
        return {**super().detail, "window": self.size, "groups": self.groups}

    def choose(self, row: Row) -> torch.Tensor:
        layers, heads, _ = row.lm.kv.shape
        n, window = len(row.ids), row.window
        groups = np.array_split(np.arange(layers), min(self.groups, layers))
        most = -(-n // self.size)
        # The last window may be short, and it may not be among the kept ones: so all count as full.
        share = self.share * n / (self.size * most) if self.share < 1 else 1.0
        budgets = cache_scores.arithmetic(share, len(groups), most)
        keep = torch.zeros(layers, heads, n, dtype=torch.bool)
        for group, budget in zip(groups, budgets, strict=True):
            scores = row.shares[group[0]][:, -window:].sum((0, 1))[row.own]  # over all heads of the first layer
            scores = scores.masked_fill(self.forced(row.lm, n), torch.inf)
            keep[group] = cache_scores.windows(scores, budget, self.size).cpu()
        return keep


@dataclass(frozen=True)
class ByKind(OfCue):
    """Contextual heads keep less, the positions that the cue attends to. Structural heads keep the last positions."""

    what: str = "cache by kind of head"
    system: str = "HACK"
    ratio: float = 0.5
    """Budget of contextual heads by that of the others."""
    own_rule: bool = True
    """Whether structural heads keep the last positions. Else all heads keep by the cue's attention."""

    def choose(self, row: Row) -> torch.Tensor:
        kinds = kinds_of(row.lm)
        scores = self.scores(row)
        if self.own_rule:
            structural = torch.from_numpy(kinds == cache_scores.STRUCTURAL).to(scores.device)
            last = torch.arange(scores.shape[2], device=scores.device).to(scores.dtype)
            scores = torch.where(structural[..., None], last, scores)
        budgets = cache_scores.by_kind(kinds, self.share, scores.shape[2], ratio=self.ratio)
        return cache_scores.top(scores, budgets, self.forced(row.lm, scores.shape[2])).cpu()


@dataclass(frozen=True)
class CopyingHeads(ShortKeys):
    """All positions in the heads that read a passage while it is repeated, and none in the others.

    The heads are chosen once, on passages that are in no row.
    """

    what: str = "all positions in the heads that copy"
    system: str = "copying heads"

    def choose(self, row: Row) -> torch.Tensor:
        scores = torch.from_numpy(heads_that_copy(row.lm, row.cue))
        count = count_of(self.share, scores.numel())
        kept = cache_scores.top(scores.reshape(1, 1, -1), torch.tensor([[count]])).view(scores.shape)
        return (kept[..., None] | self.forced(row.lm, len(row.ids)).cpu()).expand(-1, -1, len(row.ids))


@dataclass(frozen=True)
class Sentences(ShortKeys):
    """The sentences whose mean keys fit the cue's mean query, with the first and the last positions."""

    what: str = "sentences chosen by the cue"
    system: str = "SentenceKV"
    sees: str = "cue"

    def choose(self, row: Row) -> torch.Tensor:
        part, budget = self.parts(row)
        every = []
        for shares in row.shares:
            match = part_match(shares[:, -row.window :, row.own], part, row.kv_heads).mean(1)
            every.append(best_parts(match, part, budget))
        return torch.stack(every).cpu()

    def parts(self, row: Row) -> tuple[torch.Tensor, int]:
        """(part of each position of the passage (n,), positions in parts that may be kept)."""
        return parts_of(sentence_starts(row.lm, row.ids), self.share, row.lm.device)


@dataclass(frozen=True)
class FetchedSentences(Sentences):
    """The whole cache is stored. At each token the reader sees the sentences that fit its running query."""

    what: str = "sentences fetched by the running query"
    sees: str = "nothing"

    @property
    def name(self) -> str:
        return f"{super().name} read"

    @property
    def detail(self) -> Mapping[str, Any]:
        return {**super().detail, "share": 1.0, "share_read": self.share}

    def choose(self, row: Row) -> torch.Tensor:
        return torch.ones(*row.lm.kv.shape[:2], len(row.ids), dtype=torch.bool)

    def pack_choice(self, row: Row, keep: torch.Tensor) -> bytes:
        return np.packbits(sentence_starts(row.lm, row.ids)).tobytes()

    def unpack_choice(self, lm: FrozenLM, data: bytes, tokens: int) -> tuple[torch.Tensor, int]:
        return torch.ones(*lm.kv.shape[:2], tokens, dtype=torch.bool), -(-tokens // 8)

    def context(self, lm: FrozenLM, data: bytes, tokens: int) -> Context:
        starts = np.unpackbits(np.frombuffer(data, np.uint8, -(-tokens // 8)))[:tokens].astype(bool)
        part, budget = parts_of(starts, self.share, lm.device)
        always = torch.full((len(lm.sink_prefix),), -1, device=lm.device)
        fetch = Fetch(torch.cat([always, part]), budget, sentence_ends(lm))
        plain = super().context(lm, data, tokens)
        assert plain.cache is not None
        return replace(plain, cache=replace(plain.cache, fetch=fetch))


@lru_cache(maxsize=4)
def sentence_ends(lm: FrozenLM) -> frozenset[int]:
    """Token ids whose text ends with a full stop, a question mark or an exclamation mark, or has a new line."""
    if lm.tokenizer is None:
        return frozenset()
    texts = {i: lm.decode_ids([i]) for i in range(lm.vocabulary)}
    return frozenset(
        i for i, text in texts.items() if "\n" in text or text.rstrip("\"')]\u2019\u201d ").endswith((".", "!", "?"))
    )


def sentence_starts(lm: FrozenLM, ids: np.ndarray) -> np.ndarray:
    """(n,) bool: tokens at which a sentence begins, or a part of one longer than ``LONGEST``."""
    ends, starts, since = sentence_ends(lm), np.zeros(len(ids), bool), 0
    for i in range(len(ids)):
        starts[i] = i == 0 or int(ids[i - 1]) in ends or since == LONGEST
        since = 1 if starts[i] else since + 1
    return starts


def parts_of(starts: np.ndarray, share: float, device: torch.device) -> tuple[torch.Tensor, int]:
    """(part of each position (n,), or -1 if it is always kept; positions in parts that may be kept).

    Always kept: an eighth of the budget at the beginning, at least one position, and an eighth at the end.
    """
    n = len(starts)
    count = count_of(share, n)
    first = min(count, max(1, count // 8))
    last = min(count - first, count // 8)
    inner = np.zeros(n, bool)
    inner[first : n - last] = True
    part = np.full(n, -1)
    part[inner] = np.unique(np.cumsum(starts)[inner], return_inverse=True)[1]
    return torch.from_numpy(part).to(device), count - first - last


def methods(shelf: Store) -> list[Method]:
    quarters, few = (0.125, 0.25, 0.5, 0.75), (0.125, 0.25, 0.5)
    several = (FirstAndLast, RandomPositions, ShortKeys, OfCue, OfRepetition, Windows)
    return [
        Kept(bits=32),
        Kept(),
        *(Kept(bits=bits, system="rounding") for bits in (8, 4, 2)),
        *(kind(share=share) for kind in several for share in quarters),
        *(ByKind(share=share) for share in few),
        *(kind(share=share) for kind in (Sentences, FetchedSentences) for share in few),
        *(OfRepetition(share=share) for share in (1 / 32, 1 / 16)),
        *(CopyingHeads(share=share) for share in (1 / 32, 1 / 16, *few)),
        *(OfRepetition(share=share, bits=4) for share in (0.125, 0.25)),
        *(FirstAndLast(share=share, compact=True) for share in (0.25, 0.5)),
        OfCue(share=0.5, compact=True),
        Kept(sink=False),
        *(kind(share=share, sink=False) for kind, share in ((FirstAndLast, 0.5), (OfCue, 0.5), (CopyingHeads, 0.25))),
    ]
