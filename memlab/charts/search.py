"""Charts of the search: recipes and optimizers compared, speed, the spectrum of the gradients, two kinds of step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from memlab.charts.colours import EXACT, OTHERS, OURS, PUBLISHED, WRONG, labels, palette
from memlab.charts.names import display
from memlab.charts.rows import chart, finite, inline, no_data, thin
from memlab.charts.theme import GREY

_GAP = 15
"""Pixels between the labels of two lines."""
_DECADES = [1, 10, 100, 1000, 10_000]


@chart
def exact_by_step(
    curves: pd.DataFrame,
    *,
    highlight: str | None = None,
    width: int = 560,
    height: int = 260,
    log: bool = False,
    counted: str = "passages exact",
    runs: pd.DataFrame | None = None,
) -> Any:
    """Share of passages that are exact by each step. Columns ``contender step share``. ``highlight``: a thick line.

    Each point is a passage that became exact. Each line has its name at its end; lines that stay at 0 are drawn one
    below the other. ``log``: a logarithmic axis of steps. ``counted`` names the y axis. ``runs``: single runs as marks
    on their lines, with columns ``contender step share now exact label`` (``now``: run now, not read from a table);
    the chart then has a parameter ``step``, the place of a vertical rule that is hidden at 0.
    """
    last = curves.groupby("contender", sort=False).share.last().sort_values(ascending=False, kind="stable")
    names, hues = list(last.index), palette(last.index)
    never = {name: -3 * i / height for i, name in enumerate(last.index[last == 0])}
    dashed = {name for i, name in enumerate(n for n in names if hues[n] in OTHERS) if i >= len(OTHERS)}
    curves = thin(curves, "step", "share", pixels=width, by="contender")
    curves = curves.assign(
        name=curves.contender.map(display),
        height=[never.get(name, share) for name, share in zip(curves.contender, curves.share, strict=True)],
        width=[4 if name == highlight else 2 for name in curves.contender],
        dash=["dashed" if name in dashed else "solid" for name in curves.contender],
    )
    if log:
        curves = curves.assign(step=curves.step.clip(lower=1))
    x = alt.X(
        "step:Q",
        title=f"optimizer steps{' (log)' if log else ''}",
        scale=alt.Scale(type="log" if log else "linear", nice=False),
        axis=alt.Axis(values=_DECADES, format=",") if log else alt.Axis(tickCount=5),
    )

    def y(column: str) -> Any:
        low = min(never.values(), default=0.0)
        axis = alt.Axis(format="%", values=[0, 0.25, 0.5, 0.75, 1])
        return alt.Y(f"{column}:Q", title=counted, scale=alt.Scale(domain=[low, 1], nice=False), axis=axis)

    colour = alt.Color("contender:N", scale=alt.Scale(domain=names, range=[hues[n] for n in names]), legend=None)
    dash = alt.StrokeDash("dash:N", scale=alt.Scale(domain=["solid", "dashed"], range=[[1, 0], [5, 3]]), legend=None)
    tips = [
        alt.Tooltip("name:N", title="setting"),
        alt.Tooltip("step:Q", title="steps"),
        alt.Tooltip("share:Q", title=counted, format=".0%"),
    ]
    drawn = alt.Chart(inline(curves, "contender", "name", "step", "share", "height", "width", "dash"))
    line = drawn.mark_line(interpolate="step-after").encode(
        x, y("height"), colour, dash, alt.StrokeWidth("width:Q", scale=None, legend=None), tooltip=tips
    )
    points = drawn.mark_circle(size=45, opacity=1).encode(x, y("height"), colour, tooltip=tips)
    found = points.transform_filter("datum.share > 0")
    ends = pd.DataFrame({"contender": names, "name": [display(n) for n in names], "share": [float(s) for s in last]})
    ends["height"] = [never.get(n, s) for n, s in zip(names, ends.share, strict=True)]
    ends["place"] = _apart(ends.height.tolist(), _GAP / height)
    ends["dash"] = ["dashed" if name in dashed else "solid" for name in names]
    end = alt.Chart(inline(ends))
    lead = end.mark_rule(strokeWidth=2).encode(
        y("height"), alt.Y2("place:Q"), colour, dash, x=alt.value(width + 2), x2=alt.value(width + 22)
    )
    name = end.mark_text(align="left", limit=220).encode(y("place"), x=alt.value(width + 26), text="name:N")
    layers = [line, found, lead, name] + (_runs(runs, x, y, _GAP / height) if runs is not None else [])
    return alt.layer(*layers).properties(width=width, height=height)


def _apart(places: Sequence[float], gap: float) -> list[float]:
    """These heights, which fall, moved so that each is at least ``gap`` below the one before, and the last is >= 0."""
    moved: list[float] = []
    for place in places:
        moved.append(min(place, moved[-1] - gap) if moved else place)
    floor = min(0.0, places[-1])
    for i in reversed(range(len(moved))):
        moved[i] = max(moved[i], floor)
        floor = moved[i] + gap
    return moved


def _runs(runs: pd.DataFrame, x: Any, y: Any, gap: float) -> list[Any]:
    rule = (
        alt.Chart({"values": [{}]})
        .add_params(alt.param(name="step", value=0))
        .transform_calculate(step="step")
        .transform_filter("datum.step > 0")
        .mark_rule(strokeWidth=2, color=GREY)
        .encode(x)
    )
    if not len(runs):
        return [rule]
    runs = runs.sort_values(["share", "step"], ascending=False)
    text = runs[runs.now]
    runs.loc[text.index, "place"] = _apart((text.share - gap).tolist(), gap)
    marks = alt.Chart(inline(runs.assign(ended=runs.exact.map({True: "exact", False: "not exact"}))))
    hue = alt.Color("ended:N", scale=alt.Scale(domain=["exact", "not exact"], range=[EXACT, WRONG]), legend=None)
    tips = [alt.Tooltip("label:N", title="this passage"), alt.Tooltip("step:Q", title="steps"), "ended:N"]
    stored = marks.transform_filter("!datum.now").mark_point(shape="circle", size=150, strokeWidth=2, filled=False)
    now = marks.transform_filter("datum.now").mark_point(shape="diamond", size=130, filled=True, opacity=1)
    name = marks.transform_filter("datum.now").mark_text(align="left", dx=10, fontWeight=600)
    return [
        rule,
        stored.encode(x, y("share"), hue, tooltip=tips),
        now.encode(x, y("share"), hue, tooltip=tips),
        name.encode(x, y("place"), text="label:N"),
    ]


@chart
def spectrum(values: Any) -> Any:
    """Cumulative share of ``values`` (r,), sorted from the largest: how many directions hold how much of the gradient.

    The title and a rule tell how many directions together hold half.
    """
    shares = np.cumsum([float(v) for v in values])
    if not (np.isfinite(shares).all() and shares[-1] > 0):
        return no_data()
    table = pd.DataFrame({"directions": range(1, len(shares) + 1), "share": shares / shares[-1]})
    half = int(np.searchsorted(table.share, 0.5 - 1e-12)) + 1
    x = alt.X("directions:Q", title="strongest directions", scale=alt.Scale(domain=[0, len(table)], nice=False))
    y = alt.Y("share:Q", title="share of the squared gradient", axis=alt.Axis(format="%", tickCount=5))
    shown = thin(table, "directions", "share", pixels=560)
    tips = [alt.Tooltip("directions:Q", title="directions"), alt.Tooltip("share:Q", title="share", format=".1%")]
    line = alt.Chart(inline(shown)).mark_line(color=OURS, strokeWidth=3).encode(x, y, tooltip=tips)
    mark = alt.Chart(inline(table[half - 1 : half].assign(label=f"half: {half} of {len(table)} directions")))
    title = f"Half of the gradient lies in {half} of {len(table)} directions"
    rule = mark.mark_rule(color=GREY, strokeDash=[4, 3]).encode(x)
    dot = mark.mark_circle(color=OURS, size=90, opacity=1).encode(x, y, tooltip=tips)
    text = mark.mark_text(align="left", dx=10, dy=10).encode(x, y, text="label:N")
    return alt.layer(rule, line, dot, text).properties(width=460, height=240, title=title)


@chart
def speed_ratios(table: pd.DataFrame) -> Any:
    """How many times as fast, per machine, with 95 % intervals. Columns ``device ratio low high passages``.

    ``device`` names a machine; ``passages`` is the number of passages that were compared on it.
    """
    table = table.assign(
        name=[
            f"{str(device).removeprefix('cpu ')}, {n} passages"
            for device, n in zip(table.device, table.passages, strict=True)
        ],
        label=[f"{row.ratio:.0f} ({row.low:.0f} to {row.high:.0f})" for row in table.itertuples()],
    )
    order = table.sort_values("ratio").name.tolist()
    base = alt.Chart(inline(table, "name", "ratio", "low", "high", "label")).encode(
        alt.Y("name:N", title=None, sort=order, axis=alt.Axis(labelLimit=330))
    )
    x: dict[str, Any] = {
        "title": "times as fast as the published recipe (log); 1: equally fast",
        "scale": alt.Scale(type="log", domainMin=1, nice=False),
        "axis": alt.Axis(values=[1, 3, 10, 30, 100, 300, 1000]),
    }
    tips = ["name:N", alt.Tooltip("label:N", title="times as fast (95 % interval)")]
    bar = base.mark_rule(color=OURS, strokeWidth=4, opacity=0.55).encode(
        alt.X("low:Q", **x), alt.X2("high:Q"), tooltip=tips
    )
    dot = base.mark_circle(color=OURS, size=140, opacity=1).encode(alt.X("ratio:Q", **x), tooltip=tips)
    text = base.mark_text(dy=-14).encode(alt.X("ratio:Q", **x), text="label:N")
    return alt.layer(bar, dot, text).properties(width=460, height=alt.Step(52))


@chart
def speed_chart(table: pd.DataFrame) -> Any:
    """Seconds per passage, by method and length. Thick: medians. Columns ``method passage tokens decoded seconds``.

    If a column ``device`` names several machines, each machine gets its own plot. The plots share the x axis.
    """
    row = [f"{display(name)}, {n:g} tokens" for name, n in zip(table.method, table.tokens, strict=True)]
    table = table.assign(
        row=row,
        outcome=table.decoded.map({True: "decodes", False: "does not"}),
        # Spreads points of equal time vertically. Not random, so that every run draws the same picture.
        jitter=table.assign(row=row)
        .groupby([name for name in ("device", "row") if name in (*table, "row")])
        .cumcount(),
    )
    order = list(dict.fromkeys(table.sort_values(["tokens", "method"]).row))
    base = alt.Chart(inline(table)).encode(
        alt.Y("row:N", title=None, sort=order, axis=alt.Axis(labelLimit=330)),
        alt.X(
            "seconds:Q",
            title="seconds per passage, training and decoding (log)",
            scale=alt.Scale(type="log", nice=False, padding=20),
            axis=alt.Axis(values=[0.1, *_DECADES], format=",~g"),
        ),
    )
    hues = palette(table.method)
    colour = alt.Color(
        "method:N",
        scale=alt.Scale(domain=list(hues), range=list(hues.values())),
        legend=alt.Legend(title=None, labelExpr=labels(hues)),
    )
    points = base.mark_point(size=70, filled=True, opacity=0.8).encode(
        alt.YOffset("jitter:Q"),
        colour,
        alt.Shape("outcome:N", title=None, scale=alt.Scale(domain=["decodes", "does not"], range=["circle", "cross"])),
        tooltip=["row:N", "passage:N", "outcome:N", alt.Tooltip("seconds:Q", format=".3g")],
    )
    middle = base.mark_tick(color=GREY, thickness=3, size=34).encode(alt.X("median(seconds):Q"))
    both = alt.layer(points, middle).properties(width=520, height=alt.Step(42))
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
    ).resolve_scale(y="independent", yOffset="independent")


@chart
def two_steps(table: pd.DataFrame) -> Any:
    """Paths of vectors in a plane, from one start; the direction sought is up. Columns ``method step x y left norm``.

    ``left``: degrees left to the direction sought; ``norm``: the vector's length. Points are the ends of the steps.
    """
    hues = {name: OURS if name == "rotation" else PUBLISHED for name in dict.fromkeys(table.method)}
    high, wide = (max(finite(column), default=0.0) * 1.1 for column in (table.y, table.x))
    if high <= 0:
        return no_data()
    low = min(0.0, *finite(table.y)) * 1.2
    axis = alt.Axis(tickCount=4)
    x = alt.X("x:Q", title="first number", scale=alt.Scale(domain=[-0.3, wide], nice=False), axis=axis)
    y = alt.Y("y:Q", title="second number", scale=alt.Scale(domain=[low, high], nice=False), axis=axis)
    base = alt.Chart(inline(table)).encode(
        x,
        y,
        alt.Color(
            "method:N",
            scale=alt.Scale(domain=list(hues), range=list(hues.values())),
            legend=alt.Legend(title=None, orient="top"),
        ),
    )
    left = alt.Tooltip("left:Q", title="degrees left", format=".0f")
    tips = ["method:N", "step:Q", left, alt.Tooltip("norm:Q", title="length", format=".2f")]
    line = base.mark_line(strokeWidth=2, opacity=0.7).encode(alt.Order("step:Q"))
    points = base.mark_circle(size=80, opacity=1).encode(tooltip=tips)
    sought = alt.Chart({"values": [{"x": 0, "y": 0, "top": high, "name": "direction\nsought"}]})
    rule = sought.mark_rule(color=GREY, strokeDash=[4, 3]).encode(x, y, alt.Y2("top:Q"))
    name = sought.mark_text(align="left", dx=6, dy=-14, lineBreak="\n").encode(x, y, text="name:N")
    width = 300 * (wide + 0.3) / (high - low)  # a unit is as long on both axes, so that a rotation looks like one
    return alt.layer(rule, name, line, points).properties(width=width, height=300)
