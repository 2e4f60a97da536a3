"""Tables of the report about what happens inside the model. See ``report_tables``."""

from __future__ import annotations

import pandas as pd

from memlab.experiments.report_tables import Rows, percent, table
from memlab.experiments.tables import stored
from memlab.measures import hidden_states as hidden

LAYERS = (0, 1, 2, 5, 10, 15, 20, 25, 27, 29)
"""Layers that the report shows."""


@table(
    "hidden-states",
    "layer | cosine with the input: vector | random vector | published recipe | tokens right by the lens | "
    "another solution's state here: tokens right | another passage's: tokens right | that passage's tokens right",
)
def _hidden_states() -> Rows:
    rows = stored("hidden-states")
    parts = {part: hidden.hidden_summary(rows, part) for part in hidden.MEASURES}

    def cell(part: str, measure: str, layer: int, condition: str = hidden.VECTOR, source: str = "") -> pd.Series:
        told = parts[part]
        same = (told.measure == measure) & (told.condition == condition) & (told.source == source)
        return told[same & (told.layer == layer)].iloc[0]

    for layer in LAYERS:
        cosines = [
            f"{cell(hidden.SLOT, 'with_input', layer, name).value:.2f}"
            for name in (hidden.VECTOR, hidden.RANDOM, hidden.PUBLISHED)
        ]
        shares = [
            cell(hidden.TEXT, "right", layer),
            cell(hidden.PATCH, "right", layer, source=hidden.OTHER),
            cell(hidden.PATCH, "right", layer, source=hidden.STRANGER),
            cell(hidden.PATCH, "source_right", layer, source=hidden.STRANGER),
        ]
        told = [f"{percent(one.value)} [{100 * one.low:.0f}, {100 * one.high:.0f}]" for one in shares]
        yield (layer, *cosines, *told)


@table("hidden-states-predictions", "predicted | from | to | measured | held")
def _predictions() -> Rows:
    for row in hidden.hidden_outcomes(stored("hidden-states")).itertuples():
        yield row.name, f"{row.low:g}", f"{row.high:g}", f"{row.measured:.3g}", "yes" if row.held else "no"
