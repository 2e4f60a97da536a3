"""Steps and horizons of kinds of text, next to what the predictor said before: do bits foretell them?

1. Steps: passages of each kind at one length, searched until exact.
2. Horizons: the longest exact prefix of some of them, see ``horizon``.

The predictor is fitted to prose, novels and random words alone (``measures.forecast``). What it says of a passage is
in the passage's rows, and depends on nothing that is measured here. Predicted before the run, on 30 November 2026:
``measures.kinds.EXPECTED``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from memlab.experiments.attempts import ATTEMPT, finished_rows, one_job, run_attempts
from memlab.experiments.horizon import horizon
from memlab.experiments.session import Session
from memlab.experiments.tables import require_columns
from memlab.measures.forecast import Forecaster
from memlab.measures.kinds import AHEAD, COLUMNS, HORIZON, STEPS
from memlab.models import FrozenLM, PassageError
from memlab.recipes import Recipe
from memlab.texts import Text

Costs = dict[str, np.ndarray]
Ahead = dict[str, dict[str, float]]
FIRST_STEPS = 32
"""Tokens of the passages whose steps are counted."""
LENGTHS = (16, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176, 192, 208, 224, 240, 256, 288, 320, 352, 384)
"""Lengths that a horizon may have, tokens."""


def kinds(
    session: Session,
    texts: Mapping[str, Sequence[Text]],
    forecaster: Forecaster,
    *,
    horizons: int = 3,
    tokens: int = FIRST_STEPS,
    attempts: int = 1,
    lengths: Sequence[int] = LENGTHS,
    recipe: Recipe | None = None,
) -> pd.DataFrame:
    """One row per attempt, with the columns ``measures.kinds.COLUMNS``.

    ``texts``: {kind: texts}. Steps are counted on all of them, horizons on the first ``horizons`` per kind. A length
    has failed if ``attempts`` seeds failed at it. Each kind's search begins near what was predicted for it. Rows of
    ``session.resume_from`` are not trained again.
    """
    lm, recipe = session.lm, recipe or Recipe.default()
    table = pd.DataFrame(columns=list(COLUMNS))
    if session.resume_from is not None and len(session.resume_from):
        require_columns(session.resume_from, COLUMNS)
        table = session.resume_from[list(COLUMNS)]
    for kind, some in texts.items():
        costs = {text.id: _bits(lm, text, lengths[-1]) for text in some}
        ahead = {text_id: _ahead(bits, forecaster, tokens) for text_id, bits in costs.items()}

        def keep(part: str, rows: pd.DataFrame, kind: str = kind, costs: Costs = costs, ahead: Ahead = ahead) -> None:
            """The rows of one part of one kind replace those that were there."""
            nonlocal table
            if not len(rows):
                return
            said = pd.DataFrame([ahead[text_id] for text_id in rows.text_id], columns=list(AHEAD))
            bits = [float(costs[text_id][:n].sum()) for text_id, n in zip(rows.text_id, rows.tokens, strict=True)]
            new = pd.concat([rows[list(ATTEMPT)].reset_index(drop=True), said], axis=1)
            new = new.assign(kind=kind, part=part, own_bits=bits, model=lm.name)[list(COLUMNS)]
            others = table[~((table.kind == kind) & (table.part == part))]
            table = pd.concat([others, new], ignore_index=True) if len(others) else new
            session.on_rows(table)

        jobs = [(text, tokens, one_job(lm, text, tokens, recipe, 0)) for text in some]
        keep(STEPS, pd.DataFrame(finished_rows(run_attempts(session, jobs))))
        done = table[(table.kind == kind) & (table.part == STEPS)]
        session.log(f"{kind}: {done.steps.median():g} steps, {int(done.exact.sum())} of {len(done)} exact")
        chosen = list(some)[:horizons]
        if not chosen:
            continue
        guess = float(np.median([ahead[text.id]["horizon_ahead"] for text in chosen]))
        first = max([n for n in lengths if n <= guess] or [lengths[0]])
        inner = replace(session, on_rows=partial(keep, HORIZON))
        keep(HORIZON, horizon(inner, chosen, lengths=lengths, first=first, attempts=attempts, recipe=recipe))
    return table


def _bits(lm: FrozenLM, text: Text, longest: int) -> np.ndarray:
    """Cost of each token (n,) of the longest passage that is measured, bits."""
    try:
        passage = lm.passage(text, longest)
    except PassageError:
        passage = lm.passage(text, None)
    return np.nan_to_num(lm.token_bits(passage.ids))


def _ahead(costs: np.ndarray, forecaster: Forecaster, tokens: int) -> dict[str, float]:
    """What the predictor says of a text, from the bits of its tokens: ``AHEAD``."""
    steps = forecaster.ahead(costs[:tokens]).steps
    reach = forecaster.predictor.horizon(costs)
    told = (steps.value, steps.low, steps.high) if steps else (np.nan,) * 3
    return dict(zip(AHEAD, [*told, *reach], strict=True))
