"""A text as the bag of its tokens: which ones, how often, and not in which order. It needs no training.

The reader is the frozen model, which may only write what is left of the bag. So order is all that it still has to
guess: at most log2 n! bits for a model to which all tokens are alike, and nothing for one token.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from memlab.models import FrozenLM


def pack_bag(ids: Sequence[int] | np.ndarray, vocabulary: int) -> bytes:
    """A bag of token ids as its number among all bags of as many tokens: log2 of ``C(vocabulary + n - 1, n)`` bits.

    >>> pack_bag([7, 3, 3], 96) == pack_bag([3, 7, 3], 96), unpack_bag(pack_bag([7, 3, 3], 96), 3, 96)
    (True, [3, 3, 7])
    """
    ordered = sorted(int(i) for i in ids)
    # Sorted ids become a choice of n different numbers below vocabulary + n - 1 when i is added to the i-th.
    rank = sum(math.comb(token + i, i + 1) for i, token in enumerate(ordered))
    total = math.comb(vocabulary + len(ordered) - 1, len(ordered))
    return rank.to_bytes(-(-(total - 1).bit_length() // 8), "big")


def unpack_bag(data: bytes, n: int, vocabulary: int) -> list[int]:
    """The n token ids of ``pack_bag``, ascending."""
    rank, found = int.from_bytes(data, "big"), []
    for i in range(n, 0, -1):
        places = range(i - 1, vocabulary + i - 1)
        place = places[bisect_right(places, rank, key=lambda p: math.comb(p, i)) - 1]
        rank -= math.comb(place, i)
        found.append(place - i + 1)
    return found[::-1]


@torch.no_grad()
def token_bits(lm: FrozenLM, bag: Mapping[int, int], ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(bits, right), each (n,): the cost of each token among those left of ``bag`` {token: times}; whether it is first.

    Float32, batch 1, the true tokens are fed after the sink prefix. Without any context, what is left is equally
    likely. A token that is not left costs infinitely many bits.
    """
    ids = np.asarray(ids, np.int64)
    first = len(lm.sink_prefix)
    fed = torch.tensor([[*lm.sink_prefix, *ids[:-1].tolist()]], dtype=torch.long, device=lm.device)
    logits = torch.zeros(len(ids), lm.vocabulary)
    if fed.shape[1]:
        with lm.lock:
            told = lm.model(inputs_embeds=lm.embed(fed), use_cache=False).logits[0].float().cpu()
        logits[1 - min(first, 1) :] = told[max(first - 1, 0) :, : lm.vocabulary]
    left = Counter(dict(bag))
    bits, right = np.full(len(ids), np.inf), np.zeros(len(ids), bool)
    for i, token in enumerate(ids.tolist()):
        if left[token] > 0:
            tokens = remaining(left)
            among = logits[i, tokens].double()
            place = int((tokens == token).nonzero())
            bits[i] = float(torch.logsumexp(among, 0) - among[place]) / math.log(2)
            right[i] = int(among.argmax()) == place
            left[token] -= 1
    return bits, right


@torch.no_grad()
def written(lm: FrozenLM, bag: Mapping[int, int], tokens: int) -> np.ndarray:
    """(tokens,) greedy ids: at each place the likeliest token that is left of the bag; the smallest without context.

    From an empty bag everything is allowed.
    """
    left, found = Counter(dict(bag)), []
    logits, cache = None, None
    if lm.sink_prefix:
        logits, cache = lm.step(torch.float32, ids=torch.tensor([list(lm.sink_prefix)], device=lm.device))
    for _ in range(tokens):
        allowed = remaining(left) if any(count > 0 for count in left.values()) else torch.arange(lm.vocabulary)
        best = 0 if logits is None else int(logits[0].cpu()[allowed].argmax())
        found.append(int(allowed[best]))
        left[found[-1]] -= 1
        logits, cache = lm.step(torch.float32, ids=torch.tensor([[found[-1]]], device=lm.device), cache=cache)
    return np.array(found, np.int64)


def remaining(left: Mapping[int, int]) -> torch.Tensor:
    """The different tokens that are left, ascending."""
    return torch.tensor(sorted(token for token, count in left.items() if count > 0), dtype=torch.long)
