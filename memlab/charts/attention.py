"""Charts of what happens inside the model: attention, knock-outs, bits per token."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from memlab.charts.colours import PUBLISHED
from memlab.charts.rows import chart, inline
from memlab.charts.theme import GREY, SHARE

_TOKENS = 128
"""The largest number of rows of a drawn waterfall."""


@chart
def attention_map(table: pd.DataFrame, column: str, *, title: str, subtitle: str = "") -> Any:
    """Share of attention by layer and head. Columns ``layer head`` and ``column``, the share."""
    return (
        alt.Chart(inline(table, "layer", "head", column))
        .mark_rect()
        .encode(
            alt.X("layer:O", title="layer", axis=alt.Axis(labelAngle=0, values=list(range(0, 1000, 5)))),
            alt.Y("head:O", title="head"),
            alt.Color(f"{column}:Q", title=None, scale=alt.Scale(scheme="viridis", domain=[0, 1]),
                      legend=alt.Legend(format="%")),
            tooltip=["layer:Q", "head:Q", alt.Tooltip(f"{column}:Q", format=".1%")],
        )
        .properties(width=480, height=alt.Step(16), title=alt.Title(title, subtitle=subtitle or alt.Undefined))
    )  # fmt: skip


@chart
def knocked_out(table: pd.DataFrame) -> Any:
    """Teacher-forced accuracy with the vector hidden from some layers. Columns ``layer mode accuracy low high``."""
    names = {"only": "this layer only", "from": "this and later layers", "until": "this and earlier layers"}
    shown = table[table["mode"].isin(names)].assign(hidden=table["mode"].map(names))
    order = list(names.values())
    base = alt.Chart(inline(shown)).encode(
        alt.X("layer:Q", title="layer", axis=alt.Axis(tickMinStep=1)),
        alt.Color("hidden:N", title="hidden from", sort=order, legend=alt.Legend(symbolOpacity=1, symbolStrokeWidth=3)),
        tooltip=["hidden:N", "layer:Q", alt.Tooltip("accuracy:Q", format=".0%")],
    )
    y = alt.Scale(domain=[0, 1])
    band = base.mark_area(opacity=0.15).encode(alt.Y("low:Q", scale=y, title=None), alt.Y2("high:Q"))
    line = base.mark_line(strokeWidth=2, point=True).encode(
        alt.Y("accuracy:Q", scale=y, title="tokens right, teacher-forced", axis=SHARE)
    )
    return alt.layer(band, line).properties(width=520, height=260)


@chart
def token_waterfall(table: pd.DataFrame) -> Any:
    """Bits of each token without the vector and with it. Columns ``position token before after``.

    More than 128 tokens are drawn in groups of neighbours; a bar is the mean of a group, and the axis says so.
    """
    size = -(-len(table) // _TOKENS)
    group = np.arange(len(table)) // size
    shown = table.groupby(group).agg({"position": "first", "token": "".join, "before": "mean", "after": "mean"})
    short = [t if len(t) < 16 else f"{t[:15]}…" for t in shown.token]  # vl-convert needs 50 ms to cut a label
    shown = shown.assign(label=[f"{p:>3} {t!r}" for p, t in zip(shown.position, short, strict=True)])
    # Sorted by label: Vega would put the first token last, because it has no cost without the vector.
    axis = alt.Axis(labelFont="monospace", labelFontSize=11, labelLimit=200)
    y = alt.Y("label:N", title=None, sort=shown.label.tolist(), axis=axis)
    tooltip: Any = ["token:N", alt.Tooltip("before:Q", format=".2f"), alt.Tooltip("after:Q", format=".4f")]
    base = alt.Chart(inline(shown)).encode(y, tooltip=tooltip)
    unit = "bits" if size == 1 else f"bits per token, means of {size}"
    before = base.mark_bar(color=GREY, opacity=0.5).encode(
        alt.X("before:Q", title=f"{unit}: without the vector (grey), with it (orange)")
    )
    after = base.mark_bar(color=PUBLISHED).encode(alt.X("after:Q"))
    return alt.layer(before, after).properties(width=420, height=alt.Step(15))
