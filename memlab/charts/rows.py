"""Tables as data of a chart: any number of rows, but not more than a screen can show."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec

import altair as alt
import numpy as np
import pandas as pd

from memlab.charts.theme import GREY

_P = ParamSpec("_P")


def chart(function: Callable[_P, Any]) -> Callable[_P, Any]:
    """Decorate a function whose first argument holds the data: without rows, the chart is the text "no data"."""

    @functools.wraps(function)
    def draw(*args: _P.args, **kwargs: _P.kwargs) -> Any:
        data = args[0] if args else next(iter(kwargs.values()))
        return function(*args, **kwargs) if len(data) else no_data()  # type: ignore[arg-type]

    return draw


def no_data() -> Any:
    """A chart that says so."""
    text = alt.Chart({"values": [{}]}).mark_text(text="no data", color=GREY, fontSize=14)
    return text.properties(width=330, height=60)


def inline(table: pd.DataFrame, *columns: str) -> dict[str, Any]:
    """The rows of a table as data of a chart; only ``columns``, if given. Floats are rounded to 7 digits.

    Altair refuses tables of more than 5,000 rows, but not data in this form. It infers no types from them, so a chart
    names the type of every column (``"step:Q"``).
    """
    table = table[list(columns)] if columns else table
    floats = table.select_dtypes("float")
    short = {name: floats[name].map(lambda number: float(f"{number:.7g}")) for name in floats}
    values = alt.to_values(table.assign(**short))["values"]
    return {"values": tuple(values)}  # Altair copies a list of rows at each step that makes a chart, but not a tuple


def with_data(drawn: Any, **tables: pd.DataFrame) -> Any:
    """A chart of several pictures with its data. A picture refers to a table by ``alt.NamedData(name)``.

    Altair copies data that stand in a picture several times per level of a concatenation, which takes seconds.
    """
    drawn = drawn.copy(deep=False)
    drawn.datasets = {name: inline(table)["values"] for name, table in tables.items()}
    return drawn


def finite(*columns: pd.Series) -> np.ndarray:
    """The finite numbers of these columns, for the ends of an axis; there may be none."""
    numbers = np.concatenate([column.to_numpy(float) for column in columns])
    return numbers[np.isfinite(numbers)]


def thin(table: pd.DataFrame, x: str, *lines: str, pixels: int, by: str = "") -> pd.DataFrame:
    """The rows that lines of ``pixels`` columns of pixels can show. The drawn lines look the same.

    Column ``x`` increases. Each column of pixels keeps the rows with the smallest and the largest value of each of the
    columns ``lines``; the first and the last row are also kept. A missing value counts as the smallest, so that a gap
    stays a gap. At most four rows per pixel are returned unchanged. ``by``: each group of this column is a line.
    """
    if by:
        drawn = [thin(rows, x, *lines, pixels=pixels) for _, rows in table.groupby(by, sort=False)]
        return pd.concat([table[:0], *drawn])
    if len(table) <= 4 * pixels:
        return table
    place = table[x].to_numpy(float) - table[x].iloc[0]
    pixel = (place / (place.max() or 1.0) * (pixels - 1)).astype(int)
    numbers = table[list(lines)].astype(float).reset_index(drop=True)
    groups = numbers.where(np.isfinite(numbers), -np.inf).groupby(pixel)
    ends = [0, len(table) - 1]
    return table.iloc[np.unique(np.concatenate([ends, *groups.idxmin().to_numpy(), *groups.idxmax().to_numpy()]))]


def thinning(before: pd.DataFrame, after: pd.DataFrame, unit: str) -> Any:
    """A subtitle that says how many rows are drawn; none if all are. ``unit`` names the rows."""
    if len(after) == len(before):
        return alt.Undefined
    return f"{len(after):,} of {len(before):,} {unit} are drawn, among them all peaks"
