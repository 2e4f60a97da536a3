"""Charts of geometry: positions of vectors, paths between them, robustness to changes, attention to them."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from memlab.charts.rows import chart, inline, no_data, thin
from memlab.charts.theme import BLUE, GREY, ORANGE, PURPLE, SHARE

_CELLS = 128
"""The largest number of rows of a drawn matrix, and of tokens of a drawn waterfall."""


@chart
def densities(binned: pd.DataFrame, *, title: str, log: bool = False) -> Any:
    """One histogram per kind, one below the other. Columns ``kind from to share``, made by ``geometry.binned``."""
    scale = alt.Scale(type="log", base=2, nice=False) if log else alt.Scale(zero=False, nice=False)
    header = alt.Header(labelAngle=0, labelAlign="left", labelColor=GREY, labelFontSize=12)
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


_PATH_COLOURS = {"line": ORANGE, "curve": BLUE, "nowhere": GREY}
"""The same colours in every chart."""


@chart
def along_a_path(table: pd.DataFrame) -> Any:
    """Loss and decoded tokens along paths between two solutions. Columns ``t bits right tokens exact way``."""
    drawn = table.way.unique().tolist()
    names = [name for name in _PATH_COLOURS if name in drawn] + [name for name in drawn if name not in _PATH_COLOURS]
    colours = [_PATH_COLOURS.get(name, PURPLE) for name in names]
    base = alt.Chart(inline(table.assign(share=table.right / table.tokens))).encode(
        alt.X("t:Q", title="position, from one solution (0) to the other (1)"),
        alt.Color("way:N", title=None, sort=names, scale=alt.Scale(domain=names, range=colours)),
        tooltip=[alt.Tooltip("way:N", title="path"), "t:Q", alt.Tooltip("bits:Q", format=".2f"), "right:Q", "exact:N"],
    )
    loss = base.mark_line(strokeWidth=2).encode(alt.Y("bits:Q", title="bits per token"))
    points = base.transform_filter("datum.exact").mark_circle(size=50, opacity=1).encode(alt.Y("bits:Q"))
    share = base.mark_line(strokeWidth=2).encode(
        alt.Y("share:Q", title="tokens right, decoded freely", scale=alt.Scale(domain=[0, 1]), axis=SHARE)
    )
    left = alt.layer(loss, points).properties(width=330, height=220, title="Loss (dots: exact)")
    return alt.hconcat(left, share.properties(width=330, height=220, title="Decoded text"), spacing=50)


@chart
def from_text_to_text(table: pd.DataFrame, names: tuple[str, str]) -> Any:
    """Right tokens of two passages, along the line between their vectors. Columns ``t of_a of_b written``.

    ``names`` are the names of the passages a and b.
    """
    long = table.melt(["t", "written"], ["of_a", "of_b"], "passage", "tokens").replace(
        {"of_a": names[0], "of_b": names[1]}
    )
    return (
        alt.Chart(inline(long))
        .mark_line(strokeWidth=2, point=True)
        .encode(
            alt.X("t:Q", title="position, from the first text's vector (0) to the second's (1)"),
            alt.Y("tokens:Q", title="right tokens"),
            alt.Color("passage:N", title=None, sort=list(names), legend=alt.Legend(orient="top", labelLimit=300)),
            tooltip=["passage:N", "t:Q", "tokens:Q", "written:N"],
        )
        .properties(width=560, height=220)
    )


@chart
def survival(table: pd.DataFrame, column: str, *, title: str) -> Any:
    """Share of changed vectors that are still exact, and share of right tokens, by the size of the change.

    Columns ``share low high tokens_right`` and ``column``, the size. ``title`` names the x axis.
    """
    base = alt.Chart(inline(table)).encode(
        alt.X(f"{column}:Q", title=title, axis=SHARE),
        tooltip=[alt.Tooltip(f"{column}:Q", format=".0%"), alt.Tooltip("share:Q", format=".0%")],
    )
    y = alt.Scale(domain=[0, 1])
    band = base.mark_area(color=BLUE, opacity=0.2).encode(alt.Y("low:Q", scale=y, title=None), alt.Y2("high:Q"))
    line = base.mark_line(color=BLUE, strokeWidth=2, point=alt.OverlayMarkDef(color=BLUE)).encode(
        alt.Y("share:Q", scale=y, title="still exact (line), tokens right (dashed)", axis=SHARE)
    )
    right = base.mark_line(color=ORANGE, strokeDash=[5, 4], strokeWidth=2).encode(alt.Y("tokens_right:Q", scale=y))
    return alt.layer(band, line, right).properties(width=480, height=240)


@chart
def radii_by_direction(table: pd.DataFrame) -> Any:
    """Exact radius by direction, one tick per vector. Columns ``direction radius fails text_id margin``.

    Thick ticks are medians. An arrow marks a radius whose search ended before any failure (``fails`` is infinite).
    Radii below 0.1 % are drawn at 0.1 %.
    """
    shown = table.assign(radius=table.radius.clip(lower=1e-3), open=~np.isfinite(table.fails.astype(float)))
    base = alt.Chart(inline(shown.drop(columns="fails"))).encode(
        alt.Y("direction:N", title=None, sort=None, axis=alt.Axis(labelFontSize=13)),
        alt.X(
            "radius:Q",
            title="exact radius, share of the vector's norm (log)",
            scale=alt.Scale(type="log"),
            axis=alt.Axis(format="~%", tickCount=5),
        ),
    )
    tooltip: Any = ["text_id:N", alt.Tooltip("radius:Q", format=".1%"), alt.Tooltip("margin:Q", format=".2f"), "open:N"]
    ticks = base.transform_filter("!datum.open").mark_tick(thickness=2, size=22, opacity=0.7, color=BLUE)
    beyond = base.transform_filter("datum.open").mark_point(shape="triangle-right", size=90, filled=True, color=BLUE)
    middle = base.mark_tick(thickness=4, size=36, color=ORANGE).encode(alt.X("median(radius):Q"))
    layers = [ticks.encode(tooltip=tooltip), beyond.encode(tooltip=tooltip), middle]
    return alt.layer(*layers).properties(width=480, height=alt.Step(42))


@chart
def scatter(table: pd.DataFrame, x: str, y: str, *, x_title: str, y_title: str, tooltip: list[str]) -> Any:
    """Column ``y`` by column ``x``, one point per row. ``tooltip`` lists the columns of the tooltip."""
    y_axis = alt.Y(f"{y}:Q", title=y_title, scale=alt.Scale(zero=False))
    types = {name: "Q" if pd.api.types.is_numeric_dtype(table[name]) else "N" for name in tooltip}
    return (
        alt.Chart(inline(table, *dict.fromkeys((x, y, *tooltip))))
        .mark_circle(size=50, opacity=0.7, color=BLUE)
        .encode(alt.X(f"{x}:Q", title=x_title), y_axis, tooltip=[f"{name}:{kind}" for name, kind in types.items()])
        .properties(width=440, height=260)
    )


@chart
def loss_plane(table: pd.DataFrame, marks: pd.DataFrame) -> Any:
    """Loss over a plane of vectors; exact places are framed. Columns ``x y bits exact``; of ``marks``: ``x y name``."""
    steps = np.diff(np.sort(table.x.dropna().unique()))
    step = float(steps.min()) if len(steps) else 1.0
    cells = table.assign(x1=table.x - step / 2, x2=table.x + step / 2, y1=table.y - step / 2, y2=table.y + step / 2)
    base = alt.Chart(inline(cells)).encode(
        alt.X("x1:Q", title="position along the line between the two", scale=alt.Scale(nice=False)), alt.X2("x2:Q"),
        alt.Y("y1:Q", title="position across the line", scale=alt.Scale(nice=False)), alt.Y2("y2:Q"),
        tooltip=["x:Q", "y:Q", alt.Tooltip("bits:Q", format=".2f"), "exact:N"],
    )  # fmt: skip
    ground = base.mark_rect().encode(
        alt.Color("bits:Q", title="bits per token", scale=alt.Scale(scheme="viridis", reverse=True))
    )
    exact = base.transform_filter("datum.exact").mark_rect(fillOpacity=0, stroke=ORANGE, strokeWidth=2)
    named = alt.Chart(inline(marks))
    dots = named.mark_point(color="white", size=90, filled=True, stroke="black").encode(alt.X("x:Q"), alt.Y("y:Q"))
    text = named.mark_text(color="white", dy=-14, fontWeight="bold", fontSize=13).encode(
        alt.X("x:Q"), alt.Y("y:Q"), alt.Text("name:N")
    )
    return alt.layer(ground, exact, dots, text).properties(width=400, height=360)


@chart
def attention_map(table: pd.DataFrame, column: str, *, title: str, subtitle: str = "") -> Any:
    """Share of attention by layer and head. Columns ``layer head`` and ``column``, the share."""
    return (
        alt.Chart(inline(table, "layer", "head", column))
        .mark_rect()
        .encode(
            alt.X("layer:O", title="layer", axis=alt.Axis(labelAngle=0, values=list(range(0, 1000, 5)))),
            alt.Y("head:O", title="head"),
            alt.Color(f"{column}:Q", title=None, scale=alt.Scale(scheme="viridis", domain=[0, 1]),
                      legend=alt.Legend(format="%")),
            tooltip=["layer:Q", "head:Q", alt.Tooltip(f"{column}:Q", format=".1%")],
        )
        .properties(width=480, height=alt.Step(16), title=alt.Title(title, subtitle=subtitle or alt.Undefined))
    )  # fmt: skip


@chart
def knocked_out(table: pd.DataFrame) -> Any:
    """Teacher-forced accuracy with the vector hidden from some layers. Columns ``layer mode accuracy low high``."""
    names = {"only": "this layer only", "from": "this and later layers", "until": "this and earlier layers"}
    shown = table[table["mode"].isin(names)].assign(hidden=table["mode"].map(names))
    order = list(names.values())
    base = alt.Chart(inline(shown)).encode(
        alt.X("layer:Q", title="layer", axis=alt.Axis(tickMinStep=1)),
        alt.Color("hidden:N", title="hidden from", sort=order, legend=alt.Legend(symbolOpacity=1, symbolStrokeWidth=3)),
        tooltip=["hidden:N", "layer:Q", alt.Tooltip("accuracy:Q", format=".0%")],
    )
    y = alt.Scale(domain=[0, 1])
    band = base.mark_area(opacity=0.15).encode(alt.Y("low:Q", scale=y, title=None), alt.Y2("high:Q"))
    line = base.mark_line(strokeWidth=2, point=True).encode(
        alt.Y("accuracy:Q", scale=y, title="tokens right, teacher-forced", axis=SHARE)
    )
    return alt.layer(band, line).properties(width=520, height=260)


@chart
def token_waterfall(table: pd.DataFrame) -> Any:
    """Bits of each token without the vector and with it. Columns ``position token before after``.

    More than 128 tokens are drawn in groups of neighbours; a bar is the mean of a group, and the axis says so.
    """
    size = -(-len(table) // _CELLS)
    group = np.arange(len(table)) // size
    shown = table.groupby(group).agg({"position": "first", "token": "".join, "before": "mean", "after": "mean"})
    short = [t if len(t) < 16 else f"{t[:15]}…" for t in shown.token]  # vl-convert needs 50 ms to cut a label
    shown = shown.assign(label=[f"{p:>3} {t!r}" for p, t in zip(shown.position, short, strict=True)])
    # Sorted by label: Vega would put the first token last, because it has no cost without the vector.
    axis = alt.Axis(labelFont="monospace", labelFontSize=11, labelLimit=200)
    y = alt.Y("label:N", title=None, sort=shown.label.tolist(), axis=axis)
    tooltip: Any = ["token:N", alt.Tooltip("before:Q", format=".2f"), alt.Tooltip("after:Q", format=".4f")]
    base = alt.Chart(inline(shown)).encode(y, tooltip=tooltip)
    unit = "bits" if size == 1 else f"bits per token, means of {size}"
    before = base.mark_bar(color=GREY, opacity=0.5).encode(
        alt.X("before:Q", title=f"{unit}: without the vector (grey), with it (orange)")
    )
    after = base.mark_bar(color=ORANGE).encode(alt.X("after:Q"))
    return alt.layer(before, after).properties(width=420, height=alt.Step(15))
