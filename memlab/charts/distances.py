"""Charts of distances, norms and linear probes."""

from __future__ import annotations

import json
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from memlab.charts.colours import CONTROL, OURS, labels, scale
from memlab.charts.rows import chart, inline, no_data, thin

_CELLS = 128
"""The largest number of rows of a drawn matrix."""


@chart
def densities(binned: pd.DataFrame, *, title: str, log: bool = False, means: bool = False) -> Any:
    """Histograms of two or three kinds over the same bins, one on top of the other, each with its name beside it.

    Columns ``kind from to share``, made by ``geometry.binned``; bars are as high as the share of the kind's values in
    the bin. ``title`` names the values, with their unit. ``means``: a line at the mean of each kind, with its value.
    """
    scale_of_x = alt.Scale(type="log", base=2, nice=False) if log else alt.Scale(zero=False, nice=False)
    filled = binned[binned.share > 0]
    if filled.empty:
        return no_data()
    colours = scale(filled.kind)
    shown = alt.Legend(title=None, orient="top", labelExpr=labels(filled.kind), labelLimit=300)
    bars = (
        alt.Chart(inline(filled))
        .mark_rect(opacity=0.65)
        .encode(
            # A rectangle has both of its ends. With bars, Vega-Lite draws lines at the height of each share.
            alt.X("from:Q", title=title, scale=scale_of_x, axis=alt.Axis(tickCount=8)),
            alt.X2("to:Q"),
            alt.Y("share:Q", title="share of the kind's values", axis=alt.Axis(format="%", tickCount=4)),
            alt.Y2Datum(0),
            alt.Color("kind:N", scale=colours, legend=shown),
            tooltip=[
                "kind:N",
                alt.Tooltip("share:Q", format=".1%"),
                alt.Tooltip("from:Q", format=".3"),
                alt.Tooltip("to:Q", format=".3"),
            ],
        )
    )
    if not means:
        return bars.properties(width=620, height=200)
    weighted = filled.assign(mean=filled.share * (filled["from"] + filled["to"]) / 2)
    at = weighted.groupby("kind", sort=False)["mean"].sum().reset_index()
    rule = alt.Chart(inline(at)).encode(alt.X("mean:Q"))
    lines = rule.mark_rule(strokeWidth=2.5, strokeDash=[6, 3]).encode(alt.Color("kind:N", scale=colours))
    text = rule.mark_text(align="left", dx=5, baseline="top", fontWeight=600).encode(
        alt.Text("mean:Q", format=".2f"), y=alt.value(2)
    )
    return alt.layer(bars, lines, text).properties(width=620, height=240)


@chart
def distance_matrix(matrix: Any, labels: list[str]) -> Any:
    """Heat map of the pairwise cosines ``matrix`` (n, n). ``labels`` (n,) are the names of the vectors.

    More than 128 vectors are drawn in blocks of neighbours; the colour is the mean of a block, and the legend says so.
    """
    cells = np.array(matrix, float)
    np.fill_diagonal(cells, np.nan)  # a vector's cosine with itself is not drawn
    legend: str | list[str] = "cosine"
    if (size := -(-len(cells) // _CELLS)) > 1:
        starts = range(0, len(cells), size)
        known = np.isfinite(cells)
        sums, counts = np.where(known, cells, 0), known.astype(int)
        for axis in (0, 1):
            sums, counts = (np.add.reduceat(part, starts, axis) for part in (sums, counts))
        cells = np.where(counts, sums / np.maximum(counts, 1), np.nan)
        labels = [f"{labels[i]} … {labels[min(i + size, len(labels)) - 1]}" for i in starts]
        legend = ["cosine, mean", f"of {size} × {size} pairs"]
    # One record per row of the matrix. One per cell would repeat each name n times.
    values = [[v if np.isfinite(v) else None for v in row] for row in cells.round(3).tolist()]
    rows = [{"row": i + 1, "one": labels[i], "cosine": row} for i, row in enumerate(values)]
    names = {"values": [{"column": i + 1, "other": label} for i, label in enumerate(labels)]}
    return (
        alt.Chart({"values": rows})
        .transform_flatten(["cosine"])
        .transform_window(column="row_number()", groupby=["row"])
        .transform_lookup("column", alt.LookupData(names, "column", ["other"]))
        .transform_filter("isValid(datum.cosine)")
        .mark_rect()
        .encode(
            alt.X("column:O", title=None, axis=None),
            alt.Y("row:O", title=None, axis=_names(labels)),
            alt.Color("cosine:Q", title=legend, scale=alt.Scale(scheme="viridis")),
            tooltip=["one:N", "other:N", "cosine:Q"],
        )
        .properties(width=480, height=480)
    )


def _names(labels: list[str]) -> alt.Axis | None:
    """An axis that names each run of equal labels once, in its middle; none if there are more runs than room."""
    starts = [i for i, name in enumerate(labels) if i == 0 or labels[i - 1] != name]
    if len(starts) > _CELLS // 4:
        return None
    middles = [(start + end) // 2 + 1 for start, end in zip(starts, [*starts[1:], len(labels)], strict=True)]
    chosen = ", ".join(f"'{row}': {json.dumps(labels[row - 1])}" for row in middles)
    return alt.Axis(
        title=None, values=middles, labelExpr=f"({{{chosen}}})[datum.value]", ticks=False, domain=False, labelLimit=260
    )


@chart
def norm_trajectories(table: pd.DataFrame, *, last_step: int = 120) -> Any:
    """Norm by training step up to ``last_step``, one line per training. Columns ``text_id kind tokens step norm last``.

    A dot is the exact end of a training.
    """
    table = table[table.step <= last_step]
    if table.empty:
        return no_data()
    table = table.assign(run=table.text_id + " " + table.tokens.astype(str))
    pixels = min(520, max(20, 5000 // max(1, table.run.nunique())))
    steps = thin(table[~table["last"]], "step", "norm", pixels=pixels, by="run")
    shown = pd.concat([steps, table[table["last"]]])
    viridis = alt.SchemeParams("viridis", extent=[0.2, 0.85])  # its ends are lost on a dark or a bright page
    base = alt.Chart(inline(shown, "run", "text_id", "kind", "tokens", "step", "norm", "last")).encode(
        alt.X("step:Q", title="training step"),
        alt.Y("norm:Q", title="Euclidean norm of the vector"),
        alt.Color("tokens:O", title="tokens", scale=alt.Scale(scheme=viridis)),
        alt.Detail("run:N"),
        tooltip=["text_id:N", "kind:N", "tokens:Q", "step:Q", alt.Tooltip("norm:Q", format=".1f")],
    )
    lines = base.transform_filter("!datum.last").mark_line(strokeWidth=1.5, opacity=0.7)
    ends = base.transform_filter("datum.last").mark_circle(size=45, opacity=1)
    return alt.layer(lines, ends).properties(width=620, height=260)


@chart
def probes(table: pd.DataFrame) -> Any:
    """Linear probes: how often each is right, against labels shuffled. Columns ``question accuracy null null_high``.

    A grey bar reaches to where 95 % of the probes of shuffled labels end.
    """
    height = min(1100, max(60, 46 * len(table)))
    base = alt.Chart(inline(table)).encode(alt.Y("question:N", title=None, sort=None, axis=alt.Axis(labelLimit=320)))
    axis = alt.Axis(format="%", tickCount=6)
    luck = (
        base.mark_bar(height=14, color=CONTROL, opacity=0.6)
        .encode(
            alt.X("low:Q", title="right, of vectors of passages that the probe has not seen", axis=axis),
            alt.X2("null_high:Q"),
            tooltip=[alt.Tooltip("null_high:Q", format=".0%", title="95 % of shuffled labels below")],
        )
        .transform_calculate(low="0")
    )
    found = base.mark_point(filled=True, size=120, color=OURS, opacity=1).encode(
        alt.X("accuracy:Q", scale=alt.Scale(domain=[0, 1])),
        tooltip=["question:N", alt.Tooltip("accuracy:Q", format=".0%", title="right")],
    )
    text = found.mark_text(align="left", dx=10, fontWeight=600).encode(alt.Text("accuracy:Q", format=".0%"))
    return alt.layer(luck, found, text).properties(width=520, height=height)
