"""Charts of information: the same horizons in tokens and in bits, and their prediction."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from memlab.charts.capacity import OUTCOME, legend, outcomes
from memlab.charts.colours import expression, kinds_scale, labels
from memlab.charts.names import display
from memlab.charts.rows import chart, inline, no_data
from memlab.charts.theme import GREY


@chart
def horizons_tokens_and_bits(table: pd.DataFrame) -> Any:
    """Exact horizons by kind of text, in tokens on the left and in bits on the right. Thick ticks are medians.

    Columns ``texts text_id horizon horizon_bits``. Both axes are logarithmic and span the same number of octaves, so
    equal ratios have equal lengths in both plots.
    """
    spans = {}
    for column in ("horizon", "horizon_bits"):
        values = table[column][(table[column] > 0) & np.isfinite(table[column])]
        if values.empty:
            return no_data()
        spans[column] = (float(np.log2(values.min())), float(np.log2(values.max())))
    octaves = max(high - low for low, high in spans.values()) + 0.4

    kinds = kinds_scale(table)

    def strip(column: str, title: str, axis: alt.Axis | None) -> Any:
        middle = sum(spans[column]) / 2
        domain = [2 ** (middle - octaves / 2), 2 ** (middle + octaves / 2)]
        scale = alt.Scale(type="log", base=2, nice=False, domain=domain)
        base = alt.Chart(inline(table)).encode(
            alt.Y("texts:N", title="kind of text" if axis else None, sort=kinds.domain, axis=axis)
        )
        ticks = base.mark_tick(thickness=2, size=26, opacity=0.75).encode(
            alt.X(f"{column}:Q", title=title, scale=scale, axis=alt.Axis(values=_round(*domain), format="d")),
            alt.Color("texts:N", legend=None, scale=kinds),
            tooltip=["text_id:N", alt.Tooltip(f"{column}:Q", format=".0f")],
        )
        medians = base.mark_tick(thickness=4, size=42, color=GREY).encode(alt.X(f"median({column}):Q"))
        return alt.layer(ticks, medians).properties(width=380, height=alt.Step(50))

    names = alt.Axis(labelFontSize=13, labelLimit=140, labelExpr=labels(kinds.domain))
    left = strip("horizon", "tokens that come back (log); thick: median", names)
    right = strip("horizon_bits", "the same passages, in bits (log); thick: median", None)
    return alt.hconcat(left, right, spacing=30)


def _round(low: float, high: float) -> list[float]:
    """Numbers from ``low`` to ``high`` for the labels of a logarithmic axis.

    >>> _round(50, 220)
    [60, 80, 100, 150, 200]
    """
    steps = [m * 10**n for n in range(7) for m in (1, 1.5, 2, 3, 4, 6, 8)]
    return [int(step) if step >= 10 else step for step in steps if low <= step <= high]


@chart
def cut_into_tokens(table: pd.DataFrame) -> Any:
    """One bar per passage: the bits that its tokens cost without the vector, cut where each token ends.

    Columns ``texts text_id token_bits``; ``token_bits`` (n,) per row.
    """
    kinds = kinds_scale(table)
    pieces, names = [], {}
    for row in table.itertuples():
        ends = np.nancumsum(np.asarray(row.token_bits, float))
        names[row.texts] = f"{display(row.texts)}: {len(ends)} tokens"
        starts = np.concatenate([[0.0], ends[:-1]])
        token = range(1, len(ends) + 1)
        pieces.append(
            pd.DataFrame({"texts": row.texts, "token": token, "from": starts, "to": ends, "bits": ends - starts})
        )
    data = pd.concat(pieces, ignore_index=True).assign(odd=lambda t: t.token % 2)
    axis = alt.Axis(labelFontSize=13, labelLimit=240, labelExpr=expression(names))
    return (
        alt.Chart(inline(data))
        .mark_bar(height=34)
        .encode(
            alt.X("from:Q", title="bits that the tokens cost the model without the vector, added up"),
            alt.X2("to:Q"),
            alt.Y("texts:N", title=None, sort=kinds.domain, axis=axis),
            alt.Color("texts:N", scale=kinds, legend=None),
            alt.Opacity("odd:N", scale=alt.Scale(domain=[0, 1], range=[0.4, 1]), legend=None),
            tooltip=["token:Q", alt.Tooltip("bits:Q", format=".1f")],
        )
        .properties(width=760, height=alt.Step(46))
    )


@chart
def spread_by_charge(table: pd.DataFrame) -> Any:
    """How far the kinds of text lie apart, by extra bits charged per token. Columns ``charge spread chance``, octaves.

    Below the grey area's edge, the kinds differ no more than passages dealt to the kinds at random do (95 %).
    """
    base = alt.Chart(inline(table)).encode(alt.X("charge:Q", title="extra bits charged per token"))
    tips = [alt.Tooltip("charge:Q"), alt.Tooltip("spread:Q", format=".3f"), alt.Tooltip("chance:Q", format=".3f")]
    chance = base.mark_area(color=GREY, opacity=0.25).encode(alt.Y("chance:Q"), tooltip=tips)
    line = base.mark_line(strokeWidth=2.5, point=alt.OverlayMarkDef(size=45)).encode(
        alt.Y("spread:Q", title="spread between the kinds, octaves"), tooltip=tips
    )
    said = pd.DataFrame({"charge": [table.charge.max()], "chance": [0.0]})
    words = alt.Chart(inline(said)).mark_text(align="right", dy=-10, text="no more than chance (95 %)")
    return alt.layer(line, chance, words.encode(alt.X("charge:Q"), alt.Y("chance:Q"))).properties(width=430, height=260)


@chart
def before_and_after(runs: pd.DataFrame, vector_bits: float) -> Any:
    """Bits of a text with its vector, by bits without it. Dashed: ``with = max(0, without - vector_bits)``.

    Columns ``bits_without bits_with texts text_id length exact``.
    """
    top, kinds = float(runs.bits_without.max()) * 1.05, kinds_scale(runs)
    shapes = alt.Legend(orient="top-left", symbolFillColor=GREY, symbolStrokeColor=GREY)
    line = pd.DataFrame({"x": [0.0, vector_bits, max(top, vector_bits)], "y": [0.0, 0.0, max(top - vector_bits, 0.0)]})
    fit = (
        alt.Chart(inline(line))
        .mark_line(color=GREY, strokeDash=[5, 4], strokeWidth=2)
        .encode(alt.X("x:Q"), alt.Y("y:Q"))
    )
    unchanged = (
        alt.Chart(inline(pd.DataFrame({"x": [0.0, top], "y": [0.0, top]})))
        .mark_line(color=GREY, opacity=0.4)
        .encode(alt.X("x:Q"), alt.Y("y:Q"))
    )
    points = (
        alt.Chart(inline(outcomes(runs, "text_id", "texts", "length", "bits_without", "bits_with")))
        .mark_point(size=55, filled=True, opacity=0.75)
        .encode(
            alt.X("bits_without:Q", title="bits of the text without the vector"),
            alt.Y("bits_with:Q", title="bits with the vector"),
            alt.Color("texts:N", title=None, scale=kinds, legend=legend(kinds.domain, "top-left")),
            alt.Shape("outcome:N", title=None, scale=OUTCOME, legend=shapes),
            tooltip=[
                "text_id:N", "length:Q", "outcome:N", alt.Tooltip("bits_without:Q", format=".0f"),
                alt.Tooltip("bits_with:Q", format=".1f"),
            ],
        )
    )  # fmt: skip
    return alt.layer(unchanged, fit, points).properties(width=560, height=320)


@chart
def predictions(table: pd.DataFrame) -> Any:
    """True horizons by predicted horizons and their intervals, tokens. Columns ``true predicted low high text_id``."""
    both = table[["true", "predicted"]].to_numpy(float)
    if not np.isfinite(both).any():
        return no_data()
    top = float(both[np.isfinite(both)].max()) * 1.1
    scale = alt.Scale(domain=[0, top], nice=False, clamp=True)
    same = (
        alt.Chart(inline(pd.DataFrame({"x": [0.0, top]})))
        .mark_line(color=GREY, opacity=0.5)
        .encode(alt.X("x:Q", scale=scale), alt.Y("x:Q", scale=scale))
    )
    kinds = kinds_scale(table) if "texts" in table else None
    colour = [alt.Color("texts:N", title=None, scale=kinds, legend=legend(kinds.domain))] if kinds else []
    base = alt.Chart(inline(table)).encode(
        alt.Y("true:Q", title="exact horizon, tokens", scale=scale), *colour,
        tooltip=["text_id:N", "true:Q", alt.Tooltip("predicted:Q", format=".0f")],
    )  # fmt: skip
    whiskers = base.mark_rule(opacity=0.4).encode(alt.X("low:Q", scale=scale), alt.X2("high:Q"))
    points = base.mark_point(size=55, filled=True).encode(
        alt.X("predicted:Q", title="predicted before any training, tokens", scale=scale)
    )
    return alt.layer(same, whiskers, points).properties(width=420, height=300)
