"""Vectors in fewer bits: product and residual codes, low rank, hashing, scalar levels, cosines to anchors.

A fit learns from vectors (n, d) and gives a quantiser, which turns other vectors into bytes and back. ``shared_bits``
counts what all vectors share: codebooks, bases, anchors. ``measures.grids`` has the grid whose codes vary in size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from memlab.errors import MemlabError


class QuantiserError(MemlabError, ValueError):
    """Vectors or settings that a quantiser cannot take. The message says what to give."""


class Quantiser(Protocol):
    """Turns vectors (n, d) into bytes, and bytes into vectors (n, d) float32."""

    @property
    def shared_bits(self) -> float:
        """Bits that the code of every vector needs, and that are stored once."""

    def encode(self, vectors: np.ndarray) -> bytes:
        """The code of vectors (n, d)."""

    def decode(self, data: bytes) -> np.ndarray:
        """The vectors (n, d) of a code."""


@dataclass(frozen=True)
class ProductFit:
    """Product quantisation: a vector is cut into ``parts``, and each part is the number of one of ``codes`` centres.

    ``alike``: all parts share one codebook, so that it learns from ``parts`` times as many examples. With no more
    distinct examples than codes, the examples are the centres, and their code is lossless. k-means of scikit-learn.
    """

    parts: int
    codes: int = 256
    alike: bool = False
    seed: int = 0

    def fit(self, vectors: np.ndarray) -> ProductQuantiser:
        if not 2 <= self.codes <= 256:
            raise QuantiserError(f"{self.codes} codes do not fit into a byte each. Give 2 to 256.")
        pieces = _pieces(vectors, self.parts)
        if self.alike:
            return ProductQuantiser(self._centres(pieces.reshape(-1, pieces.shape[-1]))[None], self.parts)
        books = [self._centres(pieces[:, part]) for part in range(self.parts)]
        size = max(map(len, books))  # a codebook with fewer centres is filled with its first
        return ProductQuantiser(
            np.stack([np.concatenate([b, b[:1].repeat(size - len(b), 0)]) for b in books]), self.parts
        )

    def _centres(self, examples: np.ndarray) -> np.ndarray:
        distinct = np.unique(examples, axis=0)
        if len(distinct) <= self.codes:
            return distinct
        from sklearn.cluster import KMeans

        return KMeans(self.codes, n_init=1, max_iter=50, random_state=self.seed).fit(examples).cluster_centers_


@dataclass(frozen=True)
class ProductQuantiser:
    """``books`` (parts or 1, codes, numbers of a part). A byte per part."""

    books: np.ndarray
    parts: int

    @property
    def shared_bits(self) -> float:
        return 32.0 * self.books.size

    def encode(self, vectors: np.ndarray) -> bytes:
        pieces = _pieces(vectors, self.parts)
        codes = [_nearest(pieces[:, i], self.books[i % len(self.books)]) for i in range(self.parts)]
        return np.stack(codes, 1).astype(np.uint8).tobytes()

    def decode(self, data: bytes) -> np.ndarray:
        codes = np.frombuffer(data, np.uint8).reshape(-1, self.parts)
        pieces = [self.books[i % len(self.books)][codes[:, i]] for i in range(self.parts)]
        return np.concatenate(pieces, 1).astype(np.float32)


@dataclass(frozen=True)
class ResidualFit:
    """Residual quantisation: each stage is a product code of what the stages before it leave over."""

    stage: ProductFit
    stages: int

    def fit(self, vectors: np.ndarray) -> ResidualQuantiser:
        rest, fitted = np.asarray(vectors, float), []
        for _ in range(self.stages):
            fitted.append(self.stage.fit(rest))
            rest = rest - fitted[-1].decode(fitted[-1].encode(rest))
        return ResidualQuantiser(tuple(fitted))


@dataclass(frozen=True)
class ResidualQuantiser:
    """Product codes, one after another."""

    stages: tuple[ProductQuantiser, ...]

    @property
    def shared_bits(self) -> float:
        return sum(stage.shared_bits for stage in self.stages)

    def encode(self, vectors: np.ndarray) -> bytes:
        rest, codes = np.asarray(vectors, float), []
        for stage in self.stages:
            codes.append(stage.encode(rest))
            rest = rest - stage.decode(codes[-1])
        return b"".join(codes)

    def decode(self, data: bytes) -> np.ndarray:
        size = len(data) // len(self.stages)
        parts = [stage.decode(data[i * size : (i + 1) * size]) for i, stage in enumerate(self.stages)]
        return np.stack(parts).astype(float).sum(0).astype(np.float32)


@dataclass(frozen=True)
class LowRankFit:
    """Principal components: ``rank`` numbers per vector, float32, in place of d."""

    rank: int

    def fit(self, vectors: np.ndarray) -> Linear:
        mean = np.asarray(vectors, float).mean(0)
        axes = np.linalg.svd(np.asarray(vectors, float) - mean, full_matrices=False)[2][: self.rank]
        return Linear(axes, axes.T, mean, "<f4", 32.0 * (axes.size + mean.size))


@dataclass(frozen=True)
class HashFit:
    """The hashing trick: each number is added, with a random sign, to one of ``buckets`` shared numbers (float16)."""

    buckets: int
    seed: int = 0

    def fit(self, vectors: np.ndarray) -> Linear:
        d, rng = np.shape(vectors)[1], np.random.default_rng(self.seed)
        table = np.zeros((self.buckets, d))
        table[rng.permutation(d) % self.buckets, np.arange(d)] = rng.choice((-1.0, 1.0), d)
        members = np.maximum(np.abs(table).sum(1, keepdims=True), 1)
        return Linear(table / members, table.T, np.zeros(d), "<f2", 0.0)


@dataclass(frozen=True)
class Linear:
    """m numbers ``forth @ (x - mean)`` per vector; ``back`` (d, m) of them, plus the mean, is the vector again."""

    forth: np.ndarray
    back: np.ndarray
    mean: np.ndarray
    dtype: str
    shared_bits: float

    def encode(self, vectors: np.ndarray) -> bytes:
        return ((np.asarray(vectors, float) - self.mean) @ self.forth.T).astype(self.dtype).tobytes()

    def decode(self, data: bytes) -> np.ndarray:
        numbers = np.frombuffer(data, self.dtype).astype(float).reshape(-1, len(self.forth))
        return (numbers @ self.back.T + self.mean).astype(np.float32)


@dataclass(frozen=True)
class Cosines:
    """A vector as its cosines to anchors (m, d), float16; read again by least squares (arXiv 2209.15430's coordinates).

    The receiver may have anchors of its own, in another space: ``Cosines(its_anchors, its_norm).decode(data)``.
    """

    anchors: np.ndarray
    norm: float
    """Length of every vector. Cosines do not hold it."""
    shared_bits: float = 0.0

    def encode(self, vectors: np.ndarray) -> bytes:
        return (_unit(vectors) @ _unit(self.anchors).T).astype("<f2").tobytes()

    def decode(self, data: bytes) -> np.ndarray:
        cosines = np.frombuffer(data, "<f2").astype(float).reshape(-1, len(self.anchors))
        return (self.norm * _unit(cosines @ np.linalg.pinv(_unit(self.anchors)).T)).astype(np.float32)


@dataclass(frozen=True)
class Levels:
    """Each number is one of an odd ``count`` of equally spaced levels, up to the vector's largest number (float32).

    ``Levels(2 ** b - 1)`` has the numbers of signed integers of b bits. Other counts fill the gaps between them: all
    levels of a vector are one large number in base ``count``.
    """

    count: int
    d: int
    shared_bits: float = 0.0

    def encode(self, vectors: np.ndarray) -> bytes:
        top, codes = (self.count - 1) // 2, []
        for row in np.asarray(vectors, np.float32):
            scale = np.maximum(np.abs(row).max(), np.finfo(np.float32).tiny) / top
            number = 0
            for level in np.round(row / scale).astype(int) + top:
                number = number * self.count + int(level)
            codes.append(np.float32(scale).tobytes() + number.to_bytes(self._size, "big"))
        return b"".join(codes)

    def decode(self, data: bytes) -> np.ndarray:
        rows, top = [], (self.count - 1) // 2
        for start in range(0, len(data), 4 + self._size):
            number, levels = int.from_bytes(data[start + 4 : start + 4 + self._size], "big"), []
            for _ in range(self.d):
                number, level = divmod(number, self.count)
                levels.append(level - top)
            rows.append(np.array(levels[::-1]) * np.frombuffer(data, "<f4", 1, start))
        return np.array(rows, np.float32)

    @property
    def _size(self) -> int:
        return -(-(self.count**self.d - 1).bit_length() // 8)


def waterfilling(variances: Sequence[float] | np.ndarray, noise: float) -> np.ndarray:
    """Bits (d,) of independent Gaussian numbers at a squared error of ``noise`` each, or of their variance if smaller.

    No code needs fewer bits for this error (Cover and Thomas, theorem 10.3.3).

    >>> waterfilling([16.0, 4.0, 0.5], noise=1.0).tolist()
    [2.0, 1.0, 0.0]
    """
    return np.maximum(0.0, 0.5 * np.log2(np.asarray(variances, float) / noise))


def _pieces(vectors: np.ndarray, parts: int) -> np.ndarray:
    n, d = np.shape(vectors)
    if d % parts:
        raise QuantiserError(f"{d} numbers cannot be cut into {parts} equal parts. Give a divisor of {d}.")
    return np.asarray(vectors, float).reshape(n, parts, d // parts)


def _nearest(rows: np.ndarray, centres: np.ndarray) -> np.ndarray:
    return ((centres**2).sum(1) - 2 * rows @ centres.T).argmin(1)


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, float)
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-300)
