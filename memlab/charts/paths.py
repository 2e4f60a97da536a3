"""Charts of paths between vectors."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from memlab.charts.colours import OURS, PUBLISHED, RANDOM
from memlab.charts.rows import chart, inline
from memlab.charts.theme import GREY, SHARE

_PATH_COLOURS = {"line": PUBLISHED, "curve": OURS, "nowhere": GREY}
"""The same colours in every chart."""


@chart
def along_a_path(table: pd.DataFrame) -> Any:
    """Loss and decoded tokens along paths between two solutions. Columns ``t bits right tokens exact way``."""
    drawn = table.way.unique().tolist()
    names = [name for name in _PATH_COLOURS if name in drawn] + [name for name in drawn if name not in _PATH_COLOURS]
    colours = [_PATH_COLOURS.get(name, RANDOM) for name in names]
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
