"""The scatter plot for questions of your own."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from memlab.charts.colours import OURS
from memlab.charts.rows import chart, inline


@chart
def scatter(table: pd.DataFrame, x: str, y: str, *, x_title: str, y_title: str, tooltip: list[str]) -> Any:
    """Column ``y`` by column ``x``, one point per row. ``tooltip`` lists the columns of the tooltip."""
    y_axis = alt.Y(f"{y}:Q", title=y_title, scale=alt.Scale(zero=False))
    types = {name: "Q" if pd.api.types.is_numeric_dtype(table[name]) else "N" for name in tooltip}
    return (
        alt.Chart(inline(table, *dict.fromkeys((x, y, *tooltip))))
        .mark_circle(size=50, opacity=0.7, color=OURS)
        .encode(alt.X(f"{x}:Q", title=x_title), y_axis, tooltip=[f"{name}:{kind}" for name, kind in types.items()])
        .properties(width=440, height=260)
    )
