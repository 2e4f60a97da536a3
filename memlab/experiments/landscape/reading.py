"""What a reader knows of a passage: the bits that each token still costs, and what is written without help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

import numpy as np
import torch

from memlab.experiments.landscape import bags
from memlab.experiments.landscape.method import Context
from memlab.models import FrozenLM, Overwrite
from memlab.probes import kept_cache
from memlab.probes.token_costs import token_scores


def token_bits(lm: FrozenLM, context: Context, ids: np.ndarray, cue: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """(bits, right), each (n,): what each token of a passage costs the reader; whether it is the reader's first choice.

    Float32, batch 1, the true tokens are fed. A token before which the model has no context is one of the vocabulary,
    all equally likely.
    """
    ids = np.asarray(ids, np.int64)
    if _knows_all(context, len(ids)):  # no pass of the model would change anything
        bits, right = np.zeros(len(ids)), np.ones(len(ids), bool)
    elif context.bag is not None:
        bits, right = bags.token_bits(lm, context.bag, ids)
    elif context.cache is not None:
        bits, right = kept_cache.token_scores(lm, context.cache, ids, cue)
    else:
        bits, right = token_scores(lm, ids, _embeddings(lm, context, cue), _overwrites(lm, [context]))
    bits = np.where(np.isnan(bits), np.log2(lm.vocabulary), bits)
    for position, token in context.given.items():
        right[position] = ids[position] == token
        bits[position] = 0 if right[position] else np.inf  # a wrong certainty is no code of this passage
    return bits, right


def written(
    lm: FrozenLM, contexts: Sequence[Context], tokens: int, cues: Sequence[Sequence[int]], *, batch: int = 16
) -> list[np.ndarray]:
    """Greedy ids (tokens,) after each context, in batches of contexts of one size: no proof of *exact*.

    Tokens that a reader knows (``given``) are fed instead of the model's choice.
    """
    known_all = {i: c.given for i, c in enumerate(contexts) if _knows_all(c, tokens)}
    done = {i: np.array([given[t] for t in range(tokens)], np.int64) for i, given in known_all.items()}
    done |= {i: bags.written(lm, c.bag, tokens) for i, c in enumerate(contexts) if c.bag is not None}
    left = {i: c for i, c in enumerate(contexts) if i not in done}
    plain = {i: _embeddings(lm, c, cues[i]) for i, c in left.items() if c.cache is None}
    order = sorted(plain, key=lambda i: len(plain[i]))
    for size, same in groupby(order, key=lambda i: len(plain[i])):
        rows = list(same)
        for start in range(0, len(rows), batch):
            chunk = rows[start : start + batch]
            known = [contexts[i].given for i in chunk]
            fed = torch.stack([plain[i] for i in chunk]) if size else None
            inside = _overwrites(lm, [contexts[i] for i in chunk])
            done |= dict(zip(chunk, _greedy(lm, fed, known, tokens, inside), strict=True))
    caches = [i for i, c in left.items() if c.cache is not None]
    for start in range(0, len(caches), batch):
        chunk = caches[start : start + batch]
        held = [cache for i in chunk if (cache := contexts[i].cache) is not None]
        ids = kept_cache.decode(lm, held, tokens, [cues[i] for i in chunk])
        done |= dict(zip(chunk, ids, strict=True))
    return [done[i] for i in range(len(contexts))]


def _knows_all(context: Context, tokens: int) -> bool:
    return context.given.keys() >= set(range(tokens))


def _greedy(
    lm: FrozenLM,
    fed: torch.Tensor | None,
    known: Sequence[Mapping[int, int]],
    tokens: int,
    inside: Sequence[Overwrite] = (),
) -> np.ndarray:
    """(rows, tokens). Without any context the first token is the one with the smallest id, unless it is known."""
    columns: list[np.ndarray] = []
    logits = cache = None
    if fed is not None:
        logits, cache = lm.step(torch.float32, embeddings=fed, written=inside)
    for position in range(tokens):
        best = np.zeros(len(known), np.int64) if logits is None else logits.argmax(-1).cpu().numpy()
        columns.append(np.array([row.get(position, int(b)) for row, b in zip(known, best, strict=True)], np.int64))
        if position + 1 < tokens:
            ids = torch.from_numpy(columns[-1][:, None]).to(lm.device)
            logits, cache = lm.step(torch.float32, ids=ids, cache=cache)
    return np.stack(columns, axis=1)


def _overwrites(lm: FrozenLM, contexts: Sequence[Context]) -> list[Overwrite]:
    """What these contexts, a row each, write into the layers."""
    written = []
    for row, context in enumerate(contexts):
        for layer, states in enumerate(() if context.layers is None else context.layers.to(lm.device)):
            position = torch.arange(len(states), device=lm.device)
            at = torch.full_like(position, row), len(lm.sink_prefix) + position
            written.append(Overwrite(layer, *at, states))
    return written


def _embeddings(lm: FrozenLM, context: Context, cue: Sequence[int]) -> torch.Tensor:
    """(c, d): sink prefix, what is stored, cue."""
    parts = [lm.embed(list(lm.sink_prefix))]
    if context.embeddings is not None:
        parts.append(context.embeddings.to(lm.device))
    return torch.cat([*parts, lm.embed(list(cue))])
