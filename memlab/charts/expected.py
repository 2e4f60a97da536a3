"""What was predicted before a run, next to what the run gave."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from memlab.charts.colours import OTHERS, OURS
from memlab.charts.rows import chart, inline, no_data
from memlab.charts.theme import GREY


@chart
def predicted_and_measured(outcomes: pd.DataFrame, *, x_title: str, title: Any = "") -> Any:
    """One row per prediction: a bar from ``low`` to ``high``, and a dot at ``measured``. Columns also ``name held``.

    ``x_title``: the quantity and its unit. A dot outside its bar is a prediction that failed.
    """
    data = outcomes[np.isfinite(outcomes.measured.astype(float))]
    if data.empty:
        return no_data()
    data = data.assign(
        held=np.where(data.held.astype(bool), "as predicted", "not as predicted"),
        low=data.low.clip(lower=min(-0.5, data.measured.min())),  # a bound that only says "at most" is no place
    )
    order = data.name.tolist()
    y = alt.Y("name:N", sort=order, title=None, axis=alt.Axis(labelLimit=420))
    scale = alt.Scale(domain=["as predicted", "not as predicted"], range=[OURS, OTHERS[7]])
    tips = [
        alt.Tooltip("name:N", title="method"),
        alt.Tooltip("low:Q", title="predicted from", format=".3~g"),
        alt.Tooltip("high:Q", title="to", format=".3~g"),
        alt.Tooltip("measured:Q", format=".3~g"),
    ]
    base = alt.Chart(inline(data, "name", "low", "high", "measured", "held")).encode(y)
    bars = base.mark_bar(height=7, color=GREY, opacity=0.45).encode(
        alt.X("low:Q", title=x_title, axis=alt.Axis(format="~g")), alt.X2("high:Q"), tooltip=tips
    )
    dots = base.mark_point(filled=True, size=70, opacity=1).encode(
        alt.X("measured:Q"),
        alt.Color("held:N", title=None, scale=scale, legend=alt.Legend(orient="top")),
        alt.Shape("held:N", scale=alt.Scale(domain=scale.domain, range=["circle", "diamond"]), legend=None),
        tooltip=tips,
    )
    return alt.layer(bars, dots).properties(width=380, height={"step": 17}, title=title or _title(data))


def _title(data: pd.DataFrame) -> str:
    right = int((data.held == "as predicted").sum())
    return f"{right} of {len(data)} predictions held"
