"""Which positions of a cache to keep: scores, budgets per layer and head, kinds of head. Tensors in, tensors out."""

from __future__ import annotations

import numpy as np
import torch

STRUCTURAL, CONTEXTUAL = 1, 2
"""Kinds of KV head by its map of attention: equal along diagonals, or equal along columns. 0: neither."""
EXPLAINED = 0.05
"""Share of a map's variance, corrected for the number of means, that its diagonals or columns must explain."""


def top(scores: torch.Tensor, budgets: torch.Tensor, forced: torch.Tensor | None = None) -> torch.Tensor:
    """(layers, KV heads, n) bool: the ``budgets`` (layers, KV heads) positions with the largest ``scores``.

    ``forced`` (n,) bool: positions that come first whatever their score, within the budget. Of equal scores the
    earlier position is kept.
    """
    if forced is not None:
        scores = scores.masked_fill(forced, torch.inf)
    order = scores.argsort(dim=-1, descending=True, stable=True)
    return order.argsort(-1) < budgets.to(scores.device)[..., None]


def of_cue(shares: torch.Tensor, window: int, kv_heads: int, *, kernel: int = 5) -> torch.Tensor:
    """(KV heads, positions): what the last ``window`` positions attend to, smoothed over ``kernel`` neighbours.

    ``shares`` (heads, positions, positions). The scores are means over the window and the query heads of a KV head.
    The window's own positions have the largest score. After arXiv 2404.14469.
    """
    heads, size, _ = shares.shape
    scores = shares[:, size - window :, : size - window].mean(1)
    scores = torch.nn.functional.avg_pool1d(scores, kernel, stride=1, padding=kernel // 2)
    scores = scores.view(kv_heads, heads // kv_heads, -1).mean(1)
    return torch.nn.functional.pad(scores, (0, window), value=float(scores.max()) + 1)


def of_reading(shares: torch.Tensor, rows: slice, kv_heads: int) -> torch.Tensor:
    """(KV heads, positions): the largest share that any of the ``rows`` and query heads gives. After arXiv 2505.23416.

    ``shares`` (heads, positions, positions).
    """
    return shares[:, rows].amax(1).view(kv_heads, shares.shape[0] // kv_heads, -1).amax(1)


def windows(scores: torch.Tensor, count: int, size: int) -> torch.Tensor:
    """(n,) bool: the ``count`` windows of ``size`` neighbours with the largest mean of ``scores`` (n,).

    The last window may be shorter. It counts like the others, so no budget is exceeded.
    """
    means = torch.stack([window.mean() for window in scores.split(size)])
    kept = torch.zeros(len(means), dtype=torch.bool, device=scores.device)
    kept[means.argsort(descending=True, stable=True)[:count]] = True
    return kept.repeat_interleave(size)[: len(scores)]


def arithmetic(share: float, groups: int, most: int, *, spread: float = 0.5) -> list[int]:
    """Whole budgets of ``groups`` that fall in equal steps, up to rounding, from (1 + spread) to (1 - spread) shares.

    Their sum is the whole part of share * groups * most. No budget is above ``most``, so a large share has less spread.

    >>> arithmetic(0.5, 5, 8), arithmetic(1.0, 5, 8)
    ([6, 5, 4, 3, 2], [8, 8, 8, 8, 8])
    """
    spread = min(spread, 1 / share - 1) if share else 0
    slopes = np.linspace(spread, -spread, groups) if groups > 1 else np.zeros(1)
    # Rounded first: a sum of shares that is a whole number must not fall below it.
    ends = np.floor(np.round(np.cumsum(share * most * (1 + slopes)), 9)).astype(int)
    return [int(count) for count in np.diff(ends, prepend=0)]


def explained(shares: np.ndarray) -> tuple[float, float]:
    """(diagonals, columns): the share of a map's variance that the means of its diagonals, or columns, explain.

    ``shares`` (positions, positions): rows look at columns. Only columns before the row count, and not the first one,
    where attention rests that has no use. The shares are corrected for the number of means, so a map without structure
    has about 0.
    """
    rows, columns = np.tril_indices(len(shares), -1)
    rows, columns = rows[columns > 0], columns[columns > 0]
    values = shares[rows, columns]
    total = ((values - values.mean()) ** 2).sum() if len(values) > 2 else 0.0
    if not total:
        return 0.0, 0.0
    found = []
    for line in (rows - columns, columns):
        counts = np.bincount(line)
        means = np.bincount(line, values) / np.maximum(counts, 1)
        left = ((values - means[line]) ** 2).sum() / max(len(values) - (counts > 0).sum(), 1)
        found.append(float(1 - left / (total / (len(values) - 1))))
    return found[0], found[1]


def kind(diagonals: float, columns: float) -> int:
    """``STRUCTURAL``, ``CONTEXTUAL`` or 0, by what diagonals and columns explain."""
    if max(diagonals, columns) < EXPLAINED:
        return 0
    return STRUCTURAL if diagonals > columns else CONTEXTUAL


def by_kind(kinds: np.ndarray, share: float, n: int, *, ratio: float = 0.5) -> torch.Tensor:
    """Budgets of KV heads, of the shape of ``kinds``: contextual heads keep ``ratio`` as much as the others.

    Their sum is the whole part of share * heads * n. With one kind of head, or a ratio of 1, all budgets are equal up
    to rounding. No budget is above n: what other heads cannot use goes to the contextual ones.
    """
    small = (np.asarray(kinds) == CONTEXTUAL).reshape(-1)
    part = small.mean()
    large = min(1.0, share / (1 - part + part * ratio))
    little = (share - (1 - part) * large) / part if part else 0.0
    ends = np.floor(np.round(np.cumsum(np.where(small, little, large) * n), 9)).astype(int)
    return torch.from_numpy(np.diff(ends, prepend=0).reshape(np.shape(kinds)))
