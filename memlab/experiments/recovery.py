"""How much of a text comes back: recipes compared on the same passages, read in three ways.

Teacher-forced (argmax while the true text is fed); decoded with the first token given (as in the code of arXiv
2502.13063); and decoded from the vector alone. Only the last is called exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from memlab.decoding import decode as decoding
from memlab.experiments.session import Session
from memlab.measures.statistics import share_interval, share_label
from memlab.models import PassageError
from memlab.recipes import Recipe
from memlab.results.checks import EXACT, latest
from memlab.results.store import StoreError
from memlab.sweeps.runner import Plan, run
from memlab.texts import Text


@dataclass(frozen=True)
class Recovery:
    """The result of ``recovery``."""

    table: pd.DataFrame
    """One row per passage and recipe: the three readings (share of tokens right, passed or not), and steps."""
    trained: int
    """Vectors trained by this call. The others were in the store."""
    seconds: float
    """Wall time of that training."""
    lost: dict[str, str]
    """Passages and jobs without a row, each with the reason."""


def recovery(
    session: Session,
    texts: Sequence[Text],
    recipes: Sequence[Recipe],
    *,
    tokens: int,
    start: int | str = 0,
    train: bool = True,
) -> Recovery:
    """Cram the first ``tokens`` tokens of each text by each recipe, and read the vectors in three ways.

    With ``train=False`` nothing is written, and ``StoreError`` is raised if the store lacks a vector. Raises
    ``PassageError`` if no text is long enough.
    """
    lm, store = session.lm, session.store
    plan = Plan.grid(lm, texts, tokens=tokens, recipes=list(recipes), start=start)
    if not len(plan):
        raise PassageError(
            f"No text has a passage of {tokens} tokens: {dict(plan.rejected)}. "
            "Ask for fewer tokens, or give longer texts."
        )
    if not train and len(missing := plan.missing(store)):
        raise StoreError(
            f"{len(missing)} of {len(plan)} results are missing from {store.path}. Use train=True to train them."
        )
    report = run(plan, store, progress=session.progress)
    rows = []
    for mem in report.results:
        given = next((c for c in mem.checks if c.first_given), None)
        if given is None and mem.n > 1:
            given = decoding.check(lm, mem, first_given=True)
        alone = latest(mem.checks)[EXACT]
        rows.append(
            {
                "recipe": mem.recipe.name,
                "text_id": mem.text.id,
                "start": mem.text.start,
                "tokens": mem.n,
                "teacher_forced": mem.teacher_forced,
                "given_right": given.right / given.tokens if given else None,
                "given_passed": given.passed if given else None,
                "alone_right": alone.right / alone.tokens,
                "exact": mem.exact,
                "margin": alone.margin,
                "steps": mem.steps,
                "ended": mem.provenance.get("ended"),
                "key": mem.key,
            }
        )
    return Recovery(pd.DataFrame(rows), report.trained, report.seconds, dict(report.rejected) | report.failed)


READINGS = {
    "teacher_forced_all": "teacher-forced, all tokens right",
    "given_passed": "decoded, first token given",
    "exact": "exact: decoded from the vector alone",
}


def shares(table: pd.DataFrame) -> pd.DataFrame:
    """Share of passages by recipe, length and reading, with 95 % Wilson intervals."""
    table = table.assign(teacher_forced_all=table.teacher_forced == 1)
    rows = []
    for (recipe, tokens), group in table.groupby(["recipe", "tokens"], sort=False):
        for column, reading in READINGS.items():
            hits = int(group[column].sum())
            low, high = share_interval(hits, len(group))
            rows.append((recipe, tokens, reading, hits / len(group), low, high, share_label(group[column] == 1)))
    return pd.DataFrame(rows, columns=["recipe", "tokens", "reading", "share", "low", "high", "label"])


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """``shares`` as a table for the terminal: one row per reading, then mean accuracy and median steps."""
    table = table.assign(recipe=table.recipe + table.tokens.map(" ({} tokens)".format))
    wide = shares(table).pivot(index="reading", columns="recipe", values="label").loc[list(READINGS.values())]
    groups = table.groupby("recipe")
    wide.loc["teacher-forced accuracy, mean"] = groups.teacher_forced.mean().map("{:.3f}".format)
    wide.loc["steps, median"] = groups.steps.median().map("{:.0f}".format)
    return wide.rename_axis(columns=None, index=None)
