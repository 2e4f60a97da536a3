"""A shaped grid for vectors of one norm: transform coding with entropy-coded levels.

Coordinates in an orthonormal basis are rounded to steps of different sizes, and an arithmetic coder stores the levels:
it takes each coordinate as Gaussian. If an error costs ``weights[i]`` times its square, the best steps are proportional
to ``weights ** -0.5``: reverse water-filling (Cover and Thomas, Elements of Information Theory, chapter 10). A
coordinate with a spread far below its step then costs almost nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cholesky
from scipy.special import ndtr

from memlab.measures import codecs
from memlab.measures.quantisers import QuantiserError, waterfilling

RUNGS = 8
"""Step sizes per factor of two. So neighbouring sizes differ by an eighth of a bit per number."""
HEAD = 2
"""Bytes before the levels: the rung, and the seed of the offsets."""


@dataclass(frozen=True)
class GridFit:
    """Fits the grid of a basis (d, d), rows orthonormal, in the order of ``weights`` (d,); None: plain rounding.

    ``smooth``: neighbours in the basis whose variances are averaged, because a few dozen vectors do not tell hundreds
    of variances apart. 0: one variance for all coordinates.
    """

    basis: np.ndarray | None = None
    weights: np.ndarray | None = None
    smooth: int = 0

    def fit(self, vectors: np.ndarray) -> Grid:
        vectors = np.asarray(vectors, float)
        d = vectors.shape[1]
        if self.basis is not None and np.abs(self.basis @ self.basis.T - np.eye(d)).max() > 1e-3:
            raise QuantiserError(f"The basis is not orthonormal in {d} dimensions. Give {d} orthonormal rows.")
        norms = np.linalg.norm(vectors, axis=1)
        coordinates = vectors if self.basis is None else vectors @ self.basis.T
        variance = (coordinates**2).mean(0)
        if self.smooth:
            window = np.ones(min(self.smooth, d))
            variance = np.convolve(variance, window, "same") / np.convolve(np.ones(d), window, "same")
        else:
            variance = np.full(d, variance.mean())
        steps = np.ones(d) if self.weights is None else np.asarray(self.weights, float) ** -0.5
        return Grid(steps / np.exp(np.log(steps).mean()), np.sqrt(variance), float(norms.mean()), self.basis)


@dataclass(frozen=True)
class Grid:
    """Points to which vectors are rounded, at any ``rung``: a higher rung has smaller steps.

    A code is one vector. The decoded vector has the norm of the vectors of the fit. ``seed`` > 0 moves the grid by
    offsets that both sides draw from it. One of 256 grids of about the same size may keep what the others lose.
    """

    steps: np.ndarray
    """(d,): relative sizes of the steps. Their geometric mean is 1."""
    spread: np.ndarray
    """(d,): standard deviations of the coordinates, for the arithmetic coder."""
    norm: float
    basis: np.ndarray | None = None
    rung: int = 3 * RUNGS
    """The rung of ``encode``. At 24 the mean step is the mean spread: about 2.1 bits a number."""

    @property
    def shared_bits(self) -> float:
        """The basis and the two rows, float32. A plain grid has two numbers: a spread and a norm."""
        return 32.0 * (2 if self.basis is None else self.basis.size + 2 * len(self.steps))

    def encode(self, vectors: np.ndarray) -> bytes:
        """The code of one vector (1, d) or (d,), rounded to the nearest levels of ``rung``."""
        return self.pack(self.levels(self.coordinates(np.reshape(vectors, -1)), self.rung), self.rung)

    def decode(self, data: bytes) -> np.ndarray:
        rung, seed = data[0], data[1]
        shares = self._shares(rung, seed)
        coded = codecs.Coded(data[HEAD:], 8 * (len(data) - HEAD))
        symbols = codecs.decode(coded, len(shares), lambda so_far: shares[len(so_far)])
        levels = np.array([s - len(p) // 2 for s, p in zip(symbols, shares, strict=True)])
        return self.vector(levels, rung, seed)[None]

    def pack(self, levels: np.ndarray, rung: int, seed: int = 0) -> bytes:
        """The code of levels (d,). Levels beyond the coder's last are stored as the last."""
        shares = self._shares(rung, seed)
        symbols = [int(np.clip(v + len(p) // 2, 0, len(p) - 1)) for v, p in zip(levels, shares, strict=True)]
        return bytes([rung, seed]) + codecs.encode(symbols, shares).data

    def coordinates(self, vectors: np.ndarray) -> np.ndarray:
        """Of a vector (d,), or of rows (n, d), in the same shape."""
        return np.asarray(vectors, float) if self.basis is None else np.asarray(vectors, float) @ self.basis.T

    def levels(self, coordinates: np.ndarray, rung: int, seed: int = 0) -> np.ndarray:
        """The nearest levels (d,), integers."""
        return np.round(coordinates / self.sizes(rung) - self._offsets(seed)).astype(np.int64)

    def points(self, levels: np.ndarray, rung: int, seed: int = 0) -> np.ndarray:
        """Coordinates (d,) of levels: the Gaussian mean of the numbers that are rounded to each."""
        size = self.sizes(rung)
        low, high = ((levels + self._offsets(seed) + half) * size / self.spread for half in (-0.5, 0.5))
        mass = ndtr(-np.abs(low)) - ndtr(-np.abs(high))
        inside = np.where(low * high > 0, np.abs(mass), ndtr(high) - ndtr(low))
        density = (np.exp(-(low**2) / 2) - np.exp(-(high**2) / 2)) / np.sqrt(2 * np.pi)
        middle = (low + high) / 2
        mean = np.where(inside > 1e-12, density / np.maximum(inside, 1e-300), middle)
        return np.clip(mean, low, high) * self.spread

    def vector(self, levels: np.ndarray, rung: int, seed: int = 0) -> np.ndarray:
        """The vector (d,) float32 of levels."""
        points = self.points(levels, rung, seed)
        vector = points if self.basis is None else points @ self.basis
        return (vector * (self.norm / max(float(np.linalg.norm(vector)), 1e-300))).astype(np.float32)

    def rounded(self, vector: np.ndarray, rung: int, seed: int = 0) -> np.ndarray:
        """The vector (d,) of the nearest levels."""
        return self.vector(self.levels(self.coordinates(vector), rung, seed), rung, seed)

    def compensated(self, vector: np.ndarray, curvature: np.ndarray, rung: int, seed: int = 0) -> np.ndarray:
        """Levels (d,) whose error costs little under ``curvature`` (d, d), positive definite, in these coordinates.

        One coordinate is rounded at a time, from the largest step down, and the coordinates that are left take over
        what its error costs: the order of elimination of GPTQ (Frantar et al. 2022), for one row of numbers.
        """
        left, size, offsets = self.coordinates(vector).copy(), self.sizes(rung), self._offsets(seed)
        order = np.argsort(-size, kind="stable")
        inverse = np.linalg.inv(curvature[np.ix_(order, order)])
        factor = cholesky((inverse + inverse.T) / 2)  # upper: row i holds what the coordinates after i take over
        left, size, offsets = left[order], size[order], offsets[order]
        levels = np.zeros(len(left), np.int64)
        for i in range(len(left)):
            levels[i] = round(left[i] / size[i] - offsets[i])
            error = (left[i] - (levels[i] + offsets[i]) * size[i]) / factor[i, i]
            left[i:] -= error * factor[i, i:]
        placed = np.empty_like(levels)
        placed[order] = levels
        return placed

    def sizes(self, rung: int) -> np.ndarray:
        """(d,): the steps of a rung. Rung 0 has steps of 8 mean spreads."""
        return self.steps * (8 * np.exp(np.log(self.spread).mean()) * 2 ** (-rung / RUNGS))

    def least_bits(self, rung: int) -> float:
        """Bits below which no code of Gaussian vectors has an error as small as a rung's (``waterfilling``)."""
        return float(waterfilling((self.spread / self.sizes(rung)) ** 2, 1 / 12).sum())

    def _offsets(self, seed: int) -> np.ndarray:
        return np.random.default_rng(seed).random(len(self.steps)) - 0.5 if seed else np.zeros(len(self.steps))

    def _shares(self, rung: int, seed: int) -> list[np.ndarray]:
        """Probabilities of the levels of each coordinate, as multiples of 2**-24: equal on every machine."""
        rows = []
        for step, offset, spread in zip(self.sizes(rung), self._offsets(seed), self.spread, strict=True):
            last = int(np.ceil(7 * spread / step)) + 1
            edges = ndtr((np.arange(-last, last + 2) - 0.5 + offset) * step / spread)
            edges[0], edges[-1] = 0, 1
            rows.append(np.floor(np.diff(edges) * 2**24 + 1) / 2**24)
        return rows
