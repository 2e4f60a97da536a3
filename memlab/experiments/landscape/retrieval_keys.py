"""Keys of passages for retrieval: what a vector says of a text. Each encoder gives (N, d) float64 for N passages."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch

from memlab.models import FrozenLM, Passage
from memlab.probes import minilm

Encoder = Callable[[FrozenLM, Sequence[Passage]], np.ndarray]


DEPTH = 4
"""Hidden states are those after one layer in ``DEPTH``. Later ones keep less of which words a text has."""
STRENGTH = 0.3
"""Standard deviation of what the softmax of ``word_weights`` takes. At 1, a few coordinates carry everything."""


@torch.no_grad()
def mean_state(lm: FrozenLM, passages: Sequence[Passage]) -> np.ndarray:
    """(N, d): mean over the tokens of the hidden states early in the model, behind its sink prefix."""
    keys = np.zeros((len(passages), lm.d), np.float64)
    order = sorted(range(len(passages)), key=lambda i: len(passages[i]))
    sink = list(lm.sink_prefix)
    for _, same in groupby(order, key=lambda i: len(passages[i])):
        rows = list(same)
        for start in range(0, len(rows), 16):
            chunk = rows[start : start + 16]
            fed = torch.stack([lm.embed([*sink, *passages[i].ids.tolist()]) for i in chunk])
            with lm.lock:
                states = lm.model(inputs_embeds=fed, use_cache=False, output_hidden_states=True).hidden_states
            early = states[max(1, len(states) // DEPTH)][:, len(sink) :]
            keys[chunk] = early.float().mean(1).cpu().numpy()
    return keys


def word_weights(lm: FrozenLM, passages: Sequence[Passage]) -> np.ndarray:
    """(N, d), mean 1: what each coordinate of a text's key is multiplied by, from the text's words.

    The softmax, times d, of the words' embeddings, summed with the words' rarity: -log2 of the frequency in wordfreq,
    each word once. Coordinates are standardised over the vocabulary. A text without words has equal weights.
    """
    from wordfreq import word_frequency

    totals = np.zeros((len(passages), lm.d))
    mean, std = _embedding_spread(lm)
    for i, passage in enumerate(passages):
        square = 0.0
        for word in sorted(set(words_of(passage.string))):
            ids = [] if lm.tokenizer is None else lm.tokenizer(" " + word, add_special_tokens=False)["input_ids"]
            if ids:
                rarity = -np.log2(max(word_frequency(word, "en"), 1e-9))
                totals[i] += rarity * ((lm.embed(ids).double().cpu().numpy() - mean) / std).mean(0)
                square += rarity**2
        totals[i] *= STRENGTH / np.sqrt(square or 1)
    return softmax_weights(totals)


def softmax_weights(totals: np.ndarray) -> np.ndarray:
    """(N, d) positive, mean 1: d times the softmax of each row. Equal numbers give equal weights."""
    raised = np.exp(totals - totals.max(1, keepdims=True))
    weights: np.ndarray = raised / raised.mean(1, keepdims=True)
    return weights


def _embedding_spread(lm: FrozenLM) -> tuple[np.ndarray, np.ndarray]:
    """(mean, standard deviation), each (d,), of the embeddings over the vocabulary."""
    if lm.fingerprint not in _SPREADS:
        total, square = np.zeros(lm.d), np.zeros(lm.d)
        for ids in np.array_split(np.arange(lm.vocabulary), -(-lm.vocabulary // 8192)):
            rows = lm.embed(ids).double().cpu().numpy()
            total, square = total + rows.sum(0), square + (rows**2).sum(0)
        mean = total / lm.vocabulary
        _SPREADS[lm.fingerprint] = mean, np.sqrt(np.maximum(square / lm.vocabulary - mean**2, 1e-24))
    return _SPREADS[lm.fingerprint]


_SPREADS: dict[str, tuple[np.ndarray, np.ndarray]] = {}


def words_of(text: str) -> list[str]:
    """Its words, in lower case.

    >>> words_of("The ferry's bell; 2 tolls.")
    ['the', "ferry's", 'bell', '2', 'tolls']
    """
    return re.findall(r"[\w']+", text.lower())


def sentence_vector(lm: FrozenLM, passages: Sequence[Passage]) -> np.ndarray:
    """(N, 384) by MiniLM. ``lm`` gives only the texts. Raises ``MiniLMError``."""
    return minilm.sentence_vectors([passage.string for passage in passages]).double().numpy()


def hashed(lm: FrozenLM, passages: Sequence[Passage]) -> np.ndarray:
    """(N, d) normal numbers, drawn from the hash of the token ids: keys that know nothing of the text."""
    seeds = [int.from_bytes(hashlib.sha256(passage.ids.tobytes()).digest()[:8], "big") for passage in passages]
    return np.stack([np.random.default_rng(seed).standard_normal(lm.d) for seed in seeds])


@dataclass(frozen=True)
class Kind:
    """A kind of key."""

    encoder: Encoder
    weights: Encoder | None = None
    """What the standardised coordinates are multiplied by."""
    system: str = "retrieval"


def kinds() -> dict[str, Kind]:
    """{label: kind of key}. MiniLM is absent unless its package is installed."""
    found = {
        "mean hidden state": Kind(mean_state),
        "hidden state weighted by words": Kind(mean_state, word_weights, "LexSemBridge"),
        "hash of the tokens": Kind(hashed),
    }
    return found | ({"MiniLM sentence vector": Kind(sentence_vector)} if minilm.is_installed() else {})
