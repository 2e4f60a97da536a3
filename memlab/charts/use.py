"""Charts of what vectors are good for, and of the harm that they do to other texts."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from memlab.charts.colours import CONTROL, OTHERS, OURS
from memlab.charts.rows import chart, inline, no_data
from memlab.charts.theme import GREY

CONDITION_COLOURS = {
    "vector": OURS, "another vector": OTHERS[1], "random vector": CONTROL, "text": OTHERS[4], "nothing": OTHERS[7],
}  # fmt: skip
"""{what stands in the context: colour}. Encodings get the next ones."""
MODE_NAMES = {"only": "in this layer", "until": "up to this layer", "from": "from this layer on"}
"""{mode of hiding: where the vector is hidden}."""
_MODE_COLOURS = {"only": OTHERS[4], "until": OURS, "from": OTHERS[7]}


@chart
def uses(summary: pd.DataFrame, *, x_title: str, title: Any = "") -> Any:
    """One point per item and condition, with its interval over passages: rows of one part and measure of a summary.

    Columns ``item position condition k value low high``, as in ``measures.use.use_summary``. ``x_title``: the measure
    and its unit. The shape of a point is the number of vectors.
    """
    data = summary[np.isfinite(summary.value.astype(float))]
    if data.empty:
        return no_data()
    places = [f"{item} ({where})" if where else item for item, where in zip(data["item"], data.position, strict=True)]
    vectors = ["without vectors" if not k else f"{k} vector{'s' if k > 1 else ''}" for k in data.k]
    data = data.assign(
        what=places, vectors=vectors, row=[f"{c} {k}" for c, k in zip(data.condition, data.k, strict=True)]
    )
    scale = _scale(data.condition)
    rows = sorted(data.row.unique(), key=lambda row: scale.domain.index(row.rpartition(" ")[0]))
    y = alt.Y("what:N", sort=list(dict.fromkeys(places)), title=None, axis=alt.Axis(labelLimit=260))
    beside = alt.YOffset("row:N", sort=rows)
    tips = [
        alt.Tooltip("what:N", title="what"),
        alt.Tooltip("condition:N", title="in the context"),
        alt.Tooltip("vectors:N"),
        alt.Tooltip("value:Q", title=x_title, format=".3~g"),
        alt.Tooltip("low:Q", title="from", format=".3~g"),
        alt.Tooltip("high:Q", title="to", format=".3~g"),
    ]
    columns = ("what", "condition", "vectors", "row", "value", "low", "high")
    base = alt.Chart(inline(data, *columns)).encode(y, beside)
    colour = alt.Color("condition:N", title=None, scale=scale, legend=alt.Legend(orient="top", columns=3))
    spans = base.transform_filter("isFinite(datum.low) && isFinite(datum.high)").mark_rule(strokeWidth=2, opacity=0.6)
    spans = spans.encode(alt.X("low:Q", title=x_title, axis=alt.Axis(format="~g")), alt.X2("high:Q"), colour)
    shapes = alt.Scale(
        domain=["without vectors", "1 vector", "2 vectors", "4 vectors"],
        range=["diamond", "circle", "square", "triangle-up"],
    )
    points = base.mark_point(filled=True, size=60, opacity=1).encode(
        alt.X("value:Q", title=x_title),
        colour,
        alt.Shape("vectors:N", title=None, scale=shapes, legend=alt.Legend(orient="bottom")),
        tooltip=tips,
    )
    layers = alt.layer(spans, points).properties(width=400, height={"step": 9})
    return layers.properties(title=title or "What a model can do with a vector")


@chart
def harm_along(summary: pd.DataFrame, *, title: Any = "") -> Any:
    """One line per condition along a stranger's text: ``condition k first last value low high``, of the measure harm.

    x: the token of the text, counted from the vector, at the middle of its band. y: bits a token more than without
    anything, with the interval over passages. Rows of ``measures.use.harm_summary``, for one k.
    """
    data = summary[np.isfinite(summary.value.astype(float))]
    if data.empty:
        return no_data()
    data = data.assign(token=np.sqrt(data["first"] * data["last"]), band=_bands(data))
    scale = _scale(data.condition)
    most = float(data["last"].max())
    ticks = [v for v in (1, 2, 4, 8, 16, 32, 64, 128) if v <= most]
    x = alt.X(
        "token:Q",
        title="token of the stranger's text (log)",
        scale=alt.Scale(type="log", domain=[0.9, 1.1 * most], nice=False),
        axis=alt.Axis(values=ticks, format="~g"),
    )
    y_title = "bits a token more than without a vector"
    colour = alt.Color("condition:N", title=None, scale=scale, legend=alt.Legend(orient="top", columns=3))
    tips = [
        alt.Tooltip("condition:N", title="in the context"),
        alt.Tooltip("band:N", title="tokens"),
        alt.Tooltip("value:Q", title="bits a token more", format=".3~g"),
    ]
    columns = ("condition", "k", "token", "band", "value", "low", "high")
    base = alt.Chart(inline(data, *columns)).encode(x, colour)
    spans = base.transform_filter("isFinite(datum.low) && isFinite(datum.high)").mark_rule(strokeWidth=2, opacity=0.45)
    spans = spans.encode(alt.Y("low:Q", title=y_title), alt.Y2("high:Q"))
    lines = base.mark_line(strokeWidth=2).encode(alt.Y("value:Q", title=y_title), detail=["condition:N", "k:N"])
    points = base.mark_point(filled=True, size=60, opacity=1).encode(alt.Y("value:Q", title=y_title), tooltip=tips)
    zero = (
        alt.Chart(inline(pd.DataFrame({"value": [0.0]}))).mark_rule(color=GREY, strokeDash=[6, 4]).encode(y="value:Q")
    )
    layers = alt.layer(zero, spans, lines, points).properties(width=400, height=260)
    return layers.properties(title=title or "What a vector costs a text that has nothing to do with it")


@chart
def harm_left(summary: pd.DataFrame, *, title: Any = "") -> Any:
    """One line per mode of hiding: ``mode layer value low high``, of one condition and k of ``harm_by_layer``.

    y: harm that is left, bits a token, while the vector is hidden in these layers. The dashed line is the whole harm.
    """
    data = summary[np.isfinite(summary.value.astype(float))]
    hidden = data[data["mode"].isin(list(MODE_NAMES))]
    if hidden.empty:
        return no_data()
    hidden = hidden.assign(hidden=hidden["mode"].map(MODE_NAMES))
    names = [name for mode, name in MODE_NAMES.items() if mode in set(hidden["mode"])]
    colours = [_MODE_COLOURS[mode] for mode in MODE_NAMES if mode in set(hidden["mode"])]
    y_title = "harm left, bits a token"
    tips = [
        alt.Tooltip("hidden:N", title="vector hidden"),
        alt.Tooltip("layer:Q"),
        alt.Tooltip("value:Q", title="harm left, bits a token", format=".3~g"),
    ]
    base = alt.Chart(inline(hidden, "hidden", "layer", "value", "low", "high")).encode(
        alt.X("layer:Q", title="layer", axis=alt.Axis(tickMinStep=1)),
        alt.Color(
            "hidden:N", title="vector hidden", scale=alt.Scale(domain=names, range=colours),
            legend=alt.Legend(orient="top"),
        ),
    )  # fmt: skip
    bands = base.transform_filter("isFinite(datum.low) && isFinite(datum.high)").mark_area(opacity=0.15)
    bands = bands.encode(alt.Y("low:Q", title=y_title), alt.Y2("high:Q"))
    lines = base.mark_line(strokeWidth=2).encode(alt.Y("value:Q", title=y_title))
    points = base.mark_point(filled=True, size=30, opacity=1).encode(alt.Y("value:Q", title=y_title), tooltip=tips)
    ground = alt.Chart(inline(data[data["mode"] == "none"], "value")).mark_rule(color=GREY, strokeDash=[6, 4])
    layers = alt.layer(ground.encode(y="value:Q"), bands, lines, points).properties(width=400, height=260)
    return layers.properties(title=title or "Which layers look at the vector when it does harm")


def _scale(names: pd.Series) -> alt.Scale:
    found = list(dict.fromkeys(names))
    known = [name for name in CONDITION_COLOURS if name in found]
    others = [name for name in found if name not in CONDITION_COLOURS]
    spare = [OTHERS[i] for i in (2, 8, 9, 10, 0, 3)]
    colours = [CONDITION_COLOURS[name] for name in known] + [spare[i % len(spare)] for i in range(len(others))]
    return alt.Scale(domain=known + others, range=colours)


def _bands(data: pd.DataFrame) -> list[str]:
    ends = zip(data["first"], data["last"], strict=True)
    return [str(first) if first == last else f"{first} to {last}" for first, last in ends]
