"""The landscape: every way of storing a text, by the bits that it stores and the bits that a reader recovers."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from memlab.charts.colours import INK, OTHERS, OURS, expression
from memlab.charts.names import display
from memlab.charts.rows import chart, inline, no_data
from memlab.charts.theme import GREY
from memlab.measures.systems import FAMILIES

FAMILY_COLOURS = {
    "F1": OURS, "F2": OTHERS[1], "F3": OTHERS[2], "F4": OTHERS[7], "F5": OTHERS[8], "F6": OTHERS[6], "F7": OTHERS[4],
}  # fmt: skip
"""{family: colour}. Our vectors have the colour that they have everywhere."""
LOWEST = -0.25
"""Recovered share at the lower edge of the chart."""
_WIDTH, _HEIGHT = 640, 350
_SHAPES = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross")


@chart
def landscape_map(points: pd.DataFrame, *, chosen: str = "", ceiling: float | None = None, title: Any = "") -> Any:
    """One point per method: ``family system method sees stored_share recovered_share net_share exact passages``.

    x: stored bits over the passage's own bits, log. y: share of those bits that a reader recovers. The curve is
    "recovered = stored": on text that the model wrote nothing lies above it. ``ceiling``: the recovered share of a
    reader of the whole text. Hollow points are oracles, which see what they must later recover. Points below the chart
    stand at its lower edge as triangles. If there is a column ``read_share``, a small cross stands where a reader looks
    at fewer bits than are stored, with a line to its point. Parameters: ``chosen`` is the method that a ring marks; the
    selection ``pick`` holds the clicked ``method``, ``brush`` the ranges of both axes.
    """
    numbers = points[["stored_share", "recovered_share"]].astype(float)
    points = points[(points.stored_share > 0) & np.isfinite(numbers).all(axis=1)]
    if points.empty:
        return no_data()
    low, high = min(0.06, points.stored_share.min() / 1.6), max(2.0, points.stored_share.max() * 1.6)
    log = alt.Scale(type="log", domain=[low, high], nice=False)
    x = alt.X(
        "stored_share:Q",
        title="bits stored, per bit of the text (log)",
        scale=log,
        axis=alt.Axis(format="~g", values=_ticks(low, high)),
    )
    y = alt.Y(
        "y:Q",
        title="share of the text's bits recovered",
        scale=alt.Scale(domain=[LOWEST, 1.06], nice=False),
        axis=alt.Axis(format="%", values=[0, 0.25, 0.5, 0.75, 1]),
    )
    families = [family for family in FAMILIES if family in set(points.family)]
    scale = alt.Scale(domain=families, range=[FAMILY_COLOURS[f] for f in families])
    legend = alt.Legend(orient="top", columns=4, labelLimit=260, labelExpr=expression(FAMILIES))
    colour = alt.Color("family:N", title=None, sort=None, scale=scale, legend=legend)
    fill = alt.Color("family:N", scale=scale, legend=None)
    columns = [
        "method",
        "system",
        "family",
        "sees",
        "stored_share",
        "recovered_share",
        "net_share",
        "exact",
        "passages",
    ]
    base = alt.Chart(inline(points, *columns)).transform_calculate(y=f"max(datum.recovered_share, {LOWEST})")
    base = base.encode(x, y)
    pick = alt.selection_point(name="pick", fields=["method"], on="click", empty=False)
    brush = alt.selection_interval(name="brush")
    tips = [
        alt.Tooltip("method:N", title="method"),
        alt.Tooltip("system:N", title="after"),
        alt.Tooltip("stored_share:Q", title="bits stored per bit", format=".3~g"),
        alt.Tooltip("recovered_share:Q", title="recovered", format=".0%"),
        alt.Tooltip("net_share:Q", title="more than with another text's bytes", format=".0%"),
        alt.Tooltip("exact:Q", title="texts exact"),
        alt.Tooltip("passages:Q", title="of"),
    ]
    marks = base.mark_point(size=90, strokeWidth=1.8, cursor="pointer").encode(
        colour,
        fill=alt.when("datum.sees == 'target'").then(alt.value("transparent")).otherwise(fill),
        shape=alt.when(f"datum.recovered_share < {LOWEST}")
        .then(alt.value("triangle-down"))
        .otherwise(alt.value("circle")),
        opacity=alt.when(brush).then(alt.value(0.85)).otherwise(alt.value(0.15)),
        tooltip=tips,
    )
    ring = base.transform_filter("datum.method == chosen").mark_point(size=280, strokeWidth=2.5, color=INK, opacity=1)
    line = np.geomspace(low, min(1, high), 60)
    bound = alt.Chart(inline(pd.DataFrame({"stored_share": line, "y": line}))).encode(x, y)
    layers = [bound.mark_line(color=GREY, strokeWidth=2, strokeDash=[6, 4])]
    says = pd.DataFrame({"stored_share": [0.9], "y": [0.97], "says": ["recovered = stored"]})
    layers.append(alt.Chart(inline(says)).mark_text(align="right", dx=-6).encode(x, y, text="says:N"))
    if ceiling is not None:
        top = pd.DataFrame({"y": [ceiling], "says": ["a reader of the whole text"]})
        layers.append(alt.Chart(inline(top)).mark_rule(color=GREY, strokeWidth=1).encode(y))
        layers.append(alt.Chart(inline(top)).mark_text(dy=9).encode(y, x=alt.value(0.56 * _WIDTH), text="says:N"))
    if "read_share" in points and len(fetched := points[points.read_share < 0.99 * points.stored_share]):
        data = alt.Chart(inline(fetched, "method", "family", "stored_share", "read_share", "recovered_share"))
        at = data.encode(alt.X("read_share:Q", scale=log), alt.Y("recovered_share:Q"), colour)
        tips = [alt.Tooltip("method:N"), alt.Tooltip("read_share:Q", title="bits read per bit", format=".3~g")]
        layers.append(at.mark_rule(strokeDash=[2, 3], opacity=0.6).encode(alt.X2("stored_share:Q")))
        layers.append(at.mark_point(shape="cross", size=70, strokeWidth=1.5).encode(tooltip=tips))
    ground = alt.ViewBackground(fill="transparent", stroke=None)
    drawn = alt.layer(*layers, ring, marks.add_params(pick, brush)).add_params(alt.param(name="chosen", value=chosen))
    return drawn.properties(width=_WIDTH, height=_HEIGHT, view=ground, title=title or _title(points))


def _title(points: pd.DataFrame) -> str:
    return f"{points.method.nunique()} ways to store a text, in {points.family.nunique()} families"


def _ticks(low: float, high: float) -> list[float]:
    return [10.0**power for power in range(int(np.ceil(np.log10(low))), int(np.floor(np.log10(high))) + 1)]


@chart
def bit_prices(points: pd.DataFrame, *, title: Any = "") -> Any:
    """What a recovered bit costs: stored bits per recovered bit, one row per family, its cheapest method first named.

    ``points``: rows of ``measures.landscape.summary`` of one kind of text.
    """
    useful = points[(points.recovered_share > 0.05) & (points.stored_share > 0)]
    useful = useful.assign(price=useful.stored_share / useful.recovered_share)
    useful = useful[np.isfinite(useful.price.astype(float))]
    if useful.empty:
        return no_data()
    useful = useful.sort_values("price").assign(family_name=useful.family.map(FAMILIES))
    order = useful.groupby("family_name", sort=False).price.min().sort_values().index.tolist()
    best = useful.groupby("family_name", sort=False).head(1)
    families = [family for family in FAMILIES if family in set(useful.family)]
    colour = alt.Color(
        "family_name:N", legend=None,
        scale=alt.Scale(domain=[FAMILIES[f] for f in families], range=[FAMILY_COLOURS[f] for f in families]),
    )  # fmt: skip
    low, high = useful.price.min() / 1.5, useful.price.max() * 1.5
    best = best.assign(late=best.price > np.sqrt(low * high) * 3)
    x = alt.X(
        "price:Q",
        title="bits stored per bit recovered (log)",
        scale=alt.Scale(type="log", domain=[low, high], nice=False),
        axis=alt.Axis(format="~g", values=_ticks(low, high)),
    )
    y = alt.Y("family_name:N", sort=order, title=None, axis=alt.Axis(labelLimit=240))
    tips = [alt.Tooltip("method:N"), alt.Tooltip("price:Q", title="bits stored per bit recovered", format=".3~g"),
            alt.Tooltip("recovered_share:Q", title="recovered", format=".0%")]  # fmt: skip
    ticks = alt.Chart(inline(useful, "method", "family_name", "price", "recovered_share")).mark_tick(
        thickness=2, size=20
    ).encode(x, y, colour, tooltip=tips)  # fmt: skip
    named = alt.Chart(inline(best, "method", "family_name", "price", "late"))
    early = (
        named.transform_filter("!datum.late")
        .mark_text(align="left", dx=-2, dy=-18, limit=500)
        .encode(x, y, text="method:N")
    )
    late = (
        named.transform_filter("datum.late")
        .mark_text(align="right", dx=2, dy=-18, limit=500)
        .encode(x, y, text="method:N")
    )
    names = early + late
    return alt.layer(ticks, names).properties(
        width=_WIDTH,
        height=58 * len(order),
        title=title or f"What a recovered bit costs, {display(str(points.texts.iloc[0]))}",
    )


@chart
def by_share_kept(points: pd.DataFrame, *, kept: str, ceiling: float | None = None, title: Any = "") -> Any:
    """Recovered share by the share that is kept, one line per rule of keeping: ``rule share recovered_share method``.

    ``kept``: what is kept, as the title of the axis. ``ceiling``: as in ``landscape_map``. The legend names the rules
    from the best at their largest share down.
    """
    data = points[np.isfinite(points[["share", "recovered_share"]].astype(float)).all(axis=1)].sort_values(
        ["rule", "share"]
    )
    if data.empty:
        return no_data()
    ends = data.groupby("rule", sort=False).tail(1).sort_values("recovered_share", ascending=False)
    order = ends.rule.tolist()
    scale = alt.Scale(domain=order, range=[OTHERS[i % len(OTHERS)] for i in range(len(order))])
    x = alt.X(
        "share:Q",
        title=f"share of the {kept} kept",
        axis=alt.Axis(format="%", tickCount=5),
        scale=alt.Scale(domain=[0, 1]),
    )
    y = alt.Y("recovered_share:Q", title="share of the text's bits recovered", axis=alt.Axis(format="%"))
    colour = alt.Color("rule:N", sort=None, title=None, scale=scale, legend=alt.Legend(orient="right", labelLimit=320))
    tips = [
        alt.Tooltip("method:N"),
        alt.Tooltip("share:Q", title="kept", format=".0%"),
        alt.Tooltip("recovered_share:Q", title="recovered", format=".0%"),
    ]
    shapes = alt.Scale(domain=order, range=[_SHAPES[i % len(_SHAPES)] for i in range(len(order))])
    shape = alt.Shape("rule:N", sort=None, title=None, scale=shapes)
    base = alt.Chart(inline(data, "rule", "share", "recovered_share", "method")).encode(x, y, colour)
    layers = [
        base.mark_line(strokeWidth=2),
        base.mark_point(filled=True, size=60, opacity=1).encode(shape, tooltip=tips),
    ]
    if ceiling is not None:
        top = pd.DataFrame({"y": [ceiling], "says": ["a reader of the whole text"]})
        layers.append(alt.Chart(inline(top)).mark_rule(color=GREY, strokeDash=[6, 4]).encode(alt.Y("y:Q")))
        layers.append(
            alt.Chart(inline(top))
            .mark_text(align="left", dy=-8, dx=6)
            .encode(alt.Y("y:Q"), x=alt.value(0), text="says:N")
        )
    return alt.layer(*layers).properties(width=430, height=300, title=title or f"What the kept {kept} give back")
