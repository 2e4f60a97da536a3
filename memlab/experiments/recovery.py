"""How much of a text comes back: recipes side by side on the same passages, read in three ways.

Teacher-forced (argmax while the true text is fed), decoded with the first token given (as the code of arXiv 2502.13063
does), and decoded from the vector alone, which is the only one called exact.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from memlab.decoding import decode as decoding
from memlab.measures.statistics import share_interval
from memlab.models import FrozenLM, PassageError
from memlab.recipes import Recipe
from memlab.results.store import Store, StoreError
from memlab.sweeps.runner import Plan, run
from memlab.texts import Text


def recovery(
    lm: FrozenLM,
    texts: Sequence[Text],
    recipes: Sequence[Recipe],
    store: Store,
    *,
    tokens: int,
    start: int | str = 0,
    train: bool = True,
) -> pd.DataFrame:
    """One row a passage and recipe: the three readings (shares right, passed or not) and steps.

    ``attrs``: how many were ``trained`` now, the wall ``seconds`` of that, and what was ``lost`` (jobs without a row,
    and why). With ``train=False`` the store must hold all, and nothing is written.
    """
    plan = Plan.grid(lm, texts, tokens=tokens, recipes=list(recipes), start=start)
    if not len(plan):
        raise PassageError(f"no text gives a passage of {tokens} tokens: {dict(plan.rejected)}")
    if not train and len(missing := plan.missing(store)):
        raise StoreError(f"{len(missing)} of {len(plan)} results are missing from {store.path}, and train=False")
    report = run(plan, store)
    rows = []
    for mem in report.results:
        given = next((c for c in mem.checks if c.first_given), None)
        if given is None and mem.n > 1:
            given = decoding.check(lm, mem, first_given=True)
        alone = next(c for c in mem.checks if c.settings == decoding.EXACT)
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
    table = pd.DataFrame(rows)
    lost = dict(report.rejected) | report.failed
    table.attrs |= {"trained": report.trained, "seconds": report.seconds, "lost": lost}
    return table


READINGS = {
    "teacher_forced_all": "teacher-forced, all tokens right",
    "given_passed": "decoded, first token given",
    "exact": "exact: decoded from the vector alone",
}


def shares(table: pd.DataFrame) -> pd.DataFrame:
    """Share of passages by recipe, length and reading, with 95 % Wilson intervals: what ``charts.readings`` draws."""
    table = table.assign(teacher_forced_all=table.teacher_forced == 1)
    rows = []
    for (recipe, tokens), group in table.groupby(["recipe", "tokens"], sort=False):
        for column, reading in READINGS.items():
            hits = int(group[column].sum())
            low, high = share_interval(hits, len(group))
            label = f"{hits}/{len(group)} [{low:.2f}, {high:.2f}]"
            rows.append((recipe, tokens, reading, hits / len(group), low, high, label))
    return pd.DataFrame(rows, columns=["recipe", "tokens", "reading", "share", "low", "high", "label"])


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """``shares`` as a table for the terminal, one row a reading, with means and medians below."""
    table = table.assign(recipe=table.recipe + table.tokens.map(" ({} tokens)".format))
    wide = shares(table).pivot(index="reading", columns="recipe", values="label").loc[list(READINGS.values())]
    groups = table.groupby("recipe")
    wide.loc["teacher-forced accuracy, mean"] = groups.teacher_forced.mean().map("{:.3f}".format)
    wide.loc["steps, median"] = groups.steps.median().map("{:.0f}".format)
    return wide.rename_axis(columns=None, index=None)
