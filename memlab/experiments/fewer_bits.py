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
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
import pandas as pd
import torch

from memlab.decoding.decode import check
from memlab.errors import MemlabError
from memlab.experiments.landscape.bits import stored_bits
from memlab.experiments.session import Session
from memlab.measures.grids import Grid, GridFit
from memlab.measures.quantisers import Levels
from memlab.measures.statistics import bootstrap
from memlab.models import FrozenLM
from memlab.results.mem_vector import MemVector, VectorError
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
PRIOR = 0.1
"""Weight of the model's curvature next to the passage's own in error feedback."""
COLUMNS = ("key", "text_id", "texts", "tokens", "method", "stored_bits", "bits_a_number", "least_bits", "rung", "seed",
           "margin", "seconds")  # fmt: skip


class UnknownMethodError(MemlabError, LookupError):
    """No method has this name. The message lists those that exist."""

    exit_code = 2


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
    grid, weights = grids.shaped, grids.shaped.steps**-2.0
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
        raise UnknownMethodError(f"There is no method {unknown[0]!r}. Use one of: {', '.join(METHODS)}.")
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


def _with_all(table: pd.DataFrame) -> pd.DataFrame:
    """``table``, and once more with all kinds of text together."""
    return pd.concat([table, table.assign(texts="all")], ignore_index=True)
