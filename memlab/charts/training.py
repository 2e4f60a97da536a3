"""Charts of one training."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from memlab.charts.colours import OURS
from memlab.charts.rows import chart, inline, thin, thinning
from memlab.charts.theme import GREY, SHARE


@chart
def training_curve(
    trace: pd.DataFrame, *, budget: int | None = None, width: int = 330, height: int = 150
) -> alt.HConcatChart:
    """Loss and accuracy of one training. ``trace`` has ``step``, ``loss`` (bits per token), ``accuracy`` (0 to 1).

    The step axis ends at ``budget`` at most. ``width`` and ``height``: pixels of each of the two plots. Of a long
    training, only the steps are drawn that the pixels can show. Both plots answer the pointer at the same step. The
    parameter ``place`` moves a rule to a step (-1: no rule). The selections ``pick_a`` and ``pick_b`` are the steps
    that were clicked in the two plots.
    """
    last = int(trace["step"].max())
    # The axis grows 40 steps at a time: otherwise a live curve would shrink at every step.
    edge = max(40, min(budget or 10**9, -(-(last + 1) // 40) * 40))
    x = alt.X("step:Q", title="step", scale=alt.Scale(domain=[0, edge], nice=False), axis=alt.Axis(tickCount=5))
    shown = thin(trace, "step", "loss", "accuracy", pixels=width)
    note = thinning(trace, shown, "steps")
    base = alt.Chart(inline(shown, "step", "loss", "accuracy")).encode(
        x,
        tooltip=[
            alt.Tooltip("step:Q"),
            alt.Tooltip("loss:Q", title="bits per token", format=".2f"),
            alt.Tooltip("accuracy:Q", title="tokens right, teacher-forced", format=".0%"),
        ],
    )

    def point(name: str, on: str, clear: str) -> list[alt.Parameter]:
        """A selection per plot: Altair warns about one that is in two plots."""
        of = {"fields": ["step"], "nearest": True, "empty": False}
        return [alt.selection_point(f"{name}_{plot}", on=on, clear=clear, **of) for plot in "ab"]  # type: ignore[arg-type]

    hovers, picks = point("hover", "pointermove", "pointerout"), point("pick", "click", "dblclick")
    pointed_at = alt.when(hovers[0] | hovers[1]).then(alt.value(1)).otherwise(alt.value(0))
    place = base.transform_aggregate(rows="count()").transform_calculate(step="place").transform_filter("place >= 0")

    def plot(number: int, y: alt.Y, title: str) -> Any:
        few = len(shown) < 3  # then points are drawn too: a line through one point is invisible
        line = base.mark_line(color=OURS, strokeWidth=2, strokeJoin="round", point=few).encode(y)
        dots = base.mark_point(color=OURS, filled=True, size=60).encode(y, opacity=pointed_at)
        rule = place.mark_rule(color=GREY, strokeWidth=2).encode(tooltip=alt.value(None))
        layers = alt.layer(rule, line, dots.add_params(hovers[number], picks[number]))
        return layers.properties(width=width, height=height, title=alt.Title(title, subtitle=note))

    bits, right = trace["loss"].to_numpy(float), float(trace["accuracy"].iloc[-1])
    finite = bits[np.isfinite(bits)]
    cost = f": {finite[0]:.1f} bits per token, then {finite[-1]:.1f}" if len(finite) > 1 else ""
    return alt.hconcat(
        plot(
            0,
            alt.Y("loss:Q", title="bits per token", scale=alt.Scale(zero=True, nice=5), axis=alt.Axis(tickCount=5)),
            f"Cost of the text{cost}",
        ),
        plot(
            1,
            alt.Y("accuracy:Q", title="tokens right", scale=alt.Scale(domain=[0, 1]), axis=SHARE),
            f"Tokens right, teacher-forced: {right:.0%} at step {last}",
        ),
        spacing=75,
        bounds="flush",
    ).add_params(alt.param(name="place", value=-1))
