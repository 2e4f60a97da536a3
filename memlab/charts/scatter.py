"""The scatter plot for questions of your own."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from memlab.charts.colours import OURS, labels, scale
from memlab.charts.names import display
from memlab.charts.rows import chart, inline


@chart
def scatter(
    table: pd.DataFrame, x: str, y: str, *, x_title: str, y_title: str, tooltip: list[str], colour: str | None = None
) -> Any:
    """Column ``y`` by column ``x``, one point per row. ``tooltip`` lists the columns of the tooltip.

    ``colour``: a column of names. Each name gets its colour, and a straight line fitted to its points (least squares).
    """
    types = {name: "Q" if pd.api.types.is_numeric_dtype(table[name]) else "N" for name in tooltip}
    tips = [alt.Tooltip(f"{name}:{kind}", title=display(name)) for name, kind in types.items()]
    columns = dict.fromkeys((x, y, *tooltip, *([colour] if colour else [])))
    base = alt.Chart(inline(table, *columns)).encode(
        alt.X(f"{x}:Q", title=x_title, scale=alt.Scale(zero=False)),
        alt.Y(f"{y}:Q", title=y_title, scale=alt.Scale(zero=False)),
    )
    if colour is None:
        return base.mark_circle(size=50, opacity=0.7, color=OURS).encode(tooltip=tips).properties(width=560, height=300)
    names = list(dict.fromkeys(table[colour]))
    legend = alt.Legend(title=None, labelExpr=labels(names), labelLimit=260)
    base = base.encode(alt.Color(f"{colour}:N", scale=scale(names), legend=legend))
    points = base.mark_circle(size=60, opacity=0.8).encode(tooltip=tips)
    trend = base.transform_regression(x, y, groupby=[colour]).mark_line(strokeWidth=2.5)
    return alt.layer(points, trend).properties(width=560, height=300)
