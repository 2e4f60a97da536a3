"""Charts of capacity: how much text a vector holds, by model, number of vectors, attempt and codec."""

from __future__ import annotations

import itertools
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from memlab.charts.colours import EXACT, OURS, PUBLISHED, RANDOM, kinds_scale, palette
from memlab.charts.rows import chart, inline, thin
from memlab.charts.theme import GREY

_TICKS = [16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192]


OUTCOME = alt.Scale(domain=["exact", "not exact"], range=["circle", "cross"])


@chart
def capacity_by_model(table: pd.DataFrame) -> Any:
    """Tokens that one vector holds, by its theoretical capacity in tokens; both axes are logarithmic.

    Columns ``model theoretical tokens low high method``. ``low`` and ``high`` are an interval or a spread, or missing.
    Grey lines mark 100 %, 10 % and 1 % of the theoretical capacity.
    """
    domain = [450, 5000]
    lines = pd.DataFrame(
        [(x, share * x, f"{share:.0%}") for share in (1, 0.1, 0.01) for x in domain], columns=["x", "y", "share"]
    )
    x = alt.Scale(type="log", domain=domain, nice=False)
    y = alt.Scale(type="log", domain=[8, 5000], nice=False)
    guides = (
        alt.Chart(inline(lines))
        .mark_line(color=GREY, strokeDash=[3, 4], opacity=0.6, clip=True)
        .encode(alt.X("x:Q", scale=x), alt.Y("y:Q", scale=y), alt.Detail("share:N"))
    )
    names = (
        alt.Chart(inline(lines[lines.x == domain[1]]))
        .mark_text(color=GREY, align="left", dx=4, fontSize=11)
        .encode(alt.X("x:Q", scale=x), alt.Y("y:Q", scale=y), alt.Text("share:N"))
    )
    methods = table.method.unique().tolist()
    base = alt.Chart(inline(table)).encode(
        alt.X(
            "theoretical:Q", scale=x, title="theoretical capacity in tokens, 16 bits per dimension (log)",
            axis=alt.Axis(values=[500, 750, 1000, 1500, 2000, 3000, 4000], grid=False),
        ),
        alt.Color(
            "method:N", title=None, sort=methods,
            scale=alt.Scale(domain=methods, range=[PUBLISHED, OURS, EXACT, RANDOM]),
            legend=alt.Legend(orient="top", columns=1, labelLimit=520, symbolOpacity=1, symbolStrokeWidth=0),
        ),
        tooltip=[
            "model:N", "method:N", alt.Tooltip("tokens:Q", format=".0f"), alt.Tooltip("theoretical:Q", format=".0f"),
        ],
    )  # fmt: skip
    whiskers = base.mark_rule(strokeWidth=2, opacity=0.6, clip=True).encode(alt.Y("low:Q", scale=y), alt.Y2("high:Q"))
    points = base.mark_point(size=80, filled=True, opacity=0.9).encode(
        alt.Y("tokens:Q", scale=y, title="tokens in one vector (log)", axis=alt.Axis(values=_TICKS, grid=False)),
        alt.Shape("method:N", title=None, sort=methods, legend=None),
    )
    return alt.layer(guides, names, whiskers, points).properties(width=600, height=360)


@chart
def more_vectors(table: pd.DataFrame) -> Any:
    """Tokens by number of vectors, one line per passage, both axes logarithmic. Columns ``k tokens series text_id``.

    A series is named ``MODEL, KIND OF TEXT`` or ``MODEL, published``. Published series are grey, with a dash pattern
    per model. The colour of a measured series shows its kind of text.
    """
    series = table.series.unique().tolist()
    published = [name for name in series if name.endswith(", published")]
    measured = [name for name in series if name not in published]
    kinds = [name.rpartition(", ")[2] for name in measured]
    if len(set(kinds)) < len(kinds):  # several models: coloured by kind, two of their lines would look alike
        colours = dict(zip(measured, itertools.cycle((OURS, PUBLISHED, EXACT, RANDOM)), strict=False))
    else:
        of_kind = palette(kinds)
        colours = {name: of_kind[kind] for name, kind in zip(measured, kinds, strict=True)}
    dashes = {name: ([2, 3], [8, 4], [8, 3, 2, 3])[i % 3] for i, name in enumerate(published)}
    return (
        alt.Chart(inline(table))
        .mark_line(strokeWidth=2, opacity=0.8, point=alt.OverlayMarkDef(size=50))
        .encode(
            alt.X("k:Q", title="vectors, k (log)", scale=alt.Scale(type="log", base=2), axis=alt.Axis(tickCount=6)),
            alt.Y("tokens:Q", title="tokens (log)", scale=alt.Scale(type="log", base=2), axis=alt.Axis(values=_TICKS)),
            alt.Color(
                "series:N",
                title=None,
                scale=alt.Scale(domain=series, range=[colours.get(name, GREY) for name in series]),
                legend=alt.Legend(orient="right", labelLimit=260, symbolType="stroke", symbolStrokeWidth=2),
            ),
            alt.StrokeDash(
                "series:N",
                title=None,
                scale=alt.Scale(domain=series, range=[dashes.get(name, [1, 0]) for name in series]),
            ),
            alt.Detail("text_id:N"),
            tooltip=["series:N", "text_id:N", "k:Q", alt.Tooltip("tokens:Q", format=".0f")],
        )
        .properties(width=460, height=280)
    )


@chart
def attempts_by_length(attempts: pd.DataFrame) -> Any:
    """Bits that the text still costs with the vector, by length in tokens: one point per attempt on a passage.

    Columns ``length bits_with exact seed``. Both axes start at 0. Exact vectors lie near 0 bits.
    """
    table = outcomes(attempts, "length", "seed", "bits_with")
    return (
        alt.Chart(inline(table))
        .mark_point(size=90, filled=True, opacity=0.85)
        .encode(
            alt.X("length:Q", title="tokens", scale=alt.Scale(zero=True)),
            alt.Y("bits_with:Q", title="bits left", scale=alt.Scale(zero=True)),
            alt.Color(
                "outcome:N", title=None, legend=alt.Legend(orient="right"),
                scale=alt.Scale(domain=["exact", "not exact"], range=[OURS, PUBLISHED]),
            ),
            alt.Shape("outcome:N", title=None, scale=OUTCOME),
            tooltip=["length:Q", "seed:Q", "outcome:N", alt.Tooltip("bits_with:Q", format=".1f")],
        )
        .properties(width=520, height=170)
    )  # fmt: skip


@chart
def bits_along(bits_without: Any, bits_with: Any, exact_prefix: int) -> Any:
    """Cumulative bits of one text, without and with its vector. ``bits_without`` and ``bits_with`` (n,): per token.

    A vertical line marks the first wrong token of the free decode, if there is one.

    >>> bits_along([2.0, 3.0], [0.5, 0.0], exact_prefix=2).to_dict()["title"]
    'All 2 tokens come back'
    """
    n = len(bits_without)
    names = ["without the vector", "with the vector"]
    sums = pd.DataFrame(dict(zip(names, (np.nancumsum(bits_without), np.nancumsum(bits_with)), strict=True)))
    sums.insert(0, "token", range(1, n + 1))
    shown = thin(sums, "token", *names, pixels=520)
    table = shown.melt("token", var_name="condition", value_name="bits")
    base = alt.Chart(inline(table)).encode(
        alt.X("token:Q", title="token of the text", scale=alt.Scale(domain=[0, n], nice=False)),
        alt.Color(
            "condition:N",
            title=None,
            sort=None,
            scale=alt.Scale(range=[GREY, OURS]),
            legend=alt.Legend(orient="right"),
        ),
        tooltip=["token:Q", "condition:N", alt.Tooltip("bits:Q", format=".1f")],
    )
    lines = base.mark_line(strokeWidth=2.5).encode(alt.Y("bits:Q", title="bits, cumulative"))
    title = f"The first {exact_prefix} of {n} tokens come back" if exact_prefix < n else f"All {n} tokens come back"
    if exact_prefix >= n:
        return lines.properties(width=520, height=200, title=title)
    rule = alt.Chart(inline(pd.DataFrame({"token": [exact_prefix]}))).mark_rule(
        color=PUBLISHED, strokeWidth=2, strokeDash=[5, 3]
    )
    return alt.layer(lines, rule.encode(alt.X("token:Q"))).properties(width=520, height=200, title=title)


@chart
def codec_bars(table: pd.DataFrame) -> Any:
    """Stored bits per token by codec, smallest first, on a logarithmic axis. Columns ``codec texts bits_a_token``."""
    order = table.groupby("codec").bits_a_token.mean().sort_values().index.tolist()
    return (
        alt.Chart(inline(table))
        .mark_point(size=90, filled=True)
        .encode(
            alt.X(
                "bits_a_token:Q", title="stored bits per token (log)", scale=alt.Scale(type="log", base=2),
                axis=alt.Axis(values=[2, 4, 8, 16, 32, 64, 128, 256]),
            ),
            alt.Y("codec:N", title=None, sort=order, axis=alt.Axis(labelFontSize=13, labelLimit=260, grid=True)),
            alt.Color("texts:N", title=None, scale=kinds_scale(table)),
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
