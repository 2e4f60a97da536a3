"""Charts of training: one run, recipes compared, speed."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from memlab.charts.rows import chart, inline, thin, thinning
from memlab.charts.theme import BLUE, GREEN, GREY, ORANGE, PURPLE, SHARE


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
    loss = base.mark_line(color=BLUE, strokeWidth=2, strokeJoin="round", point=few).encode(
        x,
        alt.Y("loss:Q", title="bits per token", scale=alt.Scale(zero=True)),
        tooltip=["step:Q", "loss:Q", "accuracy:Q"],
    )
    accuracy = base.mark_line(color=ORANGE, strokeWidth=2, strokeJoin="round", point=few).encode(
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


@chart
def exact_by_step(curves: pd.DataFrame, *, highlight: str | None = None, width: int = 560, height: int = 260) -> Any:
    """Share of passages that are exact by each step. Columns ``contender step share``. ``highlight``: a thick line."""
    names = curves.contender.unique().tolist()
    colours = [BLUE, ORANGE, GREEN, PURPLE, "#E69F00", "#56B4E9", "#8C6D31", "#B0413E", "#6A5ACD", "#3F8F8B"]
    # Room for the legend: a browser's font may be wider than the font measured here.
    padding = {"left": 5, "top": 5, "bottom": 5, "right": 40}
    curves = thin(curves, "step", "share", pixels=width, by="contender")
    curves = curves.assign(width=[4 if name == highlight else 2 for name in curves.contender])
    return (
        alt.Chart(inline(curves, "contender", "step", "share", "width"))
        .mark_line(interpolate="step-after")
        .encode(
            alt.X("step:Q", title="optimizer steps"),
            alt.Y("share:Q", title="passages exact", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%")),
            alt.Color(
                "contender:N",
                title=None,
                sort=names,
                scale=alt.Scale(domain=names, range=colours[: len(names)]),
                legend=alt.Legend(orient="right", labelLimit=260, symbolStrokeWidth=3),
            ),
            alt.StrokeWidth("width:Q", scale=None, legend=None),
            tooltip=["contender:N", "step:Q", alt.Tooltip("share:Q", format=".0%")],
        )
        .properties(width=width, height=height, padding=padding)
    )


@chart
def horizon_strip(table: pd.DataFrame) -> Any:
    """Exact horizons in tokens, one tick per passage. Thick: medians. Columns ``method text_id source horizon``."""
    base = alt.Chart(inline(table, "method", "text_id", "source", "horizon")).encode(
        alt.X("horizon:Q", title="exact horizon, tokens"),
        alt.Y("method:N", title=None, sort=None, axis=alt.Axis(labelFontSize=13, labelLimit=200)),
    )
    ticks = base.mark_tick(thickness=2, size=26, opacity=0.7).encode(
        alt.Color("source:N", title="texts"), tooltip=["text_id:N", "source:N", "horizon:Q"]
    )
    middle = base.mark_tick(thickness=4, size=40, color=GREY).encode(alt.X("median(horizon):Q"))
    return alt.layer(ticks, middle).properties(width=560, height=alt.Step(50))


@chart
def spectrum(values: Any, *, title: str = "share of the squared gradient") -> Any:
    """``values`` (r,), sorted from the largest, by rank; both axes are logarithmic. ``title`` names the y axis."""
    table = pd.DataFrame({"direction": range(1, len(values) + 1), "share": [float(v) for v in values]})
    shown = thin(table.assign(place=np.log(table.direction)), "place", "share", pixels=560)
    log = alt.Scale(type="log", nice=False)
    return (
        alt.Chart(inline(shown, "direction", "share"))
        .mark_line(color=BLUE)
        .encode(
            alt.X("direction:Q", title="rank of the direction (log)", scale=log, axis=alt.Axis(tickCount=5)),
            alt.Y("share:Q", title=title, scale=log, axis=alt.Axis(format="~e", tickCount=5)),
            tooltip=["direction:Q", alt.Tooltip("share:Q", format=".2g")],
        )
        .properties(width=560, height=240)
    )


@chart
def speed_chart(table: pd.DataFrame) -> Any:
    """Seconds per passage, by method. Thick: medians. Columns ``method passage tokens decoded seconds``.

    If a column ``device`` names several machines, each machine gets its own plot. The plots share the x axis.
    """
    order = table.groupby("method").seconds.median().sort_values().index.tolist()
    table = table.assign(
        outcome=table.decoded.map({True: "decodes", False: "does not"}),
        # Spreads points of equal time vertically. Not random, so that every run draws the same picture.
        jitter=table.groupby([name for name in ("device", "method") if name in table]).cumcount(),
    )
    base = alt.Chart(inline(table)).encode(
        alt.Y("method:N", title=None, sort=order, axis=alt.Axis(labelFontSize=13)),
        alt.X(
            "seconds:Q",
            title="seconds per passage, training and decoding (log)",
            scale=alt.Scale(type="log"),
            axis=alt.Axis(labelSeparation=8),
        ),
    )
    points = base.mark_point(size=80, filled=True, opacity=0.8, stroke=GREY, strokeWidth=0.5).encode(
        alt.YOffset("jitter:Q"),
        alt.Color("tokens:N", title="tokens"),
        alt.Shape("outcome:N", title=None, scale=alt.Scale(domain=["decodes", "does not"], range=["circle", "cross"])),
        tooltip=["method:N", "passage:N", "tokens:Q", "outcome:N", alt.Tooltip("seconds:Q", format=".3g")],
    )
    middle = base.mark_tick(color=GREY, thickness=3, size=44).encode(alt.X("median(seconds):Q"))
    both = alt.layer(points, middle).properties(width=520, height=alt.Step(56))
    if "device" not in table or table.device.nunique() < 2:
        return both
    return both.facet(
        alt.Facet(
            "device:N",
            title=None,
            sort=table.device.unique().tolist(),
            header=alt.Header(labelColor=GREY, labelFontSize=13),
        ),
        columns=1,
    )
