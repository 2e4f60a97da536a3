"""Charts of capacity: how much text a vector holds, by model, number of vectors, attempt and codec."""

from __future__ import annotations

import itertools
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from memlab.charts.colours import OTHERS, OURS, PUBLISHED, expression, kinds_scale, labels, palette, scale
from memlab.charts.names import display
from memlab.charts.rows import chart, inline
from memlab.charts.tables import significant
from memlab.charts.theme import GREY, SHARE

_TICKS = [16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192]


OUTCOME = alt.Scale(domain=["exact", "not exact"], range=["circle", "cross"])


@chart
def capacity_by_model(table: pd.DataFrame, arrow: str = "") -> Any:
    """Tokens that one vector holds, by the numbers in it; both axes are logarithmic.

    Columns ``model texts d tokens low high method``. ``low`` and ``high`` are an interval or a spread, or missing. Grey
    lines mark one token per number, per 10 and per 100. ``arrow``: the model whose smallest and largest value on
    natural text an arrow joins. Points carry their model's name where there is room.
    """
    width, height, domain, range_ = 660, 380, [400, 5200], [8, 5200]
    x = alt.Scale(type="log", domain=domain, nice=False)
    y = alt.Scale(type="log", domain=range_, nice=False)
    shares = ((1, "1 token per number"), (10, "1 per 10 numbers"), (100, "1 per 100"))
    lines = pd.DataFrame([(d, d / n, name) for n, name in shares for d in domain], columns=["x", "y", "share"])
    guides = (
        alt.Chart(inline(lines))
        .mark_line(color=GREY, strokeDash=[3, 4], opacity=0.6, clip=True)
        .encode(alt.X("x:Q", scale=x), alt.Y("y:Q", scale=y), alt.Detail("share:N"))
    )
    names = (
        alt.Chart(inline(lines[lines.x == domain[1]]))
        .mark_text(align="left", dx=4, fontSize=11)
        .encode(alt.X("x:Q", scale=x), alt.Y("y:Q", scale=y), alt.Text("share:N"))
    )
    methods = table.method.unique().tolist()
    key = alt.Legend(orient="top", columns=1, labelLimit=520, symbolOpacity=1, symbolStrokeWidth=0)
    values = [512, 768, 1024, 1536, 2048, 3072, 4096]
    base = alt.Chart(inline(table)).encode(
        alt.X("d:Q", scale=x, title="numbers in a vector (log)", axis=alt.Axis(values=values, grid=False)),
        alt.Color("method:N", title=None, sort=methods, scale=_methods(methods), legend=key),
        tooltip=[
            "model:N", "texts:N", "method:N", alt.Tooltip("tokens:Q", format=".0f"), alt.Tooltip("d:Q", format=",")
        ],
    )  # fmt: skip
    whiskers = base.mark_rule(strokeWidth=2, opacity=0.6, clip=True).encode(alt.Y("low:Q", scale=y), alt.Y2("high:Q"))
    shapes = alt.Scale(domain=methods, range=[*("circle", "square", "diamond")[: len(methods) - 1], "triangle-up"])
    points = base.mark_point(size=80, filled=True, opacity=0.9).encode(
        alt.Y("tokens:Q", scale=y, title="tokens in one vector (log)", axis=alt.Axis(values=_TICKS, grid=False)),
        alt.Shape("method:N", title=None, sort=methods, scale=shapes, legend=key),
    )
    bits = (  # a second axis: the same numbers as bits
        alt.Chart(inline(table))
        .mark_point(opacity=0)
        .encode(
            alt.X(
                "d:Q", scale=x, title="bits in it, at 16 per number (log)",
                axis=alt.Axis(orient="top", values=values, grid=False, labelExpr="format(datum.value * 16, ',')"),
            ),
            alt.Y("tokens:Q", scale=y),
        )
    )  # fmt: skip
    labels = _labelled(table, arrow, width, height, domain, range_)
    spots = [
        alt.Chart(inline(labels[labels.side == side]))
        .mark_text(align=side, dx=9 if side == "left" else -9, fontSize=11)
        .encode(alt.X("d:Q", scale=x), alt.Y("tokens:Q", scale=y), alt.Text("name:N"))
        for side in ("left", "right")
    ]
    layers = [guides, names, whiskers, points, *spots]
    same = table[(table.model == arrow) & (table.texts != "random")]
    if len(same) > 1:
        ends = alt.Chart(inline(same)).encode(alt.X("d:Q", scale=x))
        y_from, y_to = alt.Y("min(tokens):Q", scale=y), alt.Y2("max(tokens):Q")
        layers.append(ends.mark_rule(color=OURS, strokeWidth=3, opacity=0.5).encode(y_from, y_to))
    drawn = alt.layer(alt.layer(*layers), bits).resolve_axis(x="independent")
    return drawn.properties(width=width, height=height)


def _methods(methods: list[str]) -> alt.Scale:
    """Ours blue, everything published orange: the shape of a point says which publication."""
    return alt.Scale(domain=methods, range=[PUBLISHED if "arXiv" in name else OURS for name in methods])


def _labelled(
    table: pd.DataFrame, arrow: str, width: int, height: int, domain: list[int], range_: list[int]
) -> pd.DataFrame:
    """The points with room for a name, ``d tokens name side``: on ``side`` of the text no other mark is covered."""

    drawn = np.isfinite(table.d) & np.isfinite(table.tokens) & (table.d > 0) & (table.tokens > 0)
    table = table[drawn].reset_index(drop=True)

    def place(values: pd.Series, ends: list[int], pixels: int) -> np.ndarray:
        low, high = np.log(ends)
        return np.asarray((np.log(values.to_numpy(float)) - low) / (high - low) * pixels)

    xs, ys = place(table.d, domain, width), place(table.tokens, range_, height)
    boxes = [(x - 7, x + 7, y - 7, y + 7) for x, y in zip(xs, ys, strict=True)]
    rows, seen = [], set()
    ours_first = sorted(range(len(table)), key=lambda i: ("arXiv" in table.method.iloc[i], -ys[i]))
    for i in ours_first:
        row = table.iloc[i]
        name = "random words" if row.texts == "random" else display(row.model)
        if row.model == arrow and row.texts != "random":
            name = significant(row.tokens) if "arXiv" in row.method else f"{name}: {significant(row.tokens)}"
        size, x, y = 6.2 * len(name), xs[i], ys[i]
        for side, (left, right) in (("left", (x + 8, x + 8 + size)), ("right", (x - 8 - size, x - 8))):
            free = all(right < a or left > b or y + 7 < c or y - 7 > e for a, b, c, e in boxes)
            if free and left > 0 and right < width and (name, row.method) not in seen:
                boxes.append((left, right, y - 7, y + 7))
                seen.add((name, row.method))
                rows.append((row.d, row.tokens, name, side))
                break
    return pd.DataFrame(rows, columns=["d", "tokens", "name", "side"])


@chart
def bits_per_number(table: pd.DataFrame) -> Any:
    """Bits per number of a vector, a dot per model. Columns ``model texts bits_per_dimension method``.

    ``method`` is ``ours`` or ``published``. The largest value is at the top.
    """
    named = [
        f"{display(row.model)}, {display(row.texts)}" if row.method == "ours" else display(row.model)
        for row in table.itertuples()
    ]
    shown = table.assign(name=named).sort_values("bits_per_dimension", ascending=False)
    said = expression({"ours": "memlab", "published": "published, arXiv 2502.13063"})
    key = alt.Legend(orient="top", labelExpr=said, labelLimit=260)
    return (
        alt.Chart(inline(shown))
        .mark_point(size=90, filled=True, opacity=1)
        .encode(
            alt.X("bits_per_dimension:Q", title="bits per number of the vector", scale=alt.Scale(zero=True)),
            alt.Y("name:N", title="model", sort=None, axis=alt.Axis(grid=True, labelLimit=240)),
            alt.Color("method:N", title=None, scale=scale(["ours", "published"]), legend=key),
            tooltip=["name:N", "method:N", alt.Tooltip("bits_per_dimension:Q", format=".2f")],
        )
        .properties(width=420, height=alt.Step(18))
    )


def legend(names: list[str], orient: Any = "top") -> alt.Legend:
    """A legend in display names."""
    return alt.Legend(orient=orient, labelExpr=labels(names), labelLimit=260)


@chart
def more_vectors(table: pd.DataFrame) -> Any:
    """Tokens per vector, as a share of what one vector holds alone, one line per passage. A flat line: as much as one.

    Columns ``k tokens share series text_id``. A series is named ``MODEL, KIND OF TEXT`` or ``MODEL, published``.
    Published series have a dash pattern per model. The colour of a measured series shows its kind of text.
    """
    series = table.series.unique().tolist()
    published = [name for name in series if name.endswith(", published")]
    measured = [name for name in series if name not in published]
    kinds = [name.rpartition(", ")[2] for name in measured]
    if len(set(kinds)) < len(kinds):  # several models: coloured by kind, two of their lines would look alike
        colours = dict(zip(measured, itertools.cycle(OTHERS), strict=False))
    else:
        of_kind = palette(kinds)
        colours = {name: of_kind[kind] for name, kind in zip(measured, kinds, strict=True)}
    dashes = {name: ([2, 3], [8, 4], [8, 3, 2, 3])[i % 3] for i, name in enumerate(published)}
    shown = {name: _series(name) for name in series}
    powers = [2**i for i in range(12) if 2**i <= table.k.max()] or [1]
    lines = (
        alt.Chart(inline(table.assign(series=table.series.map(shown))))
        .mark_line(strokeWidth=2, opacity=0.8, point=alt.OverlayMarkDef(size=50))
        .encode(
            alt.X(
                "k:Q", title="vectors side by side (log)", scale=alt.Scale(type="log", base=2),
                axis=alt.Axis(values=powers, format="d"),
            ),
            alt.Y("share:Q", title="tokens per vector, of what one holds alone", axis=SHARE),
            alt.Color(
                "series:N",
                title=None,
                scale=alt.Scale(
                    domain=list(shown.values()), range=[colours.get(name, PUBLISHED) for name in series]
                ),
                legend=alt.Legend(orient="right", labelLimit=300, symbolType="stroke", symbolStrokeWidth=2),
            ),
            alt.StrokeDash(
                "series:N",
                title=None,
                scale=alt.Scale(domain=list(shown.values()), range=[dashes.get(name, [1, 0]) for name in series]),
            ),
            alt.Detail("text_id:N"),
            tooltip=[
                "series:N", "text_id:N", "k:Q", alt.Tooltip("tokens:Q", format=".0f"),
                alt.Tooltip("share:Q", format=".0%"),
            ],
        )
    )  # fmt: skip
    ends = pd.DataFrame({"k": [powers[0], powers[-1]], "share": 1.0})
    one = alt.Chart(inline(ends)).encode(alt.X("k:Q"), alt.Y("share:Q"))
    flat = one.mark_line(color=GREY, strokeWidth=2, strokeDash=[5, 4])
    said = one.transform_filter(f"datum.k == {powers[-1]}").mark_text(align="right", dy=-9, text="as much as the first")
    return alt.layer(flat, lines, said).properties(width=560, height=300)


def _series(name: str) -> str:
    model, _, kind = name.rpartition(", ")
    return f"{display(model)}, {'published' if kind == 'published' else display(kind)}" if model else name


@chart
def codec_bars(table: pd.DataFrame) -> Any:
    """Stored bits per token by codec, smallest first, on a logarithmic axis. Columns ``codec texts bits_a_token``."""
    order = table.groupby("codec").bits_a_token.mean().sort_values().index.tolist()
    names = {codec: ", ".join(display(part) for part in str(codec).split(", ")) for codec in order}
    return (
        alt.Chart(inline(table))
        .mark_point(size=90, filled=True)
        .encode(
            alt.X(
                "bits_a_token:Q", title="stored bits per token (log)", scale=alt.Scale(type="log", base=2),
                axis=alt.Axis(values=[2, 4, 8, 16, 32, 64, 128, 256]),
            ),
            alt.Y(
                "codec:N", title="stored as", sort=order,
                axis=alt.Axis(labelLimit=260, grid=True, labelExpr=expression(names)),
            ),
            alt.Color("texts:N", title=None, scale=kinds_scale(table), legend=legend(kinds_scale(table).domain)),
            tooltip=["codec:N", "texts:N", alt.Tooltip("bits_a_token:Q", format=".3g")],
        )
        .properties(width=460, height=alt.Step(26))
    )  # fmt: skip


@chart
def horizon_strip(table: pd.DataFrame) -> Any:
    """Exact horizons in tokens, one tick per passage. Thick: medians. Columns ``method text_id source horizon``."""
    base = alt.Chart(inline(table, "method", "text_id", "source", "horizon")).encode(
        alt.X("horizon:Q", title="exact horizon, tokens"),
        alt.Y("method:N", title=None, sort=None, axis=alt.Axis(labelFontSize=13, labelLimit=200)),
    )
    ticks = base.mark_tick(thickness=2, size=26, opacity=0.7).encode(
        alt.Color("source:N", title="texts"), tooltip=["text_id:N", "source:N", "horizon:Q"]
    )
    middle = base.mark_tick(thickness=4, size=40, color=GREY).encode(alt.X("median(horizon):Q"))
    return alt.layer(ticks, middle).properties(width=560, height=alt.Step(50))


def outcomes(runs: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Only these columns, and ``outcome``. A table of runs also has columns of arrays, which a chart cannot hold."""
    return runs[list(columns)].assign(outcome=runs.exact.map({True: "exact", False: "not exact"}))
