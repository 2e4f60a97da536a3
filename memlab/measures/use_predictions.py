"""What was expected of the use and the harm of vectors, before either was measured on the real model.

Predicted before the run: written on 30 November 2026 for SmolLM2-135M-Instruct, 12 originals of 64 tokens, vectors of
the default recipe. Not changed since. In words: a vector that was trained to write one text does that and little else.
It is a program, not a memory: the model cannot be asked about it, and an instruction in front of it changes nothing or
breaks it. More vectors are not better, because nothing in their training asks for it. The vector of a passage makes the
words of that passage likelier everywhere, so cloze questions and topics are answered a little better than by chance,
and much worse than with the text. The harm to a stranger's text is large at the first tokens and fades; it is done in
the early layers. A random vector of the same length does almost none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from memlab.measures.predictions import compared
from memlab.measures.use import (
    ANOTHER,
    CLOZE,
    CONTINUATION,
    IDENTIFICATION,
    INSTRUCTIONS,
    NOTHING,
    RANDOM,
    TEXT,
    VECTOR,
    compared_with,
    harm_by_layer,
    harm_summary,
    use_summary,
)


@dataclass(frozen=True)
class Expected:
    """An interval that a row of ``use_summary``, or of ``compared_with`` if ``minus`` is set, should lie in."""

    part: str
    item: str
    measure: str
    condition: str
    k: int
    low: float
    high: float
    position: str = ""
    minus: str = ""
    """The condition that is taken off, paired by passage."""

    @property
    def name(self) -> str:
        """What is predicted, for a reader."""
        vectors = f", k = {self.k}" if self.k else ""
        less = f" minus {self.minus}" if self.minus else ""
        where = f" ({self.position})" if self.position else ""
        return f"{self.part}, {self.item}{where}: {self.measure}, {self.condition}{vectors}{less}"


@dataclass(frozen=True)
class ExpectedHarm:
    """An interval of a row of ``harm_summary``: ``measure`` at the distances ``first`` to ``last``."""

    condition: str
    k: int
    first: int
    last: int
    measure: str
    low: float
    high: float

    @property
    def name(self) -> str:
        """What is predicted, for a reader."""
        vectors = f", k = {self.k}" if self.k else ""
        return f"{self.measure}, {self.condition}{vectors}, tokens {self.first} to {self.last}"


@dataclass(frozen=True)
class ExpectedLayers:
    """An interval of the share of a vector's harm that is left while it is hidden in some layers."""

    condition: str
    k: int
    mode: str
    share: float
    """How far in the model the layer is: 0 the first layer, 1 the last."""
    low: float
    high: float

    @property
    def name(self) -> str:
        """What is predicted, for a reader."""
        return f"harm left, {self.condition}, k = {self.k}, hidden {self.mode} layer {self.share:.0%} of the way"


EXPECTED = (
    Expected(CONTINUATION, "at once", "bits a token", TEXT, 0, 3.2, 4.8),
    Expected(CONTINUATION, "at once", "bits a token", NOTHING, 0, 0.3, 1.5, minus=TEXT),
    Expected(CONTINUATION, "after its text", "bits a token", VECTOR, 1, 0.2, 2.5, minus=TEXT),
    Expected(CONTINUATION, "after its text", "bits a token", VECTOR, 4, 0.2, 2.5, minus=TEXT),
    Expected(CONTINUATION, "after its text", "bits a token", RANDOM, 1, -0.1, 0.3, minus=TEXT),
    Expected(CONTINUATION, "after its text", "bits a token", ANOTHER, 1, 0.1, 2.0, minus=TEXT),
    Expected(CONTINUATION, "at once", "bits a token", VECTOR, 1, 0.2, 3.0, minus=NOTHING),
    Expected(CONTINUATION, "at once", "bits a token", ANOTHER, 1, 0.3, 3.0, minus=NOTHING),
    Expected(CLOZE, "all", "place", TEXT, 0, 0.0, 0.12),
    Expected(CLOZE, "all", "place", VECTOR, 1, 0.22, 0.46),
    Expected(CLOZE, "all", "place", VECTOR, 2, 0.22, 0.46),
    Expected(CLOZE, "all", "place", VECTOR, 4, 0.22, 0.48),
    Expected(CLOZE, "all", "place", ANOTHER, 1, 0.42, 0.60),
    Expected(CLOZE, "all", "place", RANDOM, 1, 0.40, 0.60),
    Expected(CLOZE, "all", "found", TEXT, 0, 0.6, 0.95),
    Expected(CLOZE, "all", "found", VECTOR, 1, 0.05, 0.35),
    Expected(CLOZE, "all", "bits", TEXT, 0, -7.0, -2.5, minus=NOTHING),
    Expected(CLOZE, "all", "bits", VECTOR, 1, -1.0, 5.0, minus=NOTHING),
    Expected(INSTRUCTIONS, "repeat", "obeyed", TEXT, 0, 0.1, 0.7, position="chat"),
    Expected(INSTRUCTIONS, "repeat", "obeyed", VECTOR, 1, 0.0, 0.35, position="before"),
    Expected(INSTRUCTIONS, "repeat", "obeyed", VECTOR, 2, 0.0, 0.5, position="before"),
    Expected(INSTRUCTIONS, "repeat", "obeyed", VECTOR, 4, 0.0, 0.5, position="before"),
    Expected(INSTRUCTIONS, "repeat", "obeyed", VECTOR, 1, 0.0, 0.05, position="after"),
    Expected(INSTRUCTIONS, "repeat", "obeyed", VECTOR, 1, 0.0, 0.05, position="chat"),
    Expected(INSTRUCTIONS, "repeat backwards", "obeyed", TEXT, 0, 0.0, 0.02, position="chat"),
    Expected(INSTRUCTIONS, "repeat backwards", "obeyed", VECTOR, 1, 0.0, 0.02, position="chat"),
    Expected(INSTRUCTIONS, "first sentence", "obeyed", TEXT, 0, 0.05, 0.6, position="chat"),
    Expected(INSTRUCTIONS, "first sentence", "obeyed", VECTOR, 1, 0.0, 0.05, position="before"),
    Expected(INSTRUCTIONS, "first sentence", "recites", VECTOR, 1, 0.05, 0.7, position="before"),
    Expected(INSTRUCTIONS, "third word", "recites", VECTOR, 1, 0.05, 0.7, position="before"),
    Expected(INSTRUCTIONS, "third word", "recites", VECTOR, 1, 0.0, 0.2, position="after"),
    Expected(INSTRUCTIONS, "repeat", "recites", RANDOM, 1, 0.0, 0.0, position="before"),
    Expected(INSTRUCTIONS, "third word", "obeyed", TEXT, 0, 0.0, 0.15, position="chat"),
    Expected(INSTRUCTIONS, "third word", "obeyed", VECTOR, 1, 0.0, 0.05, position="after"),
    Expected(IDENTIFICATION, "passage", "found", VECTOR, 1, 1.0, 1.0),
    Expected(IDENTIFICATION, "passage", "found", RANDOM, 1, 0.0, 0.15),
    Expected(IDENTIFICATION, "topic", "found", TEXT, 0, 0.6, 1.0),
    Expected(IDENTIFICATION, "topic", "found", VECTOR, 1, 0.05, 0.5),
    Expected(IDENTIFICATION, "topic", "place", VECTOR, 1, 0.10, 0.40),
    Expected(IDENTIFICATION, "topic", "place", ANOTHER, 1, 0.40, 0.62),
)
"""Of use."""
EXPECTED_HARM = (
    ExpectedHarm(VECTOR, 1, 1, 1, "harm", 1.0, 9.0),
    ExpectedHarm(VECTOR, 1, 2, 4, "harm", 0.5, 6.0),
    ExpectedHarm(VECTOR, 1, 5, 16, "harm", 0.3, 4.0),
    ExpectedHarm(VECTOR, 1, 17, 64, "harm", 0.1, 2.0),
    ExpectedHarm(VECTOR, 4, 17, 64, "harm", 0.1, 2.5),
    ExpectedHarm(VECTOR, 1, 17, 64, "same", 0.45, 0.85),
    ExpectedHarm(RANDOM, 1, 17, 64, "harm", -0.05, 0.15),
    ExpectedHarm(RANDOM, 1, 17, 64, "same", 0.85, 1.0),
    ExpectedHarm(RANDOM, 1, 1, 1, "harm", -0.5, 1.0),
    ExpectedHarm(TEXT, 0, 17, 64, "harm", -0.10, 0.15),
    ExpectedHarm(TEXT, 0, 1, 1, "harm", -1.5, 1.0),
    ExpectedHarm(ANOTHER, 1, 17, 64, "harm", 0.1, 2.0),
)
"""Of harm, bits a token."""
EXPECTED_LAYERS = (
    ExpectedLayers(VECTOR, 1, "until", 1.0, -0.1, 0.1),
    ExpectedLayers(VECTOR, 1, "until", 0.33, 0.0, 0.4),
    ExpectedLayers(VECTOR, 1, "from", 0.67, 0.6, 1.1),
    ExpectedLayers(VECTOR, 1, "from", 0.33, 0.3, 0.9),
    ExpectedLayers(VECTOR, 4, "until", 0.33, 0.0, 0.5),
)
"""Of the layers that do harm."""


def use_outcomes(table: pd.DataFrame) -> pd.DataFrame:
    """One row per prediction of use: its fields, ``name measured held``. NaN and None for what was not measured."""
    summaries = {"": use_summary(table, draws=1)}
    for control in dict.fromkeys(one.minus for one in EXPECTED if one.minus):
        summaries[control] = compared_with(table, control, draws=1)
    rows = []
    for one in EXPECTED:
        names = ("part", "item", "measure", "condition", "k", "position")
        measured = _value(summaries[one.minus], {name: getattr(one, name) for name in names})
        rows.append(compared(one, measured) | {"name": one.name})
    return pd.DataFrame(rows)


def harm_outcomes(table: pd.DataFrame) -> pd.DataFrame:
    """One row per prediction of harm, in all and by layer: ``name low high measured held``."""
    rows = []
    for one in EXPECTED_HARM:
        found = harm_summary(table, [(one.first, one.last)], draws=1)
        measured = _value(found, {"condition": one.condition, "k": one.k, "measure": one.measure})
        rows.append(compared(one, measured) | {"name": one.name})
    left = harm_by_layer(table, draws=1)
    left = left[left.measure == "harm"]
    for each in EXPECTED_LAYERS:
        own = {"condition": each.condition, "k": each.k}
        layer = round(each.share * left.layer.max()) if len(left) else -1
        whole = _value(left, own | {"mode": "none"})
        measured = _value(left, own | {"mode": each.mode, "layer": layer}) / whole
        rows.append(compared(each, measured) | {"name": each.name})
    return pd.DataFrame(rows)[["name", "low", "high", "measured", "held"]]


def _value(table: pd.DataFrame, labels: dict[str, object]) -> float:
    """The value of the one row with these labels; NaN if there is none."""
    found = table[np.logical_and.reduce([table[name] == value for name, value in labels.items()])]
    return float(found.value.iloc[0]) if len(found) else float("nan")
