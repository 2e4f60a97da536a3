"""How far a vector can be moved before the text is gone: by noise, along directions, numbers left out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch

from memlab import geometry
from memlab.decoding import check
from memlab.experiments.grids import Watch, evaluate
from memlab.experiments.paths import setting
from memlab.models import FrozenLM
from memlab.objective import Batch, Row
from memlab.statistics import share_interval
from memlab.vectors import MemVector

RADII = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
"""Of a perturbation, as shares of the vector's own norm."""
DROPPED = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)


def noise(
    lm: FrozenLM,
    mems: Sequence[MemVector],
    *,
    radii: Sequence[float] = RADII,
    draws: int = 4,
    seed: int = 0,
    watch: Watch | None = None,
    again: float = 0.05,
) -> pd.DataFrame:
    """Isotropic noise: one row a vector, ``radius`` (share of its norm) and draw, with ``grids.evaluate``'s columns."""

    def change(mem: MemVector, radius: float, seed: int) -> MemVector:
        return mem.perturb(radius * float(np.linalg.norm(mem.mem)), seed=seed)

    return _changed(lm, mems, change, "radius", radii, draws, seed, watch, again)


def dropout(
    lm: FrozenLM,
    mems: Sequence[MemVector],
    *,
    shares: Sequence[float] = DROPPED,
    draws: int = 4,
    seed: int = 0,
    watch: Watch | None = None,
    again: float = 0.05,
) -> pd.DataFrame:
    """A random share of the vector's numbers set to 0: one row a vector, share ``dropped`` and draw."""

    def change(mem: MemVector, share: float, seed: int) -> MemVector:
        return mem.dropout(share, seed=seed)

    return _changed(lm, mems, change, "dropped", shares, draws, seed, watch, again)


def _changed(
    lm: FrozenLM,
    mems: Sequence[MemVector],
    change: Callable[[MemVector, float, int], MemVector],
    name: str,
    amounts: Sequence[float],
    draws: int,
    seed: int,
    watch: Watch | None,
    again: float,
) -> pd.DataFrame:
    cases = [(mem, amount, draw) for mem in mems for amount in amounts for draw in range(draws)]
    moved = [change(mem, amount, _seed(mem, seed, draw)) for mem, amount, draw in cases]
    told = [(mem.key, mem.text.id, amount, draw) for mem, amount, draw in cases]
    return _with(told, ["key", "text_id", name, "draw"], evaluate(lm, moved, watch=watch, again=again))


def survivors(table: pd.DataFrame, by: str) -> pd.DataFrame:
    """Per amount (column ``by``): share of moved vectors that are still exact, with its Wilson interval over vectors
    (draws of one vector are no vectors), and of tokens that are right: ``by share low high tokens_right``.
    """
    rows = []
    for amount, group in table.groupby(by):
        each = group.groupby("key").exact.mean()
        low, high = share_interval(each.sum(), len(each))
        rows.append((amount, group.exact.mean(), low, high, (group.right / group.tokens).mean()))
    return pd.DataFrame(rows, columns=[by, "share", "low", "high", "tokens_right"])


def directions(lm: FrozenLM, mem: MemVector, others: Sequence[MemVector], *, seed: int = 0) -> dict[str, np.ndarray]:
    """Unit directions (k, d) to move along: random, the loss's gradient, principal ones of ``others``, its own.

    ``others``: solutions of the same passage, whose spread makes the principal directions (the first and the last).
    ``outwards`` lengthens the vector.
    """
    row = Row.of(mem)
    _, (gradient,) = Batch(lm, [row]).scores([torch.tensor(mem.mem)], torch.float32, gradient=True)
    made = {
        "random": np.random.default_rng(seed).standard_normal(mem.mem.shape),
        "gradient": gradient.numpy().astype(float),
        "outwards": mem.mem.astype(float),
    }
    if len(others) > 2:
        spread = np.stack([other.mem.reshape(-1) for other in others]).astype(float)
        _, _, axes = np.linalg.svd(spread - spread.mean(0), full_matrices=False)
        made["first principal"] = axes[0].reshape(mem.mem.shape)
        made["last principal"] = axes[len(others) - 2].reshape(mem.mem.shape)
    return {name: way / np.linalg.norm(way) for name, way in made.items()}


def exact_radius(
    lm: FrozenLM, mem: MemVector, direction: np.ndarray, *, high: float = 2.0, precision: float = 0.05
) -> tuple[float, float]:
    """(exact, not): shares of the vector's norm that bracket where moving along ``direction`` (k, d) loses the text.

    Every step of the bisection is an exact check: decoded freely, float32, batch 1.
    """
    size = float(np.linalg.norm(mem.mem))
    way = np.asarray(direction, float) / np.linalg.norm(direction)

    def holds(radius: float) -> bool:
        moved = (mem.mem + radius * size * way).astype(np.float32)
        return check(lm, mem.with_mem(moved, f"moved by {radius} of its norm")).passed

    return geometry.exact_radius(holds, high=high, precision=precision)


def radii(
    lm: FrozenLM,
    mems: Sequence[MemVector],
    *,
    among: Sequence[MemVector] | None = None,
    ways: Sequence[str] | None = None,
    draws: int = 3,
    high: float = 2.0,
    seed: int = 0,
) -> pd.DataFrame:
    """One row a vector and direction: its exact radius beside what might predict it (margin, length, steps).

    ``draws`` random directions each, the gradient, outwards, and the principal ones where ``among`` (default: the
    vectors themselves) are enough solutions of the passage; or only those that ``ways`` names.
    """
    rows = []
    for mem in mems:
        others = [other for other in among or mems if setting(other) == setting(mem)]
        made = directions(lm, mem, others, seed=_seed(mem, seed, 0))
        more = np.random.default_rng(_seed(mem, seed, 1)).standard_normal((draws - 1, *mem.mem.shape))
        named = [*made.items(), *(("random", way) for way in more)]
        for name, way in [(name, way) for name, way in named if ways is None or name in ways]:
            radius, fails = exact_radius(lm, mem, way, high=high)
            rows.append((mem.key, mem.text.id, mem.n, mem.steps, mem.margin, name, radius, fails))
    columns = ["key", "text_id", "tokens", "steps", "margin", "direction", "radius", "fails"]
    return pd.DataFrame(rows, columns=columns)


def plane(
    lm: FrozenLM,
    a: MemVector,
    b: MemVector,
    *,
    third: np.ndarray | None = None,
    points: int = 13,
    reach: float = 0.5,
    seed: int = 0,
    watch: Watch | None = None,
    again: float = 0.05,
) -> pd.DataFrame:
    """The loss on the plane through two solutions and a third point (a random direction, if none is given).

    Coordinates: ``x`` from ``a`` (0) to ``b`` (1), ``y`` across, in the same unit, each ``reach`` beyond the two.
    ``third`` is a (k, d) point off the line, another solution say.
    """
    along = (b.mem - a.mem).astype(float)
    span = float(np.linalg.norm(along))
    off = (
        np.random.default_rng(seed).standard_normal(a.mem.shape) if third is None else np.asarray(third, float) - a.mem
    )
    off = off - (off * along).sum() / span**2 * along
    across = off * (span / np.linalg.norm(off))
    x, y = np.linspace(-reach, 1 + reach, points), np.linspace(-0.5 - reach, 0.5 + reach, points)
    places = [(float(i), float(j)) for j in y for i in x]
    moved = [
        a.with_mem((a.mem + i * along + j * across).astype(np.float32), f"plane {i:.3f} {j:.3f}") for i, j in places
    ]
    return _with(places, ["x", "y"], evaluate(lm, moved, watch=watch, again=again))


def _seed(mem: MemVector, seed: int, draw: int) -> int:
    """A draw of its own for every vector: with one for all, what it hits by chance would look like a law."""
    return int.from_bytes(hashlib.sha256(f"{mem.key} {seed} {draw}".encode()).digest()[:7], "little")


def _with(told: Sequence[tuple[object, ...]], columns: list[str], table: pd.DataFrame) -> pd.DataFrame:
    joined = pd.concat([pd.DataFrame(told, columns=columns), table], axis=1)
    joined.attrs |= table.attrs
    return joined
