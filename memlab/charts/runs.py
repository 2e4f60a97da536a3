"""Charts of capacity runs: all of them as a strip to click, and one of them along its text."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from memlab.charts.capacity import legend
from memlab.charts.colours import INK, OURS, WRONG, kinds_scale
from memlab.charts.rows import chart, inline, no_data, thin
from memlab.charts.theme import GREY


@chart
def bits_along(bits_without: Any, bits_with: Any, exact_prefix: int) -> Any:
    """Cumulative bits of one text, without and with its vector. ``bits_without`` and ``bits_with`` (n,): per token.

    A red line marks the first wrong token of the free decode, if there is one. Parameters: ``place`` is the token that
    a grey line marks (0: none), and the selection ``over`` holds the token under the pointer.

    >>> bits_along([2.0, 3.0], [0.5, 0.0], exact_prefix=2).to_dict()["title"]
    'All 2 tokens come back'
    """
    n = len(bits_without)
    names = ["without the vector", "with the vector"]
    sums = pd.DataFrame(dict(zip(names, (np.nancumsum(bits_without), np.nancumsum(bits_with)), strict=True)))
    sums.insert(0, "token", range(1, n + 1))
    shown = thin(sums, "token", *names, pixels=390)
    table = shown.melt("token", var_name="line", value_name="bits")
    x = alt.X("token:Q", title="token of the text", scale=alt.Scale(domain=[0, n], nice=False))
    base = alt.Chart(inline(table)).encode(
        x,
        alt.Y("bits:Q", title="bits, added up"),
        alt.Color(
            "line:N",
            title=None,
            sort=None,
            scale=alt.Scale(domain=names, range=[GREY, OURS]),
            legend=alt.Legend(orient="top", symbolType="stroke", symbolStrokeWidth=3),
        ),
    )
    over = alt.selection_point(name="over", fields=["token"], nearest=True, on="pointerover", clear="pointerout")
    # Two numbers in one tooltip. (Vega shows names as "undefined" where the nearest point answers.)
    tips = [alt.Tooltip("token:Q"), *(alt.Tooltip(f"{name}:Q", title=f"bits {name}", format=".1f") for name in names)]
    wide = alt.Chart(inline(shown)).encode(x, alt.Y(f"{names[1]}:Q", title="bits, added up"), tooltip=tips)
    points = wide.mark_point(opacity=0, size=40).add_params(over)
    mark = alt.Chart({"values": [{}]}).add_params(alt.param(name="place", value=0)).transform_calculate(token="place")
    mark = mark.transform_filter("datum.token > 0").mark_rule(color=GREY, strokeWidth=2).encode(alt.X("token:Q"))
    layers = [base.mark_line(strokeWidth=2.5), mark]
    title = f"The first {exact_prefix} of {n} tokens come back" if exact_prefix < n else f"All {n} tokens come back"
    if exact_prefix < n:
        wall = alt.Chart(
            inline(pd.DataFrame({"token": [exact_prefix + 1], "says": [f"first wrong: {exact_prefix + 1}"]}))
        )
        right = exact_prefix > n / 2
        layers += [
            wall.mark_rule(color=WRONG, strokeWidth=2, strokeDash=[5, 3]).encode(alt.X("token:Q")),
            wall.mark_text(align="right" if right else "left", dx=-5 if right else 5, y=8).encode(
                alt.X("token:Q"), alt.Text("says:N")
            ),
        ]
    return alt.layer(*layers, points).properties(width=390, height=190, title=title)


@chart
def run_strip(table: pd.DataFrame) -> Any:
    """One point per stored run, by the tokens that come back, to be clicked: filled if its vector can be decoded.

    Columns ``i group texts tokens stored title``. The selection ``run`` has the field ``i``; the parameter ``shown`` is
    the ``i`` that a ring marks (-1: none). Points at one place of a row are spread over its height.
    """
    table = table[np.isfinite(table.tokens) & (table.tokens >= 0)]
    if table.empty:
        return no_data()
    groups = list(dict.fromkeys(table.group))
    place = pd.cut(np.log(table.tokens + 30), 70, labels=False)
    row = table.group.map(groups.index)
    cells = table.groupby([row, place])
    spread = (cells.cumcount() + 0.5) / cells.i.transform("size").clip(lower=6)
    middle = 0.5 - cells.i.transform("size") / cells.i.transform("size").clip(lower=6) / 2
    data = table.assign(y=row + spread + middle, outcome=np.where(table.stored, "yes", "no"))
    kinds = kinds_scale(table)
    most = float(table.tokens.max()) * 1.1
    rows = alt.Scale(domain=[0, len(groups)], reverse=True, nice=False)
    base = alt.Chart(inline(data)).encode(
        alt.X(
            "tokens:Q", title="tokens that come back, from the start (log)",
            scale=alt.Scale(type="symlog", constant=30, domain=[-3, most], nice=False),
            axis=alt.Axis(values=[0, 20, 50, 100, 200, 400, 800, 1600]),
        ),
        alt.Y(
            "y:Q", title=None, scale=rows,
            axis=alt.Axis(
                values=[i + 0.5 for i in range(len(groups))], grid=False, ticks=False, domain=False, labelLimit=230,
                labelExpr=f"[{', '.join(map(repr, groups))}][floor(datum.value)]",
            ),
        ),
    )  # fmt: skip
    run = alt.selection_point(name="run", fields=["i"], on="click", empty=False)
    seen = [
        "title:N",
        alt.Tooltip("tokens:Q", title="tokens that come back"),
        alt.Tooltip("outcome:N", title="can be decoded here"),
    ]
    points = (
        base.mark_point(size=70, strokeWidth=1.5, cursor="pointer")
        .encode(
            alt.Color("texts:N", title=None, scale=kinds, legend=legend(kinds.domain)),
            fill=alt.condition(
                "datum.stored", alt.Color("texts:N", scale=kinds, legend=None), alt.value("transparent")
            ),
            tooltip=seen,
        )
        .add_params(run)
    )
    ring = base.add_params(alt.param(name="shown", value=-1)).transform_filter("datum.i == shown")
    rules = pd.DataFrame({"y": range(1, len(groups))})
    between = alt.Chart(inline(rules)).mark_rule(color=GREY, opacity=0.3).encode(alt.Y("y:Q", scale=rows))
    drawn = alt.layer(between, ring.mark_point(size=220, strokeWidth=2.5, color=INK), points)
    return drawn.properties(width=390, height=36 * len(groups))
