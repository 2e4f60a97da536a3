"""Charts of one training."""

from __future__ import annotations

import altair as alt
import pandas as pd

from memlab.charts.colours import OURS, PUBLISHED
from memlab.charts.rows import chart, inline, thin, thinning
from memlab.charts.theme import SHARE


@chart
def training_curve(
    trace: pd.DataFrame, *, budget: int | None = None, width: int = 330, height: int = 180
) -> alt.HConcatChart:
    """Loss and accuracy of one training. ``trace`` has ``step``, ``loss`` (bits per token), ``accuracy`` (0 to 1).

    The step axis ends at ``budget`` at most. ``width`` and ``height``: pixels of each of the two plots. Of a long
    training, only the steps are drawn that the pixels can show.
    """
    last = int(trace["step"].max())
    # The axis grows 40 steps at a time: otherwise a live curve would shrink at every step.
    edge = max(40, min(budget or 10**9, -(-(last + 1) // 40) * 40))
    x = alt.X("step:Q", title="step", scale=alt.Scale(domain=[0, edge], nice=False), axis=alt.Axis(tickCount=5))
    few = len(trace) < 3  # then points are drawn too: a line through one point is invisible
    shown = thin(trace, "step", "loss", "accuracy", pixels=width)
    note = thinning(trace, shown, "steps")
    base = alt.Chart(inline(shown, "step", "loss", "accuracy")).properties(width=width, height=height)
    loss = base.mark_line(color=OURS, strokeWidth=2, strokeJoin="round", point=few).encode(
        x,
        alt.Y("loss:Q", title="bits per token", scale=alt.Scale(zero=True)),
        tooltip=["step:Q", "loss:Q", "accuracy:Q"],
    )
    accuracy = base.mark_line(color=PUBLISHED, strokeWidth=2, strokeJoin="round", point=few).encode(
        x,
        alt.Y("accuracy:Q", title="tokens right", scale=alt.Scale(domain=[0, 1]), axis=SHARE),
        tooltip=["step:Q", "loss:Q", "accuracy:Q"],
    )
    return alt.hconcat(
        loss.properties(title=alt.Title("Cross-entropy of the text", subtitle=note)),
        accuracy.properties(title=alt.Title("Tokens right, teacher-forced", subtitle=note)),
        spacing=75,
        bounds="flush",
    )
