"""Hidden states as data: columns, summaries, and what was expected of the tables of ``experiments.hidden_states``.

Predicted on 1 December 2026, before the first run on the real model, for SmolLM2-135M-Instruct and 12 texts of 32
tokens; not changed since. Known by then: how much the text's positions attend to the vector by layer, and what hiding
the vector in some layers does (``geometry-attention``, ``geometry-knockouts``). In words: two solutions of one passage
start almost at right angles and become more alike in the middle layers, because what the text's positions read there
must be the same. The vector's own position never looks like a list of its words: the lens finds the first token, and
little more. A solution may be swapped for another one at any layer at a cost, and late layers do not look at it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from memlab.measures.predictions import compared
from memlab.measures.statistics import mean_intervals

VECTOR, PUBLISHED, RANDOM, NOTHING = "vector", "published recipe", "random vector", "nothing"
"""What stands in the context: the default recipe's vector, one of arXiv 2502.13063's, a random one, only the sink."""
OWN, OTHER, STRANGER = "itself", "another solution", "another passage's"
"""Where a patched state comes from: the run itself, another seed's vector of this passage, another passage's vector;
or ``RANDOM``."""
SLOT, TEXT, PATCH = "slot", "text", "patch"
"""Parts of the table. ``slot``: the vector's position. ``text``: the text's positions. ``patch``: exchanged states."""
MEASURES = {
    SLOT: ("norm", "with_input", "with_other", "with_stranger", "first_rank", "words", "words_stranger"),
    TEXT: ("bits", "right"),
    PATCH: ("bits", "right", "source_bits", "source_right"),
}
COLUMNS = (
    "part", "condition", "source", "layer", "text_id", "texts", "norm", "with_input", "with_other", "with_stranger",
    "first_rank", "words", "words_stranger", "bits", "right", "source_bits", "source_right", "model",
)  # fmt: skip
"""Columns of the table: one row per part, condition, source, text and layer.

``layer``: 0 is the input, the number of layers is what leaves the last one. ``norm``: length of the hidden state.
``with_*``: its cosine with the input, with the state of another solution at this layer, and with that of another
passage's vector. ``first_rank``: place of the text's first token by the logit lens. ``words``: share of the text's
distinct tokens that the other text lacks, among as many likeliest ones; ``words_stranger``: the other text's.
``bits``: of a token of the text; ``right``: share of first choices. ``source_*``: the same for the text of the passage
from which the state comes."""


def hidden_summary(table: pd.DataFrame, part: str, *, draws: int = 1000) -> pd.DataFrame:
    """One row per condition, source, layer and measure: ``condition source layer measure value low high passages``.

    Means over texts with 95 % intervals. ``table``: of ``COLUMNS``; ``part``: one of ``MEASURES``.
    """
    rows, found = table[table.part == part], []
    for (condition, source), group in rows.groupby(["condition", "source"], sort=False):
        for measure in MEASURES[part]:
            values = group.pivot(index="text_id", columns="layer", values=measure).dropna()
            if values.empty:
                continue
            low, high = mean_intervals(values, draws=draws)
            found.append(
                pd.DataFrame(
                    {"condition": condition, "source": source, "layer": values.columns, "measure": measure,
                     "value": values.mean().to_numpy(), "low": low, "high": high, "passages": len(values)}
                )
            )  # fmt: skip
    names = ["condition", "source", "layer", "measure", "value", "low", "high", "passages"]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=names)


@dataclass(frozen=True)
class Expected:
    """An interval that a number of ``numbers`` should lie in."""

    name: str
    low: float
    high: float


PREDICTIONS = (
    Expected("norm after the last layer over norm of the input", 3.0, 40.0),
    Expected("cosine with the input after half of the layers", 0.1, 0.7),
    Expected("cosine of two solutions at the input", 0.0, 0.25),
    Expected("largest cosine of two solutions, minus another passage's at that layer", 0.05, 0.4),
    Expected("layer of the largest difference, as a share of all", 0.3, 0.8),
    Expected("share of texts whose first token leads after the last layer", 1.0, 1.0),
    Expected("share of texts whose first token is among the first ten after half of the layers", 0.0, 0.3),
    Expected("largest share of the text's words in the lens of the vector's position", 0.02, 0.3),
    Expected("the same for another text's words, at that layer", 0.0, 0.06),
    Expected("share of tokens that lead after two thirds of the layers", 0.0, 0.3),
    Expected("the same behind nothing", 0.0, 0.25),
    Expected("smallest share right, another solution's state at one layer", 0.0, 0.6),
    Expected("share right, another solution's state after two thirds of the layers", 0.8, 1.0),
    Expected("share right, another passage's state after two thirds of the layers", 0.6, 1.0),
    Expected("layer from which another passage's state no longer takes over, as a share of all", 0.15, 0.5),
)
"""All of them. The condition is the default recipe's vector, unless the name says another."""


def numbers(table: pd.DataFrame) -> dict[str, float]:
    """{name of a prediction: what was measured}. Empty without rows. Texts count equally."""
    if table.empty:
        return {}
    last = int(table.layer.max())
    half, late = last // 2, 2 * last // 3

    def curve(part: str, measure: str, source: str = "", condition: str = VECTOR) -> pd.Series:
        rows = table[(table.part == part) & (table.condition == condition) & (table.source == source)]
        return rows.groupby("layer")[measure].mean()

    def share(measure: pd.Series) -> float:
        return float(measure.mean()) if len(measure) else np.nan

    slot = table[(table.part == SLOT) & (table.condition == VECTOR)]
    norm, alike = curve(SLOT, "norm"), curve(SLOT, "with_other") - curve(SLOT, "with_stranger")
    words = curve(SLOT, "words")
    other, stranger = curve(PATCH, "right", OTHER), curve(PATCH, "right", STRANGER)
    taken = curve(PATCH, "source_bits", STRANGER) >= curve(PATCH, "bits", STRANGER)
    values = (
        norm.get(last, np.nan) / norm.get(0, np.nan),
        curve(SLOT, "with_input").get(half, np.nan),
        curve(SLOT, "with_other").get(0, np.nan),
        alike.max(),
        alike.idxmax() / last if alike.notna().any() else np.nan,
        share(slot[slot.layer == last].first_rank == 1),
        share(slot[slot.layer == half].first_rank <= 10),
        words.max(),
        curve(SLOT, "words_stranger").get(words.idxmax(), np.nan) if words.notna().any() else np.nan,
        curve(TEXT, "right").get(late, np.nan),
        curve(TEXT, "right", condition=NOTHING).get(late, np.nan),
        other.min(),
        other.get(late, np.nan),
        stranger.get(late, np.nan),
        taken.index[taken].min() / last if taken.any() else np.nan,
    )
    return {p.name: float(value) for p, value in zip(PREDICTIONS, values, strict=True)}


def hidden_outcomes(table: pd.DataFrame) -> pd.DataFrame:
    """One row per prediction: ``name low high measured held``."""
    known = numbers(table)
    return pd.DataFrame([compared(p, known.get(p.name, np.nan)) for p in PREDICTIONS])
