"""Paths between two vectors: the straight line, a curve trained for a low loss, and what is decoded along them.

Linear interpolation is from arXiv 2502.13063, the quadratic Bézier curve from arXiv 2505.21189.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from memlab.decoding.decode import decode
from memlab.measures import geometry
from memlab.models import FrozenLM
from memlab.probes.evaluate import OnProgress, Stopped, evaluate
from memlab.results.mem_vector import MemVector, VectorError
from memlab.scoring.objective import Batch, Row

POINTS = 21


@dataclass(frozen=True)
class Path:
    """Points along a path between two solutions of one passage, and what they decode to."""

    table: pd.DataFrame
    """``t`` (0 to 1) and the columns of ``evaluate``, one row per point."""
    barrier: float
    """Greatest height of the loss above the straight line between its values at the ends, bits per token."""
    middle: np.ndarray | None = None
    """The curve's control point (k, d); None for a line."""


def line(
    lm: FrozenLM,
    a: MemVector,
    b: MemVector,
    *,
    points: int = POINTS,
    on_progress: OnProgress | None = None,
    recheck: float = 0.05,
) -> Path:
    """The straight line between two solutions of one passage. ``recheck`` as in ``evaluate``."""
    _same_passage(a, b)
    t = np.linspace(0, 1, points)
    return _path(lm, t, [a.lerp(b, float(s)) for s in t], on_progress, recheck)


def curve(
    lm: FrozenLM,
    a: MemVector,
    b: MemVector,
    *,
    points: int = POINTS,
    steps: int = 100,
    at_once: int = 8,
    lr: float = 0.02,
    seed: int = 0,
    on_progress: OnProgress | None = None,
    recheck: float = 0.05,
) -> Path:
    """A quadratic Bézier curve between two solutions, with a control point trained for a low loss along the curve.

    Each step takes one random point (``seed``) from each of ``at_once`` equal parts of the curve. ``lr`` is Adam's step
    size, in units of the root mean square of the ends. The ends are fixed.
    """
    _same_passage(a, b)
    middle = torch.tensor((a.mem + b.mem) / 2, requires_grad=True)
    scale = float(np.sqrt(np.mean(np.square([a.mem, b.mem]))))
    optimizer = torch.optim.Adam([middle], lr=lr * scale)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    rng = np.random.default_rng(seed)
    row = Row.of(a)
    batch = Batch(lm, [row] * at_once)
    for step in range(steps):
        t = (np.arange(at_once) + rng.random(at_once)) / at_once
        places = geometry.bezier(a.mem, middle.detach().numpy(), b.mem, t).astype(np.float32)
        _, gradients = batch.scores([torch.tensor(m) for m in places], lm.dtype, gradient=True)
        weights = torch.tensor(2 * t * (1 - t), dtype=torch.float32)[:, None, None]
        middle.grad = (weights * torch.stack(gradients)).mean(0)
        optimizer.step()
        schedule.step()
        if on_progress and on_progress(step + 1, steps):
            raise Stopped
    control = middle.detach().numpy()
    t = np.linspace(0, 1, points)
    inner = geometry.bezier(a.mem, control, b.mem, t[1:-1]).astype(np.float32)
    between = [a.with_mem(m, f"curve towards {b.key} at {s:.3f}") for s, m in zip(t[1:-1], inner, strict=True)]
    path = _path(lm, t, [a, *between, a.with_mem(b.mem, f"end of a curve, {b.key}")], None, recheck)
    return Path(path.table, path.barrier, control)


def between_passages(lm: FrozenLM, a: MemVector, b: MemVector, *, points: int = POINTS) -> pd.DataFrame:
    """What is decoded on the straight line between the vectors of two passages: one row per point, ``t of_a of_b ids``.

    ``of_a`` and ``of_b``: number of decoded tokens that equal this passage's token at the same position. ``ids``: the
    decoded tokens. Both vectors must have the same context and k. Raises ``VectorError`` otherwise.
    """
    if setting(a)[1:] != setting(b)[1:]:
        raise VectorError(
            f"{a!r} and {b!r} differ in k, prefix or suffix. Give two vectors that were crammed in the same context."
        )
    t = np.linspace(0, 1, points)
    tokens = max(a.n, b.n)
    decoded = decode(lm, [a.lerp(b, float(s)) for s in t], tokens)

    def hits(ids: np.ndarray, truth: np.ndarray) -> int:
        return int((ids[: len(truth)] == truth).sum())

    rows = [(s, hits(ids, a.token_ids), hits(ids, b.token_ids), ids) for s, ids in zip(t, decoded, strict=True)]
    return pd.DataFrame(rows, columns=["t", "of_a", "of_b", "ids"])


def setting(mem: MemVector) -> tuple[object, ...]:
    """What two vectors must share to be solutions of one problem: passage, then shape, prefix and suffix."""
    return mem.token_sha256, mem.mem.shape, tuple(mem.prefix_ids.tolist()), tuple(mem.suffix_ids.tolist())


def pairs(mems: Sequence[MemVector], count: int, *, seed: int = 0) -> list[tuple[MemVector, MemVector]]:
    """Up to ``count`` random pairs of solutions of one passage, the passages in turn. No vector is in two pairs."""
    rng = np.random.default_rng(seed)
    groups: dict[tuple[object, ...], list[MemVector]] = {}
    for mem in mems:
        groups.setdefault(setting(mem), []).append(mem)
    shuffled = [[group[i] for i in rng.permutation(len(group))] for group in groups.values()]
    rounds = max((len(group) // 2 for group in shuffled), default=0)
    in_turn = [(group[2 * r], group[2 * r + 1]) for r in range(rounds) for group in shuffled if 2 * r + 1 < len(group)]
    return in_turn[:count]


def nowhere(
    lm: FrozenLM, a: MemVector, b: MemVector, *, points: int = POINTS, seed: int = 0, recheck: float = 0.05
) -> pd.DataFrame:
    """The control for the line from ``a`` to ``b``: a line from ``a`` of the same length in a random direction.

    ``t`` and the columns of ``evaluate``, one row per point.
    """
    _same_passage(a, b)
    t = np.linspace(0, 1, points)
    length = float(np.linalg.norm(b.mem - a.mem))
    table = evaluate(lm, [a.perturb(float(s) * length, seed=seed) if s else a for s in t], recheck=recheck)
    table.insert(0, "t", t)
    return table


def _path(
    lm: FrozenLM, t: np.ndarray, mems: Sequence[MemVector], on_progress: OnProgress | None, recheck: float
) -> Path:
    table = evaluate(lm, mems, on_progress=on_progress, recheck=recheck)
    table.insert(0, "t", t)
    return Path(table, geometry.barrier(table.t.tolist(), table.bits.tolist()))


def _same_passage(a: MemVector, b: MemVector) -> None:
    if setting(a) != setting(b):
        raise VectorError(
            f"{a!r} and {b!r} are not solutions of one passage in one context. "
            "Give two vectors with the same passage, k, prefix and suffix."
        )
