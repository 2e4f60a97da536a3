"""How many dimensions a cloud of vectors, or the path of one training, has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from memlab.measures.geometry.distances import cosines, unit


def participation(x: Any) -> float:
    """Participation ratio (Σλ)² / Σλ² of the covariance's eigenvalues λ, 1 to d: directions that carry the variance."""
    rows = np.asarray(x, float)
    values = np.linalg.svd(rows - rows.mean(0), compute_uv=False) ** 2
    return float(values.sum() ** 2 / (values**2).sum()) if values.any() else 0.0


def components_for(x: Any, share: float = 0.99) -> int:
    """Number of principal components that carry ``share`` of the variance (arXiv 2607.21231, for trajectories)."""
    rows = np.asarray(x, float)
    values = np.linalg.svd(rows - rows.mean(0), compute_uv=False) ** 2
    return int(np.searchsorted(np.cumsum(values) / values.sum(), share - 1e-12) + 1) if values.any() else 0


def intrinsic_dimension(x: Any) -> float:
    """TwoNN dimension (Facco et al. 2017, arXiv 1803.06992), from the distances of the two nearest neighbours.

    Maximum-likelihood form: (n - 1) / Σ log(second / first), Euclidean distances. It assumes points drawn at random.
    Steps of equal length along a path are not random, and look like many dimensions. With few points the estimate is
    too low: compare it with the estimate for ``spectrum_null``.
    """
    rows = np.asarray(x, float)
    distance = np.linalg.norm(rows[:, None] - rows[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    first, second = np.partition(distance, 1, axis=1)[:, :2].T
    ratios = np.log(second[first > 0] / first[first > 0])
    return float((len(ratios) - 1) / ratios.sum()) if ratios.sum() > 0 else float("nan")


def spectrum_null(x: Any, *, seed: int = 0) -> np.ndarray:
    """(n, d): n random points with exactly the mean and covariance of ``x``, and no other structure.

    Points drawn from a Gaussian with that covariance would not do: few points in many dimensions always look narrower
    than their distribution.
    """
    rows = np.asarray(x, float)
    _, values, basis = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    rank = int((values > 1e-12 * values.max()).sum())
    drawn = np.random.default_rng(seed).standard_normal((len(rows), rank))
    frame, _ = np.linalg.qr(drawn - drawn.mean(0))
    return rows.mean(0) + (frame * values[:rank]) @ basis[:rank]


def trajectory(steps: Sequence[int] | Any, path: Any, *, draws: int = 20, seed: int = 0) -> dict[str, float]:
    """One training's ``path`` (m, d) in numbers: last step, norms, components for 99 % of its variance, cosines.

    Null model for the components: the mean of ``draws`` random walks with steps of the same number and lengths, each in
    a random direction. The cosines compare the path's start, and its middle, with its end. The components leave out
    the start, which is noise and far shorter than the trained vector.
    """
    points = np.asarray(path, float)
    to_end = cosines(points, points[-1:])[:, 0]
    strides = np.linalg.norm(np.diff(points[1:], axis=0), axis=1, keepdims=True)
    rng = np.random.default_rng(seed)
    walks = (np.cumsum(strides * unit(rng.standard_normal((len(strides), points.shape[1]))), 0) for _ in range(draws))
    norms = np.linalg.norm(points, axis=1)
    return {
        "steps": int(steps[-1]),
        "points": len(points),
        "norm, start": float(norms[0]),
        "norm, end": float(norms[-1]),
        "components for 99 %": components_for(points[1:]),
        "of random walks": float(np.mean([components_for(np.concatenate([walk[:1] * 0, walk])) for walk in walks])),
        "cosine, start and end": float(to_end[0]),
        "cosine, half way and end": float(to_end[len(to_end) // 2]),
    }
