"""F5: codes. The tokens come back exactly, so only the stored bits differ.

The tokens are coded with the frozen model, in one code or in windows of equal information (after Equal-Info Windows).
Reference lines: token ids, the text in general codecs, and one mem vector per window. Stored windows have exactly
``bits`` bits each, and after them comes where they end: a choice of places, which the published windows do not need to
store, because there a model is trained on the bits and nothing reads them back.

Predicted before the run, for passages of 64 tokens (mean of a kind of text, stored bits / the passage's own bits).
- Arithmetic coding: 1.03, because bytes are whole and their number is stored.
- Windows, context kept: 1.6 at 16 bits, 1.3 at 32, 1.15 at 64, 1.1 at 128 and at 256. Padding is about half a token
  per window.
- Windows, context reset: about 2.2 at 16 bits and 1.3 at 256 in prose; in random words the loss is a third of that,
  because context tells little there.
- In windows of 16 bits most random-word tokens stand alone, as ids: hardly less than the ids' own 16 bits.
- A mem vector per window of 256 bits stores 1.8 times as many bits as one vector per passage, and per window of 128
  bits 3 times: fewer tokens need fewer bits per number, but never half.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from memlab.experiments import codecs as model_codes
from memlab.experiments.landscape import reading
from memlab.experiments.landscape.bits import pack_ids, pack_mask, unpack_ids, unpack_mask
from memlab.experiments.landscape.method import Base, Context, LandscapeError, Method
from memlab.experiments.landscape.vectors import in_fewest_bits, in_store, unpack
from memlab.measures import codecs
from memlab.measures.capacity_fits import equal_information
from memlab.models import FrozenLM, Passage
from memlab.probes.token_costs import own_bits
from memlab.recipes import Recipe
from memlab.results.mem_vector import MemVector
from memlab.results.store import Store
from memlab.training.cram import cram

SIZES = {False: (16, 32, 64, 128, 256), True: (16, 64, 256)}
"""{whether the context is kept: bits per window}."""
VECTOR_WINDOWS = (128, 256)
"""Bits of text per mem vector."""


@dataclass(frozen=True)
class Code(Base):
    """Bytes from which the tokens come back exactly."""

    family: str = "F5"
    decoder: str = "code"
    cued: bool = False
    fixed_size: bool = False

    def ids(self, lm: FrozenLM, data: bytes, tokens: int) -> Sequence[int] | np.ndarray:
        """The tokens again."""
        raise NotImplementedError

    def context(self, lm: FrozenLM, data: bytes, tokens: int) -> Context:
        return Context(given={i: int(token) for i, token in enumerate(self.ids(lm, data, tokens))})


@dataclass(frozen=True)
class Arithmetic(Code):
    """One arithmetic code with the frozen model: the line that nothing is above."""

    name: str = "arithmetic coding"
    system: str = "arithmetic coding"

    def store(self, lm: FrozenLM, passage: Passage) -> bytes:
        return pack_ids(lm, passage.ids)

    def ids(self, lm: FrozenLM, data: bytes, tokens: int) -> np.ndarray:
        return unpack_ids(lm, data, tokens)


@dataclass(frozen=True)
class TokenIds(Code):
    """Each id in as many bits as the vocabulary needs: 16 for 49,152 tokens."""

    name: str = "token ids"
    system: str = "general codecs"
    fixed_size: bool = True

    def store(self, lm: FrozenLM, passage: Passage) -> bytes:
        return _pack_numbers(passage.ids, id_bits(lm))

    def ids(self, lm: FrozenLM, data: bytes, tokens: int) -> np.ndarray:
        return _unpack_numbers(data, id_bits(lm), tokens)


@dataclass(frozen=True)
class Characters(Code):
    """The text in a general codec. Its tokens are those of the tokenizer, and any others at its end are kept as ids.

    A passage is cut out of a text, so the tokenizer may cut its last words in another way than those of the whole text.
    """

    codec: str = "UTF-8"
    system: str = "general codecs"

    @property
    def name(self) -> str:
        return f"text, {self.codec}"

    @property
    def detail(self) -> Mapping[str, Any]:
        return {"codec": self.codec}

    def store(self, lm: FrozenLM, passage: Passage) -> bytes:
        ids = [int(i) for i in passage.ids]
        for whole in range(len(ids), max(-1, len(ids) - 256), -1):
            text = lm.decode_ids(ids[:whole]) if whole else ""
            if _tokens(lm, text) == ids[:whole]:
                tail = _pack_numbers(ids[whole:], id_bits(lm))
                return bytes([len(ids) - whole]) + tail + codecs.GENERAL[self.codec][0](text.encode())
        raise LandscapeError(f"The tokens of {passage!r} are not those of its text. Store token ids.")

    def ids(self, lm: FrozenLM, data: bytes, tokens: int) -> list[int]:
        count = data[0]
        size = -(-count * id_bits(lm) // 8)
        text = codecs.GENERAL[self.codec][1](data[1 + size :]).decode()
        return _tokens(lm, text) + _unpack_numbers(data[1 : 1 + size], id_bits(lm), count).tolist()


@dataclass(frozen=True)
class Windows(Code):
    """Consecutive windows of ``bits`` bits each, every one with as many tokens as fit; after Equal-Info Windows.

    The coder begins anew in each window. ``kept``: the model still sees the tokens of earlier windows. Without it, each
    window decodes alone, so damage stays in one. A window of one token holds its id: no code of it is shorter there,
    and a token dearer than a window still has a place.
    """

    bits: int = 16
    kept: bool = False
    system: str = "Equal-Info Windows"

    @property
    def name(self) -> str:
        return f"windows of {self.bits} bits, context {'kept' if self.kept else 'reset'}"

    @property
    def detail(self) -> Mapping[str, Any]:
        return {"window_bits": self.bits, "context": "kept" if self.kept else "reset"}

    def store(self, lm: FrozenLM, passage: Passage) -> bytes:
        if self.bits % 8 or self.bits < id_bits(lm):
            raise LandscapeError(
                f"Windows of {self.bits} bits do not hold each token of {lm.name}. Give whole bytes, and at least "
                f"{id_bits(lm)} bits."
            )
        ids, shares = [int(i) for i in passage.ids], _Shares(lm, kept=self.kept)
        found = codecs.windows(ids, lambda start, at: shares(start, ids[:at]), self.bits)
        starts = np.cumsum([0, *(count for count, _ in found)])
        size, body = self.bits // 8, b""
        for start, (count, code) in zip(starts, found, strict=False):
            body += ids[start].to_bytes(size, "big") if count == 1 else code.data.ljust(size, b"\0")
        data = body + pack_mask(starts[1:-1] - 1, len(ids) - 1)
        self.counts(data, len(ids))  # a passage that is too long to be read back is not stored
        return data

    def ids(self, lm: FrozenLM, data: bytes, tokens: int) -> list[int]:
        counts, size = self.counts(data, tokens), self.bits // 8
        ids: list[int] = []
        shares = _Shares(lm, kept=self.kept)
        for i, count in enumerate(counts):
            window, before = data[i * size : (i + 1) * size], tuple(ids)
            if count == 1:
                if self.kept:
                    shares(len(ids), ids)  # the model reads each token once, in order, as when it encoded
                ids.append(int.from_bytes(window, "big") % lm.vocabulary)  # a damaged id is still an id
            else:
                ids += codecs.decode_padded(window, count, partial(_after, shares, before))
        return ids

    def counts(self, data: bytes, tokens: int) -> list[int]:
        """Tokens of each window. The number of windows follows from the number of bytes."""
        sizes = {m: m * self.bits // 8 + len(pack_mask(range(m - 1), tokens - 1)) for m in range(1, tokens + 1)}
        fitting = [m for m, size in sizes.items() if size == len(data)]
        if len(fitting) != 1:  # one, for passages of up to 256 tokens
            raise LandscapeError(
                f"{len(data)} bytes are {len(fitting) or 'no'} numbers of windows of {self.bits} bits for {tokens} "
                "tokens. Give what was stored, and passages of up to 256 tokens."
            )
        m = fitting[0]
        ends = unpack_mask(data[m * self.bits // 8 :], m - 1, tokens - 1) + 1
        return [int(n) for n in np.diff([0, *ends, tokens])]


def _after(shares: _Shares, before: Sequence[int], so_far: Sequence[int]) -> np.ndarray:
    return shares(len(before), [*before, *so_far])


class _Shares:
    """Distribution (V,) of the next token in a window, with the context before the window or without it."""

    def __init__(self, lm: FrozenLM, *, kept: bool) -> None:
        self._lm, self._kept = lm, kept
        self._first = model_codes.Reader(lm)([])  # every window without context begins with it
        self._asked, self._shares = (-1, -1), self._first

    def __call__(self, start: int, before: Sequence[int]) -> np.ndarray:
        """After the tokens ``before``, in the window that begins with token ``start``."""
        begin = 0 if self._kept else start
        if begin != self._asked[0]:
            self._reader = model_codes.Reader(self._lm, self._first)
        if (begin, len(before)) != self._asked:  # else the token did not fit, and is asked for again
            self._asked, self._shares = (begin, len(before)), self._reader(before[begin:])
        return self._shares


@dataclass(frozen=True)
class VectorWindows(Code):
    """One mem vector per window of ``bits`` bits of text, each in the fewest bits that still decode.

    Vectors that the store lacks are trained.
    """

    bits: int = 256
    shelf: Store | None = None
    system: str = "Equal-Info Windows"

    @property
    def name(self) -> str:
        return f"a mem vector per {self.bits} bits of text"

    @property
    def detail(self) -> Mapping[str, Any]:
        return {"window_bits": self.bits}

    def store(self, lm: FrozenLM, passage: Passage) -> bytes:
        parts = vector_windows(lm, passage, self.bits)
        if len(parts) > 255:
            raise LandscapeError(
                f"{passage!r} has {len(parts)} windows, at most 255 are possible. Give more bits each."
            )
        known = in_store(self.shelf, lm) if self.shelf else {}
        lacking = [part for part in parts if part.ids.tobytes() not in known]
        trained = cram(lm, lacking, Recipe.default(), progress=False) if lacking else []
        known = known | {mem.token_ids.tobytes(): mem for mem in trained if mem.exact}
        ends = np.cumsum([len(part) for part in parts])[:-1] - 1
        mask = pack_mask(ends, len(passage) - 1)
        return bytes([len(parts)]) + mask + b"".join(_fewest(lm, known, part) for part in parts)

    def ids(self, lm: FrozenLM, data: bytes, tokens: int) -> list[int]:
        m = data[0]
        at = 1 + len(pack_mask(range(m - 1), tokens - 1))
        ends = unpack_mask(data[1:at], m - 1, tokens - 1) + 1
        ids: list[int] = []
        for count in np.diff([0, *ends, tokens]):
            k, bits = data[at], data[at + 1]
            size = 2 + 4 * k + -(-k * lm.d * bits // 8)
            vector = Context(torch.from_numpy(unpack(data[at : at + size], lm.d)))
            ids += reading.written(lm, [vector], int(count), [()])[0].tolist()
            at += size
        return ids


def _fewest(lm: FrozenLM, known: Mapping[bytes, MemVector], part: Passage) -> bytes:
    if part.ids.tobytes() not in known:
        raise LandscapeError(f"The search found no exact vector of {part!r}. Give windows of fewer bits.")
    return in_fewest_bits(lm, known[part.ids.tobytes()])


def vector_windows(lm: FrozenLM, passage: Passage, bits: int) -> list[Passage]:
    """The windows of a passage that need a vector each: ``bits`` bits to the nearest token, and the rest."""
    cuts = equal_information(own_bits(lm, passage.ids), bits)
    ends = [end for _, end in cuts]
    ends = ends if ends and ends[-1] == len(passage) else [*ends, len(passage)]
    starts = [0, *ends[:-1]]
    return [
        lm.passage_of_ids(passage.ids[start:end], name=f"{passage.span.id}:{start}-{end}")
        for start, end in zip(starts, ends, strict=True)
    ]


def id_bits(lm: FrozenLM) -> int:
    """Bits of a token id."""
    return (lm.vocabulary - 1).bit_length()


def _tokens(lm: FrozenLM, text: str) -> list[int]:
    if lm.tokenizer is None:
        raise LandscapeError(f"{lm.name} has no tokenizer, so it has no texts. Store token ids.")
    return [int(i) for i in lm.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]] if text else []


def _pack_numbers(numbers: Sequence[int] | np.ndarray, bits: int) -> bytes:
    planes = (np.asarray(numbers, np.int64)[:, None] >> np.arange(bits)) & 1
    return np.packbits(planes.astype(np.uint8).reshape(-1)).tobytes()


def _unpack_numbers(data: bytes, bits: int, count: int) -> np.ndarray:
    planes = np.unpackbits(np.frombuffer(data, np.uint8))[: count * bits].reshape(count, bits)
    return (planes.astype(np.int64) << np.arange(bits)).sum(1)


def methods(shelf: Store) -> list[Method]:
    windows = [Windows(bits=bits, kept=kept) for kept, sizes in SIZES.items() for bits in sizes]
    vectors = [VectorWindows(bits=bits, shelf=shelf) for bits in VECTOR_WINDOWS]
    return [
        Arithmetic(),
        TokenIds(),
        *(Characters(codec=name) for name in ("UTF-8", "zlib", "zstd")),
        *windows,
        *vectors,
    ]
