"""F6, retrieval: a key is stored, and a reader that has all N passages finds which of them is meant.

A key identifies its passage among N; it does not contain it. The N passages are side information of the reader, like
the model. They are not in the stored bits, so the bits recovered are at most log2 N: 9 of a passage's hundreds. Named
as the whole text back, they would break the landscape's bound.

Keys: the mean hidden state of the frozen model; the same, weighted by the text's words (after LexSemBridge, whose
weights are trained and stand on the query alone; here they are statistical, and on both); a sentence vector of MiniLM;
the mem vector; and numbers drawn from the tokens' hash, which know nothing of the text (the control). Coordinates are
standardised over passages in no row, because a few of a hidden state's are a hundred times as large as the others. A
key is stored as its signs in random directions, or as 8-bit numbers.

Predicted before the run. With the whole passage as the key:
- 8 signs recover 5 to 6 bits with the mean state, 7.4 with the hash; nothing recovers more than 8.
- 16 signs recover 8 to 8.7 bits with the mean state and 8.98 with the hash, 64 signs all 9 with every key. So the hash
  is the best key, and meaning is only a cost, as long as the reader's copy is the same text.
- Numbers at 8 bits recover no more than 64 signs and cost 72 times as much.
With 8 tokens of a passage as the query, the passage is first in 60 % of queries with the mean state, in 65 % with
word weights, in 75 % with MiniLM and in 95 % with BM25; the hash is at chance, 1 in 512.
Changed after a first look: states were taken in the middle of the model, and not standardised;
the weights were multiplied before the mean was taken off. One coordinate decided then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from memlab.experiments.landscape.method import Base, Context, LandscapeError, Method
from memlab.experiments.landscape.retrieval_keys import Encoder, hashed, kinds, mean_state, words_of
from memlab.experiments.landscape.vectors import vector_of
from memlab.measures import retrieval as measures
from memlab.measures.systems import ROWS
from memlab.models import FrozenLM, Passage
from memlab.results.store import Store
from memlab.texts import load_texts

LENGTHS, SIZE = (64, 32, 16, 8), 512
"""Texts of a kind that are rows of the landscape; tokens of a passage; number of passages."""


def corpus(lm: FrozenLM) -> tuple[Passage, ...]:
    """The ``SIZE`` passages of 8 to 64 tokens: those of the rows first, then prose and random words in equal parts."""
    if lm.fingerprint not in _CORPORA:
        texts, half = load_texts("originals"), SIZE // 2 - ROWS
        rows = [lm.passage(text, LENGTHS[0]) for text in [*texts[:ROWS], *load_texts("random", count=ROWS)]]
        random = load_texts("random", count=ROWS + half, words=80)[ROWS:]
        words = [lm.passage(text, LENGTHS[i % len(LENGTHS)]) for i, text in enumerate(random)]
        prose: list[Passage] = []
        at = [0] * len(texts)
        for i in range(half):
            text = ROWS + i % (len(texts) - ROWS)
            tokens = LENGTHS[i // (len(texts) - ROWS) % len(LENGTHS)]
            prose.append(lm.passage(texts[text], tokens, start=at[text]))
            at[text] = prose[-1].span.start + len(prose[-1].string)
        _CORPORA[lm.fingerprint] = (*rows, *prose, *words)
    return _CORPORA[lm.fingerprint]


_CORPORA: dict[str, tuple[Passage, ...]] = {}


@dataclass(frozen=True)
class MemVectors:
    """(N, d): the first mem vector of each passage, from a store."""

    shelf: Store

    def __call__(self, lm: FrozenLM, passages: Sequence[Passage]) -> np.ndarray:
        return np.stack([vector_of(self.shelf, lm, passage).mem[0] for passage in passages]).astype(np.float64)

    def among(self, lm: FrozenLM) -> tuple[Passage, ...]:
        """The passages of the corpus that have a vector."""
        return tuple(passage for passage in corpus(lm) if self._has(lm, passage))

    def _has(self, lm: FrozenLM, passage: Passage) -> bool:
        try:
            return vector_of(self.shelf, lm, passage) is not None
        except LandscapeError:
            return False


# Methods -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Key(Base):
    """A passage's key, as the signs of ``numbers`` coordinates (``bits`` 1), or whole with ``bits`` per number."""

    label: str = "mean hidden state"
    encoder: Encoder = mean_state
    weights: Encoder | None = None
    """What the standardised key is multiplied by, from the passage."""
    numbers: int = 64
    """Coordinates in random directions. 0: the key's own coordinates, all of them."""
    bits: int = 1
    among: Callable[[FrozenLM], Sequence[Passage]] = corpus
    """The passages that the reader has."""
    system: str = "retrieval"
    family: str = "F6"
    decoder: str = "find"
    cued: bool = False

    @property
    def name(self) -> str:
        rate = f"{self.numbers} signs" if self.bits == 1 else f"{self.bits} bits per number"
        return f"key: {self.label}, {rate}"

    @property
    def detail(self) -> Mapping[str, Any]:
        return {"numbers": self.numbers, "bits_a_number": self.bits}

    def store(self, lm: FrozenLM, passage: Passage) -> bytes:
        ready = self._ready(lm)
        if passage.ids.tobytes() not in ready.places:
            raise LandscapeError(
                f"{passage!r} is not among the {len(ready.places)} passages that the reader has. Give one of them."
            )
        return _pack(ready.turned(self.encoder(lm, [passage]), self._weights(lm, [passage])), self.bits)

    def context(self, lm: FrozenLM, data: bytes, tokens: int) -> Context:
        ready = self._ready(lm)
        scores = unit(_unpack(data, self.bits)[None]) @ ready.known.T

        def found(ids: np.ndarray) -> float:
            place = ready.places.get(np.asarray(ids, np.int64).tobytes())
            return -np.inf if place is None else float(measures.bits_found(scores, [place], ready.temperature)[0])

        return Context(found=found)

    def _weights(self, lm: FrozenLM, passages: Sequence[Passage]) -> np.ndarray | None:
        return None if self.weights is None else self.weights(lm, passages)

    def _ready(self, lm: FrozenLM) -> _Ready:
        at = (lm.fingerprint, self.encoder, self.weights, self.numbers, self.bits, self.among)
        if at not in _READY:
            passages = self.among(lm)
            if len(passages) < 2:
                raise LandscapeError(f"The reader has {len(passages)} passages, and a key tells some apart. Give two.")
            if (plain := (lm.fingerprint, self.encoder, self.among)) not in _KEYS:
                _KEYS[plain] = self.encoder(lm, passages)
            _READY[at] = _Ready.of(passages, _KEYS[plain], self._weights(lm, passages), self.numbers, self.bits)
        return _READY[at]


@dataclass(frozen=True)
class _Ready:
    """What the reader has: the passages, their keys in the stored form, and how far it trusts a score."""

    places: Mapping[bytes, int]
    """{token ids: place in the corpus}."""
    mean: np.ndarray
    std: np.ndarray
    directions: np.ndarray | None
    known: np.ndarray
    """(N, numbers), length 1."""
    temperature: float

    @classmethod
    def of(
        cls, passages: Sequence[Passage], keys: np.ndarray, weights: np.ndarray | None, numbers: int, bits: int
    ) -> _Ready:
        """Mean, spread and temperature are those of passages in no row, if there are enough others."""
        free = slice(2 * ROWS if len(passages) > 4 * ROWS else 0, None)
        directions = np.random.default_rng(0).standard_normal((keys.shape[1], numbers)) if numbers else None
        places = {np.asarray(passage.ids, np.int64).tobytes(): i for i, passage in enumerate(passages)}
        ready = cls(places, *spread(keys[free]), directions, np.zeros(0), 1.0)
        known = unit(np.stack([_unpack(_pack(row[None], bits), bits) for row in ready.turned(keys, weights)]))
        own = np.arange(len(keys))[free]
        return replace(ready, known=known, temperature=measures.fit_temperature(known[own] @ known.T, own))

    def turned(self, keys: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
        """Keys (q, d), standardised and weighted, in the stored coordinates (q, numbers)."""
        standard = (keys - self.mean) / self.std * (1 if weights is None else weights)
        return standard if self.directions is None else standard @ self.directions


def spread(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(mean, standard deviation), each (d,), of keys (N, d)."""
    return keys.mean(0), np.maximum(keys.std(0), 1e-12)


_KEYS: dict[tuple[Any, ...], np.ndarray] = {}
_READY: dict[tuple[Any, ...], _Ready] = {}


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows divided by their lengths."""
    of_length_one: np.ndarray = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return of_length_one


def _pack(row: np.ndarray, bits: int) -> bytes:
    """One key (1, numbers): signs, or 8-bit integers after their scale (float32)."""
    if bits == 1:
        return np.packbits(row[0] > 0).tobytes()
    scale = np.float32(max(float(np.abs(row).max()), 1e-12) / 127)
    return scale.astype("<f4").tobytes() + np.round(row[0] / scale).clip(-127, 127).astype(np.int8).tobytes()


def _unpack(data: bytes, bits: int) -> np.ndarray:
    """(numbers,). The number of signs is a multiple of 8."""
    if bits == 1:
        return 2.0 * np.unpackbits(np.frombuffer(data, np.uint8)) - 1
    return np.frombuffer(data, np.int8, offset=4) * float(np.frombuffer(data, "<f4", 1)[0])


def methods(shelf: Store) -> list[Method]:
    chosen: list[Method] = []
    for label, kind in kinds().items():
        plain = Key(label=label, encoder=kind.encoder, weights=kind.weights, system=kind.system)
        chosen += [replace(plain, numbers=numbers) for numbers in (8, 16, 64)]
        if kind.encoder is not hashed:
            chosen.append(replace(plain, numbers=0, bits=8))
    vectors = MemVectors(shelf)
    plain = Key(label="mem vector", encoder=vectors, among=vectors.among)
    return [*chosen, *(replace(plain, numbers=numbers) for numbers in (8, 16, 64))]


# Parts of passages as queries ----------------------------------------------------------------------------------------


def part_of_passage(lm: FrozenLM, *, tokens: int = 8, passages: Sequence[Passage] | None = None) -> pd.DataFrame:
    """One row per kind of key: how well ``tokens`` tokens from the middle of a passage find it. BM25 is the reference.

    Only passages of more than ``tokens`` tokens are asked for. Columns ``key queries passages mean_reciprocal_rank
    first among_ten bits``; ``bits``: narrowed down on the mean, with the temperature fitted on every other query and
    measured on the rest.
    """
    known = list(corpus(lm) if passages is None else passages)
    own = np.array([i for i, passage in enumerate(known) if len(passage) > tokens])
    asked = []
    for i in own:
        start = (len(known[i]) - tokens) // 2
        asked.append(lm.passage_of_ids(known[i].ids[start : start + tokens], name=known[i].span.id))
    scores = {}
    for label, kind in kinds().items():
        keys = kind.encoder(lm, known)
        mean, std = spread(keys)
        queries, documents = (kind.encoder(lm, asked) - mean) / std, (keys - mean) / std
        if kind.weights:
            queries, documents = queries * kind.weights(lm, asked), documents * kind.weights(lm, known)
        scores[label] = unit(queries) @ unit(documents).T
    scores["BM25"] = measures.bm25([words_of(p.string) for p in asked], [words_of(p.string) for p in known])
    rows = []
    for label, found in scores.items():
        ranked = measures.ranks(found, own)
        temperature = measures.fit_temperature(found[::2], own[::2])
        rows.append(
            {
                "key": label,
                "queries": len(own),
                "passages": len(known),
                "mean_reciprocal_rank": measures.mean_reciprocal_rank(ranked),
                "first": measures.recall(ranked, 1),
                "among_ten": measures.recall(ranked, 10),
                "bits": float(measures.bits_found(found[1::2], own[1::2], temperature).mean()),
            }
        )
    return pd.DataFrame(rows)
