"""Charts of vectors and the words next to them."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from memlab.charts.colours import CONTROL, EXACT, OURS
from memlab.charts.rows import chart, inline


@chart
def nearest_words(table: pd.DataFrame) -> Any:
    """The words nearest to each vector, nearest first. Columns ``passage word cosine own``, one row per word in order.

    A green cell is the first word of the passage itself (``own``).
    """
    word = table.word.map(lambda text: "“" + text.replace("\n", "↵") + "”")
    table = table.assign(rank=table.groupby("passage", sort=False).cumcount() + 1, written=word)
    base = alt.Chart(inline(table, "passage", "word", "written", "cosine", "own", "rank")).encode(
        alt.X("rank:O", title="nearest words in order, with their cosine", axis=alt.Axis(orient="top", labelAngle=0)),
        alt.Y("passage:N", title=None, sort=None, axis=alt.Axis(labelLimit=260)),
        tooltip=["passage:N", "word:N", alt.Tooltip("cosine:Q", format=".3f")],
    )
    own = alt.when("datum.own")
    cells = base.mark_rect(cornerRadius=3).encode(
        color=own.then(alt.value(EXACT)).otherwise(alt.value(CONTROL)),
        opacity=own.then(alt.value(0.45)).otherwise(alt.value(0.12)),
    )
    words = base.mark_text(align="right", dx=14).encode(alt.Text("written:N"))
    cosines = base.mark_text(align="left", dx=22, fontSize=11).encode(alt.Text("cosine:Q", format=".2f"))
    height = 26 * table.passage.nunique()
    return alt.layer(cells, words, cosines).properties(width=640, height=max(60, height))


_PASSAGES = 50
"""The largest number of passages in ``words_instead``."""


@chart
def words_instead(table: pd.DataFrame) -> Any:
    """What is left of a text if the nearest word's embedding takes the vector's place.

    Columns ``passage nearest tokens right right_snapped right_scaled``. One line per passage, three points on it.
    """
    names = {
        "right": "the vector",
        "right_scaled": "its nearest word, made as long",
        "right_snapped": "its nearest word",
    }
    shown = table.head(_PASSAGES)
    some = f"the first {_PASSAGES} of {len(table):,} passages" if len(shown) < len(table) else None
    rows = shown.melt(["passage", "nearest", "tokens"], list(names), "what", "decoded").replace({"what": names})
    rows = rows.assign(share=rows.decoded / rows.tokens)
    base = alt.Chart(inline(rows)).encode(
        alt.Y("passage:N", title=some, sort=None, axis=alt.Axis(labelLimit=260)),
        alt.X("share:Q", title="tokens right, decoded freely", axis=alt.Axis(format="%", tickCount=5)),
        tooltip=["passage:N", "what:N", "nearest:N", "decoded:Q", "tokens:Q"],
    )
    lines = base.mark_line(color=CONTROL, opacity=0.5, strokeWidth=1.5).encode(alt.Detail("passage:N"))
    domain = list(names.values())
    points = base.mark_point(filled=True, size=90, opacity=1).encode(
        alt.Color("what:N", title=None, legend=alt.Legend(orient="top", labelLimit=260),
                  scale=alt.Scale(domain=domain, range=[OURS, CONTROL, CONTROL])),
        alt.Shape("what:N", title=None, scale=alt.Scale(domain=domain, range=["circle", "triangle-up", "square"])),
    )  # fmt: skip
    return alt.layer(lines, points).properties(width=560, height=max(60, 22 * shown.passage.nunique()))
