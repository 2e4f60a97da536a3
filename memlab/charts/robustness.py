"""Charts of robustness: how far a vector can be changed, and how coarsely it can be stored."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from memlab.charts.colours import OURS, PUBLISHED
from memlab.charts.rows import chart, inline
from memlab.charts.theme import GREY, SHARE


@chart
def survival(table: pd.DataFrame, column: str, *, title: str) -> Any:
    """Share of changed vectors that are still exact, and share of right tokens, by the size of the change.

    Columns ``share low high tokens_right`` and ``column``, the size. ``title`` names the x axis.
    """
    base = alt.Chart(inline(table)).encode(
        alt.X(f"{column}:Q", title=title, axis=SHARE),
        tooltip=[alt.Tooltip(f"{column}:Q", format=".0%"), alt.Tooltip("share:Q", format=".0%")],
    )
    y = alt.Scale(domain=[0, 1])
    band = base.mark_area(color=OURS, opacity=0.2).encode(alt.Y("low:Q", scale=y, title=None), alt.Y2("high:Q"))
    line = base.mark_line(color=OURS, strokeWidth=2, point=alt.OverlayMarkDef(color=OURS)).encode(
        alt.Y("share:Q", scale=y, title="still exact (line), tokens right (dashed)", axis=SHARE)
    )
    right = base.mark_line(color=PUBLISHED, strokeDash=[5, 4], strokeWidth=2).encode(alt.Y("tokens_right:Q", scale=y))
    return alt.layer(band, line, right).properties(width=480, height=240)


@chart
def radii_by_direction(table: pd.DataFrame) -> Any:
    """Exact radius by direction, one tick per vector. Columns ``direction radius fails text_id margin``.

    Thick ticks are medians. An arrow marks a radius whose search ended before any failure (``fails`` is infinite).
    Radii below 0.1 % are drawn at 0.1 %.
    """
    shown = table.assign(radius=table.radius.clip(lower=1e-3), open=~np.isfinite(table.fails.astype(float)))
    base = alt.Chart(inline(shown.drop(columns="fails"))).encode(
        alt.Y("direction:N", title=None, sort=None, axis=alt.Axis(labelFontSize=13)),
        alt.X(
            "radius:Q",
            title="exact radius, share of the vector's norm (log)",
            scale=alt.Scale(type="log"),
            axis=alt.Axis(format="~%", tickCount=5),
        ),
    )
    tooltip: Any = ["text_id:N", alt.Tooltip("radius:Q", format=".1%"), alt.Tooltip("margin:Q", format=".2f"), "open:N"]
    ticks = base.transform_filter("!datum.open").mark_tick(thickness=2, size=22, opacity=0.7, color=OURS)
    beyond = base.transform_filter("datum.open").mark_point(shape="triangle-right", size=90, filled=True, color=OURS)
    middle = base.mark_tick(thickness=4, size=36, color=PUBLISHED).encode(alt.X("median(radius):Q"))
    layers = [ticks.encode(tooltip=tooltip), beyond.encode(tooltip=tooltip), middle]
    return alt.layer(*layers).properties(width=480, height=alt.Step(42))


@chart
def loss_plane(table: pd.DataFrame, marks: pd.DataFrame) -> Any:
    """Loss over a plane of vectors; exact places are framed. Columns ``x y bits exact``; of ``marks``: ``x y name``."""
    steps = np.diff(np.sort(table.x.dropna().unique()))
    step = float(steps.min()) if len(steps) else 1.0
    cells = table.assign(x1=table.x - step / 2, x2=table.x + step / 2, y1=table.y - step / 2, y2=table.y + step / 2)
    base = alt.Chart(inline(cells)).encode(
        alt.X("x1:Q", title="position along the line between the two", scale=alt.Scale(nice=False)), alt.X2("x2:Q"),
        alt.Y("y1:Q", title="position across the line", scale=alt.Scale(nice=False)), alt.Y2("y2:Q"),
        tooltip=["x:Q", "y:Q", alt.Tooltip("bits:Q", format=".2f"), "exact:N"],
    )  # fmt: skip
    ground = base.mark_rect().encode(
        alt.Color("bits:Q", title="bits per token", scale=alt.Scale(scheme="viridis", reverse=True))
    )
    exact = base.transform_filter("datum.exact").mark_rect(fillOpacity=0, stroke=PUBLISHED, strokeWidth=2)
    named = alt.Chart(inline(marks))
    dots = named.mark_point(color="white", size=90, filled=True, stroke="black").encode(alt.X("x:Q"), alt.Y("y:Q"))
    text = named.mark_text(color="white", dy=-14, fontWeight="bold", fontSize=13).encode(
        alt.X("x:Q"), alt.Y("y:Q"), alt.Text("name:N")
    )
    return alt.layer(ground, exact, dots, text).properties(width=400, height=360)


@chart
def survival_by_bits(shares: pd.DataFrame, *, title: str = "bits per number") -> Any:
    """Share of vectors still exact, by bits per stored number. Columns ``bits_a_number share low high form``."""
    base = alt.Chart(inline(shares)).encode(
        alt.X("bits_a_number:Q", title=title, scale=alt.Scale(domain=[1, 17])),
        tooltip=["form:N", alt.Tooltip("share:Q", format=".0%")],
    )
    y = alt.Y("share:Q", title="vectors still exact", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%"))
    line = base.mark_line(color=OURS, strokeWidth=2, point=alt.OverlayMarkDef(color=OURS, size=50)).encode(y)
    whiskers = base.mark_rule(color=GREY, strokeWidth=2).encode(alt.Y("low:Q"), alt.Y2("high:Q"))
    return alt.layer(whiskers, line).properties(width=460, height=240)
