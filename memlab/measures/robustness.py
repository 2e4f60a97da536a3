"""How far a vector can be moved before its text is lost: summaries of the tables of ``probes.perturbation``.

Tables in, tables out, no model. Amounts and radii are shares of the vector's norm, unless a column says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from memlab.measures.geometry import dropout_distance
from memlab.measures.statistics import share_interval


def survivors(table: pd.DataFrame, by: str) -> pd.DataFrame:
    """Per amount (column ``by``), the share of moved vectors that are still exact: ``by share low high tokens_right``.

    ``table``, one row per moved vector: ``key exact right tokens`` and ``by``. ``low`` and ``high``: Wilson interval
    over vectors, because draws of one vector are not independent vectors. ``tokens_right``: share of tokens, 0 to 1.
    """
    rows = []
    for amount, group in table.groupby(by):
        by_vector = group.groupby("key").exact.mean()
        low, high = share_interval(by_vector.sum(), len(by_vector))
        rows.append((amount, group.exact.mean(), low, high, (group.right / group.tokens).mean()))
    return pd.DataFrame(rows, columns=[by, "share", "low", "high", "tokens_right"])


def survival_by_direction(
    moved: pd.DataFrame,
    directions: Sequence[str] = ("noise", "dropout", "first principal", "down the gradient", "up the gradient"),
) -> pd.DataFrame:
    """Share of moved vectors that are still exact: ``direction distance share low high tokens_right``.

    ``moved``: ``what draw amount key exact right tokens``. Rows with ``what`` = ``gradient`` are up the gradient of the
    loss if ``draw`` is 0, and down it if ``draw`` is 1. ``distance`` is a share of the vector's norm: the amount, or
    for ``dropout`` the distance that setting this share of the numbers to 0 moves a vector. At distance 0, where each
    direction begins, the vectors are those that were moved.
    """
    gradient = moved.draw.map({0: "up the gradient", 1: "down the gradient"})
    direction = moved.what.where(moved.what != "gradient", gradient)
    tables = []
    for name in directions:
        survived = survivors(moved[direction == name], "amount").rename(columns={"amount": "distance"})
        if name == "dropout":
            survived["distance"] = dropout_distance(survived.distance)
        vectors = moved.key[direction == name].nunique()
        low, high = share_interval(vectors, vectors)
        start = pd.DataFrame({"distance": [0.0], "share": 1.0, "low": low, "high": high, "tokens_right": 1.0})
        tables.append(pd.concat([start, survived], ignore_index=True).assign(direction=name))
    return pd.concat(tables, ignore_index=True)


def radii_by_text(radii: pd.DataFrame, *by: str) -> pd.DataFrame:
    """Mean over directions, one row per text and value of the columns ``by``: ``by text_id radius margin steps``.

    ``radii``, one row per vector and direction: ``text_id radius margin steps`` and ``by``. ``margin`` is in logits.
    """
    return radii.groupby([*by, "text_id"], as_index=False)[["radius", "margin", "steps"]].mean()


def median_radii(radii: pd.DataFrame, *by: str) -> pd.DataFrame:
    """Medians over texts of ``radii_by_text``, one row per value of the columns ``by``: ``texts radius margin steps``.

    ``texts`` is the number of texts.
    """
    return (
        radii_by_text(radii, *by)
        .groupby(list(by))
        .agg(
            texts=("text_id", "size"),
            radius=("radius", "median"),
            margin=("margin", "median"),
            steps=("steps", "median"),
        )
    )
