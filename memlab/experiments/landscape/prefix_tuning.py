"""How much more one position holds if a vector of its own is written into every layer (per-sample prefix tuning).

An input vector of SmolLM2-135M has 576 numbers. The same position has 30 x 576 = 17,280 numbers if each layer's input
is free. Text after it sees of each layer only the keys and values made of them, 2 x 192 numbers, so about 11,520 count.
arXiv 2607.21231 reports 7 to 20 times the horizon of an input vector for one trained key and value per layer,
teacher-forced. Here a length counts only if the free decode from the stored float32 numbers is exact.

Predicted before the run, for SmolLM2-135M and originals:
1. The exact horizon with a vector in every layer is 4 to 8 times that of an input vector: about 512 to 1,024 tokens.
2. A freed number buys less: an input vector holds about 1.5 bits per number, a vector in every layer 0.2 to 0.4.
3. At a length that both hold (64 tokens), the vector in every layer needs at most half the steps.
4. A vector at the input of layer 15 alone holds less than half of what an input vector holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from memlab.experiments.horizon import horizon
from memlab.experiments.session import Session
from memlab.models import FrozenLM
from memlab.recipes import Recipe
from memlab.texts import Text

LENGTHS = (32, 64, 96, 128, 160, 192, 256, 512, 1024)
"""Lengths that are tried, tokens."""
FIRST = {"input": 128, "every layer": 256}
"""Length that is tried first. Other places: 64."""


def recipes(places: Sequence[str]) -> dict[str, Recipe]:
    """{place: the best known recipe}."""
    return {where: Recipe.default() if where == "input" else Recipe.layers(where=where) for where in places}


def prefix_tuning(
    session: Session,
    texts: Sequence[Text],
    chosen: Mapping[str, Recipe] | None = None,
    *,
    lengths: Sequence[int] = LENGTHS,
    attempts: int = 1,
) -> pd.DataFrame:
    """One row per place, passage and length that was tried: the columns of ``attempts.ATTEMPT``, and three more.

    ``where``: the place. ``numbers``: how many numbers are stored. ``own_bits``: what the passage costs the model
    without the vector. Rows of ``session.resume_from`` stay in the table. A length has failed after ``attempts`` seeds;
    see ``horizon``.
    """
    chosen = chosen or recipes(("input", "every layer"))
    parts: dict[str, pd.DataFrame] = {}

    def keep(where: str, rows: pd.DataFrame) -> pd.DataFrame:
        """The rows of all places so far, and those of earlier runs."""
        parts[where] = _with_place(session.lm, texts, rows, where, chosen[where])
        table = pd.concat(parts.values(), ignore_index=True)
        if session.resume_from is None:
            return table
        earlier = session.resume_from[~session.resume_from.key.isin(table.key)]
        return pd.concat([earlier, table], ignore_index=True) if len(earlier) else table

    table = pd.DataFrame()
    for where, recipe in chosen.items():
        first = max(n for n in lengths if n <= max(FIRST.get(where, 64), min(lengths)))
        tell = partial(lambda place, rows: session.on_rows(keep(place, rows)), where)
        rows = horizon(
            replace(session, on_rows=tell), texts, lengths=lengths, first=first, attempts=attempts, recipe=recipe
        )
        table = keep(where, rows)
    return table


def _with_place(lm: FrozenLM, texts: Sequence[Text], rows: pd.DataFrame, where: str, recipe: Recipe) -> pd.DataFrame:
    by_id = {text.id: text for text in texts}
    own = [lm.passage(by_id[row.text_id], int(row.length)).ids for row in rows.itertuples()]
    costs = [float(np.nansum(lm.token_bits(ids))) for ids in own]
    numbers = recipe.k * max(1, len(lm.layers.at(where))) * lm.d
    return rows.assign(where=where, numbers=numbers, own_bits=costs)


def horizons(table: pd.DataFrame) -> pd.DataFrame:
    """One row per place and passage: its longest exact length, what that holds, and whether a longer length failed."""
    rows = []
    for (where, text_id), group in table.groupby(["where", "text_id"], sort=False):
        exact = group[group.exact]
        best = exact.loc[exact.tokens.idxmax()] if len(exact) else None
        longest = 0 if best is None else int(best.tokens)
        rows.append(
            {
                "where": where,
                "text_id": text_id,
                "numbers": int(group.numbers.iloc[0]),
                "horizon": longest,
                "bits": 0.0 if best is None else best.own_bits,
                "steps": 0 if best is None else int(best.steps),
                "ended": bool((group.tokens > longest).any()),
            }
        )
    return pd.DataFrame(rows)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """One row per place: median horizon, its ratio to that of an input vector on the same passages, what a number buys.

    Lower bounds where ``open`` passages were exact at the longest length that was tried.
    """
    each = horizons(table)
    inputs = each[each["where"] == "input"].set_index("text_id").horizon
    rows = []
    for where, group in each.groupby("where", sort=False):
        ratio = group.horizon / group.text_id.map(inputs).replace(0, np.nan)
        rows.append(
            {
                "where": where,
                "passages": len(group),
                "open": int((~group.ended).sum()),
                "numbers": int(group.numbers.iloc[0]),
                "horizon": group.horizon.median(),
                "times an input vector": ratio.median(),
                "bits": group.bits.median(),
                "bits a number": (group.bits / group.numbers).median(),
                "numbers a token": (group.numbers / group.horizon.replace(0, np.nan)).median(),
                "steps": group.steps.median(),
            }
        )
    return pd.DataFrame(rows)
