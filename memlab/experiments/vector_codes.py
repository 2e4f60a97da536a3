"""The smallest codes of a mem vector from which its text still decodes: one function per method.

A method returns the smallest code, of those it tries, whose decoded vector passes the exact check. ``fewer_bits`` is
the table of them, with what was predicted. ``measures.grids`` explains the grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
import torch

from memlab.decoding.decode import check
from memlab.experiments.landscape.bits import stored_bits
from memlab.measures.grids import Grid, GridFit
from memlab.measures.quantisers import Levels
from memlab.models import FrozenLM
from memlab.results.mem_vector import MemVector
from memlab.scoring.objective import Batch, Row
from memlab.training.on_grid import NEARLY, margin_gradients, train_on_grid
from memlab.training.preconditioner import FLOOR, preconditioner_of

PLAIN, SHAPED = range(24, 56), range(16, 56)
"""Rungs that are tried, from large steps to small ones: about 2 and 1.3 to 6 bits a number."""
OFFSETS = 32
"""Moved grids of one size that are tried."""
STEPS = 40
"""Training steps at one rung."""
STRIDE = 4
"""Rungs by which the steps grow as long as training succeeds. Then 2, then 1."""
SMOOTH = 31
"""Neighbours in the basis whose variances are averaged."""
PRIOR = 1.0
"""Weight of the model's curvature next to the passage's own in error feedback. Chosen on two vectors of other texts."""


@dataclass(frozen=True)
class Code:
    """A code that decodes to an exact vector."""

    data: bytes
    bits: int
    mem: MemVector
    margin: float
    rung: int = -1
    seed: int = 0
    least_bits: float = np.nan


@dataclass(frozen=True)
class Grids:
    """The grids of a model, fitted on vectors of other texts. ``fit``: (n, d)."""

    lm: FrozenLM
    fit: np.ndarray
    _found: dict[str, Code | None] = field(default_factory=dict, repr=False, compare=False)
    """{key: code in the model's basis}: other methods begin there."""

    @cached_property
    def plain(self) -> Grid:
        """Equal steps in the vectors' own numbers."""
        return GridFit().fit(self.fit)

    @cached_property
    def shaped(self) -> Grid:
        """Small steps where the model looks: the eigenvectors of its preconditioner, weights from its spectrum."""
        basis, weights = self._axes
        return GridFit(basis, weights, SMOOTH).fit(self.fit)

    @cached_property
    def milder(self) -> Grid:
        """As ``shaped``, but the weights are the square root of the spectrum."""
        basis, weights = self._axes
        return GridFit(basis, weights**0.5, SMOOTH).fit(self.fit)

    @cached_property
    def permuted(self) -> Grid:
        """A control: the same basis and steps, but the steps belong to other coordinates."""
        basis, weights = self._axes
        return GridFit(basis, np.random.default_rng(0).permutation(weights), SMOOTH).fit(self.fit)

    @property
    def _axes(self) -> tuple[np.ndarray, np.ndarray]:
        measured = preconditioner_of(self.lm)
        basis, spectrum = measured.basis.double().numpy(), measured.spectrum.double().numpy()
        if missing := self.lm.d - len(basis):  # a wide model: directions in which no gradient was seen
            basis = np.concatenate([basis, np.linalg.svd(basis)[2][-missing:]])
            spectrum = np.concatenate([spectrum, np.zeros(missing)])
        return basis, spectrum + FLOOR * spectrum.max()


Method = Callable[[Grids, MemVector], Code | None]
GRIDS: dict[str, Callable[[Grids], Grid]] = {
    "entropy-coded": lambda grids: grids.plain,
    "in the model's basis": lambda grids: grids.shaped,
    "in the model's basis, milder": lambda grids: grids.milder,
    "basis permuted (control)": lambda grids: grids.permuted,
    "best of 32 offsets": lambda grids: grids.shaped,
    "error feedback": lambda grids: grids.milder,
    "trained on the grid": lambda grids: grids.shaped,
}
"""{method: the grid that decodes its codes}."""


def integers(grids: Grids, mem: MemVector) -> Code | None:
    """Signed integers of 2 to 16 bits and a float32 scale, counted as ``precision.fewest_bits`` counts them."""
    found = first_exact(grids.lm, mem, [mem.quantise(bits).mem for bits in range(2, 17)])
    return None if found is None else Code(b"", mem.d * (2 + found[0]) + 32, *found[1:])


def levels(grids: Grids, mem: MemVector) -> Code | None:
    """Any odd number of levels, not only one less than a power of two. A byte says how many."""
    forms = [Levels(count, mem.d) for count in range(5, 128, 2)]
    data = [form.encode(mem.mem) for form in forms]
    found = first_exact(grids.lm, mem, [form.decode(code) for form, code in zip(forms, data, strict=True)])
    return None if found is None else Code(data[found[0]], 8 * len(data[found[0]]) + 8, *found[1:])


def entropy_coded(grids: Grids, mem: MemVector) -> Code | None:
    """Equal steps of any size; levels in an arithmetic code that takes all numbers as Gaussian."""
    return _coarsest(grids, mem, grids.plain, PLAIN)


def shaped(grids: Grids, mem: MemVector) -> Code | None:
    """Steps by the model's preconditioner."""
    if mem.key not in grids._found:
        grids._found[mem.key] = _coarsest(grids, mem, grids.shaped, SHAPED)
    return grids._found[mem.key]


def milder(grids: Grids, mem: MemVector) -> Code | None:
    """Steps between equal ones and those of the preconditioner. The power was chosen on 8 vectors of other texts.

    The spectrum is that of random directions. At an exact vector the passage's margins depend on all directions: their
    squared gradients fall 25-fold along the basis, the spectrum falls 280-fold.
    """
    return _coarsest(grids, mem, grids.milder, SHAPED)


def permuted(grids: Grids, mem: MemVector) -> Code | None:
    """The control: the same steps in other directions."""
    return _coarsest(grids, mem, grids.permuted, SHAPED)


def offsets(grids: Grids, mem: MemVector) -> Code | None:
    """The best of ``OFFSETS`` moved grids: whether a coarse grid keeps a text is partly luck, which can be sought."""
    best = shaped(grids, mem)
    misses = 0
    rung = best.rung if best else SHAPED.stop - 1
    while misses < 1 and (rung := rung - 1) >= 0:
        tried = list(range(1, OFFSETS + 1))
        vectors = [grids.shaped.rounded(mem.mem[0], rung, seed)[None] for seed in tried]
        if found := first_exact(grids.lm, mem, vectors, by_margin=True):
            best, misses = _code(grids.shaped, mem.mem[0], rung, tried[found[0]], *found[1:]), 0
        else:
            misses += 1
    return best


def feedback(grids: Grids, mem: MemVector) -> Code | None:
    """Each number takes over what the errors before it cost, by the curvature of the passage's margins."""
    grid, weights = grids.milder, grids.milder.steps**-2.0
    gradients, margins = margin_gradients(grids.lm, mem)
    rows = grid.coordinates(gradients) / np.maximum(margins, 1e-3)[:, None]
    own = rows.T @ rows
    curvature = own / np.trace(own) + PRIOR * np.diag(weights / weights.sum())
    return _coarsest(grids, mem, grid, SHAPED, lambda v, rung: grid.compensated(v, curvature, rung))


def trained(grids: Grids, mem: MemVector) -> Code | None:
    """Trained further so that the rounded vector is right, with ever larger steps until ``STEPS`` do not suffice."""
    best = shaped(grids, mem)
    hidden, rung, stride = mem.mem, best.rung if best else SHAPED.stop, STRIDE
    reached: list[tuple[np.ndarray, int, MemVector]] = []
    while stride and rung - stride >= 0:
        # After a failure too the vector has moved closer to what a coarse grid needs, so it goes on from there.
        hidden, point, _ = train_on_grid(grids.lm, mem, partial(_rounded, grids.shaped, rung - stride), hidden, STEPS)
        if point is None:
            stride //= 2
        else:
            rung -= stride
            reached.append((hidden, rung, point))
    for hidden, rung, point in reversed(reached):
        if (alone := check(grids.lm, point)).exact:
            return _code(grids.shaped, hidden[0], rung, 0, point, alone.margin)
    return best


METHODS: dict[str, Method] = {
    "signed integers": integers,
    "any number of levels": levels,
    "entropy-coded": entropy_coded,
    "in the model's basis": shaped,
    "in the model's basis, milder": milder,
    "basis permuted (control)": permuted,
    "best of 32 offsets": offsets,
    "error feedback": feedback,
    "trained on the grid": trained,
}
"""{name: method}. From the third on, each keeps what the one before has, except the control."""


def first_exact(
    lm: FrozenLM, mem: MemVector, vectors: Sequence[np.ndarray], *, by_margin: bool = False, batch: int = 8
) -> tuple[int, MemVector, float] | None:
    """(number, vector, margin) of the first of ``vectors`` (k, d) from which the text decodes; None if none does.

    With ``by_margin`` all are scored first, and those with the largest margins are decoded first. The dtype of training
    finds candidates (``NEARLY``); float32 and the exact check decide.
    """
    forms = [mem.with_mem(vector, "rounded") for vector in vectors]
    size = len(forms) if by_margin else batch
    for start in range(0, len(forms), max(size, 1)):
        chunk = forms[start : start + size]
        margins = np.concatenate([_margins(lm, chunk[i : i + batch], lm.dtype) for i in range(0, len(chunk), batch)])
        order = np.argsort(-margins, kind="stable") if by_margin else np.arange(len(chunk))
        for i in order[margins[order] > NEARLY]:
            if _margins(lm, [chunk[i]], torch.float32)[0] > 0 and (alone := check(lm, chunk[i])).exact:
                return start + int(i), chunk[i], float(alone.margin)
    return None


def _margins(lm: FrozenLM, forms: Sequence[MemVector], dtype: torch.dtype) -> np.ndarray:
    scores, _ = Batch(lm, [Row.of(form) for form in forms]).scores([torch.tensor(form.mem) for form in forms], dtype)
    return scores.min_margin.numpy()


def _rounded(grid: Grid, rung: int, vectors: np.ndarray) -> np.ndarray:
    return grid.rounded(vectors[0], rung)[None]


def _coarsest(
    grids: Grids, mem: MemVector, grid: Grid, rungs: Iterable[int],
    levels_of: Callable[[np.ndarray, int], np.ndarray] | None = None,
) -> Code | None:  # fmt: skip
    rounding = levels_of or (lambda vector, rung: grid.levels(grid.coordinates(vector), rung))
    tried = list(rungs)
    found_levels = [rounding(mem.mem[0], rung) for rung in tried]
    vectors = [grid.vector(some, rung)[None] for some, rung in zip(found_levels, tried, strict=True)]
    if not (found := first_exact(grids.lm, mem, vectors)):
        return None
    return _of_levels(grid, found_levels[found[0]], tried[found[0]], 0, *found[1:])


def _code(grid: Grid, vector: np.ndarray, rung: int, seed: int, mem: MemVector, margin: float) -> Code:
    return _of_levels(grid, grid.levels(grid.coordinates(vector), rung, seed), rung, seed, mem, margin)


def _of_levels(grid: Grid, levels: np.ndarray, rung: int, seed: int, mem: MemVector, margin: float) -> Code:
    data = grid.pack(levels, rung, seed)
    return Code(data, stored_bits(data, fixed_size=False), mem, margin, data[0], data[1], grid.least_bits(data[0]))
