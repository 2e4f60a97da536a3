"""Part of a model's cache kept, and read: keys and values of earlier positions, some of them hidden per layer and head.

Nothing is cut out of the tensors. Positions that are not kept are hidden from all later tokens, so each layer and head
can keep others, and a later token's distance to a kept position stays what it was.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch

from memlab.models import FrozenLM
from memlab.probes.attention import attention_layers
from memlab.probes.hidden_attention import Hide, eager_attention, hiding


@dataclass(frozen=True)
class Fetch:
    """Parts of a cache from which a reader takes, at each token, those that fit its running query best."""

    part: torch.Tensor
    """(positions,) int: the part of each position, from 0. -1: always seen."""
    budget: int
    """Positions seen at a token, besides those that are always seen. The last part is cut off there."""
    ends: frozenset[int] = frozenset()
    """Token ids after which the running query begins anew. It is the mean of the queries since then."""


@dataclass(frozen=True)
class KeptCache:
    """Keys and values (layers, kv heads, positions, e), and which of them a later token may see."""

    keys: torch.Tensor
    values: torch.Tensor
    keep: torch.Tensor
    """(layers, kv heads, positions) bool."""
    fetch: Fetch | None = None
    """None: a later token sees all that is kept."""

    @property
    def positions(self) -> int:
        """Positions so far. The next token's position is this number, whatever is kept."""
        return self.keys.shape[2]


def prefill(lm: FrozenLM, given: torch.Tensor | np.ndarray | Sequence[int]) -> KeptCache:
    """The whole cache after input vectors (positions, d) or token ids (positions,). Every position sees all before it.

    >>> from memlab import load
    >>> prefill(load("toy:llama"), [5, 9, 2]).keys.shape
    torch.Size([2, 4, 3, 96])
    """
    rows = given if isinstance(given, torch.Tensor) and given.ndim == 2 else lm.embed(given)
    keys, values = lm.kv.of(rows)
    return KeptCache(keys, values, torch.ones(keys.shape[:3], dtype=torch.bool, device=keys.device))


@torch.no_grad()
def token_scores(lm: FrozenLM, cache: KeptCache, ids: np.ndarray, cue: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """(bits, right), each (n,): cost of each token of ``ids`` after the cache, the cue and the true tokens before it.

    Float32, batch 1; ``right``: the token is the model's first choice. A cache alone says nothing of the next token.
    So without a cue the first token's bits are NaN, and it is not right.
    """
    ids = np.asarray(ids, np.int64)
    fed = [*(int(i) for i in cue), *ids[:-1].tolist()]
    unscored = 0 if len(cue) else 1
    if not fed:
        return np.full(len(ids), np.nan), np.zeros(len(ids), bool)
    with _reading(lm, [cache], [fed]) as past:
        row = torch.tensor([fed], device=lm.device)
        logits = lm.model(input_ids=row, past_key_values=past, use_cache=True).logits[0].float()
    logits = logits[max(len(cue) - 1, 0) :]
    targets = torch.from_numpy(ids[unscored:].copy()).to(lm.device)
    nats = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    bits = np.concatenate([np.full(unscored, np.nan), nats.cpu().double().numpy() / np.log(2)])
    return bits, np.concatenate([np.zeros(unscored, bool), (logits.argmax(-1) == targets).cpu().numpy()])


def decode(lm: FrozenLM, caches: Sequence[KeptCache], tokens: int, cues: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """Greedy ids (tokens,) after each cache and its cue. Caches of one size, with cues of one length, share a batch.

    Without a cue the first token is the one with the smallest id.
    """
    sizes = [(cache.positions, len(cue)) for cache, cue in zip(caches, cues, strict=True)]
    done: dict[int, np.ndarray] = {}
    for _, same in groupby(sorted(range(len(caches)), key=lambda i: sizes[i]), key=lambda i: sizes[i]):
        rows = list(same)
        written = _greedy(lm, [caches[i] for i in rows], tokens, [list(cues[i]) or [0] for i in rows])
        if not len(cues[rows[0]]):
            written = np.concatenate([np.zeros((len(rows), 1), np.int64), written], 1)[:, :tokens]
        done |= dict(zip(rows, written, strict=True))
    return [done[i] for i in range(len(caches))]


def _greedy(lm: FrozenLM, caches: Sequence[KeptCache], tokens: int, fed: list[list[int]]) -> np.ndarray:
    """(rows, tokens). ``fed``: what each row reads first."""
    columns = []
    seen = [list(row) for row in fed]  # grows with what is written; the readers look at it
    with _reading(lm, caches, seen) as past:
        logits, cache = lm.step(torch.float32, ids=torch.tensor(fed, device=lm.device), cache=past)
        for position in range(tokens):
            best = logits.argmax(-1)
            columns.append(best.cpu().numpy())
            if position + 1 < tokens:
                for row, token in zip(seen, best.tolist(), strict=True):
                    row.append(token)
                logits, cache = lm.step(torch.float32, ids=best[:, None], cache=cache)
    return np.stack(columns, 1)


@contextlib.contextmanager
def _reading(lm: FrozenLM, caches: Sequence[KeptCache], seen: Sequence[Sequence[int]]) -> Iterator[Any]:
    """The caches as a batch for the model's next passes, with what is not kept hidden. ``seen``: ids fed after them."""
    past = lm.kv.cache(torch.stack([c.keys for c in caches]), torch.stack([c.values for c in caches]))
    keep = torch.stack([c.keep for c in caches]).to(lm.device)  # (batch, layers, kv heads, positions)
    serves = lm.kv.heads // keep.shape[2]
    hides: dict[Any, Hide] = {}
    for layer, module in enumerate(attention_layers(lm)):
        hidden = ~keep[:, layer].repeat_interleave(serves, 1)[:, :, None]
        hides[module] = _always(hidden)
        if any(c.fetch for c in caches):
            readers = [_Fetching(c.fetch, ids) if c.fetch else None for c, ids in zip(caches, seen, strict=True)]
            hides[module] = _fetched(hidden, readers, serves)
    with lm.lock, eager_attention(lm), hiding(hides):
        yield past


def _always(hidden: torch.Tensor) -> Hide:
    return lambda look: hidden


def _fetched(hidden: torch.Tensor, readers: Sequence[_Fetching | None], serves: int) -> Hide:
    def hide(look: Any) -> torch.Tensor:
        shares = look()[..., : hidden.shape[-1]]
        every = hidden.expand(-1, -1, shares.shape[2], -1).clone()
        for i, reader in enumerate(readers):
            if reader is not None:
                every[i] |= ~reader.sees(shares[i], serves).repeat_interleave(serves, 0)
        return every

    return hide


class _Fetching:
    """One layer and one text: which positions each new token sees. It remembers the queries since the last end."""

    def __init__(self, fetch: Fetch, seen: Sequence[int]) -> None:
        self.fetch, self.seen = fetch, seen
        self.read = 0  # tokens whose queries are in the sum
        self.sum: torch.Tensor | float = 0.0

    def sees(self, shares: torch.Tensor, serves: int) -> torch.Tensor:
        """(kv heads, rows, positions) bool from the shares of attention (heads, rows, positions) of new tokens."""
        part = self.fetch.part.to(shares.device)
        match = part_match(shares, part, shares.shape[0] // serves)
        running = torch.empty_like(match)
        for row in range(match.shape[1]):
            if self.read and self.seen[self.read - 1] in self.fetch.ends:
                self.sum = 0.0
            self.sum = self.sum + match[:, row]
            running[:, row] = self.sum  # the mean has the same order
            self.read += 1
        return best_parts(running, part, self.fetch.budget)


def part_match(shares: torch.Tensor, part: torch.Tensor, kv_heads: int) -> torch.Tensor:
    """(KV heads, rows, parts): each row's query times the mean key of each part, up to a number per row and head.

    ``shares`` (heads, rows, positions). The logarithm of a share is the product of query and key, up to a number that
    is the same for all positions. So its mean over a part is the product with the part's mean key. Query heads that
    share a KV head are averaged. ``part`` (positions,): the part of each position, from 0, or -1.
    """
    match = shares.clamp(min=torch.finfo(shares.dtype).tiny).log()
    match = match.view(kv_heads, shares.shape[0] // kv_heads, *shares.shape[1:]).mean(1)
    inside = torch.nn.functional.one_hot(part + 1)[:, 1:].to(match.dtype)
    return match @ inside / inside.sum(0)


def best_parts(match: torch.Tensor, part: torch.Tensor, budget: int) -> torch.Tensor:
    """(..., positions) bool: the ``budget`` positions in the parts with the largest ``match`` (..., parts).

    ``part`` (positions,): the part of each position; -1 is always True, and not counted. The last part is cut off.
    """
    parts = match.shape[-1]
    if not parts:
        return (part < 0).expand(*match.shape[:-1], -1)
    inside = torch.nn.functional.one_hot(part + 1, parts + 1)[:, 1:]
    within = (inside.cumsum(0) * inside).sum(1) - 1  # place of a position in its part
    order = match.argsort(dim=-1, descending=True, stable=True)
    sizes = inside.sum(0).expand(match.shape).gather(-1, order)
    before = torch.zeros_like(order).scatter(-1, order, sizes.cumsum(-1) - sizes)
    places = before[..., part.clamp(min=0)] + within
    return (places < budget) | (part < 0)
