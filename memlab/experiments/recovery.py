"""How much of a text comes back: recipes side by side on the same passages, read in three ways.

Teacher-forced (argmax while the true text is fed), decoded with the first token given (as the code of arXiv 2502.13063
does), and decoded from the vector alone, which is the only one called exact.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from scipy.stats import binomtest

from memlab import decoding
from memlab.models import FrozenLM
from memlab.recipes import Recipe
from memlab.runs import Plan, run
from memlab.store import Store
from memlab.texts import Text


def recovery(
    lm: FrozenLM, texts: Sequence[Text], recipes: Sequence[Recipe], store: Store, *, tokens: int, start: int | str = 0
) -> pd.DataFrame:
    """One row a passage and recipe: the three readings (shares right, passed or not), steps and seconds."""
    report = run(Plan.grid(lm, texts, tokens=tokens, recipes=list(recipes), start=start), store)
    rows = []
    for mem in report.results:
        given = next((c for c in mem.checks if c.first_given), None) or decoding.check(lm, mem, first_given=True)
        alone = next(c for c in mem.checks if c.settings == decoding.EXACT)
        rows.append(
            {
                "recipe": mem.recipe.name,
                "text_id": mem.text.id,
                "start": mem.text.start,
                "tokens": mem.n,
                "teacher_forced": mem.teacher_forced,
                "given_right": given.right / given.tokens,
                "given_passed": given.passed,
                "alone_right": alone.right / alone.tokens,
                "exact": mem.exact,
                "margin": alone.margin,
                "steps": mem.steps,
                "ended": mem.provenance.get("ended"),
                "key": mem.key,
            }
        )
    return pd.DataFrame(rows)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """One row a recipe and length: shares with their 95 % Wilson intervals, and the median number of steps."""

    def share(hits: pd.Series) -> str:
        low, high = binomtest(int(hits.sum()), len(hits)).proportion_ci(0.95, method="wilson")
        return f"{int(hits.sum())}/{len(hits)} [{low:.2f}, {high:.2f}]"

    rows = []
    for (recipe, tokens), group in table.groupby(["recipe", "tokens"], sort=False):
        rows.append(
            {
                "recipe": recipe,
                "tokens": tokens,
                "teacher-forced accuracy": f"{group.teacher_forced.mean():.3f}",
                "teacher-forced all right": share(group.teacher_forced == 1),
                "decoded, first token given": share(group.given_passed),
                "exact (vector alone)": share(group.exact),
                "median steps": group.steps.median(),
            }
        )
    return pd.DataFrame(rows)
