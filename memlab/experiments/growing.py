"""Horizons by recipes that grow their text while they train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from memlab.experiments.attempts import context_room, finished_rows, longest_passage, run_attempts
from memlab.experiments.session import Session
from memlab.recipes import Recipe
from memlab.sweeps.runner import Plan
from memlab.texts import Text


def growing(
    session: Session,
    texts: Sequence[Text],
    *,
    recipe: Recipe,
    token_passes: int | Mapping[str, int],
    longest: int,
    start: int | str = 0,
) -> pd.DataFrame:
    """One row per passage, with the columns ``attempts.ATTEMPT``: how many tokens a growing recipe reaches.

    The measured horizon is the number of tokens that the final vector decodes to. ``token_passes`` limits each run: one
    number, or a number per text id, such as what another search has spent on that text (0: only the recipe's patience
    ends a run). A text shorter than ``longest`` tokens is grown to its end.
    """
    lm = session.lm
    passages = [longest_passage(lm, text, min(longest, context_room(lm, recipe)), start) for text in texts]
    budgets = {t.id: token_passes if isinstance(token_passes, int) else int(token_passes[t.id]) for t in texts}
    attempts = [
        (text, len(p), Plan.of(lm, [p], recipe.replace(token_budget=budgets[text.id])).jobs[0])
        for text, p in zip(texts, passages, strict=True)
    ]
    rows = run_attempts(session, attempts, on_rows=lambda rows: session.on_rows(pd.DataFrame(rows)))
    return pd.DataFrame(finished_rows(rows))
