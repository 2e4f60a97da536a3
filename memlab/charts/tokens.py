"""Charts of a text token by token: bits, margins, and what else the model might have written."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from memlab.charts.colours import EXACT, INK, OURS, WRONG
from memlab.charts.rows import chart, inline, with_data
from memlab.charts.theme import GREY, SHARE

_MOST = 128
"""The largest number of tokens that are drawn one by one."""
TOKENS_WIDE = 520
"""Width of a chart over the tokens of a text, pixels."""


def grouped(table: pd.DataFrame) -> pd.DataFrame:
    """At most 128 rows of a table with the columns ``position token``: neighbours become one row, numbers their mean.

    Adds ``label`` (position and token, unique) and ``size``, the number of tokens per row.

    >>> import pandas as pd
    >>> grouped(pd.DataFrame({"position": [1, 2], "token": ["a", "b"], "bits": [1.0, 3.0]})).label.tolist()
    ["1 'a'", "2 'b'"]
    """
    size = -(-len(table) // _MOST)
    how: dict[str, Any] = dict.fromkeys(table.select_dtypes("number"), "mean") | {"position": "first"}
    others = {name: "first" for name in table.columns if name not in how}
    how |= others | dict.fromkeys(table.select_dtypes("bool"), "all") | {"token": "".join}
    shown = table.groupby(np.arange(len(table)) // size).agg(how)
    labels = [f"{p} {_short(t)}" for p, t in zip(shown.position, shown.token, strict=True)]
    return shown.assign(label=labels, size=size)


def _short(token: str) -> str:
    """A token in quotes, at most 16 characters of it: vl-convert needs 50 ms to cut a label."""
    return repr(token if len(token) < 16 else f"{token[:15]}…")


def position_axis(order: list[str], *, labels: bool = True) -> alt.X:
    """The axis of the tokens, by their ``label``, in the order of the text; about 45 of them are named."""
    step = -(-len(order) // 45)
    axis = alt.Axis(labelFont="monospace", labelFontSize=10, labelAngle=-90, labelLimit=140, values=order[::step])
    axis = axis if labels else alt.Axis(labels=False, ticks=False)
    return alt.X("label:N", title=None, sort=order, axis=axis)


@chart
def token_bits(table: pd.DataFrame) -> Any:
    """Bits of each token without the vector and with it. Columns ``position token before after``.

    More than 128 tokens are drawn in groups of neighbours; a bar is the mean of a group, and the axis says so.
    """
    shown = grouped(table)
    return bits_bars(inline(shown), shown)


def bits_bars(data: Any, shown: pd.DataFrame) -> Any:
    """The bars of ``token_bits``, from ``data``: the rows ``shown`` of ``grouped``, or their name in a larger chart."""
    size = shown["size"].iloc[0]
    tips = [alt.Tooltip("before:Q", format=".2f", title="bits without the vector"),
            alt.Tooltip("after:Q", format=".3f", title="bits with the vector")]  # fmt: skip
    base = alt.Chart(data).encode(position_axis(shown.label.tolist()), tooltip=["token:N", *tips])
    title = "bits" if size == 1 else f"bits, means of {size}"
    before = base.mark_bar(color=GREY, opacity=0.6).encode(alt.Y("before:Q", title=title, axis=alt.Axis(tickCount=4)))
    after = base.mark_bar(color=OURS).encode(alt.Y("after:Q", title=title))
    return alt.layer(before, after).properties(width=TOKENS_WIDE, height=120)


def is_picked(parameter: str) -> str:
    """A Vega expression: whether a row of ``grouped`` holds the token whose position, from 1, is this parameter."""
    return f"datum.position <= {parameter} && {parameter} < datum.position + datum.size"


@chart
def token_margins(table: pd.DataFrame, likely: pd.DataFrame, *, picked: int = 1) -> Any:
    """The margin and the bits of each token, and the likeliest tokens at the picked place.

    ``table`` and ``likely`` as ``probes.token_reading`` returns them. The parameter ``picked`` is the position, from
    1, whose likeliest tokens are drawn; the selection ``token`` (field ``position``) is the bar that was clicked.
    """
    before_an_error = table.right.astype(bool).cummin().shift(fill_value=True)
    state = np.where(before_an_error, np.where(table.right, "right", "wrong"), "after an error")
    shown = grouped(table.assign(state=state))
    order, size = shown.label.tolist(), shown["size"].iloc[0]
    colours = {"right": EXACT, "wrong": WRONG, "after an error": GREY}
    seen = [name for name in colours if name in set(state)]
    scale = alt.Scale(domain=seen, range=[colours[name] for name in seen])
    measured = alt.Tooltip("margin:Q", format=".2f", title="margin, logits")
    tips = [alt.Tooltip("label:N", title="token"), "written:N", measured, alt.Tooltip("rival:N", title="runner-up")]
    margin = (
        alt.Chart(alt.NamedData("tokens"))
        .mark_bar(strokeWidth=2)
        .encode(
            position_axis(order, labels=False),
            alt.Y("margin:Q", title="logits" if size == 1 else f"logits, means of {size}", axis=alt.Axis(tickCount=5)),
            alt.Color("state:N", title=None, scale=scale, legend=alt.Legend(orient="top")),
            stroke=alt.condition(is_picked("picked"), alt.value(INK), alt.value(None)),
            tooltip=tips,
        )
        .add_params(alt.selection_point(name="token", fields=["position"]))
        .properties(width=TOKENS_WIDE, height=130, title="Margin: how far the true token leads. Click a bar.")
    )
    bars = bits_bars(alt.NamedData("tokens"), shown)
    bits = bars.properties(height=90, title="Bits per token: without the vector (grey), with it (blue)")
    ranked = likely.assign(shown=[f"{r} {_short(t)}" for r, t in zip(likely["rank"], likely.token, strict=True)])
    top = (
        alt.Chart(alt.NamedData("likely"))
        .transform_filter("datum.position == picked")
        .mark_bar()
        .encode(
            alt.Y("shown:N", title=None, sort=alt.EncodingSortField("rank", order="ascending"),
                  axis=alt.Axis(labelFont="monospace", labelLimit=180)),
            alt.X("probability:Q", title="probability", scale=alt.Scale(domain=[0, 1]), axis=SHARE),
            color=alt.condition("datum.true", alt.value(EXACT), alt.value(GREY)),
            tooltip=["shown:N", alt.Tooltip("probability:Q", format=".2%")],
        )
        .properties(width=200, height=alt.Step(22), title=["Likeliest tokens", "at the picked place"])
    )  # fmt: skip
    left = alt.vconcat(margin, bits, spacing=8)
    both = alt.hconcat(left, top, spacing=40).add_params(alt.param(name="picked", value=picked))
    return with_data(both, tokens=shown, likely=ranked)
