"""Smaller models: what breaks first when a model is rounded, pruned or cut, perplexity or its vectors."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from memlab.charts.colours import OTHERS, OURS, expression
from memlab.charts.rows import chart, finite, inline, no_data, with_data
from memlab.charts.theme import GREY, SHARE

KIND_COLOURS = {
    "full": OURS, "rounded": OTHERS[6], "pruned": OTHERS[1], "fewer layers": OTHERS[4], "early exit": OTHERS[7],
    "distilled": OTHERS[2],
}  # fmt: skip
"""{kind of smaller model: colour}."""
PANELS = {
    "transfer_exact": "stored vectors that still decode",
    "search_exact": "new searches that end exact",
    "held_share": "bits that a new vector holds",
}
"""{column of the summary: what it is, as a share of the full model's}."""
FEW = 2
"""Models that must have a measure; else it is not drawn."""
_WIDTH, _HEIGHT = 190, 250
_BEND = 0.05
"""Bits a token below which the axis is linear, and above which it is logarithmic."""


@chart
def what_breaks_first(points: pd.DataFrame, *, title: Any = "") -> Any:
    """One panel per measure, one point per model: ``model kind more_bits transfer_exact search_exact held_share``.

    x: bits a token more than the full model's. y: the measure, over the full model's. The curve is the full model's
    perplexity over the smaller one's, 2^-x: a point below it broke before perplexity did, a point above it held longer.
    Rows of ``measures.smaller_models.summary``. The selection ``pick`` holds the clicked ``model``.
    """
    shares = _shares(points)
    if shares.empty or shares[[*PANELS]].isna().all(axis=None):
        return no_data()
    high = max(1.0, float(shares.more_bits.max()) * 1.15)
    low = min(-0.2 * _BEND, float(shares.more_bits.min()) * 1.15)
    x = alt.X(
        "more_bits:Q",
        title="bits a token more (log)",
        scale=alt.Scale(type="symlog", constant=_BEND, domain=[low, high], nice=False),
        axis=alt.Axis(format="~g", values=[v for v in (0, 0.1, 0.3, 1, 3, 10) if v <= high]),
    )
    colours = KIND_COLOURS | {kind: OTHERS[-1] for kind in shares.kind if kind not in KIND_COLOURS}
    kinds = [kind for kind in colours if kind in set(shares.kind)]
    colour = alt.Color(
        "kind:N", title=None, scale=alt.Scale(domain=kinds, range=[colours[kind] for kind in kinds]),
        legend=alt.Legend(orient="bottom", columns=6, labelLimit=120),
    )  # fmt: skip
    pick = alt.selection_point(name="pick", fields=["model"], on="click", empty=False)
    line = np.linspace(0, np.log1p(high / _BEND), 80)
    curve = pd.DataFrame({"more_bits": _BEND * np.expm1(line)}).assign(share=lambda t: 2.0**-t.more_bits)
    says = curve.iloc[[int(np.argmin(np.abs(curve.share - 0.5)))]].assign(says="perplexity")
    panels = []
    measured = {name: what for name, what in PANELS.items() if shares[name].notna().any()}
    for place, (name, what) in enumerate(measured.items()):
        scale = alt.Scale(domain=[0, _top(shares, name)], nice=False)
        y, y_curve = (alt.Y(f"{column}:Q", title=what, scale=scale, axis=SHARE) for column in (name, "share"))
        tips = [
            alt.Tooltip("model:N"),
            alt.Tooltip("more_bits:Q", title="bits a token more", format=".3~f"),
            alt.Tooltip(f"{name}:Q", title=what, format=".0%"),
            alt.Tooltip("perplexity_share:Q", title="perplexity", format=".0%"),
        ]
        drawn = alt.Chart(alt.NamedData("models")).transform_filter(f"isValid(datum.{name})").encode(x, y)
        marks = drawn.mark_point(filled=True, size=90, opacity=0.9, cursor="pointer").encode(colour, tooltip=tips)
        ring = drawn.transform_filter(pick).mark_point(size=260, strokeWidth=2.5, color=GREY)
        ground = alt.Chart(inline(curve)).mark_line(color=GREY, strokeDash=[6, 4], strokeWidth=2).encode(x, y_curve)
        word = alt.Chart(inline(says)).mark_text(align="left", dx=6, dy=-4).encode(x, y_curve, text="says:N")
        layers = [ground, word, ring, marks.add_params(pick) if place == 0 else marks]
        panels.append(alt.layer(*layers).properties(width=_WIDTH, height=_HEIGHT))
    name = title or f"What breaks first in {shares.model.nunique()} smaller models"
    return with_data(alt.hconcat(*panels, spacing=20).properties(title=name), models=shares)


LEFT = {"perplexity_share": "perplexity (the full model's over its own)"} | PANELS
"""The measures of ``what_is_left``: perplexity and those of the panels."""


@chart
def what_is_left(points: pd.DataFrame, *, title: Any = "") -> Any:
    """One line per smaller model, from the least bits a token to the most: what is left of the full model's measures.

    ``points``: as in ``what_breaks_first``. The leftmost mark of a line is what broke first.
    """
    shares = _shares(points)
    if shares.empty:
        return no_data()
    order = shares.sort_values("more_bits", kind="stable").model.drop_duplicates().tolist()
    names = [name for name in LEFT if shares[name].notna().any()]
    scale = alt.Scale(domain=names, range=[GREY, OTHERS[4], OTHERS[1], OTHERS[6]][: len(names)])
    shapes = alt.Scale(domain=names, range=["diamond", "circle", "square", "triangle-up"][: len(names)])
    span = alt.Scale(domain=[0, _top(shares, *names)], nice=False)
    x = alt.X("share:Q", title="share of the full model's", scale=span, axis=SHARE)
    y = alt.Y("model:N", sort=order, title=None, axis=alt.Axis(labelLimit=220))
    legend = alt.Legend(orient="bottom", columns=2, labelLimit=320, labelExpr=expression(LEFT))
    tips = [
        alt.Tooltip("model:N"),
        alt.Tooltip("what:N", title="measure"),
        alt.Tooltip("share:Q", title="share of the full model's", format=".0%"),
        alt.Tooltip("more_bits:Q", title="bits a token more", format=".3~f"),
    ]
    data = inline(shares, "model", "more_bits", *names)
    base = (
        alt.Chart(data)
        .transform_fold(list[Any](names), ["what", "share"])
        .transform_filter("isValid(datum.share)")
        .encode(y)
    )
    lines = base.mark_line(color=GREY, strokeWidth=1).encode(x, detail="model:N")
    marks = base.mark_point(filled=True, size=80, opacity=0.9).encode(
        x,
        alt.Color("what:N", title=None, sort=None, scale=scale, legend=legend),
        shape=alt.Shape("what:N", title=None, sort=None, scale=shapes, legend=legend),
        tooltip=tips,
    )
    return alt.layer(lines, marks).properties(
        width=430, height=alt.Step(22), title=title or f"What is left of {len(order)} smaller models"
    )


def _top(shares: pd.DataFrame, *columns: str) -> float:
    """The upper end of an axis of these shares: a vector may hold more in a smaller model."""
    known = finite(*(shares[name] for name in columns))
    return max(1.1, 1.05 * float(known.max())) if len(known) else 1.1


def _shares(points: pd.DataFrame) -> pd.DataFrame:
    """One row per smaller model, its measures as shares of the full model's; without models of unknown perplexity."""
    full = points[points.kind == "full"]
    shares = points.loc[points.kind != "full", ["model", "kind", "more_bits", "perplexity_share"]].copy()
    for name in PANELS:
        whole = float(full[name].iloc[0]) if len(full) else 1.0
        own = points.loc[shares.index, name].astype(float) / (whole or np.nan)
        shares[name] = own.where(np.isfinite(own) & (np.isfinite(own).sum() >= FEW))
    return shares[np.isfinite(shares.more_bits.astype(float))]
