"""Registry of the writers of the tables in ``data/bench/README.md``, and the cells that they share.

A writer only formats. Its numbers come from the functions that notebooks and commands use, applied to the files in
``data/bench`` and to the bundled vectors. No model is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd

from memlab.errors import MemlabError
from memlab.measures.statistics import share_interval

Rows = Iterable[Iterable[object]]
Table = tuple[Iterable[str], Rows]
Writer = Callable[[], Table]

TABLES: dict[str, Writer] = {}
"""Name of a table in the README -> its writer, which returns the column heads and the rows."""


class ReportError(MemlabError, ValueError):
    """The report and its writers do not fit together; the message names the table."""

    exit_code = 2


def table(name: str) -> Callable[[Writer], Writer]:
    """Register a writer under the name of its table."""

    def register(writer: Writer) -> Writer:
        if name in TABLES:
            raise ReportError(f"two writers have the name {name!r}. Give one of them another name.")
        TABLES[name] = writer
        return writer

    return register


# Cells -----------------------------------------------------------------------------------------------------------


def share(hits: Any) -> str:
    """``hits`` (n,), true or false, as "3/4 [0.30, 0.95]": with a 95 % Wilson interval."""
    found = int(np.sum(hits))
    low, high = share_interval(found, len(hits))
    return f"{found}/{len(hits)} [{low:.2f}, {high:.2f}]"


def spread(values: pd.Series, spec: str = "g") -> str:
    """Median, and in brackets the smallest and the largest value."""
    return f"{values.median():{spec}} ({values.min():{spec}} – {values.max():{spec}})"


def ends(values: Iterable[float], spec: str = "g") -> str:
    """Smallest and largest value, or the one value there is."""
    numbers = [*values]
    low, high = format(min(numbers), spec), format(max(numbers), spec)
    return low if low == high else f"{low} – {high}"


def percent(value: float) -> str:
    """A share as "64 %"."""
    return f"{100 * value:.0f} %"


def joined(cells: Iterable[str]) -> str:
    """Cells of several settings in one row."""
    return "; ".join(cells)
