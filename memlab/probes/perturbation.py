"""How far a vector can be moved before its text is lost: by noise, along directions, by rounding, by dropout."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from memlab.decoding.decode import check
from memlab.measures import geometry
from memlab.models import FrozenLM
from memlab.probes.evaluate import OnProgress, Stopped, evaluate
from memlab.probes.paths import setting
from memlab.results.mem_vector import MemVector
from memlab.scoring.objective import Batch, Row

RADII = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
"""Distances, as shares of the vector's own norm."""
DROPPED = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
ROUNDED = (2, 3, 4, 5, 6, 8, 16)


def noise(
    lm: FrozenLM,
    mems: Sequence[MemVector],
    *,
    radii: Sequence[float] = RADII,
    draws: int = 4,
    seed: int = 0,
    on_progress: OnProgress | None = None,
    recheck: float = 0.05,
) -> pd.DataFrame:
    """Isotropic noise. One row per vector, ``radius`` (share of its norm) and ``draw``, with ``evaluate``'s columns."""

    def change(mem: MemVector, radius: float, seed: int) -> MemVector:
        return mem.perturb(radius * float(np.linalg.norm(mem.mem)), seed=seed)

    return _changed(lm, mems, change, "radius", radii, draws, seed, on_progress, recheck)


def dropout(
    lm: FrozenLM,
    mems: Sequence[MemVector],
    *,
    shares: Sequence[float] = DROPPED,
    draws: int = 4,
    seed: int = 0,
    on_progress: OnProgress | None = None,
    recheck: float = 0.05,
) -> pd.DataFrame:
    """A random share of the vector's numbers set to 0. One row per vector, share ``dropped`` and ``draw``."""

    def change(mem: MemVector, share: float, seed: int) -> MemVector:
        return mem.dropout(share, seed=seed)

    return _changed(lm, mems, change, "dropped", shares, draws, seed, on_progress, recheck)


def _changed(
    lm: FrozenLM,
    mems: Sequence[MemVector],
    change: Callable[[MemVector, float, int], MemVector],
    name: str,
    amounts: Sequence[float],
    draws: int,
    seed: int | None,
    on_progress: OnProgress | None,
    recheck: float,
) -> pd.DataFrame:
    """Change every vector by every amount and evaluate it. Without a ``seed``, ``change`` gets the draw's number."""
    cases = [(mem, amount, draw) for mem in mems for amount in amounts for draw in range(draws)]
    moved = [change(mem, x, draw if seed is None else _seed(mem, seed, draw)) for mem, x, draw in cases]
    names = [(mem.key, mem.text.id, amount, draw) for mem, amount, draw in cases]
    table = evaluate(lm, moved, on_progress=on_progress, recheck=recheck)
    return pd.concat([pd.DataFrame(names, columns=["key", "text_id", name, "draw"]), table], axis=1)


def rounding(
    lm: FrozenLM,
    mems: Sequence[MemVector],
    *,
    bits: Sequence[int] = ROUNDED,
    on_progress: OnProgress | None = None,
    recheck: float = 0.05,
) -> pd.DataFrame:
    """Every number rounded to ``bits`` bits, with one scale per vector. One row per vector and ``bits_a_number``."""
    return _changed(
        lm, mems, lambda mem, bits, _: mem.quantise(int(bits)), "bits_a_number", bits, 1, 0, on_progress, recheck
    )


def along(
    lm: FrozenLM,
    mems: Sequence[MemVector],
    direction: str,
    *,
    among: Sequence[MemVector] = (),
    radii: Sequence[float] = RADII,
    on_progress: OnProgress | None = None,
    recheck: float = 0.05,
) -> pd.DataFrame:
    """Move along one of ``directions`` (``draw`` 0) and against it (``draw`` 1): one row per vector, radius and side.

    ``among``: vectors in which other solutions of each passage are looked up. Raises ``ValueError`` if a vector has no
    such direction.
    """
    units = {}
    for mem in mems:
        known = directions(lm, mem, [o for o in among if setting(o) == setting(mem)], seed=_seed(mem, 0, 0))
        if direction not in known:
            raise ValueError(
                f"direction={direction!r} is not known for {mem!r}. Give one of: {', '.join(known)}. "
                "The principal directions need more than two solutions of the passage (among=)."
            )
        units[mem.key] = known[direction]

    def change(mem: MemVector, radius: float, side: int) -> MemVector:
        size = (-1) ** side * radius * np.linalg.norm(mem.mem)
        moved = (mem.mem + size * units[mem.key]).astype(np.float32)
        return mem.with_mem(moved, f"moved by {radius} along {direction}")

    return _changed(lm, mems, change, "radius", radii, 2, None, on_progress, recheck)


def directions(lm: FrozenLM, mem: MemVector, others: Sequence[MemVector], *, seed: int = 0) -> dict[str, np.ndarray]:
    """Unit directions (k, d) to move along: random, the gradient of the loss, outwards, first and last principal.

    ``outwards`` lengthens the vector. The principal directions are those of ``others``, solutions of the same passage,
    and need more than two of them.
    """
    row = Row.of(mem)
    _, (gradient,) = Batch(lm, [row]).scores([torch.tensor(mem.mem)], torch.float32, gradient=True)
    vectors = {
        "random": np.random.default_rng(seed).standard_normal(mem.mem.shape),
        "gradient": gradient.numpy().astype(float),
        "outwards": mem.mem.astype(float),
    }
    if len(others) > 2:
        spread = np.stack([other.mem.reshape(-1) for other in others]).astype(float)
        _, _, axes = np.linalg.svd(spread - spread.mean(0), full_matrices=False)
        vectors["first principal"] = axes[0].reshape(mem.mem.shape)
        vectors["last principal"] = axes[len(others) - 2].reshape(mem.mem.shape)
    return {name: vector / np.linalg.norm(vector) for name, vector in vectors.items()}


def exact_radius(
    lm: FrozenLM,
    mem: MemVector,
    direction: np.ndarray,
    *,
    high: float = 2.0,
    precision: float = 0.1,
    on_trial: Callable[[float, bool], bool | None] | None = None,
) -> tuple[float, float]:
    """(radius, fails): the vector is exact at the first and not at the second distance along ``direction`` (k, d).

    Both are shares of the vector's norm; see ``geometry.exact_radius``. Each trial is an exact check: free-running,
    float32, batch 1. ``on_trial`` is called with (radius, exact) after each; if it returns True, ``Stopped`` is raised.
    """
    size = float(np.linalg.norm(mem.mem))
    unit = np.asarray(direction, float) / np.linalg.norm(direction)

    def holds(radius: float) -> bool:
        moved = (mem.mem + radius * size * unit).astype(np.float32)
        exact = check(lm, mem.with_mem(moved, f"moved by {radius} of its norm")).exact
        if on_trial and on_trial(radius, exact):
            raise Stopped
        return exact

    return geometry.exact_radius(holds, high=high, precision=precision)


def radii(
    lm: FrozenLM,
    mems: Sequence[MemVector],
    *,
    among: Sequence[MemVector] | None = None,
    only: Sequence[str] | None = None,
    draws: int = 3,
    high: float = 2.0,
    seed: int = 0,
) -> pd.DataFrame:
    """One row per vector and direction: the exact radius, with what might predict it (margin, length, steps).

    The directions are those of ``directions``, with ``draws`` random ones; ``only`` selects some by name. ``among``:
    vectors in which other solutions of each passage are looked up (default: ``mems``). A principal direction has no
    sign, so the smaller radius of its two sides counts. ``fails`` is infinite if the vector is still exact at ``high``.
    """
    rows = []
    for mem in mems:
        others = [other for other in among or mems if setting(other) == setting(mem)]
        first = directions(lm, mem, others, seed=_seed(mem, seed, 0))
        more = np.random.default_rng(_seed(mem, seed, 1)).standard_normal((draws - 1, *mem.mem.shape))
        named = [*first.items(), *(("random", vector) for vector in more)]
        for name, vector in [(name, vector) for name, vector in named if only is None or name in only]:
            sides = (vector, -vector) if name.endswith("principal") else (vector,)
            radius, fails = min(exact_radius(lm, mem, side, high=high) for side in sides)
            rows.append((mem.key, mem.text.id, mem.n, mem.steps, mem.margin, name, radius, fails))
    columns = ["key", "text_id", "tokens", "steps", "margin", "direction", "radius", "fails"]
    return pd.DataFrame(rows, columns=columns)


@dataclass(frozen=True)
class Plane:
    """The loss on a plane through two solutions."""

    table: pd.DataFrame
    """Coordinates ``x`` and ``y``, and the columns of ``evaluate``, one row per cell."""
    third: tuple[float, float] | None
    """Coordinates of the third point; None for a random plane."""


def plane(
    lm: FrozenLM,
    a: MemVector,
    b: MemVector,
    *,
    third: np.ndarray | None = None,
    cells: int = 8,
    reach: float = 0.5,
    seed: int = 0,
    on_progress: OnProgress | None = None,
    recheck: float = 0.05,
) -> Plane:
    """The loss on the plane through two solutions and a third point (k, d), or along a random direction (``seed``).

    ``x`` goes from ``a`` (0) to ``b`` (1) in ``cells`` steps. ``y`` is orthogonal to it, in the same unit. The plane
    extends by ``reach`` (rounded to whole steps) on all sides.
    """
    x_axis = (b.mem - a.mem).astype(float)
    span = float(np.linalg.norm(x_axis))
    random = np.random.default_rng(seed).standard_normal(a.mem.shape)
    offset = random if third is None else np.asarray(third, float) - a.mem
    third_x = float((offset * x_axis).sum() / span**2)
    offset = offset - third_x * x_axis
    y_axis = offset * (span / np.linalg.norm(offset))
    border = round(reach * cells)
    x = np.arange(-border, cells + border + 1) / cells
    y = np.arange(-cells // 2 - border, cells - cells // 2 + border + 1) / cells
    places = [(float(i), float(j)) for j in y for i in x]
    moved = [
        a.with_mem((a.mem + i * x_axis + j * y_axis).astype(np.float32), f"plane {i:.3f} {j:.3f}") for i, j in places
    ]
    table = evaluate(lm, moved, on_progress=on_progress, recheck=recheck)
    table = pd.concat([pd.DataFrame(places, columns=["x", "y"]), table], axis=1)
    return Plane(table, None if third is None else (third_x, float(np.linalg.norm(offset) / span)))


def _seed(mem: MemVector, seed: int, draw: int) -> int:
    """A different seed for each passage: one seed for all could make a chance effect look like a law.

    Solutions that differ only in how long they were trained get the same seed, so that they can be compared.
    """
    name = f"{mem.token_sha256} {mem.recipe.seed} {seed} {draw}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "little")
