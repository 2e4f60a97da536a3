"""What vectors are good for, and what harm they do: summaries of the tables of ``experiments.use`` and ``harm``.

All intervals are bootstraps over passages, of the mean over passages of each passage's mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from memlab.measures.statistics import mean_intervals

VECTOR, ANOTHER, RANDOM, TEXT, NOTHING = "vector", "another vector", "random vector", "text", "nothing"
"""What stands in the context: the passage's vector, another passage's, random directions of its length, the text of the
passage, nothing. Vectors of a trained encoder are ``encoding by NAME`` and ``another encoding by NAME``."""
CONTINUATION, CLOZE, INSTRUCTIONS, IDENTIFICATION = "continuation", "cloze", "instructions", "identification"
PARTS = {
    CONTINUATION: ("after its text", "at once"),
    CLOZE: ("name", "number", "thing"),
    INSTRUCTIONS: ("repeat", "repeat backwards", "first sentence", "third word"),
    IDENTIFICATION: ("passage", "topic"),
}
"""{part of the table: its items}.

``after its text``: the continuation follows the passage, which follows the vector. ``at once``: it follows the vector
itself. ``passage``, ``topic``: the vector's own passage, or a line about it, has to be found among those of others."""
COLUMNS = (
    "part", "item", "condition", "k", "text_id", "position", "words", "held_out", "tokens", "bits", "right", "obeyed",
    "begun", "recites", "rank", "gain_rank", "among", "wrote", "model",
)  # fmt: skip
"""Columns of the table of use: one row per thing asked, condition and passage.

``tokens`` is the length of what is scored: continuation, answer, text or wanted output. ``bits`` is its cost.
``right``: how many of its tokens are first choices, teacher-forced.
``obeyed``: whether the free decode is the wanted output, and ends there if the task is shorter than the passage;
``begun``: its tokens before the first wrong one; ``wrote``: how the answer begins; ``recites``: whether its first 8
tokens are those of the passage.
``rank``: place of the right answer among ``among`` answers by their bits, 1 is the best; ``gain_rank``: by the bits
that the context saves of each answer, against nothing. ``position``, ``words``: of the instruction or question."""
MEASURES = {
    CONTINUATION: ("bits a token", "tokens right"),
    CLOZE: ("bits", "place by bits", "place", "found"),
    INSTRUCTIONS: ("obeyed", "recites", "tokens right", "begun", "bits a token"),
    IDENTIFICATION: ("bits", "place by bits", "place", "found"),
}
"""{part: its measures}. ``place``: of the right answer by the bits saved, 0 is the best and 1 the last, and a guess has
0.5. ``found``: share of first places. The others are shares of tokens or of texts."""
DISTANCE, LAYERS = "distance", "layers"
HARM_PARTS = (DISTANCE, LAYERS)
HARM_COLUMNS = (
    "part", "condition", "k", "mode", "layer", "distance", "tokens", "text_id", "stranger_id", "bits", "bits_nothing",
    "same", "model",
)  # fmt: skip
"""Columns of the table of harm: a stranger's text behind a vector and a separator.

Part ``distance`` has a row per token of it, counted from 1. Part ``layers`` has a row per mode and layer over all
``tokens``, with ``distance`` 0: the layers in which no token sees the vector. ``same``: how many first choices of the
model are those without a vector. ``bits_nothing``: cost without a vector."""
MODES = ("none", "only", "until", "from")
"""Hidden in no layer, in one layer, in it and all earlier ones, in it and all later ones."""
BANDS = ((1, 1), (2, 4), (5, 16), (17, 64))
"""Distances that are summarized together."""
_UNIT = ["part", "item", "position", "condition", "k"]


def values(table: pd.DataFrame) -> pd.DataFrame:
    """One row per row of the table of use and measure of its part: ``measure value`` and the labels."""
    first = (table.gain_rank <= 1).astype(float).where(table.among > 1)  # one answer alone is no choice
    others = (table.among - 1).where(table.among > 1)
    measured = {
        "bits": table.bits,
        "bits a token": table.bits / table.tokens,
        "tokens right": table.right / table.tokens,
        "begun": table.begun / table.tokens,
        "obeyed": table.obeyed,
        "recites": table.recites,
        "place by bits": (table["rank"] - 1) / others,
        "place": (table.gain_rank - 1) / others,
        "found": first,
    }
    labels = table[[*_UNIT, "text_id", "held_out"]]
    rows = [
        labels.assign(measure=name, value=measured[name].astype(float))[table.part == part]
        for part, names in MEASURES.items()
        for name in names
    ]
    return pd.concat(rows, ignore_index=True)


def use_summary(table: pd.DataFrame, *, draws: int = 2000) -> pd.DataFrame:
    """One row per part, item, position, condition, k and measure: ``value low high passages``.

    The item ``all`` of the cloze questions is the mean over all of a passage's questions.
    """
    return _means(use_values(table), [*_UNIT, "measure"], draws)


def compared_with(table: pd.DataFrame, control: str, *, draws: int = 2000) -> pd.DataFrame:
    """``use_summary`` of the differences to a condition, paired by passage: its rows' values minus the control's.

    A control with vectors is compared at the same k, and ``text`` and ``nothing`` with every k.
    """
    rows = use_values(table)
    own = rows[rows.condition == control]
    pair = ["part", "item", "position", "measure", "text_id", *(["k"] if own.k.any() else [])]
    theirs = own[[*pair, "value"]].rename(columns={"value": "control"})
    both = rows[rows.condition != control].merge(theirs, on=pair)
    return _means(both.assign(value=both.value - both.control), [*_UNIT, "measure"], draws)


def use_values(table: pd.DataFrame) -> pd.DataFrame:
    """The means of ``values`` per passage: one row per labels, measure and ``text_id``, with the item ``all``."""
    rows = values(table)
    rows = pd.concat([rows, rows[rows.part == CLOZE].assign(item="all")])
    return rows.groupby([*_UNIT, "measure", "text_id"], as_index=False, sort=False).value.mean()


def held_out_wordings(table: pd.DataFrame, *, draws: int = 2000) -> pd.DataFrame:
    """``use_summary`` of the instructions, apart for wordings that are held out of trainings: column ``held_out``."""
    rows = values(table[table.part == INSTRUCTIONS])
    return _means(rows, [*_UNIT, "held_out", "measure"], draws)


def harm_summary(table: pd.DataFrame, bands: Sequence[tuple[int, int]] = BANDS, *, draws: int = 2000) -> pd.DataFrame:
    """One row per condition, k and band of distances: harm in bits a token, and ``same``, the share of equal choices.

    Columns ``condition k first last measure value low high passages``. Measures: ``harm``, ``same``.
    """
    rows = table[table.part == DISTANCE]
    parts = [rows[rows.distance.between(first, last)].assign(first=first, last=last) for first, last in bands]
    return _harm_means(pd.concat(parts), ["condition", "k", "first", "last"], draws)


def harm_by_layer(table: pd.DataFrame, *, draws: int = 2000) -> pd.DataFrame:
    """One row per condition, k, mode and layer: the harm that is left while the vector is hidden in these layers.

    Columns ``condition k mode layer measure value low high passages``.
    """
    return _harm_means(table[table.part == LAYERS], ["condition", "k", "mode", "layer"], draws)


def layers_that_harm(table: pd.DataFrame) -> pd.DataFrame:
    """Per condition and k: ``harm``, the shares ``only`` and ``layer`` of the one layer that does most of it, and the
    first layer ``until`` which hiding takes off half of it, from the mean over passages.
    """
    left = harm_by_layer(table, draws=1).query("measure == 'harm'")
    rows = []
    for (condition, k), group in left.groupby(["condition", "k"], sort=False):
        whole = float(group.value[group["mode"] == "none"].iloc[0])
        only, until = (group[group["mode"] == mode].set_index("layer").value.sort_index() for mode in ("only", "until"))
        below = until.index[until <= whole / 2]
        rows.append(
            {
                "condition": condition,
                "k": k,
                "harm": whole,
                "layer": int(only.idxmin()),
                "only": 1 - float(only.min()) / whole if whole else np.nan,
                "until": int(below[0]) if len(below) else -1,
            }
        )
    return pd.DataFrame(rows, columns=["condition", "k", "harm", "layer", "only", "until"])


def _harm_means(rows: pd.DataFrame, by: list[str], draws: int) -> pd.DataFrame:
    measured = {"harm": (rows.bits - rows.bits_nothing) / rows.tokens, "same": rows.same / rows.tokens}
    both = [rows[[*by, "text_id"]].assign(measure=name, value=value.astype(float)) for name, value in measured.items()]
    return _means(pd.concat(both, ignore_index=True), [*by, "measure"], draws)


def _means(rows: pd.DataFrame, by: list[str], draws: int) -> pd.DataFrame:
    """The mean over passages of ``value``, per group, with an interval over passages: ``value low high passages``."""
    each = rows.dropna(subset="value").groupby([*by, "text_id"], as_index=False, sort=False).value.mean()
    found = []
    for labels, group in each.groupby(by, sort=False):
        low, high = mean_intervals(group.value.to_numpy()[:, None], draws=draws)
        found.append(
            dict(zip(by, labels, strict=True))
            | {"value": group.value.mean(), "low": low[0], "high": high[0], "passages": len(group)}
        )
    return pd.DataFrame(found, columns=[*by, "value", "low", "high", "passages"])
