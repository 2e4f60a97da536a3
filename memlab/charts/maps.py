"""Charts of where vectors lie: maps, distances, norms."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from memlab.charts.rows import chart, inline, no_data, thin

_CELLS = 128
"""The largest number of rows of a drawn matrix."""


@chart
def densities(binned: pd.DataFrame, *, title: str, log: bool = False) -> Any:
    """One histogram per kind, one below the other. Columns ``kind from to share``, made by ``geometry.binned``."""
    scale = alt.Scale(type="log", base=2, nice=False) if log else alt.Scale(zero=False, nice=False)
    header = alt.Header(labelAngle=0, labelAlign="left", labelFontSize=12)
    return (
        alt.Chart(inline(binned[binned.share > 0]))
        .mark_bar(opacity=0.85)
        .encode(
            # Without "binned", Vega-Lite draws a line at the height of each share, not a bar from 0.
            alt.X("from:Q", bin="binned", title=title, scale=scale, axis=alt.Axis(tickCount=8)),
            alt.X2("to:Q"),
            alt.Y("share:Q", title=None, axis=alt.Axis(format="%", tickCount=2)),
            alt.Row("kind:N", title=None, sort=None, header=header),
            alt.Color("kind:N", legend=None, sort=None),
            tooltip=["kind:N", alt.Tooltip("share:Q", format=".1%")],
        )
        .properties(width=480, height=52)
        .resolve_scale(y="independent")
        .configure_facet(spacing=8)
    )


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
            alt.Y("row:O", title=None, axis=None),
            alt.Color("cosine:Q", title=legend, scale=alt.Scale(scheme="viridis")),
            tooltip=["one:N", "other:N", "cosine:Q"],
        )
        .properties(width=330, height=330)
    )


@chart
def norm_trajectories(table: pd.DataFrame) -> Any:
    """Norm by training step, one line per training. Columns ``text_id kind tokens step norm last``."""
    table = table.assign(run=table.text_id + " " + table.tokens.astype(str))
    pixels = min(520, max(20, 5000 // table.run.nunique()))
    steps = thin(table[~table["last"]], "step", "norm", pixels=pixels, by="run")
    base = alt.Chart(
        inline(pd.concat([steps, table[table["last"]]]), "run", "text_id", "kind", "tokens", "step", "norm", "last")
    ).encode(
        alt.X("step:Q", title="step"),
        alt.Y("norm:Q", title="Euclidean norm (log)", scale=alt.Scale(type="log"), axis=alt.Axis(tickCount=5)),
        alt.Color("tokens:O", title="tokens", scale=alt.Scale(scheme="viridis")),
        alt.Detail("run:N"),
        tooltip=["text_id:N", "kind:N", "tokens:Q", "step:Q", alt.Tooltip("norm:Q", format=".1f")],
    )
    lines = base.transform_filter("!datum.last").mark_line(strokeWidth=1.5, opacity=0.6)
    ends = base.transform_filter("datum.last").mark_circle(size=45, opacity=1)
    return alt.layer(lines, ends).properties(width=520, height=240)


@chart
def vector_map(table: pd.DataFrame, *, brush: alt.Parameter | None = None, title: str = "") -> Any:
    """Vectors on a plane. Columns ``x y kind label text tokens norm seed``; points outside ``brush`` are pale.

    More than twelve kinds get no legend: their colours are too similar. The tooltip names the kind. It leaves out the
    text if there are more than 5,000 vectors. Points shrink from 1,000 vectors on.
    """
    table = table[np.isfinite(table[["x", "y"]].astype(float)).all(axis=1)]
    if table.empty:
        return no_data()
    columns = ["x", "y", "kind", "label", "text", "tokens", "norm", "seed"]
    if len(table) > 5000:
        columns.remove("text")
    many = table.kind.nunique() > 4
    legend = alt.Legend(orient="bottom", columns=4, labelLimit=170) if table.kind.nunique() <= 12 else None
    colours: dict[str, Any] = {"scale": alt.Scale(scheme="tableau20")} if many else {}
    chart = (
        alt.Chart(inline(table, *columns))
        .mark_circle(size=min(70, max(6, 70_000 / len(table))))
        .encode(
            alt.X("x:Q", title=None, axis=None, scale=alt.Scale(zero=False, padding=12)),
            alt.Y("y:Q", title=None, axis=None, scale=alt.Scale(zero=False, padding=12)),
            alt.Color("kind:N", title=None, sort=None, legend=legend, **colours),
            opacity=alt.condition(brush, alt.value(0.9), alt.value(0.15)) if brush else alt.value(0.8),
            tooltip=["text:N", "label:N", "kind:N", "tokens:Q", "seed:Q", alt.Tooltip("norm:Q", format=",.0f")],
        )
        .properties(width=520, height=400, **({"title": title} if title else {}))
    )
    return chart.add_params(brush) if brush else chart
