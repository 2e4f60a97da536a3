"""Charts of information: the same horizons in tokens and in bits, and their prediction."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from memlab.charts.capacity import OUTCOME, outcomes
from memlab.charts.colours import kinds_scale
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

    def strip(column: str, title: str, axis: alt.Axis | None) -> Any:
        middle = sum(spans[column]) / 2
        scale = alt.Scale(
            type="log", base=2, nice=False, domain=[2 ** (middle - octaves / 2), 2 ** (middle + octaves / 2)]
        )
        base = alt.Chart(inline(table)).encode(alt.Y("texts:N", title=None, sort=None, axis=axis))
        ticks = base.mark_tick(thickness=2, size=26, opacity=0.75).encode(
            alt.X(f"{column}:Q", title=title, scale=scale, axis=alt.Axis(tickCount=6, format="d")),
            alt.Color("texts:N", legend=None, scale=kinds_scale(table)),
            tooltip=["text_id:N", alt.Tooltip(f"{column}:Q", format=".0f")],
        )
        medians = base.mark_tick(thickness=4, size=42, color=GREY).encode(alt.X(f"median({column}):Q"))
        return alt.layer(ticks, medians).properties(width=300, height=alt.Step(50))

    left = strip("horizon", "exact horizon, tokens (log)", alt.Axis(labelFontSize=13, labelLimit=140))
    return alt.hconcat(left, strip("horizon_bits", "the same, bits (log)", None), spacing=30)


@chart
def before_and_after(runs: pd.DataFrame, vector_bits: float) -> Any:
    """Bits of a text with its vector, by bits without it. Dashed: ``with = max(0, without - vector_bits)``.

    Columns ``bits_without bits_with texts text_id length exact``.
    """
    top = float(runs.bits_without.max()) * 1.05
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
            alt.X("bits_without:Q", title="bits the text costs without the vector"),
            alt.Y("bits_with:Q", title="bits with the vector"),
            alt.Color("texts:N", title=None, scale=kinds_scale(runs), legend=alt.Legend(orient="top-left")),
            alt.Shape("outcome:N", title=None, scale=OUTCOME, legend=alt.Legend(orient="top-left")),
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
    colour = [alt.Color("texts:N", title=None, scale=kinds_scale(table))] if "texts" in table else []
    base = alt.Chart(inline(table)).encode(
        alt.Y("true:Q", title="exact horizon, tokens", scale=scale), *colour,
        tooltip=["text_id:N", "true:Q", alt.Tooltip("predicted:Q", format=".0f")],
    )  # fmt: skip
    whiskers = base.mark_rule(opacity=0.4).encode(alt.X("low:Q", scale=scale), alt.X2("high:Q"))
    points = base.mark_point(size=55, filled=True).encode(
        alt.X("predicted:Q", title="predicted before any training, tokens", scale=scale)
    )
    return alt.layer(same, whiskers, points).properties(width=420, height=300)
