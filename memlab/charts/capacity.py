"""Pictures of capacity: what vectors hold, in tokens and in bits, and what that costs to store."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from memlab.charts.theme import BLUE, GREEN, GREY, ORANGE, PURPLE

_TICKS = [16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192]


def capacity_by_model(table: pd.DataFrame) -> Any:
    """Tokens one vector holds against what its numbers could name at most, both axes logarithmic.

    Columns ``model theoretical tokens low high way`` (``low``, ``high``: the interval or spread, may be missing). Grey
    lines: a tenth and a hundredth of the theoretical capacity.
    """
    domain = [450, 5000]
    lines = pd.DataFrame(
        [(x, share * x, f"{share:.0%}") for share in (1, 0.1, 0.01) for x in domain], columns=["x", "y", "share"]
    )
    x = alt.Scale(type="log", domain=domain, nice=False)
    y = alt.Scale(type="log", domain=[8, 5000], nice=False)
    guides = (
        alt.Chart(lines)
        .mark_line(color=GREY, strokeDash=[3, 4], opacity=0.6, clip=True)
        .encode(alt.X("x:Q", scale=x), alt.Y("y:Q", scale=y), alt.Detail("share:N"))
    )
    names = (
        alt.Chart(lines[lines.x == domain[1]])
        .mark_text(color=GREY, align="left", dx=4, fontSize=11)
        .encode(alt.X("x:Q", scale=x), alt.Y("y:Q", scale=y), alt.Text("share:N"))
    )
    ways = table.way.unique().tolist()
    base = alt.Chart(table).encode(
        alt.X(
            "theoretical:Q", scale=x, title="tokens that 16 bits a dimension could name at most (log)",
            axis=alt.Axis(values=[500, 750, 1000, 1500, 2000, 3000, 4000], grid=False),
        ),
        alt.Color(
            "way:N", title=None, sort=ways, scale=alt.Scale(domain=ways, range=[ORANGE, BLUE, GREEN, PURPLE]),
            legend=alt.Legend(orient="top", columns=1, labelLimit=520, symbolOpacity=1, symbolStrokeWidth=0),
        ),
        tooltip=["model", "way", alt.Tooltip("tokens:Q", format=".0f"), alt.Tooltip("theoretical:Q", format=".0f")],
    )  # fmt: skip
    whiskers = base.mark_rule(strokeWidth=2, opacity=0.6).encode(alt.Y("low:Q", scale=y), alt.Y2("high:Q"))
    points = base.mark_point(size=80, filled=True, opacity=0.9).encode(
        alt.Y("tokens:Q", scale=y, title="tokens in one vector (log)", axis=alt.Axis(values=_TICKS, grid=False)),
        alt.Shape("way:N", title=None, sort=ways, legend=None),
    )
    return alt.layer(guides, names, whiskers, points).properties(width=600, height=360)


def more_vectors(table: pd.DataFrame) -> Any:
    """Tokens against the number of vectors, both logarithmic, a line a passage. Columns ``k tokens way text_id``.

    What was published is grey, each model of its own dash; what was measured here has the colours, a kind of text each.
    """
    ways = table.way.unique().tolist()
    published = [way for way in ways if way.endswith(", published")]
    own = [way for way in ways if way not in published]
    kinds = [way.rpartition(", ")[2] for way in own]
    if len(set(kinds)) < len(kinds):  # of several models: by kind, two lines would look alike
        mine = dict(zip(own, itertools.cycle((BLUE, ORANGE, GREEN, PURPLE))))
    else:
        of_kind = _colours(kinds)
        mine = {way: of_kind[kind] for way, kind in zip(own, kinds, strict=True)}
    paint = [mine.get(way, GREY) for way in ways]
    dashes = [[[2, 3], [8, 4], [8, 3, 2, 3]][published.index(way) % 3] if way in published else [1, 0] for way in ways]
    return (
        alt.Chart(table)
        .mark_line(strokeWidth=2, opacity=0.8, point=alt.OverlayMarkDef(size=50))
        .encode(
            alt.X("k:Q", title="vectors, k (log)", scale=alt.Scale(type="log", base=2), axis=alt.Axis(tickCount=6)),
            alt.Y("tokens:Q", title="tokens (log)", scale=alt.Scale(type="log", base=2), axis=alt.Axis(values=_TICKS)),
            alt.Color(
                "way:N",
                title=None,
                scale=alt.Scale(domain=ways, range=paint),
                legend=alt.Legend(orient="right", labelLimit=260, symbolType="stroke", symbolStrokeWidth=2),
            ),
            alt.StrokeDash("way:N", title=None, scale=alt.Scale(domain=ways, range=dashes)),
            alt.Detail("text_id:N"),
            tooltip=["way", "text_id", "k", alt.Tooltip("tokens:Q", format=".0f")],
        )
        .properties(width=460, height=280)
    )


def attempts_by_length(attempts: pd.DataFrame) -> Any:
    """One passage's attempts: what its text still costs with the vector. Columns ``length bits_with exact seed``.

    Both axes start at nothing; on the way up a vector is exact while it leaves next to nothing.
    """
    table = _outcomes(attempts, "length", "seed", "bits_with")
    return (
        alt.Chart(table)
        .mark_point(size=90, filled=True, opacity=0.85)
        .encode(
            alt.X("length:Q", title="tokens", scale=alt.Scale(zero=True)),
            alt.Y("bits_with:Q", title="bits left", scale=alt.Scale(zero=True)),
            alt.Color(
                "outcome:N", title=None, legend=alt.Legend(orient="right"),
                scale=alt.Scale(domain=["exact", "not exact"], range=[BLUE, ORANGE]),
            ),
            alt.Shape(
                "outcome:N", title=None,
                scale=alt.Scale(domain=["exact", "not exact"], range=["circle", "cross"]),
            ),
            tooltip=["length", "seed", "outcome", alt.Tooltip("bits_with:Q", format=".1f")],
        )
        .properties(width=520, height=170)
    )  # fmt: skip


def bits_along(without: Any, given: Any, exact_prefix: int) -> Any:
    """Bits of one text (n,) token by token, summed up from its beginning: without its vector and with it.

    The rule stands where the free decode goes wrong, if it does.
    """
    n = len(without)
    table = pd.DataFrame(
        {"token": range(1, n + 1), "without the vector": np.nancumsum(without), "with it": np.nancumsum(given)}
    ).melt("token", var_name="way", value_name="bits")
    base = alt.Chart(table).encode(
        alt.X("token:Q", title="token of the text", scale=alt.Scale(domain=[0, n], nice=False)),
        alt.Color(
            "way:N", title=None, sort=None, scale=alt.Scale(range=[GREY, BLUE]), legend=alt.Legend(orient="right")
        ),
        tooltip=["token", "way", alt.Tooltip("bits:Q", format=".1f")],
    )
    lines = base.mark_line(strokeWidth=2.5).encode(alt.Y("bits:Q", title="bits, summed up"))
    whole = exact_prefix >= n
    title = f"All {n} tokens come back" if whole else f"The first {exact_prefix} of {n} tokens come back"
    if whole:
        return lines.properties(width=520, height=200, title=title)
    rule = alt.Chart(pd.DataFrame({"token": [exact_prefix]})).mark_rule(color=ORANGE, strokeWidth=2, strokeDash=[5, 3])
    return alt.layer(lines, rule.encode(alt.X("token:Q"))).properties(width=520, height=200, title=title)


def horizons_tokens_and_bits(table: pd.DataFrame) -> Any:
    """Exact horizons by kind of text, side by side in tokens and in bits, medians thick.

    Columns ``texts text_id horizon horizon_bits``. Both axes are logarithmic and span the same number of octaves, so
    that distances can be compared.
    """
    spans = {}
    for column in ("horizon", "horizon_bits"):
        values = table[column][table[column] > 0]
        spans[column] = (float(np.log2(values.min())), float(np.log2(values.max())))
    octaves = max(high - low for low, high in spans.values()) + 0.4

    def strip(column: str, title: str, axis: alt.Axis | None) -> Any:
        middle = sum(spans[column]) / 2
        scale = alt.Scale(
            type="log", base=2, nice=False, domain=[2 ** (middle - octaves / 2), 2 ** (middle + octaves / 2)]
        )
        base = alt.Chart(table).encode(alt.Y("texts:N", title=None, sort=None, axis=axis))
        ticks = base.mark_tick(thickness=2, size=26, opacity=0.75).encode(
            alt.X(f"{column}:Q", title=title, scale=scale, axis=alt.Axis(tickCount=6, format="d")),
            alt.Color("texts:N", legend=None, scale=_kinds(table)),
            tooltip=["text_id", alt.Tooltip(f"{column}:Q", format=".0f")],
        )
        thick = base.mark_tick(thickness=4, size=42, color=GREY).encode(alt.X(f"median({column}):Q"))
        return alt.layer(ticks, thick).properties(width=300, height=alt.Step(50))

    left = strip("horizon", "exact horizon, tokens (log)", alt.Axis(labelFontSize=13, labelLimit=140))
    return alt.hconcat(left, strip("horizon_bits", "the same, bits (log)", None), spacing=30)


def before_and_after(runs: pd.DataFrame, c: float) -> Any:
    """Bits of a text without and with its vector, and the line with = max(0, without - c).

    Columns ``bits_without bits_with texts text_id length exact``.
    """
    top = float(runs.bits_without.max()) * 1.05
    line = pd.DataFrame({"x": [0.0, c, max(top, c)], "y": [0.0, 0.0, max(top - c, 0.0)]})
    fit = alt.Chart(line).mark_line(color=GREY, strokeDash=[5, 4], strokeWidth=2).encode(alt.X("x:Q"), alt.Y("y:Q"))
    nothing = (
        alt.Chart(pd.DataFrame({"x": [0.0, top], "y": [0.0, top]}))
        .mark_line(color=GREY, opacity=0.4)
        .encode(alt.X("x:Q"), alt.Y("y:Q"))
    )
    points = (
        alt.Chart(_outcomes(runs, "text_id", "texts", "length", "bits_without", "bits_with"))
        .mark_point(size=55, filled=True, opacity=0.75)
        .encode(
            alt.X("bits_without:Q", title="bits the text costs without the vector"),
            alt.Y("bits_with:Q", title="bits with it"),
            alt.Color("texts:N", title=None, scale=_kinds(runs), legend=alt.Legend(orient="top-left")),
            alt.Shape(
                "outcome:N", title=None, legend=alt.Legend(orient="top-left"),
                scale=alt.Scale(domain=["exact", "not exact"], range=["circle", "cross"]),
            ),
            tooltip=[
                "text_id", "length", "outcome", alt.Tooltip("bits_without:Q", format=".0f"),
                alt.Tooltip("bits_with:Q", format=".1f"),
            ],
        )
    )  # fmt: skip
    return alt.layer(nothing, fit, points).properties(width=560, height=320)


def survival_by_bits(shares: pd.DataFrame, *, title: str = "bits a number") -> Any:
    """Share of vectors that still decode, by bits a number. Columns ``bits_a_number share low high form``."""
    base = alt.Chart(shares).encode(
        alt.X("bits_a_number:Q", title=title, scale=alt.Scale(domain=[1, 17])),
        tooltip=["form", alt.Tooltip("share:Q", format=".0%")],
    )
    y = alt.Y("share:Q", title="vectors still exact", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%"))
    line = base.mark_line(color=BLUE, strokeWidth=2, point=alt.OverlayMarkDef(color=BLUE, size=50)).encode(y)
    whiskers = base.mark_rule(color=GREY, strokeWidth=2).encode(alt.Y("low:Q"), alt.Y2("high:Q"))
    return alt.layer(whiskers, line).properties(width=460, height=240)


def codec_bars(table: pd.DataFrame) -> Any:
    """Stored bits a token by codec, logarithmic. Columns ``codec texts bits_a_token``, shortest first."""
    order = table.groupby("codec").bits_a_token.mean().sort_values().index.tolist()
    return (
        alt.Chart(table)
        .mark_point(size=90, filled=True)
        .encode(
            alt.X(
                "bits_a_token:Q", title="bits stored a token (log)", scale=alt.Scale(type="log", base=2),
                axis=alt.Axis(values=[2, 4, 8, 16, 32, 64, 128, 256]),
            ),
            alt.Y("codec:N", title=None, sort=order, axis=alt.Axis(labelFontSize=13, labelLimit=260, grid=True)),
            alt.Color("texts:N", title=None, scale=_kinds(table)),
            tooltip=["codec", "texts", alt.Tooltip("bits_a_token:Q", format=".3g")],
        )
        .properties(width=460, height=alt.Step(26))
    )  # fmt: skip


def predictions(table: pd.DataFrame) -> Any:
    """True horizons against predicted ones, each with its interval. Columns ``true predicted low high text_id``."""
    top = float(table[["true", "predicted"]].max().max()) * 1.1
    scale = alt.Scale(domain=[0, top], nice=False, clamp=True)
    same = (
        alt.Chart(pd.DataFrame({"x": [0.0, top]}))
        .mark_line(color=GREY, opacity=0.5)
        .encode(alt.X("x:Q", scale=scale), alt.Y("x:Q", scale=scale))
    )
    colour = [alt.Color("texts:N", title=None, scale=_kinds(table))] if "texts" in table else []
    base = alt.Chart(table).encode(
        alt.Y("true:Q", title="exact horizon, tokens", scale=scale), *colour,
        tooltip=["text_id", "true", alt.Tooltip("predicted:Q", format=".0f")],
    )  # fmt: skip
    whiskers = base.mark_rule(opacity=0.4).encode(alt.X("low:Q", scale=scale), alt.X2("high:Q"))
    points = base.mark_point(size=55, filled=True).encode(
        alt.X("predicted:Q", title="predicted before any training, tokens", scale=scale)
    )
    return alt.layer(same, whiskers, points).properties(width=420, height=300)


def _outcomes(runs: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Those columns and ``outcome``: a table of runs holds arrays too, which have no place in a picture's data."""
    return runs[list(columns)].assign(outcome=runs.exact.map({True: "exact", False: "not exact"}))


def _kinds(table: pd.DataFrame) -> alt.Scale:
    colours = _colours(table.texts.unique())
    return alt.Scale(domain=list(colours), range=list(colours.values()))


def _colours(kinds: Iterable[str]) -> dict[str, str]:
    """A kind of text has its colour in every picture, whichever others are beside it."""
    usual = {"originals": BLUE, "classics": ORANGE, "random": GREEN}
    others = itertools.cycle((PURPLE, GREY))
    there = sorted(kinds, key=lambda kind: [*usual, kind].index(kind))
    return {kind: usual.get(kind) or next(others) for kind in there}
