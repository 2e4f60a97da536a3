"""Charts of paths between vectors."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from memlab.charts.colours import CONTROL, EXACT, INK, labels, palette, scale
from memlab.charts.names import display
from memlab.charts.rows import chart, inline
from memlab.charts.theme import SHARE

_PLACE = alt.Scale(domain=[0, 1])
_ALONG = "place on the path"
_PERCENT = alt.Axis(format="%", values=[0, 0.25, 0.5, 0.75, 1])


@chart
def along_a_path(table: pd.DataFrame, place: float = 0.5) -> Any:
    """Loss and decoded tokens along paths between two solutions. Columns ``t bits right tokens exact way``.

    A dot per place, green if exact. The parameter ``place`` (0 to 1) moves a rule in both pictures. The selections
    ``spot_bits`` and ``spot_share``, one per picture, are the dot that was clicked: ``{"t": ..., "way": ...}``.
    """
    shown = table[["t", "bits", "right", "tokens", "exact", "way"]].assign(share=table.right / table.tokens)
    names = list(dict.fromkeys(shown.way))
    here = alt.param(name="place", value=place)
    colour = alt.Color(
        "way:N", title=None, scale=scale(names), legend=alt.Legend(labelExpr=labels(names), orient="right")
    )
    base = alt.Chart(inline(shown)).encode(alt.X("t:Q", title=_ALONG, scale=_PLACE, axis=_PERCENT))
    rule = (
        alt.Chart(inline(shown[:1][["t"]]))
        .transform_calculate(here="place")
        .mark_rule(color=INK, strokeWidth=1.5)
        .encode(alt.X("here:Q", scale=_PLACE))
    )

    def picture(column: str, title: str, heading: str, axis: alt.Axis, top: Any) -> Any:
        y = alt.Y(f"{column}:Q", title=title, axis=axis, scale=top)
        spot = alt.selection_point(
            name=f"spot_{column}", fields=["t", "way"], nearest=True, on="click", clear=False, empty=False
        )
        dots = base.mark_point(filled=True, size=55, opacity=1, strokeWidth=1.5).encode(
            y,
            alt.Fill("exact:N", legend=None, scale=alt.Scale(domain=[True, False], range=[EXACT, "transparent"])),
            alt.Stroke("way:N", legend=None, scale=scale(names)),
            # Only numbers: with nearest=True, Vega-Lite shows names as "undefined".
            tooltip=[
                alt.Tooltip("t:Q", title="place", format=".0%"),
                alt.Tooltip("bits:Q", title="bits per token", format=".2f"),
                alt.Tooltip("right:Q", title="tokens right"), alt.Tooltip("tokens:Q", title="of tokens"),
            ],
        ).add_params(spot)  # fmt: skip
        line = base.mark_line(strokeWidth=2).encode(y, colour)
        return alt.layer(rule, line, dots).properties(width=370, height=190, title=heading)

    left = picture("bits", "bits per token", "Loss (green: exact)", alt.Axis(tickCount=5), alt.Scale(zero=True))
    right = picture(
        "share", "tokens right, decoded freely", "Decoded text (green: exact)", SHARE, alt.Scale(domain=[0, 1])
    )
    return alt.hconcat(left, right, spacing=30).add_params(here)


@chart
def exact_places(table: pd.DataFrame) -> Any:
    """Which places of each path are exact, by kind of text and path. Columns ``pair text_id kind way t exact right``.

    A row of squares per pair, filled if exact. The pairs of a kind with the most exact places are on top.
    """
    order = table.groupby("pair").exact.sum().sort_values(ascending=False, kind="stable").index.tolist()
    shown = table[["pair", "text_id", "kind", "way", "t", "exact", "right"]]
    ways, kinds = list(dict.fromkeys(shown.way)), list(dict.fromkeys(shown.kind))
    squares = (
        alt.Chart(inline(shown))
        .mark_square(size=110, opacity=1)
        .encode(
            alt.X("t:Q", title=_ALONG, scale=alt.Scale(domain=[-0.03, 1.03], nice=False), axis=_PERCENT),
            alt.Y("pair:N", title="pairs of solutions", sort=order, axis=alt.Axis(labels=False, ticks=False)),
            alt.Color(
                "exact:N",
                title="decoded text",
                scale=alt.Scale(domain=[True, False], range=[EXACT, CONTROL + "40"]),
                legend=alt.Legend(labelExpr="datum.value ? 'exact' : 'not exact'", orient="top"),
            ),
            tooltip=[
                alt.Tooltip("text_id:N", title="passage"), alt.Tooltip("way:N", title="path"),
                alt.Tooltip("t:Q", title="place", format=".0%"), alt.Tooltip("right:Q", title="tokens right"),
                "exact:N",
            ],
        )
    )  # fmt: skip
    rows = [
        alt.hconcat(
            *(
                squares.transform_filter((alt.datum.kind == kind) & (alt.datum.way == way)).properties(
                    width=390,
                    height=alt.Step(14),
                    title=alt.Title(f"{display(way)}, {display(kind)}", fontWeight="normal", fontSize=13),
                )
                for way in ways
            ),
            spacing=30,
        )
        for kind in kinds
    ]
    return alt.vconcat(*rows, spacing=12)


@chart
def barriers_of_paths(table: pd.DataFrame) -> Any:
    """Height of the barrier of every path, a tick per pair, thick medians. Columns ``kind way barrier text_id``."""
    ways, kinds = (list(dict.fromkeys(table[column])) for column in ("way", "kind"))
    base = alt.Chart(inline(table, "kind", "way", "barrier", "text_id"))
    y = alt.Y("way:N", title="path", sort=ways, axis=alt.Axis(labelExpr=labels(ways), labelFontSize=13, labelLimit=260))
    x = alt.X("barrier:Q", title="barrier, bits per token", axis=alt.Axis(tickCount=7))
    ticks = base.mark_tick(thickness=2, size=22, opacity=0.8).encode(
        x, y, alt.Color("way:N", legend=None, scale=scale(ways)),
        tooltip=[alt.Tooltip("text_id:N", title="passage"), "way:N", alt.Tooltip("barrier:Q", format=".2f")],
    )  # fmt: skip
    medians = base.mark_tick(thickness=4, size=34, color=INK).encode(alt.X("median(barrier):Q"), y)
    layers = alt.layer(ticks, medians).properties(width=330, height=alt.Step(40))
    return layers.facet(
        column=alt.Column("kind:N", title=None, sort=kinds, header=alt.Header(labelExpr=labels(kinds))), spacing=30
    )


@chart
def from_text_to_text(table: pd.DataFrame, names: tuple[str, str] = ("the first text", "the second text")) -> Any:
    """Right tokens of two passages, along lines between their vectors. Columns ``t of_a of_b written``, and ``pair``.

    ``names`` are the names of the passages a and b. With several pairs: a thin line per pair, and thick means.
    """
    table = table.assign(pair=table.pair if "pair" in table else 0)
    long = table.melt(["pair", "t", "written"], ["of_a", "of_b"], "passage", "tokens").replace(
        {"passage": {"of_a": names[0], "of_b": names[1]}}
    )
    base = alt.Chart(inline(long)).encode(
        alt.X("t:Q", title="place, from the first text's vector to the second's", scale=_PLACE, axis=_PERCENT),
        alt.Color(
            "passage:N", title=None, scale=alt.Scale(domain=list(names), range=list(palette(names).values())),
            legend=alt.Legend(orient="top", labelLimit=400),
        ),
    )  # fmt: skip
    thin = base.mark_line(strokeWidth=1, opacity=0.5, point=alt.OverlayMarkDef(size=18)).encode(
        alt.Y("tokens:Q", title="tokens of this text in their place"),
        alt.Detail("pair:N"),
        tooltip=["passage:N", alt.Tooltip("t:Q", title="place", format=".0%"), "tokens:Q", "written:N"],
    )
    mean = base.mark_line(strokeWidth=3).encode(alt.Y("mean(tokens):Q"))
    return alt.layer(thin, mean).properties(width=640, height=230)
