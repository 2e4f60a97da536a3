"""Charts of hidden states: what changes from layer to layer at a vector's position, and what exchanged states do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from memlab.charts.colours import OTHERS, OURS
from memlab.charts.rows import chart, inline, no_data
from memlab.charts.theme import GREY


@chart
def by_layer(
    lines: pd.DataFrame, *, y_title: str, names: Mapping[str, str] | None = None, percent: bool = False,
    log: bool = False, title: Any = "",
) -> Any:  # fmt: skip
    """One line per ``name`` over the layers, with its interval over texts: ``name layer value low high``.

    ``names``: {name: words for it}, in the order of the legend; others are left out. ``log``: a logarithmic y axis.
    """
    names = dict(names) if names is not None else {name: name for name in dict.fromkeys(lines.name)}
    data = lines[lines.name.isin(list(names)) & np.isfinite(lines.value.astype(float))]
    if data.empty:
        return no_data()
    data = data.assign(line=data.name.map(names))
    shown = [words for name, words in names.items() if name in set(data.name)]
    colours = [OURS, OTHERS[1], OTHERS[4], GREY, OTHERS[7], OTHERS[2]][: len(shown)]
    dashes = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [1, 0], [4, 4]][: len(shown)]
    legend = alt.Legend(orient="top", columns=2, labelLimit=300, symbolType="stroke", symbolSize=250)
    form = ".0%" if percent else ".3~g"
    axis = alt.Axis(format="%" if percent else "~g", tickCount=5)
    scale = alt.Scale(type="log" if log else "linear", zero=not log, nice=False)
    tips = [
        alt.Tooltip("line:N", title="of"),
        alt.Tooltip("layer:Q"),
        alt.Tooltip("value:Q", title=y_title, format=form),
        alt.Tooltip("low:Q", title="from", format=form),
        alt.Tooltip("high:Q", title="to", format=form),
    ]
    x = alt.X("layer:Q", title="layer (0: the input)", axis=alt.Axis(tickMinStep=1, tickCount=8))
    colour = alt.Color("line:N", title=None, scale=alt.Scale(domain=shown, range=colours), legend=legend)
    dash = alt.StrokeDash("line:N", title=None, scale=alt.Scale(domain=shown, range=dashes), legend=legend)
    base = alt.Chart(inline(data, "line", "layer", "value", "low", "high")).encode(x, colour)
    bands = base.transform_filter("isFinite(datum.low) && isFinite(datum.high)").mark_area(opacity=0.15)
    bands = bands.encode(alt.Y("low:Q", title=y_title, scale=scale, axis=axis), alt.Y2("high:Q"))
    drawn = base.mark_line(strokeWidth=2.5).encode(alt.Y("value:Q", title=y_title, scale=scale, axis=axis), dash)
    points = base.mark_point(filled=True, size=30, opacity=1).encode(
        alt.Y("value:Q", title=y_title, scale=scale, axis=axis), tooltip=tips
    )
    layers = alt.layer(bands, drawn, points).properties(width=460, height=260)
    return layers.properties(title=title or f"{y_title} by layer")
