"""Charts of what happens inside the model: attention by layer, head and token, knock-outs, the place of the vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from memlab.charts.colours import INK, OURS, PUBLISHED, colour
from memlab.charts.names import display
from memlab.charts.rows import chart, inline, with_data
from memlab.charts.theme import GREY, SHARE
from memlab.charts.tokens import TOKENS_WIDE, bits_bars, grouped, is_picked, position_axis

_LAYER = alt.Axis(labelAngle=0, values=list(range(0, 1000, 5)), grid=False)
_TALL = 170
"""Height of the picture of tokens and layers, pixels."""


def _shares(most: float, *, legend: bool = True) -> alt.Color:
    """The colour of a share of attention, on a scale that ends at the largest share in the data."""
    scale = alt.Scale(scheme="viridis", domain=[0, round(float(most), 4) or 1 if np.isfinite(most) else 1])
    shown = alt.Legend(format=".0%", title="share", gradientLength=120) if legend else None
    return alt.Color("share:Q", scale=scale, legend=shown)


@chart
def attention_map(table: pd.DataFrame, column: str, *, title: str, subtitle: str = "") -> Any:
    """Share of attention by layer and head, and above it the mean by layer. Columns ``layer head`` and ``column``."""
    shown = table.assign(share=table[column])[["layer", "head", "share"]]
    cells = _heads(inline(shown), _shares(shown.share.max())).properties(width=420, height=alt.Step(16))
    heading = alt.Title(title, subtitle=subtitle or alt.Undefined)
    return alt.vconcat(_by_layer(inline(_means(shown))).properties(width=420, title=heading), cells, spacing=6)


def _heads(data: Any, shares: alt.Color) -> Any:
    return (
        alt.Chart(data)
        .mark_rect()
        .encode(
            alt.X("layer:O", title="layer", axis=_LAYER),
            alt.Y("head:O", title="head"),
            shares,
            tooltip=["layer:Q", "head:Q", alt.Tooltip("share:Q", format=".1%", title="share of the attention")],
        )
    )


def _means(shown: pd.DataFrame) -> pd.DataFrame:
    return shown.groupby("layer", as_index=False).share.mean()


def _by_layer(data: Any) -> Any:
    tip = alt.Tooltip("share:Q", format=".1%", title="mean share of the attention")
    return (
        alt.Chart(data)
        .mark_bar(color=OURS)
        .encode(
            alt.X("layer:O", title=None, axis=alt.Axis(labels=False, ticks=False)),
            alt.Y("share:Q", title="mean", axis=alt.Axis(format="%", tickCount=2)),
            tooltip=["layer:Q", tip],
        )
        .properties(height=60)
    )


@chart
def attention_view(
    sides: Sequence[tuple[str, pd.DataFrame, pd.DataFrame, pd.DataFrame]], *, title: str, picked: Sequence[int] = ()
) -> Any:
    """One row of pictures per vector: attention by layer and head, by layer and token, and the bits of each token.

    ``sides``: for each vector its name and three tables, with the columns ``layer head share``, ``position layer
    share`` and ``position token before after``. All share one scale. Row i has the selections ``head_i`` (fields
    ``layer head``) and ``token_i`` (field ``position``) and the parameter ``picked_i``, at first ``picked[i]``: the
    position, from 1, of the token whose attention by layer is drawn as a line; 0 for none.
    """
    most = max([float(table.share.max()) for _, *both, _ in sides for table in both if len(table)], default=1.0)
    data: dict[str, pd.DataFrame] = {}
    rows = [_side(i, *side, most, data) for i, side in enumerate(sides)]
    starts = [*picked, *[0] * len(sides)][: len(sides)]
    params = [alt.param(name=f"picked_{i}", value=start) for i, start in enumerate(starts)]
    return with_data(alt.vconcat(*rows, spacing=20).add_params(*params).properties(title=title), **data)


def _side(
    i: int,
    name: str,
    heads: pd.DataFrame,
    tokens: pd.DataFrame,
    bits: pd.DataFrame,
    most: float,
    data: dict[str, pd.DataFrame],
) -> Any:
    """The row of one vector. Adds its tables to ``data``."""
    shown = grouped(bits)
    by_token = tokens.assign(position=(tokens.position - 1) // shown["size"].iloc[0] * shown["size"].iloc[0] + 1)
    by_token = by_token.groupby(["position", "layer"], as_index=False).share.mean()
    by_token = by_token.merge(shown[["position", "label", "size"]], on="position")
    tables = {"heads": heads, "means": _means(heads), "cells": by_token, "bits": shown}
    data |= {f"{what}_{i}": table for what, table in tables.items()}
    named = {what: alt.NamedData(f"{what}_{i}") for what in tables}
    head = alt.selection_point(name=f"head_{i}", fields=["layer", "head"])
    token = alt.selection_point(name=f"token_{i}", fields=["position"])
    chosen = alt.Chart(named["cells"]).transform_filter(is_picked(f"picked_{i}"))
    line = chosen.mark_line(color=INK, strokeWidth=1.5, point=alt.OverlayMarkDef(size=12, color=INK)).encode(
        alt.X("layer:O"), alt.Y("share:Q"), tooltip=["label:N", "layer:Q", alt.Tooltip("share:Q", format=".1%")]
    )
    left = alt.vconcat(
        alt.layer(_by_layer(named["means"]), line)
        .properties(width=260, height=70, title="Mean by layer; line: picked token"),
        _heads(named["heads"], _shares(most, legend=False))
        .encode(opacity=alt.condition(head, alt.value(1), alt.value(0.6)),
                stroke=alt.condition(head, alt.value(PUBLISHED), alt.value(None), empty=False))
        .add_params(head).properties(width=260, height=150, title="By layer and head: click a head"),
        spacing=8,
    )  # fmt: skip
    order = shown.label.tolist()
    cells = (
        alt.Chart(named["cells"])
        .mark_rect()
        .encode(
            position_axis(order, labels=False),
            alt.Y("layer:O", title="layer", axis=_LAYER),
            _shares(most),
            tooltip=["label:N", "layer:Q", alt.Tooltip("share:Q", format=".1%", title="share, mean over heads")],
        )
        .add_params(token)
    )
    frame = chosen.transform_filter("datum.layer == 0").mark_rect(filled=False, stroke=PUBLISHED, strokeWidth=2)
    mark = frame.encode(position_axis(order, labels=False), y=alt.value(0), y2=alt.value(_TALL))
    heading = alt.Title("By token and layer, mean over heads: click a token", subtitle=name)
    right = alt.vconcat(
        alt.layer(cells, mark).properties(width=TOKENS_WIDE, height=_TALL, title=heading),
        bits_bars(named["bits"], shown).properties(
            height=70, title="Bits per token: without the vector (grey), with it (blue)"
        ),
        spacing=8,
    )
    return alt.hconcat(left, right, spacing=20).resolve_scale(color="independent")


_BELOW = alt.Legend(orient="bottom")
_PLACES = {"on_first": "the sink token", "on_mem": "the vector"}


@chart
def attention_by_layer(table: pd.DataFrame) -> Any:
    """Where the text looks, by layer; what is left goes to the text itself. Columns ``layer on_first on_mem``."""
    means = table.groupby("layer")[list(_PLACES)].mean().rename(columns=_PLACES).reset_index()
    long = means.melt("layer", var_name="place", value_name="share")
    scale = alt.Scale(domain=list(_PLACES.values()), range=[GREY, OURS])
    title = "share of the text's attention"
    return (
        alt.Chart(inline(long.assign(order=long.place.map(list(_PLACES.values()).index))))
        .mark_bar()
        .encode(
            alt.X("layer:O", title="layer", axis=_LAYER),
            alt.Y("share:Q", title=title, axis=SHARE, scale=alt.Scale(domain=[0, 1])),
            alt.Color("place:N", title="goes to (the rest: to the text so far)", scale=scale, legend=_BELOW),
            alt.Order("order:Q"),
            tooltip=["place:N", "layer:Q", alt.Tooltip("share:Q", format=".1%")],
        )
        .properties(width=360, height=210)
    )


_HIDDEN = {
    "only": "in this layer alone",
    "until": "up to this layer",
    "from": "from this layer on",
}
_WHAT = {"mem": "the vector", "prefix": "the sink token (control)"}


@chart
def knocked_out(table: pd.DataFrame) -> Any:
    """Tokens right while something is hidden in some layers: three pictures of two lines, their difference shaded.

    Columns ``layer mode what accuracy low high``, as ``measures.knockouts.by_layer`` returns them.
    """
    shown = table[table["mode"].isin(_HIDDEN)].assign(hidden=table.what.map(_WHAT))
    scale = alt.Scale(domain=list(_WHAT.values()), range=[OURS, GREY])
    y = alt.Scale(domain=[0, 1])
    pictures = []
    for mode, name in _HIDDEN.items():
        rows = shown[shown["mode"] == mode]
        base = alt.Chart(inline(rows, "layer", "hidden", "accuracy", "low", "high")).encode(
            alt.X("layer:Q", title="layer", axis=alt.Axis(tickMinStep=5, grid=False)),
            alt.Color("hidden:N", title="hidden", scale=scale, legend=_BELOW),
            tooltip=["hidden:N", "layer:Q", alt.Tooltip("accuracy:Q", format=".0%", title="tokens right"),
                     alt.Tooltip("low:Q", format=".0%", title="95 % from"),
                     alt.Tooltip("high:Q", format=".0%", title="to")],
        )  # fmt: skip
        title = "tokens right, teacher-forced"
        line = base.mark_line(strokeWidth=2.5, point=alt.OverlayMarkDef(size=25)).encode(
            alt.Y("accuracy:Q", scale=y, title=title, axis=SHARE)
        )
        whisker = base.mark_rule(strokeWidth=1, opacity=0.55).encode(
            alt.Y("low:Q", scale=y, title=title), alt.Y2("high:Q")
        )
        both = rows.pivot(index="layer", columns="what", values="accuracy").reset_index()
        layers: list[Any] = [whisker, line]
        if set(_WHAT) <= set(both):
            gap = alt.Chart(inline(both)).mark_area(opacity=0.18, color=GREY, tooltip=False)
            layers.insert(0, gap.encode(alt.X("layer:Q"), alt.Y("mem:Q", scale=y, title=title), alt.Y2("prefix:Q")))
        pictures.append(
            alt.layer(*layers).properties(width=245, height=220, title=alt.Title(f"hidden {name}", fontWeight="normal"))
        )
    return alt.hconcat(*pictures, spacing=25)


@chart
def step_ratios(table: pd.DataFrame) -> Any:
    """Steps with a special token, as a multiple of the steps without it. Columns ``model placement ratio low high``."""
    names = {"s [mem] text": "before the vector", "[mem] s text": "after the vector"}
    shown = table.assign(
        place=table.placement.map(lambda p: names.get(p, p)),
        name=table.model.map(display),
    )
    order = list(dict.fromkeys(shown.name))
    places = [name for name in names.values() if name in set(shown.place)] or list(dict.fromkeys(shown.place))
    base = alt.Chart(inline(shown)).encode(
        alt.Y("name:N", title="model", sort=order, axis=alt.Axis(labelLimit=220, grid=True)),
        alt.YOffset("place:N", sort=places),
        alt.Color("place:N", title="special token", sort=places,
                  scale=alt.Scale(range=[colour("ours"), colour("control")]), legend=alt.Legend(orient="top")),
        tooltip=["name:N", "place:N", alt.Tooltip("ratio:Q", format=".2f", title="steps, of those without it"),
                 alt.Tooltip("low:Q", format=".2f", title="95 % from"),
                 alt.Tooltip("high:Q", format=".2f", title="to")],
    )  # fmt: skip
    axis = alt.Axis(values=[0.125, 0.25, 0.5, 1, 2, 4], format="~g")
    x = alt.Scale(type="log", base=2, nice=False, padding=12)
    title = "steps with the special token / steps without it"
    dots = base.mark_circle(size=70, opacity=1).encode(alt.X("ratio:Q", title=title, scale=x, axis=axis))
    lines = base.mark_rule(strokeWidth=2).encode(alt.X("low:Q", title=title, scale=x, axis=axis), alt.X2("high:Q"))
    one = alt.Chart({"values": [{"x": 1}]}).mark_rule(strokeDash=[4, 4], color=INK).encode(alt.X("x:Q", title=title))
    return alt.layer(one, lines, dots).properties(width=520, height=alt.Step(15))
