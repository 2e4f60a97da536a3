"""F3: vectors that a trained encoder writes for a text in one pass, a bag of tokens, and one gradient.

An encoder's vectors are stored as integers of 8 bits per number, each vector with its scale. The encoders come from
``memlab encoder train``; a method whose encoder is not trained for the model is left out by name. Each method is for
passages of one length, because an encoder's use of a vector depends on how many tokens it has to hold.

- own encoder, and the same with changes: bag-of-words loss, training text chosen by a score
- the frozen model's own slots and one linear layer; segments compressed apart
- chunk vectors, the dearest chunks left as text
- a bridge from MiniLM's sentence vector: what is stored is the sentence vector
- without training: the bag of the tokens; the first turn of the per-sample search from noise ("one gradient")

What was expected is in ``measures.encoder_predictions``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from memlab.experiments.landscape import bags, prompt_codes
from memlab.experiments.landscape.bits import pack_mask, unpack_mask
from memlab.experiments.landscape.method import Base, Context, LandscapeError, Method
from memlab.experiments.landscape.vectors import pack, unpack
from memlab.measures import selection
from memlab.models import FrozenLM, Passage
from memlab.probes.minilm import SIZE, sentence_vectors
from memlab.recipes import Recipe
from memlab.results.store import Store
from memlab.scoring.objective import Batch, Row
from memlab.training.encoders import Encoder
from memlab.training.encoders.bridge import Bridge
from memlab.training.encoders.losses import with_text
from memlab.training.encoders.shelf import loaded
from memlab.training.optimizers import make_optimizer
from memlab.training.preconditioner import preconditioner_of
from memlab.training.starts import initial_mem

BITS = 8
"""Bits per number of a stored vector."""


@dataclass(frozen=True)
class _Soft(Base):
    """What methods of this family share."""

    tokens: int = 16
    """Tokens of the passages that it is for."""
    cued: bool = False
    family: str = "F3"

    def require(self, passage: Passage) -> None:
        """Raise ``LandscapeError`` for a passage of another length."""
        if len(passage) != self.tokens:
            raise LandscapeError(
                f"This method is for passages of {self.tokens} tokens, and this one has {len(passage)}. "
                f"Give --tokens {self.tokens}."
            )


@dataclass(frozen=True)
class Encoded(_Soft):
    """The k vectors of a trained encoder."""

    encoder: str = "slots"
    what: str = "own encoder"
    k: int = 1
    given: Encoder | None = None
    """In place of the trained encoder of that name."""

    @property
    def name(self) -> str:
        return f"{self.what}, {self.tokens} tokens in {self.k} vector{'s' if self.k > 1 else ''}"

    @property
    def detail(self) -> Mapping[str, Any]:
        return {"encoder": self.encoder, "k": self.k, "bits_a_number": BITS}

    def encoder_of(self, lm: FrozenLM) -> Encoder:
        """Raises ``EncoderError`` if there is none."""
        return self.given or loaded(self.encoder, lm)

    def store(self, lm: FrozenLM, passage: Passage) -> bytes:
        self.require(passage)
        return pack(self.encoder_of(lm).encode(passage.ids, self.k).numpy(), BITS)

    def context(self, lm: FrozenLM, data: bytes, tokens: int) -> Context:
        return Context(torch.from_numpy(unpack(data, lm.d)))


@dataclass(frozen=True)
class Bridged(Encoded):
    """One vector by a bridge from MiniLM's sentence vector, which is what is stored."""

    def store(self, lm: FrozenLM, passage: Passage) -> bytes:
        self.require(passage)
        return pack(sentence_vectors([passage.string]).numpy(), BITS)

    def context(self, lm: FrozenLM, data: bytes, tokens: int) -> Context:
        encoder = self.encoder_of(lm)
        network = encoder.network
        assert isinstance(network, Bridge)
        with torch.no_grad():
            direction = network.of_sentences(torch.from_numpy(unpack(data, SIZE)))
        return Context(encoder.length(1) * torch.nn.functional.normalize(direction, dim=-1).cpu())


@dataclass(frozen=True)
class Chunks(Encoded):
    """A vector for each chunk of tokens, but the dearest chunks stay text."""

    encoder: str = "chunks"
    what: str = "chunk vectors"
    share: float = 0.0
    """Share of the chunks that stay text."""

    @property
    def name(self) -> str:
        return f"{self.what}, {self.tokens} tokens, {self.share:.0%} left as text".replace("%", " %")

    @property
    def detail(self) -> Mapping[str, Any]:
        return {**super().detail, "share": self.share}

    def store(self, lm: FrozenLM, passage: Passage) -> bytes:
        self.require(passage)
        m = selection.count(self.k, self.share) if self.share else 0
        parts = passage.ids.reshape(self.k, -1)
        kept = selection.top(np.nansum(lm.token_bits(passage.ids).reshape(self.k, -1), axis=1), m)
        vectors = self.encoder_of(lm).encode(passage.ids, self.k).numpy()
        others = np.setdiff1d(np.arange(self.k), kept)
        numbers = pack(vectors[others], BITS) if len(others) else b""
        return pack_mask(kept, self.k) + numbers + prompt_codes.pack(lm, parts[np.sort(kept)].reshape(-1))

    def context(self, lm: FrozenLM, data: bytes, tokens: int) -> Context:
        m = selection.count(self.k, self.share) if self.share else 0
        size = len(pack_mask(range(m), self.k))
        kept, data = unpack_mask(data[:size], m, self.k), data[size:]
        size = 2 + 4 * (self.k - m) + -(-(self.k - m) * lm.d * BITS // 8) if m < self.k else 0
        parts = np.zeros((self.k, tokens // self.k), np.int64)
        parts[kept] = prompt_codes.unpack(lm, data[size:], parts[kept].size).reshape(parts[kept].shape)
        vectors = np.zeros((self.k, lm.d), np.float32)
        if m < self.k:
            vectors[np.setdiff1d(np.arange(self.k), kept)] = unpack(data[:size], lm.d)
        is_text = np.isin(np.arange(self.k), kept)[None]
        return Context(with_text(lm, parts.reshape(1, -1), torch.from_numpy(vectors)[None], is_text)[0])


@dataclass(frozen=True)
class Bag(_Soft):
    """The tokens of the passage without their order. The reader writes only what is left of them."""

    system: str = "RetroMAE v2"
    decoder: str = "fill"

    @property
    def name(self) -> str:
        return f"bag of {self.tokens} tokens"

    def store(self, lm: FrozenLM, passage: Passage) -> bytes:
        self.require(passage)
        return bags.pack_bag(passage.ids, lm.vocabulary)

    def context(self, lm: FrozenLM, data: bytes, tokens: int) -> Context:
        return Context(bag=Counter(bags.unpack_bag(data, tokens, lm.vocabulary)))


@dataclass(frozen=True)
class OneGradient(_Soft):
    """The vector that the default search has after its first turn: an encoder that is a gradient, without training."""

    system: str = "one gradient"

    @property
    def name(self) -> str:
        return f"one gradient, {self.tokens} tokens in 1 vector"

    @property
    def detail(self) -> Mapping[str, Any]:
        return {"recipe": Recipe.default().canonical(), "bits_a_number": BITS}

    def store(self, lm: FrozenLM, passage: Passage) -> bytes:
        self.require(passage)
        return pack(one_gradient(lm, passage).numpy(), BITS)

    def context(self, lm: FrozenLM, data: bytes, tokens: int) -> Context:
        return Context(torch.from_numpy(unpack(data, lm.d)))


def one_gradient(lm: FrozenLM, passage: Passage, recipe: Recipe | None = None) -> torch.Tensor:
    """(k, d): the vectors of a search after its first step from noise."""
    recipe = recipe or Recipe.default()
    noise = initial_mem(lm, passage, recipe)
    row = Row(passage.ids, lm.prefix_ids(recipe.prefix), recipe.suffix, recipe.k, recipe.first_scored)
    _, (gradient,) = Batch(lm, [row]).scores([noise], lm.dtype, gradient=True)
    optimizer = make_optimizer(recipe, preconditioner_of(lm) if recipe.whiten else None, None)
    return noise + optimizer.step(noise, gradient)


def methods(shelf: Store) -> list[Method]:
    """All soft tokens. ``shelf`` is not used."""
    found: list[Method] = [
        Encoded(system="own encoder", tokens=n, k=k)
        for n, k in ((8, 1), (16, 1), (32, 1), (64, 1), (16, 4), (16, 8), (64, 8))
    ]
    others = (
        ("UniICL", "states", "the model's own slots", ((16, 1), (32, 1), (16, 4))),
        ("CompLLM", "segments", "segments apart", ((16, 4), (16, 8), (64, 16))),
        ("own encoder", "short", "encoder, short training", ((16, 1), (32, 1))),
        ("RetroMAE v2", "bag", "encoder with a bag-of-words loss", ((16, 1), (32, 1))),
        ("Compress & Align", "chosen", "encoder, training text chosen", ((16, 1), (32, 1))),
        ("Compress & Align", "unchosen", "encoder, a random ninth of the text", ((16, 1), (32, 1))),
    )
    for system, encoder, what, shapes in others:
        found += [Encoded(system=system, encoder=encoder, what=what, tokens=n, k=k) for n, k in shapes]
    for n in (16, 32, 64):
        found += [
            Chunks(system="REFRAG", tokens=n, k=n // 4, share=share, fixed_size=not share) for share in (0, 0.25, 0.5)
        ]
        found.append(Bridged(system="xRAG", encoder="bridge", what="bridge from a sentence vector", tokens=n))
        found += [Bag(tokens=n), OneGradient(tokens=n)]
    return found
