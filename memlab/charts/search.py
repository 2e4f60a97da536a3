"""Charts of the search: recipes and optimizers compared, speed, the spectrum of the gradients."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from memlab.charts.colours import EXACT, OURS, PUBLISHED, RANDOM
from memlab.charts.rows import chart, inline, thin
from memlab.charts.theme import GREY


@chart
def exact_by_step(curves: pd.DataFrame, *, highlight: str | None = None, width: int = 560, height: int = 260) -> Any:
    """Share of passages that are exact by each step. Columns ``contender step share``. ``highlight``: a thick line."""
    names = curves.contender.unique().tolist()
    colours = [
        OURS,
        PUBLISHED,
        EXACT,
        RANDOM,
        "#E69F00",
        "#56B4E9",
        "#8C6D31",
        "#B0413E",
        "#6A5ACD",
        "#3F8F8B",
    ]
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
def spectrum(values: Any, *, title: str = "share of the squared gradient") -> Any:
    """``values`` (r,), sorted from the largest, by rank; both axes are logarithmic. ``title`` names the y axis."""
    table = pd.DataFrame({"direction": range(1, len(values) + 1), "share": [float(v) for v in values]})
    shown = thin(table.assign(place=np.log(table.direction)), "place", "share", pixels=560)
    log = alt.Scale(type="log", nice=False)
    return (
        alt.Chart(inline(shown, "direction", "share"))
        .mark_line(color=OURS)
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
            header=alt.Header(labelFontSize=13),
        ),
        columns=1,
    )
