"""How far a vector can be moved before the text is gone: by noise, along directions, numbers left out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch

from memlab.decoding.decode import check
from memlab.measures import geometry
from memlab.models import FrozenLM
from memlab.probes.evaluate import Watch, evaluate
from memlab.probes.paths import setting
from memlab.results.mem_vector import MemVector
from memlab.scoring.objective import Batch, Row

RADII = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
"""Of a perturbation, as shares of the vector's own norm."""
DROPPED = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
ROUNDED = (2, 3, 4, 5, 6, 8, 16)


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
    seed: int | None,
    watch: Watch | None,
    again: float,
) -> pd.DataFrame:
    """``change`` is given the draw's number where there is no ``seed``."""
    cases = [(mem, amount, draw) for mem in mems for amount in amounts for draw in range(draws)]
    moved = [change(mem, x, draw if seed is None else _seed(mem, seed, draw)) for mem, x, draw in cases]
    told = [(mem.key, mem.text.id, amount, draw) for mem, amount, draw in cases]
    return _with(told, ["key", "text_id", name, "draw"], evaluate(lm, moved, watch=watch, again=again))


def rounding(
    lm: FrozenLM,
    mems: Sequence[MemVector],
    *,
    bits: Sequence[int] = ROUNDED,
    watch: Watch | None = None,
    again: float = 0.05,
) -> pd.DataFrame:
    """Every number rounded to ``bits`` bits (one scale a vector): one row a vector and number of bits."""

    def change(mem: MemVector, bits: float, seed: int) -> MemVector:
        return mem.quantise(int(bits))

    return _changed(lm, mems, change, "bits_a_number", bits, 1, 0, watch, again)


def along(
    lm: FrozenLM,
    mems: Sequence[MemVector],
    direction: str,
    *,
    among: Sequence[MemVector] = (),
    radii: Sequence[float] = RADII,
    watch: Watch | None = None,
    again: float = 0.05,
) -> pd.DataFrame:
    """Moved along one of ``directions`` and against it (``draw`` 0 and 1): one row a vector, radius and side."""
    ways = {}
    for mem in mems:
        known = directions(lm, mem, [o for o in among if setting(o) == setting(mem)], seed=_seed(mem, 0, 0))
        if direction not in known:
            there = ", ".join(known)
            raise ValueError(f"direction={direction!r}: {mem!r} has {there}; some need other solutions (among=)")
        ways[mem.key] = known[direction]

    def change(mem: MemVector, radius: float, side: int) -> MemVector:
        size = (-1) ** side * radius * np.linalg.norm(mem.mem)
        return mem.with_mem((mem.mem + size * ways[mem.key]).astype(np.float32), f"moved by {radius} along {direction}")

    return _changed(lm, mems, change, "radius", radii, 2, None, watch, again)


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
    lm: FrozenLM, mem: MemVector, direction: np.ndarray, *, high: float = 2.0, precision: float = 0.1
) -> tuple[float, float]:
    """(exact, not): shares of the vector's norm that bracket where moving along ``direction`` (k, d) first loses the
    text; see ``geometry.exact_radius``. Every step is an exact check: decoded freely, float32, batch 1.
    """
    size = float(np.linalg.norm(mem.mem))
    way = np.asarray(direction, float) / np.linalg.norm(direction)

    def holds(radius: float) -> bool:
        moved = (mem.mem + radius * size * way).astype(np.float32)
        return check(lm, mem.with_mem(moved, f"moved by {radius} of its norm")).exact

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
    vectors themselves) are enough solutions of the passage; or only those that ``ways`` names. A principal direction
    has no sign: the smaller radius of its two sides. ``fails`` is infinite where the text is there even at ``high``.
    """
    rows = []
    for mem in mems:
        others = [other for other in among or mems if setting(other) == setting(mem)]
        made = directions(lm, mem, others, seed=_seed(mem, seed, 0))
        more = np.random.default_rng(_seed(mem, seed, 1)).standard_normal((draws - 1, *mem.mem.shape))
        named = [*made.items(), *(("random", way) for way in more)]
        for name, way in [(name, way) for name, way in named if ways is None or name in ways]:
            sides = (way, -way) if name.endswith("principal") else (way,)
            radius, fails = min(exact_radius(lm, mem, side, high=high) for side in sides)
            rows.append((mem.key, mem.text.id, mem.n, mem.steps, mem.margin, name, radius, fails))
    columns = ["key", "text_id", "tokens", "steps", "margin", "direction", "radius", "fails"]
    return pd.DataFrame(rows, columns=columns)


def plane(
    lm: FrozenLM,
    a: MemVector,
    b: MemVector,
    *,
    third: np.ndarray | None = None,
    cells: int = 8,
    reach: float = 0.5,
    seed: int = 0,
    watch: Watch | None = None,
    again: float = 0.05,
) -> pd.DataFrame:
    """The loss on the plane through two solutions and a third point (a random direction, if none is given).

    Coordinates: ``x`` from ``a`` (0) to ``b`` (1) in ``cells`` steps, ``y`` across, in the same unit; ``reach`` more to
    every side, in whole steps. ``third`` is a (k, d) point off the line, another solution say; where it lies is in
    ``table.attrs["third"]``.
    """
    along = (b.mem - a.mem).astype(float)
    span = float(np.linalg.norm(along))
    off = (
        np.random.default_rng(seed).standard_normal(a.mem.shape) if third is None else np.asarray(third, float) - a.mem
    )
    beside = float((off * along).sum() / span**2)
    off = off - beside * along
    across = off * (span / np.linalg.norm(off))
    more = round(reach * cells)
    x = np.arange(-more, cells + more + 1) / cells
    y = np.arange(-cells // 2 - more, cells - cells // 2 + more + 1) / cells
    places = [(float(i), float(j)) for j in y for i in x]
    moved = [
        a.with_mem((a.mem + i * along + j * across).astype(np.float32), f"plane {i:.3f} {j:.3f}") for i, j in places
    ]
    table = _with(places, ["x", "y"], evaluate(lm, moved, watch=watch, again=again))
    table.attrs["third"] = None if third is None else (beside, float(np.linalg.norm(off) / span))
    return table


def _seed(mem: MemVector, seed: int, draw: int) -> int:
    """A draw of its own for every passage and seed: with one for all, what it hits by chance would look like a law.

    The same for solutions that differ in how long they were trained, so that these can be compared.
    """
    named = f"{mem.token_sha256} {mem.recipe.seed} {seed} {draw}"
    return int.from_bytes(hashlib.sha256(named.encode()).digest()[:7], "little")


def _with(told: Sequence[tuple[object, ...]], columns: list[str], table: pd.DataFrame) -> pd.DataFrame:
    joined = pd.concat([pd.DataFrame(told, columns=columns), table], axis=1)
    joined.attrs |= table.attrs
    return joined
