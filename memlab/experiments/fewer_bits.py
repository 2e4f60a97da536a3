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
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from memlab.errors import MemlabError
from memlab.experiments.session import Session
from memlab.experiments.tables import require_columns
from memlab.experiments.vector_codes import METHODS, Grids
from memlab.measures.statistics import bootstrap
from memlab.results.mem_vector import MemVector, VectorError

COLUMNS = ("key", "text_id", "texts", "tokens", "method", "stored_bits", "bits_a_number", "least_bits", "rung", "seed",
           "margin", "seconds")  # fmt: skip
"""Columns of a row: one vector and one method. ``stored_bits``: NaN if no code was found. ``least_bits``: what a code
of Gaussian vectors needs at least for the error of this grid. ``margin``: of the exact check of the decoded vector, in
logits. ``rung``, ``seed``: of the grid (``measures.grids``)."""


class UnknownMethodError(MemlabError, LookupError):
    """No method has this name. The message lists those that exist."""

    exit_code = 2


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
    if several := [mem for _, mem in mems if mem.k != 1]:
        raise VectorError(f"{several[0]!r} has {several[0].k} vectors. Give results with k = 1.")
    grids = Grids(session.lm, fit)
    table = session.resume_from if session.resume_from is not None else pd.DataFrame(columns=list(COLUMNS))
    require_columns(table, COLUMNS)
    for texts, mem in mems:
        done = set(table.method[table.key == mem.key])
        rows = [_row(grids, texts, mem, name) for name in methods if name not in done]
        if rows:
            new = pd.DataFrame(rows, columns=list(COLUMNS))
            table = pd.concat([table, new], ignore_index=True) if len(table) else new
            session.on_rows(table)
            bits = ", ".join(f"{row['method']} {row['stored_bits']:.0f}" for row in rows)
            session.log(f"{mem.text.id}, {mem.n} tokens: {bits}")
    return table


def _row(grids: Grids, texts: str, mem: MemVector, method: str) -> dict[str, Any]:
    started = time.perf_counter()
    code = METHODS[method](grids, mem)
    row: dict[str, Any] = {"key": mem.key, "text_id": mem.text.id, "texts": texts, "tokens": mem.n, "method": method}
    row |= {"rung": code.rung if code else -1, "seed": code.seed if code else 0}
    row |= {"stored_bits": float(code.bits), "margin": code.margin, "least_bits": code.least_bits} if code else {}
    return row | {"bits_a_number": row.get("stored_bits", np.nan) / mem.d, "seconds": time.perf_counter() - started}


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


def _with_all(table: pd.DataFrame) -> pd.DataFrame:
    """``table``, and once more with all kinds of text together."""
    return pd.concat([table, table.assign(texts="all")], ignore_index=True)
