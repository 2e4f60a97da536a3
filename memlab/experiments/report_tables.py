"""Registry of the writers of the tables in ``data/bench/README.md``, and the cells that they share.

A writer only formats. Its numbers come from the functions that notebooks and commands use, applied to the files in
``data/bench`` and to the bundled vectors. No model is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd

from memlab.errors import MemlabError

Rows = Iterable[Iterable[object]]
Table = tuple[Iterable[str], Rows]

TABLES: dict[str, Callable[[], Table]] = {}
"""Name of a table in the README -> function that returns the column heads and the rows."""


class ReportError(MemlabError, ValueError):
    """The report and its writers do not fit together. The message names the table."""

    exit_code = 2


def table(name: str, heads: str = "") -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Register a writer under the name of its table. It returns rows under ``heads``, or (heads, rows) without."""

    def register(writer: Callable[[], Any]) -> Callable[[], Any]:
        if name in TABLES:
            raise ReportError(f"two writers have the name {name!r}. Give one of them another name.")
        TABLES[name] = (lambda: (heads.split(" | "), writer())) if heads else writer
        return writer

    return register


# Cells -----------------------------------------------------------------------------------------------------------


def spread(values: pd.Series, spec: str = "g") -> str:
    """Median, and in brackets the smallest and the largest value."""
    return f"{values.median():{spec}} ({values.min():{spec}} – {values.max():{spec}})"


def ends(values: Iterable[float], spec: str = "g") -> str:
    """Smallest and largest value, or one value if they are equal."""
    numbers = [*values]
    low, high = format(min(numbers), spec), format(max(numbers), spec)
    return low if low == high else f"{low} – {high}"


def percent(value: float) -> str:
    """A share as "64 %"."""
    return f"{100 * value:.0f} %"
