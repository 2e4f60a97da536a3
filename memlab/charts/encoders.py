"""Charts of trained encoders next to the search: what they recover, and the steps that a warm start saves."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from memlab.charts.colours import CONTROL, OTHERS, OURS, palette
from memlab.charts.names import display
from memlab.charts.rows import chart, inline, no_data
from memlab.charts.theme import GREY, SHARE

ARMS = {
    "own": "its own encoding",
    "another": "another text's encoding",
    "constant": "the mean encoding",
    "gradient": "one gradient",
}
"""{arm of the warm starts: what the search starts from}."""
_ARM_COLOURS = {"own": OURS, "another": CONTROL, "constant": OTHERS[1], "gradient": OTHERS[4]}


STARTS = {"cold": "noise", **ARMS}
"""{arm: what its search starts from}, with the cold one."""


@chart
def searches_from(levels: pd.DataFrame, curves: pd.DataFrame, *, title: Any = "") -> Any:
    """Cost of one text while searches run. ``curves``: ``arm step bits exact``, a row per arm and step, bits per token.

    ``exact``: true in the last row of a search that found an exact vector; it gets a diamond. ``levels``: ``name
    bits``, dashed lines to compare with. Without curves the chart has these only.
    """
    data = curves[np.isfinite(curves.bits.astype(float))]
    data = data.assign(start=data.arm.map(lambda arm: STARTS.get(arm, arm)))
    names = list(STARTS.values())
    scale = alt.Scale(domain=names, range=[OTHERS[7], *(_ARM_COLOURS[arm] for arm in ARMS)])
    shown = [name for name in names if name in set(data.start)]
    last = max([10.0, *data.step.astype(float)])
    x = alt.X("step:Q", title="step", scale=alt.Scale(domain=[0, last]), axis=alt.Axis(tickMinStep=1))
    y = alt.Y("bits:Q", title="bits per token", scale=alt.Scale(domainMin=0))
    legend = alt.Legend(orient="top", values=shown) if shown else None
    colour = alt.Color("start:N", title="search from", scale=scale, legend=legend)
    tips = [
        alt.Tooltip("start:N", title="search from"),
        alt.Tooltip("step:Q"),
        alt.Tooltip("bits:Q", title="bits per token", format=".2f"),
    ]
    base = alt.Chart(inline(data, "start", "step", "bits", "exact")).encode(x, y, colour, tooltip=tips)
    lines = [base.mark_line(strokeWidth=2), base.mark_point(filled=True, size=22, opacity=1)]
    lines.append(base.transform_filter("datum.exact").mark_point(filled=True, size=140, opacity=1, shape="diamond"))
    beside = alt.Chart(inline(levels, "name", "bits"))
    rules = beside.mark_rule(color=GREY, strokeDash=[6, 4], strokeWidth=1.5).encode(y)
    words = beside.mark_text(align="right", baseline="bottom", dx=-4, dy=-3, fontSize=12)
    words = words.encode(y, alt.Text("name:N"), x=alt.value(430))
    layers = alt.layer(rules, *lines, words).properties(width=430, height=250)
    return layers.properties(title=title or "Cost of the text at each step of a search")


@chart
def encoder_recovery(summary: pd.DataFrame, *, title: Any = "") -> Any:
    """One point per task and kind of text: ``texts tokens k recovered low high net``, as in ``encoder_summary``.

    y: share of the text's bits that its vectors take off, with the interval over texts. The dash is the control: what
    another text's vectors take off.
    """
    data = summary[np.isfinite(summary.recovered.astype(float))]
    if data.empty:
        return no_data()
    data = data.sort_values(["k", "tokens"], kind="stable")
    data = data.assign(
        task=[f"{n} in {k}" for n, k in zip(data.tokens, data.k, strict=True)],
        kind=data.texts.map(display),
        control=data.recovered - data.net,
    )
    kinds = data.drop_duplicates("kind")
    scale = alt.Scale(domain=kinds.kind.tolist(), range=list(palette(kinds.texts).values()))
    x = alt.X(
        "task:N", sort=data.task.drop_duplicates().tolist(), title="tokens in vectors", axis=alt.Axis(labelAngle=0)
    )
    beside = alt.XOffset("kind:N", sort=scale.domain)
    tips = [
        alt.Tooltip("task:N", title="tokens in vectors"),
        alt.Tooltip("kind:N", title="texts"),
        alt.Tooltip("recovered:Q", format=".1%"),
        alt.Tooltip("control:Q", title="with another text's", format=".1%"),
    ]
    base = alt.Chart(inline(data, "task", "kind", "recovered", "low", "high", "control")).encode(x, beside)
    y_title = "share of the bits recovered"
    spans = base.transform_filter("isFinite(datum.low) && isFinite(datum.high)").mark_rule(strokeWidth=2, opacity=0.6)
    spans = spans.encode(alt.Y("low:Q", title=y_title, axis=SHARE), alt.Y2("high:Q"), alt.Color("kind:N", scale=scale))
    points = base.mark_point(filled=True, size=70, opacity=1).encode(
        alt.Y("recovered:Q", title=y_title, axis=SHARE),
        alt.Color("kind:N", title=None, scale=scale, legend=alt.Legend(orient="top")),
        tooltip=tips,
    )
    dashes = base.transform_filter("isValid(datum.control)").mark_tick(color=GREY, thickness=2, width=12)
    dashes = dashes.encode(alt.Y("control:Q", title=y_title, axis=SHARE), tooltip=tips)
    layers = alt.layer(spans, dashes, points).properties(width=430, height=260)
    return layers.properties(title=title or "What an encoder's vectors tell of a text")


@chart
def gap_units(units: pd.DataFrame, *, title: Any = "") -> Any:
    """One point per unit: ``unit search encoder ratio low high``, as in ``gap_in_units``. x: the search over the
    encoder, on a logarithmic axis, with its interval; 1 would be no gap.
    """
    data = units[np.isfinite(units.ratio.astype(float)) & (units.ratio > 0)]
    if data.empty:
        return no_data()
    data = data.assign(told=[f"{row.search:.3g} against {row.encoder:.3g}" for row in data.itertuples()])
    order = data.unit.tolist()
    x_title = "the search over the encoder"
    x = alt.X("ratio:Q", title=x_title, scale=alt.Scale(type="log", domainMin=1, nice=True))
    base = alt.Chart(inline(data, "unit", "ratio", "low", "high", "told")).encode(
        alt.Y("unit:N", sort=order, title=None, axis=alt.Axis(labelLimit=220)),
        tooltip=[
            alt.Tooltip("unit:N"), alt.Tooltip("told:N", title="search against encoder"),
            alt.Tooltip("ratio:Q", format=".3g"), alt.Tooltip("low:Q", format=".3g"),
            alt.Tooltip("high:Q", format=".3g"),
        ],
    )  # fmt: skip
    spans = base.transform_filter("isFinite(datum.low) && isFinite(datum.high)")
    spans = spans.mark_rule(strokeWidth=2, opacity=0.6, color=OURS).encode(
        alt.X("low:Q", title=x_title), alt.X2("high:Q")
    )
    points = base.mark_point(filled=True, size=80, opacity=1, color=OURS).encode(x)
    words = base.mark_text(align="left", dx=8, dy=-9, fontSize=12).encode(x, alt.Text("told:N"))
    layers = alt.layer(spans, points, words).properties(width=400, height={"step": 34})
    return layers.properties(title=title or "The gap between search and encoder, in three units")


@chart
def steps_saved(saved: pd.DataFrame, *, title: Any = "") -> Any:
    """One point per arm and length: ``arm tokens texts saved low high passages``, as in ``savings``, for all kinds.

    x: share of the cold search's steps that a start saves, with the interval over passages. Left of 0 it costs steps.
    """
    data = saved[(saved.texts == "all") & np.isfinite(saved.saved.astype(float))]
    if data.empty:
        return no_data()
    data = data.assign(start=data.arm.map(lambda arm: ARMS.get(arm, arm)))
    arms = [arm for arm in dict.fromkeys([*ARMS, *data.arm]) if arm in set(data.arm)]
    names = [ARMS.get(arm, arm) for arm in arms]
    scale = alt.Scale(domain=names, range=[_ARM_COLOURS.get(arm, OTHERS[6]) for arm in arms])
    y = alt.Y("tokens:O", title="tokens of the text")
    beside = alt.YOffset("start:N", sort=names)
    tips = [
        alt.Tooltip("start:N", title="start"),
        alt.Tooltip("tokens:O"),
        alt.Tooltip("saved:Q", title="steps saved", format=".1%"),
        alt.Tooltip("passages:Q"),
    ]
    base = alt.Chart(inline(data, "start", "tokens", "saved", "low", "high", "passages")).encode(y, beside)
    x_title = "share of the steps saved"
    spans = base.transform_filter("isFinite(datum.low) && isFinite(datum.high)").mark_rule(strokeWidth=2, opacity=0.6)
    spans = spans.encode(alt.X("low:Q", title=x_title, axis=SHARE), alt.X2("high:Q"), alt.Color("start:N", scale=scale))
    points = base.mark_point(filled=True, size=80, opacity=1).encode(
        alt.X("saved:Q", title=x_title, axis=SHARE),
        alt.Color("start:N", title=None, scale=scale, legend=alt.Legend(orient="top", columns=2)),
        tooltip=tips,
    )
    zero = (
        alt.Chart(inline(pd.DataFrame({"saved": [0.0]}))).mark_rule(color=GREY, strokeDash=[6, 4]).encode(x="saved:Q")
    )
    layers = alt.layer(zero, spans, points).properties(width=400, height={"step": 14})
    return layers.properties(title=title or "Steps that the search saves from a start other than noise")
