"""Heads of a model by what they attend to, measured once per model on passages that are in no row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from memlab.experiments.landscape import cache_scores
from memlab.experiments.landscape.kept import Row
from memlab.models import FrozenLM
from memlab.texts import load_texts

TOKENS = 64
_KINDS: dict[str, np.ndarray] = {}
_COPYING: dict[tuple[str, tuple[int, ...]], np.ndarray] = {}


def kinds_of(lm: FrozenLM) -> np.ndarray:
    """(layers, KV heads) kinds of ``cache_scores.kind``. A KV head's map is the sum of those of its query heads."""
    if lm.fingerprint not in _KINDS:
        layers, heads, _ = lm.kv.shape
        rows = fit_rows(lm, ())
        found = np.zeros((layers, heads, 2))
        for row in rows:
            for layer, shares in enumerate(row.shares):
                maps = shares.view(heads, -1, *shares.shape[1:]).sum(1).cpu().double().numpy()
                found[layer] += [cache_scores.explained(one) for one in maps]
        means = found.reshape(-1, 2) / len(rows)
        _KINDS[lm.fingerprint] = np.array([cache_scores.kind(*pair) for pair in means]).reshape(layers, heads)
    return _KINDS[lm.fingerprint]


def heads_that_copy(lm: FrozenLM, cue: Sequence[int]) -> np.ndarray:
    """(layers, KV heads): the most attention that a token gets while its passage is repeated, averaged over tokens."""
    key = (lm.fingerprint, tuple(cue))
    if key not in _COPYING:
        rows = fit_rows(lm, cue)
        found = np.zeros(lm.kv.shape[:2])
        for row in rows:
            for layer, shares in enumerate(row.repeated):
                scores = cache_scores.of_reading(shares, slice(row.own.stop, None), row.kv_heads)[:, row.own]
                found[layer] += scores.mean(-1).cpu().double().numpy() / len(rows)
        _COPYING[key] = found
    return _COPYING[key]


def fit_rows(lm: FrozenLM, cue: Sequence[int]) -> list[Row]:
    """8 passages: originals after the first 12, and random words after the first 12."""
    texts = [*load_texts("originals", count=16)[12:], *load_texts("random", count=16)[12:]]
    return [Row(lm, lm.passage(text, TOKENS).ids, tuple(cue)) for text in texts]
