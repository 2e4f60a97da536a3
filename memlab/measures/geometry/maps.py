"""Two-dimensional maps of vectors, and how faithful a map is."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import numpy as np

from memlab.measures.geometry.distances import cosines

Map = Literal["pca", "umap", "tsne"]


def flat_map(
    x: Any, how: Map = "pca", *, neighbours: int = 15, seed: int = 0, start: np.ndarray | None = None
) -> np.ndarray:
    """(n, 2): ``x`` (n, d) laid out by PCA, UMAP or t-SNE. UMAP and t-SNE use cosines and do not preserve distances.

    UMAP and t-SNE move the points from ``start`` (n, 2), by default from places of their own. UMAP: arXiv 1802.03426;
    t-SNE: van der Maaten and Hinton, JMLR 9 (2008). Raises ``ValueError`` for fewer than five vectors, or for another
    ``how``.
    """
    rows = np.asarray(x, float)
    if how == "pca":
        from sklearn.decomposition import PCA

        # By default, PCA of few rows is approximate, and depends on their order.
        solver = "full" if len(rows) <= rows.shape[1] else "covariance_eigh"
        return PCA(2, svd_solver=solver).fit_transform(rows)
    if len(rows) < 5:
        raise ValueError(f"{len(rows)} vectors are too few for {how}. Give at least 5, or use pca.")
    if how == "tsne":
        from sklearn.manifold import TSNE

        perplexity = min(float(neighbours), (len(rows) - 1) / 3)
        # t-SNE expects a start of this size; a larger one keeps clusters apart that belong together.
        begin = "random" if start is None else (start - start.mean(0)) / start.std() * 1e-4
        return TSNE(2, metric="cosine", perplexity=perplexity, init=begin, random_state=seed).fit_transform(rows)
    if how == "umap":
        from umap import UMAP

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a seed allows one thread only, and UMAP warns about that
            options: dict[str, Any] = dict(n_neighbors=min(neighbours, len(rows) - 1), metric="cosine")
            if start is not None:  # few rounds, so that the points stay about where they were
                options |= dict(init=np.asarray(start, np.float32), n_epochs=50)
            layout = UMAP(**options, random_state=seed, n_jobs=1)
            return np.asarray(layout.fit_transform(rows))
    raise ValueError(f"There is no map how={how!r}. Use pca, umap or tsne.")


def on_linear_map(x: Any, flat: Any, others: Any) -> np.ndarray:
    """(m, 2): where ``others`` (m, d) lie on a map ``flat`` (n, 2) of ``x`` (n, d) that is linear in x, as PCA is.

    >>> x = np.random.default_rng(0).normal(size=(5, 9))
    >>> bool(np.allclose(on_linear_map(x, flat_map(x, "pca"), x), flat_map(x, "pca")))
    True
    """
    rows, places = np.asarray(x, float), np.asarray(flat, float)
    middle, centre = rows.mean(0), places.mean(0)
    # The axes of PCA lie in the span of x; the least-squares solution of smallest norm does so as well.
    axes = np.linalg.lstsq(rows - middle, places - centre, rcond=1e-9)[0]
    return np.asarray((np.asarray(others, float) - middle) @ axes + centre)


def neighbours_kept(x: Any, flat: Any, *, neighbours: int = 10) -> float:
    """Share (0 to 1) of each vector's ``neighbours`` nearest vectors (cosine, d dimensions) still nearest on the map.

    Null model: a random map keeps ``neighbours / (n - 1)``. With n - 1 <= ``neighbours`` every map keeps all of them.
    """
    neighbours = min(neighbours, len(np.asarray(x)) - 1)
    near = _neighbours(1 - cosines(x), neighbours)
    place = np.asarray(flat, float)
    on_map = _neighbours(np.linalg.norm(place[:, None] - place[None], axis=-1), neighbours)
    return float(np.mean([len(set(a) & set(b)) / neighbours for a, b in zip(near, on_map, strict=True)]))


def _neighbours(distance: np.ndarray, count: int) -> np.ndarray:
    apart = distance.copy()
    np.fill_diagonal(apart, np.inf)
    return np.argsort(apart, axis=1)[:, :count]
