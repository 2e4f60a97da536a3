"""Charts of robustness: how far a vector can be changed, and how coarsely it can be stored."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from memlab.charts.colours import CONTROL, EXACT, INK, OURS, WRONG, kinds_scale, labels, scale
from memlab.charts.rows import chart, finite, inline, no_data
from memlab.charts.theme import SHARE

_WHOLE = alt.Scale(domain=[0, 1])
_NORM = "distance moved, share of the vector's norm"


@chart
def survival(table: pd.DataFrame, *, reach: float = 0.3) -> Any:
    """Share of moved vectors that are still exact, by distance, a line per direction, up to the distance ``reach``.

    Columns ``direction distance share low high``; distances are shares of the vector's norm. The band is the 95 %
    interval of the first direction.
    """
    names = list(dict.fromkeys(table.direction))
    shown = table[table.distance <= reach][["direction", "distance", "share", "low", "high"]]
    base = alt.Chart(inline(shown)).encode(
        alt.X("distance:Q", title=_NORM, axis=SHARE, scale=alt.Scale(domain=[0, reach])),
        alt.Color(
            "direction:N",
            title=None,
            sort=names,
            scale=scale(names),
            legend=alt.Legend(labelExpr=labels(names), labelLimit=260),
        ),
        tooltip=[
            "direction:N",
            alt.Tooltip("distance:Q", format=".1%"),
            alt.Tooltip("share:Q", title="exact", format=".0%"),
            alt.Tooltip("low:Q", title="95 % from", format=".0%"),
            alt.Tooltip("high:Q", title="95 % to", format=".0%"),
        ],
    )
    first = base.transform_filter(alt.datum.direction == (names[0] if names else ""))
    band = first.mark_area(opacity=0.18).encode(alt.Y("low:Q", scale=_WHOLE), alt.Y2("high:Q"))
    line = base.mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=45)).encode(
        alt.Y("share:Q", scale=_WHOLE, title="moved vectors still exact", axis=SHARE)
    )
    return alt.layer(line, band).properties(width=640, height=260)


_STORED = {"share": "stored: moved vectors still exact", "tokens_right": "stored: tokens right"}


@chart
def tries_on_survival(stored: pd.DataFrame, tries: pd.DataFrame, *, edge: float | None = None) -> Any:
    """One's own tries in front of the stored survival. Columns of ``stored``: ``distance share tokens_right``.

    Of ``tries``: ``distance right exact what``; ``right`` is a share. ``edge``: a distance to mark with a rule.
    """
    far = max(finite(tries.distance), default=0.0)
    x = alt.Scale(domain=[0, max(0.3, min(1.05 * far, 2.0))], nice=False, clamp=True)
    place = alt.X("distance:Q", title=_NORM, axis=SHARE, scale=x)
    long = stored[["distance", "share", "tokens_right"]].melt("distance", var_name="of", value_name="value")
    long["of"] = long.of.map(_STORED)
    lines = (
        alt.Chart(inline(long[long.distance <= x.domain[1]]))
        .mark_line(strokeWidth=2, color=CONTROL, point=alt.OverlayMarkDef(size=25, color=CONTROL))
        .encode(
            place,
            alt.Y("value:Q", title="share right", axis=SHARE, scale=_WHOLE),
            alt.StrokeDash(
                "of:N",
                title=None,
                scale=alt.Scale(domain=list(_STORED.values()), range=[[1, 0], [5, 4]]),
                legend=alt.Legend(symbolType="stroke", orient="right", labelLimit=260),
            ),
            tooltip=["of:N", alt.Tooltip("distance:Q", format=".0%"), alt.Tooltip("value:Q", format=".0%")],
        )
    )
    layers = [lines]
    if len(tries):
        shown = tries[["distance", "right", "exact", "what"]]
        layers.append(
            alt.Chart(inline(shown))
            .mark_point(filled=True, size=90, opacity=1, stroke=INK, strokeWidth=0.7)
            .encode(
                place,
                alt.Y("right:Q"),
                alt.Color(
                    "exact:N",
                    title="your tries",
                    scale=alt.Scale(domain=[True, False], range=[EXACT, WRONG]),
                    legend=alt.Legend(labelExpr="datum.value ? 'exact' : 'not exact'", orient="right"),
                ),
                tooltip=[
                    "what:N",
                    alt.Tooltip("distance:Q", format=".1%"),
                    alt.Tooltip("right:Q", format=".0%"),
                    "exact:N",
                ],
            )
        )
    if edge is not None:
        rule = alt.Chart(inline(pd.DataFrame({"distance": [edge]}))).mark_rule(strokeDash=[4, 3], color=INK)
        layers.append(rule.encode(place))
    return alt.layer(*layers).properties(width=560, height=180)


@chart
def radii_by_direction(table: pd.DataFrame) -> Any:
    """Exact radius by direction, a dot per vector, each on a line of its own, and thick medians.

    Columns ``direction radius fails text_id margin``. A triangle marks a radius whose search ended before any failure
    (``fails`` is infinite): the radius is at least that. Radii below 0.1 % are drawn at 0.1 %.
    """
    table = table.assign(direction=table.direction.replace({"random": "a random direction"}))
    names = table.groupby("direction").radius.median().sort_values(ascending=False).index.tolist()
    shown = table.assign(
        radius=table.radius.clip(lower=1e-3),
        open=~np.isfinite(table.fails.astype(float)),
        lane=table.groupby("direction").radius.rank(method="first"),
    )
    if not len(drawable := finite(shown.radius)):
        return no_data()
    low, high = float(drawable.min()), float(drawable.max())
    y = alt.Y(
        "direction:N",
        title="direction",
        sort=names,
        axis=alt.Axis(labelExpr=labels(names), labelFontSize=13, labelLimit=260),
    )
    x = alt.X(
        "radius:Q",
        title="exact radius, share of the vector's norm (log)",
        scale=alt.Scale(type="log", domain=[low * 0.8, high * 1.6], nice=False, clamp=True),
        axis=alt.Axis(format="~%", values=[0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3]),
    )
    base = alt.Chart(inline(shown[["direction", "radius", "open", "lane", "text_id", "margin"]]))
    dots = base.mark_point(size=48, filled=True, opacity=0.9, color=OURS).encode(
        x,
        y,
        alt.YOffset("lane:O", scale=alt.Scale(paddingOuter=1)),
        alt.Shape(
            "open:N",
            title=None,
            scale=alt.Scale(domain=[False, True], range=["circle", "triangle-right"]),
            legend=alt.Legend(
                labelExpr="datum.value ? 'exact as far as was tried: at least this' : 'lost just beyond'",
                orient="top",
                labelLimit=320,
            ),
        ),
        tooltip=[
            alt.Tooltip("text_id:N", title="passage"),
            alt.Tooltip("radius:Q", format=".1%"),
            alt.Tooltip("margin:Q", format=".2f"),
            "open:N",
        ],
    )
    middle = base.mark_tick(thickness=3, size=44, color=INK).encode(alt.X("median(radius):Q"), y)
    return alt.layer(middle, dots).properties(width=640, height=62 * len(names))


@chart
def radius_by(table: pd.DataFrame, column: str, *, x_title: str, y: str = "radius", y_title: str = "") -> Any:
    """A line per text over ``column`` (log), and thick medians by kind. Columns ``text_id texts`` and those named.

    Without ``y_title``, ``y`` is a radius as a share of the norm. ``texts`` is the kind of text.
    """
    values = sorted(set(finite(table[column]).tolist()))
    tick = (
        alt.Axis(values=[10, 20, 50, 100, 200])
        if y_title
        else alt.Axis(format="%", values=[0.01, 0.02, 0.05, 0.1, 0.2, 0.4])
    )
    base = alt.Chart(inline(table[["text_id", "texts", column, y]])).encode(
        alt.X(f"{column}:Q", title=x_title, scale=alt.Scale(type="log", base=2), axis=alt.Axis(values=values)),
        alt.Color(
            "texts:N",
            title=None,
            scale=kinds_scale(table),
            legend=alt.Legend(labelExpr=labels(table.texts), orient="top"),
        ),
    )
    axis = alt.Y(
        f"{y}:Q",
        title=y_title or "exact radius, share of the norm (log)",
        scale=alt.Scale(type="log", nice=False, padding=8),
        axis=tick,
    )
    thin = base.mark_line(strokeWidth=1.2, opacity=0.55, point=alt.OverlayMarkDef(size=22)).encode(
        axis, alt.Detail("text_id:N"), tooltip=["text_id:N", f"{column}:Q", alt.Tooltip(f"{y}:Q", format=".3~g")]
    )
    thick = base.mark_line(strokeWidth=4).encode(alt.Y(f"median({y}):Q"))
    return alt.layer(thin, thick).properties(width=270, height=250)


@chart
def loss_planes(table: pd.DataFrame, marks: pd.DataFrame) -> Any:
    """Loss over planes of vectors, side by side with one colour scale; exact places are framed.

    Columns ``plane x y bits exact``; of ``marks``: ``plane x y name``.
    """
    steps = np.diff(np.sort(table.x.dropna().unique()))
    step = float(steps.min()) if len(steps) else 1.0
    cells = table[["plane", "x", "y", "bits", "exact"]].assign(
        x1=table.x - step / 2, x2=table.x + step / 2, y1=table.y - step / 2, y2=table.y + step / 2
    )
    shades = alt.Scale(scheme="viridis", reverse=True, domain=[0, max(finite(table.bits), default=1.0)])

    def picture(plane: str) -> Any:
        base = alt.Chart(inline(cells[cells.plane == plane])).encode(
            alt.X("x1:Q", title="from one solution (0) to the other (1)", scale=alt.Scale(nice=False)),
            alt.X2("x2:Q"),
            alt.Y("y1:Q", title="across, in the same unit", scale=alt.Scale(nice=False)),
            alt.Y2("y2:Q"),
            tooltip=["x:Q", "y:Q", alt.Tooltip("bits:Q", title="bits per token", format=".2f"), "exact:N"],
        )
        ground = base.mark_rect().encode(alt.Color("bits:Q", title="bits per token", scale=shades))
        exact = base.transform_filter("datum.exact").mark_rect(fillOpacity=0, stroke="black", strokeWidth=2)
        named = alt.Chart(inline(marks[marks.plane == plane])).encode(alt.X("x:Q"), alt.Y("y:Q"))
        dots = named.mark_point(color="white", size=90, filled=True, stroke="black", opacity=1)
        halo = named.mark_text(dy=-16, fontWeight="bold", fontSize=13, stroke="white", strokeWidth=4, color="white")
        text = named.mark_text(dy=-16, fontWeight="bold", fontSize=13, color="black")
        layers = [ground, exact, dots, *(t.encode(alt.Text("name:N")) for t in (halo, text))]
        heading = alt.Title(plane, fontWeight="normal", fontSize=13)
        return alt.layer(*layers).properties(width=370, height=370, title=heading)

    return alt.hconcat(*(picture(plane) for plane in dict.fromkeys(table.plane)), spacing=30)


@chart
def survival_by_bits(shares: pd.DataFrame, *, title: str = "bits per number") -> Any:
    """Share of vectors still exact, by bits per stored number. Columns ``bits_a_number share low high form``."""
    base = alt.Chart(inline(shares)).encode(
        alt.X("bits_a_number:Q", title=title, scale=alt.Scale(domain=[1, 17])),
        tooltip=["form:N", alt.Tooltip("share:Q", format=".0%")],
    )
    y = alt.Y("share:Q", title="vectors still exact", scale=_WHOLE, axis=alt.Axis(format="%"))
    line = base.mark_line(color=OURS, strokeWidth=2, point=alt.OverlayMarkDef(color=OURS, size=50)).encode(y)
    whiskers = base.mark_rule(color=CONTROL, strokeWidth=2).encode(alt.Y("low:Q"), alt.Y2("high:Q"))
    return alt.layer(line, whiskers).properties(width=430, height=240)


@chart
def bits_by_length(table: pd.DataFrame) -> Any:
    """The fewest bits per number that keep a vector exact, by length of its text. Columns ``tokens bits_a_number``.

    The size of a circle is the number of vectors.
    """
    counts = table.groupby(["tokens", "bits_a_number"], as_index=False).size()
    return (
        alt.Chart(inline(counts))
        .mark_circle(color=OURS, opacity=0.9)
        .encode(
            alt.X("tokens:O", title="tokens of the text", axis=alt.Axis(labelAngle=0)),
            alt.Y(
                "bits_a_number:Q",
                title="fewest bits per number",
                scale=alt.Scale(zero=False, padding=18),
                axis=alt.Axis(tickMinStep=1),
            ),
            alt.Size(
                "size:Q",
                title="vectors",
                scale=alt.Scale(domain=[0, 21], range=[0, 900]),
                legend=alt.Legend(values=[1, 5, 20]),
            ),
            tooltip=["tokens:O", "bits_a_number:Q", alt.Tooltip("size:Q", title="vectors")],
        )
        .properties(width=300, height=240)
    )
