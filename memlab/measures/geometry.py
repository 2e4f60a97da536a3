"""What mem vectors look like: distances, maps, probes, dimensions, paths. Each with what it is to be held against.

Pure: arrays in, numbers out, no model. ``x`` is (n, d): n vectors, or n solutions with their k vectors in one row. Null
models are permutations or spectra of the data itself, and every draw has a seed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from memlab.measures.statistics import Estimate, of_draws

Map = Literal["pca", "umap", "tsne"]

# Distances ---------------------------------------------------------------------------------------------------------


def unit(x: Any) -> np.ndarray:
    """Rows of ``x`` (n, d) at length 1; a row of zeros stays one."""
    rows = np.asarray(x, float)
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1)


def cosines(x: Any, y: Any | None = None) -> np.ndarray:
    """Cosine of every row of ``x`` (n, d) with every row of ``y`` (m, d), or of ``x``: (n, m)."""
    return unit(x) @ unit(x if y is None else y).T


@dataclass(frozen=True)
class Apart:
    """``within_and_between``: mean cosine distances and a permutation test."""

    within: Estimate
    """Mean distance of two vectors of one group, 95 % bootstrap interval over groups."""
    between: Estimate
    ratio: Estimate
    """Within over between: 1 where belonging together brings nothing nearer."""
    p: float
    """Share of random regroupings whose ``within`` is as small: small where groups do hold together."""


def within_and_between(x: Any, groups: Sequence[Any], *, draws: int = 999, seed: int = 0) -> Apart:
    """Are vectors of one group nearer to each other (cosine distance) than to others? ``x`` (n, d), ``groups`` (n,).

    With solutions grouped by passage this is the paper's claim that seeds of one text lie nearly as far apart as texts
    do (arXiv 2502.13063), made a test. The bootstrap draws groups, since solutions of one passage are no independent
    passages.
    """
    distance = 1 - cosines(x)
    labels = pd.factorize(np.asarray(groups))[0]
    count = int(labels.max()) + 1
    if count < 2 or np.bincount(labels).max() < 2:
        raise ValueError(f"{len(labels)} vectors in {count} groups; expected two groups or more, one with two vectors")
    rng = np.random.default_rng(seed)
    sums, pairs = _block_sums(distance, labels, count)
    weights = np.concatenate([np.ones((1, count)), _multinomial(rng, count, draws)])
    inner, outer, ratio = np.full((3, len(weights)), np.nan)
    for i, weight in enumerate(weights):
        # Pairs inside a group count as often as the group was drawn; pairs across, as often as both were.
        own = weight * np.diag(pairs)
        across = np.outer(weight, weight) * (1 - np.eye(count)) * pairs
        if own.sum() and across.sum():
            inner[i] = (weight * np.diag(sums)).sum() / own.sum()
            outer[i] = (np.outer(weight, weight) * (1 - np.eye(count)) * sums).sum() / across.sum()
            ratio[i] = inner[i] / outer[i]
    shuffled = np.empty(draws)
    for i in range(draws):
        mixed_sums, mixed_pairs = _block_sums(distance, rng.permutation(labels), count)
        shuffled[i] = np.trace(mixed_sums) / np.trace(mixed_pairs)
    p = (1 + np.sum(shuffled <= inner[0] + 1e-12)) / (1 + draws)
    return Apart(of_draws(inner), of_draws(outer), of_draws(ratio), float(p))


def nearest(x: Any, table: Any, count: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """(indices, cosines), each (n, count): the rows of ``table`` (V, d) nearest to each row of ``x``, by cosine."""
    found = cosines(x, table)
    order = np.argsort(-found, axis=1)[:, :count]
    return order, np.take_along_axis(found, order, axis=1)


def spherical_null(n: int, d: int, *, seed: int = 0) -> np.ndarray:
    """(n, d) directions drawn uniformly: what vectors that have nothing in common look like."""
    return unit(np.random.default_rng(seed).standard_normal((n, d)))


def binned(values: Sequence[float] | Any, kinds: Sequence[Any], *, bins: int = 40, log: bool = False) -> pd.DataFrame:
    """Histograms over one set of bins: ``kind from to share`` (of its kind's values). ``log``: bins of equal ratio."""
    number, kind = np.asarray(values, float), np.asarray(kinds)
    scale = np.log2(number) if log else number
    edges = np.linspace(scale.min(), scale.max(), bins + 1)
    ends = 2**edges if log else edges
    rows = []
    for name in dict.fromkeys(kind.tolist()):
        counts, _ = np.histogram(scale[kind == name], edges)
        for left, right, count in zip(ends[:-1], ends[1:], counts, strict=True):
            rows.append((name, float(left), float(right), count / int(counts.sum())))
    return pd.DataFrame(rows, columns=["kind", "from", "to", "share"])


# Maps --------------------------------------------------------------------------------------------------------------


def flat_map(x: Any, how: Map = "pca", *, neighbours: int = 15, seed: int = 0) -> np.ndarray:
    """(n, 2): ``x`` (n, d) laid out by PCA, UMAP or t-SNE. The last two go by cosine, and say little of distances.

    UMAP: arXiv 1802.03426; t-SNE: van der Maaten and Hinton, JMLR 9 (2008). Raises ``ValueError`` for fewer than five
    vectors, or another ``how``.
    """
    rows = np.asarray(x, float)
    if how == "pca":
        from sklearn.decomposition import PCA

        return PCA(2, random_state=seed).fit_transform(rows)
    if len(rows) < 5:
        raise ValueError(f"{len(rows)} vectors; expected at least 5 for {how}")
    if how == "tsne":
        from sklearn.manifold import TSNE

        perplexity = min(float(neighbours), (len(rows) - 1) / 3)
        return TSNE(2, metric="cosine", perplexity=perplexity, init="random", random_state=seed).fit_transform(rows)
    if how == "umap":
        from umap import UMAP

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a seed means one thread, and what its libraries have deprecated
            layout = UMAP(n_neighbors=min(neighbours, len(rows) - 1), metric="cosine", random_state=seed, n_jobs=1)
            return np.asarray(layout.fit_transform(rows))
    raise ValueError(f"how={how!r}; expected pca, umap or tsne")


def neighbours_kept(x: Any, flat: Any, *, neighbours: int = 10) -> float:
    """Share of each vector's nearest ``neighbours`` (cosine, in d dimensions) still among its nearest on the map.

    A random map keeps ``neighbours / (n - 1)``. Of few vectors, all others are neighbours: then a map keeps them all.
    """
    neighbours = min(neighbours, len(np.asarray(x)) - 1)
    near = _neighbours(1 - cosines(x), neighbours)
    place = np.asarray(flat, float)
    seen = _neighbours(np.linalg.norm(place[:, None] - place[None], axis=-1), neighbours)
    return float(np.mean([len(set(a) & set(b)) / neighbours for a, b in zip(near, seen, strict=True)]))


# Probes and dimensions ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Probe:
    """``probe``: what a linear classifier reads off vectors it was not trained on, and off shuffled labels."""

    accuracy: float
    null: float
    """Mean accuracy with labels shuffled among groups."""
    null_high: float
    """95th percentile of that."""
    p: float
    labels: int


def probe(
    x: Any,
    labels: Sequence[Any],
    groups: Sequence[Any] | None = None,
    *,
    folds: int = 5,
    draws: int = 100,
    seed: int = 0,
) -> Probe:
    """Cross-validated balanced accuracy of a linear, logistic probe for ``labels`` (n,) from ``x`` (n, d).

    With ``groups`` (n,) no group is in both halves of a fold: else a probe for the kind of text would only have to know
    the passage again. Labels are then shuffled among groups, and must be the same inside each.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows, given = np.asarray(x, float), np.asarray(labels)
    owner = pd.factorize(np.asarray(groups if groups is not None else range(len(given))))[0]
    each = pd.Series(given).groupby(owner)
    if (each.nunique() > 1).any():
        raise ValueError("a group holds several labels; expected one: shuffling them among groups would mean nothing")
    of_group = each.first().to_numpy()
    # Balanced in both ways: where a label is rarer in the training half, it is commoner in the other, and a classifier
    # that goes by how common labels are would score below chance.
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, class_weight="balanced", max_iter=500))
    folds = min(folds, int(pd.Series(of_group).value_counts().min()))
    if folds < 2:
        raise ValueError("a label belongs to one group only; expected each in at least two, one to learn it from")
    rng = np.random.default_rng(seed)

    def score(assigned: np.ndarray) -> float:
        split = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        scores = cross_val_score(model, rows, assigned[owner], groups=owner, cv=split, scoring="balanced_accuracy")
        return float(np.mean(scores))

    found = score(of_group)
    null = np.array([score(rng.permutation(of_group)) for _ in range(draws)])
    p = (1 + np.sum(null >= found)) / (1 + draws)
    return Probe(found, float(null.mean()), float(np.quantile(null, 0.95)), float(p), len(set(given.tolist())))


def participation(x: Any) -> float:
    """Participation ratio of the covariance's spectrum: how many directions carry the variance, 1 to d."""
    rows = np.asarray(x, float)
    values = np.linalg.svd(rows - rows.mean(0), compute_uv=False) ** 2
    return float(values.sum() ** 2 / (values**2).sum()) if values.any() else 0.0


def components_for(x: Any, share: float = 0.99) -> int:
    """Principal components that carry ``share`` of the variance (arXiv 2607.21231 reports them for trajectories)."""
    rows = np.asarray(x, float)
    values = np.linalg.svd(rows - rows.mean(0), compute_uv=False) ** 2
    return int(np.searchsorted(np.cumsum(values) / values.sum(), share - 1e-12) + 1) if values.any() else 0


def intrinsic_dimension(x: Any) -> float:
    """TwoNN (Facco et al. 2017, arXiv 1803.06992): from how much farther the second neighbour is than the first.

    The maximum-likelihood form, Euclidean distances. It takes points to be drawn at random: steps of equal length along
    a path are not, and look like many dimensions. Of few points it falls short: hold it against ``spectrum_null``.
    """
    rows = np.asarray(x, float)
    distance = np.linalg.norm(rows[:, None] - rows[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    first, second = np.partition(distance, 1, axis=1)[:, :2].T
    ratios = np.log(second[first > 0] / first[first > 0])
    return float((len(ratios) - 1) / ratios.sum()) if ratios.sum() > 0 else float("nan")


def spectrum_null(x: Any, *, seed: int = 0) -> np.ndarray:
    """(n, d): as many points with exactly the mean and covariance of ``x``, and otherwise without structure.

    Points drawn from a Gaussian of that covariance would have another one, since so few points of so many dimensions
    always look narrower than what they are drawn from.
    """
    rows = np.asarray(x, float)
    _, values, basis = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    rank = int((values > 1e-12 * values.max()).sum())
    drawn = np.random.default_rng(seed).standard_normal((len(rows), rank))
    frame, _ = np.linalg.qr(drawn - drawn.mean(0))
    return rows.mean(0) + (frame * values[:rank]) @ basis[:rank]


def trajectory(steps: Sequence[int] | Any, way: Any, *, draws: int = 20, seed: int = 0) -> dict[str, float]:
    """A training's way (m, d) in numbers: its last step, its norms, the components that carry 99 % of it beside
    those of random walks, and how far it turns.

    The walks have as many steps, of the same lengths, each in a direction of its own (mean of ``draws``). Cosines of
    the way's start, and of its middle, with its end. The start is noise, far shorter than what it becomes, and left out
    of the components.
    """
    points = np.asarray(way, float)
    turned = cosines(points, points[-1:])[:, 0]
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
        "cosine, start and end": float(turned[0]),
        "cosine, half way and end": float(turned[len(turned) // 2]),
    }


# Paths and radii ---------------------------------------------------------------------------------------------------


def line(a: Any, b: Any, t: Any) -> np.ndarray:
    """(m, ...) points (1 - t) a + t b at each of ``t`` (m,)."""
    share = np.asarray(t, float).reshape(-1, *[1] * np.ndim(a))
    return (1 - share) * np.asarray(a, float) + share * np.asarray(b, float)


def bezier(a: Any, middle: Any, b: Any, t: Any) -> np.ndarray:
    """(m, ...) points of the quadratic Bézier curve with that control point (arXiv 2505.21189)."""
    share = np.asarray(t, float).reshape(-1, *[1] * np.ndim(a))
    ends = (1 - share) ** 2 * np.asarray(a, float) + share**2 * np.asarray(b, float)
    return ends + 2 * share * (1 - share) * np.asarray(middle, float)


def barrier(t: Sequence[float], loss: Sequence[float]) -> float:
    """Height of the loss along a path above the straight line between its ends, in the loss's unit; never below 0."""
    place, height = np.asarray(t, float), np.asarray(loss, float)
    if len(place) != len(height) or len(place) < 2:
        raise ValueError(f"{len(place)} places, {len(height)} losses; expected as many, at least 2")
    order = np.argsort(place)
    place, height = place[order], height[order]
    share = (place - place[0]) / (place[-1] - place[0])
    return float(max(0.0, np.max(height - ((1 - share) * height[0] + share * height[-1]))))


def exact_radius(
    holds: Callable[[float], bool], *, high: float, precision: float = 0.02, probes: int = 3
) -> tuple[float, float]:
    """(holds, fails): radii that bracket where ``holds`` first turns False, to a ratio of 1 + ``precision``.

    ``holds(0)`` is taken for granted. Below what bisection finds, ``probes`` places are tried too, and where one fails
    the search goes on below it: what holds need not do so all the way. Where even ``high`` holds, (high, inf): the
    radius is censored.
    """
    if high <= 0:
        raise ValueError(f"high={high}; expected more than 0")
    low, fails = (high, np.inf) if holds(high) else _bisected(holds, high, precision, high)
    while low > 0:
        failed = [r for r in low * np.arange(1, probes + 1) / (probes + 1) if not holds(float(r))][:1]
        if not failed:
            break
        low, fails = _bisected(holds, float(failed[0]), precision, high)
    return low, float(fails)


def _bisected(holds: Callable[[float], bool], fails: float, precision: float, scale: float) -> tuple[float, float]:
    low = 0.0
    while fails - low > precision * max(low, 1e-3 * scale):
        middle = (low + fails) / 2
        if holds(middle):
            low = middle
        else:
            fails = middle
    return low, fails


def _block_sums(distance: np.ndarray, labels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(sums, pairs), each (count, count): of distances between the members of two groups, itself left out."""
    member = np.eye(count)[labels]
    sums = member.T @ (distance * (1 - np.eye(len(labels)))) @ member
    sizes = member.sum(0)
    pairs = np.outer(sizes, sizes) - np.diag(sizes)
    return sums, pairs


def _multinomial(rng: np.random.Generator, count: int, draws: int) -> np.ndarray:
    return rng.multinomial(count, np.full(count, 1 / count), size=draws).astype(float)


def _neighbours(distance: np.ndarray, count: int) -> np.ndarray:
    apart = distance.copy()
    np.fill_diagonal(apart, np.inf)
    return np.argsort(apart, axis=1)[:, :count]
