"""Charts of one training and of the ways to read its result."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from memlab.charts.colours import OURS, PUBLISHED
from memlab.charts.rows import chart, inline, thin, thinning
from memlab.charts.theme import GREY, SHARE


@chart
def training_curve(
    trace: pd.DataFrame, *, budget: int | None = None, width: int = 330, height: int = 180
) -> alt.HConcatChart:
    """Loss and accuracy of one training. ``trace`` has ``step``, ``loss`` (bits per token), ``accuracy`` (0 to 1).

    The step axis ends at ``budget`` at most. ``width`` and ``height``: pixels of each of the two plots. Of a long
    training, only the steps are drawn that the pixels can show.
    """
    last = int(trace["step"].max())
    # The axis grows 40 steps at a time: otherwise a live curve would shrink at every step.
    edge = max(40, min(budget or 10**9, -(-(last + 1) // 40) * 40))
    x = alt.X("step:Q", title="step", scale=alt.Scale(domain=[0, edge], nice=False), axis=alt.Axis(tickCount=5))
    few = len(trace) < 3  # then points are drawn too: a line through one point is invisible
    shown = thin(trace, "step", "loss", "accuracy", pixels=width)
    note = thinning(trace, shown, "steps")
    base = alt.Chart(inline(shown, "step", "loss", "accuracy")).properties(width=width, height=height)
    loss = base.mark_line(color=OURS, strokeWidth=2, strokeJoin="round", point=few).encode(
        x,
        alt.Y("loss:Q", title="bits per token", scale=alt.Scale(zero=True)),
        tooltip=["step:Q", "loss:Q", "accuracy:Q"],
    )
    accuracy = base.mark_line(color=PUBLISHED, strokeWidth=2, strokeJoin="round", point=few).encode(
        x,
        alt.Y("accuracy:Q", title="tokens right", scale=alt.Scale(domain=[0, 1]), axis=SHARE),
        tooltip=["step:Q", "loss:Q", "accuracy:Q"],
    )
    return alt.hconcat(
        loss.properties(title=alt.Title("Cross-entropy of the text", subtitle=note)),
        accuracy.properties(title=alt.Title("Tokens right, teacher-forced", subtitle=note)),
        spacing=75,
        bounds="flush",
    )


@chart
def readings(table: pd.DataFrame) -> Any:
    """Share of passages recovered, by recipe and by criterion. Columns ``recipe reading share low high label``."""
    y = alt.Y("reading:N", title=None, sort=None, axis=alt.Axis(labelLimit=260))
    offset = alt.YOffset("recipe:N", sort=None)
    colour = alt.Color("recipe:N", title="recipe", sort=None)
    tooltip = ["recipe:N", "reading:N", "label:N"]
    base = alt.Chart(inline(table))
    bars = base.mark_bar(height=14, opacity=0.85).encode(
        alt.X("share:Q", title="share of passages", stack=None, scale=alt.Scale(domain=[0, 1]), axis=SHARE),
        y, yOffset=offset, color=colour, tooltip=tooltip,
    )  # fmt: skip
    whiskers = base.mark_rule(color=GREY, strokeWidth=2).encode(
        alt.X("low:Q"), alt.X2("high:Q"), y, yOffset=offset, tooltip=tooltip
    )
    return alt.layer(bars, whiskers).properties(width=520, height=alt.Step(22))
