"""Chart of two ways to read a vector: while the true text is fed, and freely."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from memlab.charts.colours import labels, scale
from memlab.charts.names import text_title
from memlab.charts.rows import chart, inline
from memlab.charts.theme import SHARE

FED, FREE = "while the true text is fed", "decoded freely"


@chart
def readings(table: pd.DataFrame) -> Any:
    """Share of tokens right, read in both ways. A row of ``table`` is a vector, a row of the chart a passage.

    Columns ``recipe text_id teacher_forced alone_right`` (shares, 0 to 1). A line leads from a ring (fed) to a dot
    (free): its length is what is lost.
    """
    shown = table[["recipe", "text_id", "teacher_forced", "alone_right"]].assign(passage=table.text_id.map(text_title))
    recipes = list(dict.fromkeys(shown.recipe))
    x = alt.Scale(domain=[0, 1])
    both = dict(
        y=alt.Y(
            "passage:N", title=None, sort=None,
            axis=alt.Axis(labelLimit=260, labelPadding=14, ticks=False, domain=False),
        ),
        yOffset=alt.YOffset("recipe:N", sort=recipes, scale=alt.Scale(paddingInner=0.5)),
        color=alt.Color(
            "recipe:N", title="trained by", scale=scale(recipes),
            legend=alt.Legend(labelExpr=labels(recipes), labelLimit=260),
        ),
        tooltip=[
            alt.Tooltip("passage:N"), alt.Tooltip("recipe:N"),
            alt.Tooltip("teacher_forced:Q", title=FED, format=".0%"),
            alt.Tooltip("alone_right:Q", title=FREE, format=".0%"),
        ],
    )  # fmt: skip
    lines = (
        alt.Chart(inline(shown))
        .mark_rule(strokeWidth=2)
        .encode(alt.X("teacher_forced:Q", scale=x), alt.X2("alone_right:Q"), **both)
    )
    ends = (
        alt.Chart(inline(shown))
        .transform_fold(["teacher_forced", "alone_right"], ["column", "share"])
        .transform_calculate(reading=f"datum.column == 'teacher_forced' ? '{FED}' : '{FREE}'")
        .mark_point(opacity=1, strokeWidth=2)
        .encode(
            alt.X("share:Q", title=f"tokens right: ○ {FED}, ● {FREE}", scale=x, axis=SHARE),
            fill=alt.Fill("recipe:N", scale=scale(recipes), legend=None),
            fillOpacity=alt.FillOpacity("reading:N", sort=[FED, FREE], scale=alt.Scale(range=[0, 1]), legend=None),
            size=alt.Size("reading:N", sort=[FED, FREE], scale=alt.Scale(range=[170, 50]), legend=None),
            **both,
        )
    )  # fmt: skip
    return alt.layer(lines, ends).properties(width=520, height=alt.Step(16))
