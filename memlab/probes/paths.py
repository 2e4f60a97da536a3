"""Between two solutions: the line, a curve trained to stay low, and what is written on the way to another text.

Linear interpolation is arXiv 2502.13063's, the quadratic Bézier curve arXiv 2505.21189's.
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
from memlab.probes.evaluate import Stopped, Watch, evaluate
from memlab.results.mem_vector import MemVector, VectorError
from memlab.scoring.objective import Batch, Row

POINTS = 21


@dataclass(frozen=True)
class Path:
    """Points along a path between two solutions of one passage, and what they decode to."""

    table: pd.DataFrame
    """``t`` and the columns of ``grids.evaluate``; ``attrs`` as there."""
    barrier: float
    """Height of the loss above the straight line between its ends, bits a token."""
    middle: np.ndarray | None = None
    """The curve's control point (k, d); None for a line."""


def line(
    lm: FrozenLM, a: MemVector, b: MemVector, *, points: int = POINTS, watch: Watch | None = None, again: float = 0.05
) -> Path:
    """The straight line between two solutions of one passage."""
    _same_passage(a, b)
    t = np.linspace(0, 1, points)
    return _path(lm, t, [a.lerp(b, float(s)) for s in t], watch, again)


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
    watch: Watch | None = None,
    again: float = 0.05,
) -> Path:
    """A quadratic Bézier curve between them, its control point trained so that the loss is low all along.

    Each step takes ``at_once`` places, one in each part of the way, drawn anew (``seed``). ``lr`` is Adam's step in
    units of the ends' root mean square. The ends do not move.
    """
    _same_passage(a, b)
    middle = torch.tensor((a.mem + b.mem) / 2, requires_grad=True)
    scale = float(np.sqrt(np.mean(np.square([a.mem, b.mem]))))
    optimiser = torch.optim.Adam([middle], lr=lr * scale)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    rng = np.random.default_rng(seed)
    row = Row.of(a)
    batch = Batch(lm, [row] * at_once)
    for step in range(steps):
        t = (np.arange(at_once) + rng.random(at_once)) / at_once
        where = geometry.bezier(a.mem, middle.detach().numpy(), b.mem, t).astype(np.float32)
        _, gradients = batch.scores([torch.tensor(m) for m in where], lm.dtype, gradient=True)
        weights = torch.tensor(2 * t * (1 - t), dtype=torch.float32)[:, None, None]
        middle.grad = (weights * torch.stack(gradients)).mean(0)
        optimiser.step()
        schedule.step()
        if watch and watch(step + 1, steps):
            raise Stopped
    control = middle.detach().numpy()
    t = np.linspace(0, 1, points)
    inner = geometry.bezier(a.mem, control, b.mem, t[1:-1]).astype(np.float32)
    on_it = [a.with_mem(m, f"curve towards {b.key} at {s:.3f}") for s, m in zip(t[1:-1], inner, strict=True)]
    path = _path(lm, t, [a, *on_it, a.with_mem(b.mem, f"end of a curve, {b.key}")], None, again)
    return Path(path.table, path.barrier, control)


def between_passages(lm: FrozenLM, a: MemVector, b: MemVector, *, points: int = POINTS) -> pd.DataFrame:
    """What is decoded on the straight way from one passage's vector to another's: one row a place.

    ``of_a`` and ``of_b``: tokens in the place where that passage has them; ``ids``: what was written. Context and k
    must be the same.
    """
    if setting(a)[1:] != setting(b)[1:]:
        raise VectorError(f"{a!r} and {b!r} stand in different contexts: nothing lies between them")
    t = np.linspace(0, 1, points)
    tokens = max(a.n, b.n)
    written = decode(lm, [a.lerp(b, float(s)) for s in t], tokens)

    def hits(ids: np.ndarray, truth: np.ndarray) -> int:
        return int((ids[: len(truth)] == truth).sum())

    rows = [(s, hits(ids, a.token_ids), hits(ids, b.token_ids), ids) for s, ids in zip(t, written, strict=True)]
    return pd.DataFrame(rows, columns=["t", "of_a", "of_b", "ids"])


def setting(mem: MemVector) -> tuple[object, ...]:
    """What two vectors must share to be solutions of one thing: the passage, then shape, prefix and suffix."""
    return mem.token_sha256, mem.mem.shape, tuple(mem.prefix_ids.tolist()), tuple(mem.suffix_ids.tolist())


def pairs(mems: Sequence[MemVector], count: int, *, seed: int = 0) -> list[tuple[MemVector, MemVector]]:
    """``count`` pairs of different solutions of one passage, drawn evenly over the passages; no vector is in two."""
    rng = np.random.default_rng(seed)
    owners: dict[tuple[object, ...], list[MemVector]] = {}
    for mem in mems:
        owners.setdefault(setting(mem), []).append(mem)
    drawn = [[same[i] for i in rng.permutation(len(same))] for same in owners.values()]
    rounds = max((len(same) // 2 for same in drawn), default=0)
    every = [(same[2 * r], same[2 * r + 1]) for r in range(rounds) for same in drawn if 2 * r + 1 < len(same)]
    return every[:count]


def nowhere(
    lm: FrozenLM, a: MemVector, b: MemVector, *, points: int = POINTS, seed: int = 0, again: float = 0.05
) -> pd.DataFrame:
    """What the line from ``a`` to ``b`` is held against: as long a way from ``a``, in a direction drawn at random.

    ``t`` and the columns of ``grids.evaluate``.
    """
    _same_passage(a, b)
    t = np.linspace(0, 1, points)
    length = float(np.linalg.norm(b.mem - a.mem))
    table = evaluate(lm, [a.perturb(float(s) * length, seed=seed) if s else a for s in t], again=again)
    table.insert(0, "t", t)
    return table


def _path(lm: FrozenLM, t: np.ndarray, mems: Sequence[MemVector], watch: Watch | None, again: float) -> Path:
    table = evaluate(lm, mems, watch=watch, again=again)
    table.insert(0, "t", t)
    return Path(table, geometry.barrier(table.t.tolist(), table.bits.tolist()))


def _same_passage(a: MemVector, b: MemVector) -> None:
    if setting(a) != setting(b):
        raise VectorError(f"{a!r} and {b!r} are no solutions of one passage in one context")
