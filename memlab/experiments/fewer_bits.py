"""How few bits a mem vector needs: better grids, better rounding, and training on the grid, next to plain rounding.

A method returns the smallest code, of those it tries, whose decoded vector passes the exact check. Each method adds one
thing to the one before it, so that the table tells what each is worth. ``measures.grids`` explains the grid.

Predicted before the run, as median of stored bits over those of signed integers (``precision.fewest_bits``), at 64
tokens: any number of levels 0.95; entropy-coded 0.80; in the model's basis 0.68, and with the basis permuted 0.95; best
of 32 offsets 0.62; with error feedback 0.55; trained on the grid 0.35 for original texts and 0.5 for random words,
which need more of a vector's capacity. At 32 tokens the same ratios, and 0.25 for training on the grid.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import pandas as pd
import torch

from memlab.decoding.decode import check
from memlab.experiments.landscape.bits import stored_bits
from memlab.experiments.precision import FORMS, fewest_bits, precision
from memlab.experiments.registry import UnknownExperimentError
from memlab.experiments.session import Session
from memlab.measures.grids import Grid, GridFit
from memlab.measures.quantisers import Levels
from memlab.measures.statistics import bootstrap
from memlab.models import FrozenLM
from memlab.results.mem_vector import MemVector, VectorError
from memlab.scoring.objective import Batch, Row
from memlab.training.on_grid import margin_gradients, train_on_grid
from memlab.training.preconditioner import FLOOR, preconditioner_of

PLAIN, SHAPED = range(24, 49), range(16, 43)
"""Rungs that are tried, from large steps to small ones: about 2 to 5 bits a number, and 1.2 to 4.3."""
OFFSETS = 32
"""Moved grids of one size that are tried."""
STEPS = 60
"""Training steps at one rung."""
STRIDE = 2
"""Rungs by which the steps grow, once training has succeeded."""
SMOOTH = 31
PRIOR = 0.1
"""Weight of the model's curvature next to the passage's own in error feedback."""
COLUMNS = ("key", "text_id", "texts", "tokens", "method", "stored_bits", "bits_a_number", "least_bits", "rung", "seed",
           "margin", "seconds")  # fmt: skip


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


def integers(grids: Grids, mem: MemVector) -> Code | None:
    """Signed integers of 2 to 16 bits, as ``memlab bench precision`` counts them."""
    forms = [form for form in FORMS if form.name.startswith("int")]
    best = fewest_bits(precision(grids.lm, [mem], forms=forms))
    if not len(best):
        return None
    bits = int(best.bits_a_number[0])
    coarse = mem.quantise(bits)
    return Code(b"", int(best.stored_bits[0]), coarse, check(grids.lm, coarse).margin)


def levels(grids: Grids, mem: MemVector) -> Code | None:
    """Any odd number of levels, not only one less than a power of two. A byte says how many."""
    forms = [Levels(count, mem.d) for count in range(5, 128, 2)]
    data = [form.encode(mem.mem) for form in forms]
    vectors = (form.decode(code) for form, code in zip(forms, data, strict=True))
    found = first_exact(grids.lm, mem, vectors)
    return None if found is None else Code(data[found[0]], 8 * len(data[found[0]]) + 8, *found[1:])


def entropy_coded(grids: Grids, mem: MemVector) -> Code | None:
    """Equal steps of any size; levels in an arithmetic code that takes all numbers as Gaussian."""
    return _coarsest(grids, mem, grids.plain, PLAIN)


def shaped(grids: Grids, mem: MemVector) -> Code | None:
    """Steps by the model's preconditioner."""
    return _coarsest(grids, mem, grids.shaped, SHAPED)


def permuted(grids: Grids, mem: MemVector) -> Code | None:
    """The control: the same steps in other directions."""
    return _coarsest(grids, mem, grids.permuted, range(SHAPED.start, PLAIN.stop + 8))


def offsets(grids: Grids, mem: MemVector) -> Code | None:
    """The best of ``OFFSETS`` moved grids: whether a coarse grid keeps a text is partly luck, which can be sought."""
    best = shaped(grids, mem)
    misses = 0
    rung = best.rung if best else SHAPED.stop - 1
    while misses < 2 and (rung := rung - 1) >= 0:
        tried = list(range(1, OFFSETS + 1))
        vectors = [grids.shaped.rounded(mem.mem[0], rung, seed)[None] for seed in tried]
        if found := first_exact(grids.lm, mem, vectors, by_margin=True):
            best, misses = _code(grids.shaped, mem.mem[0], rung, tried[found[0]], *found[1:]), 0
        else:
            misses += 1
    return best


def feedback(grids: Grids, mem: MemVector) -> Code | None:
    """Each number takes over what the errors before it cost, by the curvature of the passage's margins."""
    grid, weights = grids.shaped, grids.shaped.steps**-2.0
    gradients, margins = margin_gradients(grids.lm, mem)
    rows = grid.coordinates(gradients) / np.maximum(margins, 1e-3)[:, None]
    own = rows.T @ rows
    curvature = own / np.trace(own) + PRIOR * np.diag(weights / weights.sum())
    return _coarsest(grids, mem, grid, range(8, SHAPED.stop), lambda v, rung: grid.compensated(v, curvature, rung))


def trained(grids: Grids, mem: MemVector) -> Code | None:
    """Trained further so that the rounded vector is exact, with ever larger steps until ``STEPS`` do not suffice."""
    best = shaped(grids, mem)
    hidden, rung = mem.mem, best.rung if best else SHAPED.stop
    stride = 2 * STRIDE
    while (rung - stride) >= 0 and stride:
        moved, point, _ = train_on_grid(grids.lm, mem, partial(_rounded, grids.shaped, rung - stride), hidden, STEPS)
        if point is None:
            stride //= 2
            continue
        hidden, rung = moved, rung - stride
        best = _code(grids.shaped, hidden[0], rung, 0, point, check(grids.lm, point).margin)
    return best


METHODS: dict[str, Method] = {
    "signed integers": integers,
    "any number of levels": levels,
    "entropy-coded": entropy_coded,
    "in the model's basis": shaped,
    "basis permuted (control)": permuted,
    "best of 32 offsets": offsets,
    "error feedback": feedback,
    "trained on the grid": trained,
}
"""{name: method}. From the third on, each keeps what the one before has, except the control."""


def fewer_bits(
    session: Session, mems: Sequence[tuple[str, MemVector]], fit: np.ndarray, methods: Iterable[str] = METHODS
) -> pd.DataFrame:
    """One row per vector and method, with the columns ``COLUMNS``. ``mems``: (kind of text, exact vector), k = 1.

    ``fit``: vectors (n, d) of other texts. A method that finds no code has NaN as ``stored_bits``. Rows of
    ``session.resume_from`` are not measured again. Raises ``VectorError`` for several vectors.
    """
    methods = list(methods)
    if unknown := [name for name in methods if name not in METHODS]:
        raise UnknownExperimentError(f"There is no method {unknown[0]!r}. Use one of: {', '.join(METHODS)}.")
    grids, earlier = Grids(session.lm, fit), session.resume_from
    table = earlier if earlier is not None else pd.DataFrame(columns=list(COLUMNS))
    for texts, mem in mems:
        if mem.k != 1:
            raise VectorError(f"{mem!r} has {mem.k} vectors. Give results with k = 1.")
        done = set(table.method[table.key == mem.key])
        rows = []
        for name in methods:
            if name in done:
                continue
            started = time.perf_counter()
            code = METHODS[name](grids, mem)
            row = {"key": mem.key, "text_id": mem.text.id, "texts": texts, "tokens": mem.n, "method": name}
            row |= {
                "stored_bits": code.bits if code else np.nan,
                "bits_a_number": code.bits / mem.d if code else np.nan,
            }
            row |= {"least_bits": code.least_bits if code else np.nan, "rung": code.rung if code else -1}
            row |= {"seed": code.seed if code else 0, "margin": code.margin if code else np.nan}
            rows.append(row | {"seconds": time.perf_counter() - started})
        if rows:
            table = (
                pd.concat([table, pd.DataFrame(rows, columns=list(COLUMNS))], ignore_index=True)
                if len(table)
                else pd.DataFrame(rows)
            )
            session.on_rows(table)
            bits = ", ".join(f"{row['method']} {row['stored_bits']:.0f}" for row in rows)
            session.log(f"{mem.text.id}, {mem.n} tokens: {bits}")
    return table


def ratios(table: pd.DataFrame, *, draws: int = 2000) -> pd.DataFrame:
    """Median over vectors of a method's bits over those of signed integers, by length: ``ratio low high``.

    Also ``bits_a_number`` and ``bits_a_token``, medians. The bootstrap draws texts. Vectors that both encode count.
    """
    plain = table[table.method == "signed integers"].set_index("key").stored_bits
    paired = table.assign(ratio=table.stored_bits / table.key.map(plain)).dropna(subset=["ratio"])
    rows = []
    for (tokens, texts, method), group in _with_all(paired).groupby(["tokens", "texts", "method"], sort=False):
        estimate = bootstrap(lambda t: float(t.ratio.median()), group, draws=draws)
        rows.append(
            {
                "tokens": tokens, "texts": texts, "method": method, "vectors": len(group), "ratio": estimate.value,
                "low": estimate.low, "high": estimate.high, "bits_a_number": group.bits_a_number.median(),
                "bits_a_token": (group.stored_bits / group.tokens).median(), "seconds": group.seconds.mean(),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def first_exact(
    lm: FrozenLM, mem: MemVector, vectors: Iterable[np.ndarray], *, by_margin: bool = False, batch: int = 16
) -> tuple[int, MemVector, float] | None:
    """(number, vector, margin) of the first of ``vectors`` (k, d) from which the text decodes; None if none does.

    With ``by_margin`` all are scored first, and those with the largest margins are decoded first.
    """
    forms = [mem.with_mem(vector, "rounded") for vector in vectors]
    order: list[tuple[float, int]] = []
    for start in range(0, len(forms), batch):
        chunk = forms[start : start + batch]
        scores, _ = Batch(lm, [Row.of(form) for form in chunk]).scores(
            [torch.tensor(form.mem) for form in chunk], torch.float32
        )
        order = [(-float(m), start + i) for i, m in enumerate(scores.min_margin) if m > 0] + (
            order if by_margin else []
        )
        if not by_margin or start + batch >= len(forms):
            for _, i in sorted(order) if by_margin else order:
                if (alone := check(lm, forms[i])).exact:
                    return i, forms[i], float(alone.margin)
    return None


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


def _with_all(table: pd.DataFrame) -> pd.DataFrame:
    """``table``, and once more with all kinds of text together."""
    return pd.concat([table, table.assign(texts="all")], ignore_index=True)
