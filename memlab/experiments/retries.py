"""Retries with stronger settings: does a failure come from the search, or from what the vector can hold?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import pandas as pd

from memlab.experiments.attempts import (
    Attempt,
    Row,
    context_room,
    finished_rows,
    longest_passage,
    one_job,
    run_attempts,
)
from memlab.experiments.session import Session
from memlab.measures.capacity import outcomes
from memlab.recipes import Recipe
from memlab.results.mem_vector import MemVector
from memlab.results.store import Store
from memlab.sweeps.runner import Job, Plan, run
from memlab.texts import Text


def retry_failures(
    session: Session,
    texts: Sequence[Text],
    attempts: pd.DataFrame,
    *,
    target: int,
    recipe: Recipe | None = None,
    start: int | str = 0,
) -> pd.DataFrame:
    """Retry passages that failed below ``target`` tokens, at the length that failed.

    ``attempts``: rows of ``horizon``. Returns rows with the same columns and ``way``, the name of the retry: the failed
    attempt with the least loss, unchanged; four times its steps; three other seeds; a start from the longest exact
    solution; ``Recipe.fullmatrix`` (the same curvature, a free norm). If a retry lowers ``bits``, the failure says
    nothing about the vector.
    """
    lm, recipe = session.lm, recipe or Recipe.default()
    rows: list[Row] = []
    retries: list[tuple[Text, str, Job]] = []
    for text in texts:
        tried = attempts[attempts.text_id == text.id]
        reached, failed = outcomes(tried)
        reached = reached.sort_values("length")
        if not len(failed) or failed.length.min() > target:
            continue
        least = failed[failed.length == failed.length.min()].sort_values("bits").iloc[0]
        rows.append(least.to_dict() | {"way": "as it failed"})
        unused = int(tried.seed.max()) + 1
        settings: list[tuple[str, Recipe, MemVector | None]] = [
            ("four times the steps", recipe.replace(budget=4 * recipe.budget, seed=int(least.seed)), None),
            *(("another seed", recipe.replace(seed=unused + i), None) for i in range(3)),
            ("free norm", Recipe.fullmatrix(k=recipe.k, budget=2 * recipe.budget), None),
        ]
        if len(reached):
            longest = reached.iloc[-1]
            job = one_job(lm, text, int(longest.length), recipe.replace(seed=int(longest.seed)), start)
            # The table may come from another machine. If this store lacks the vector, it is trained again.
            mem = run(Plan((job,)), session.store, progress=session.progress).whole()[0]
            settings.append(("from the longest exact", recipe, mem))
        passage = lm.passage(text, int(least.length), start=start)
        for name, changed, parent in settings:
            plan = Plan.of(lm, [passage], changed, start=[parent] if parent else None)
            retries.append((text, name, plan.jobs[0]))
    results = run_attempts(session, [(text, len(job.passage), job) for text, _, job in retries])
    rows += [row | {"way": name} for (_, name, _), row in zip(retries, results, strict=True) if row]
    return pd.DataFrame(rows)


def extend_growth(
    session: Session,
    texts: Sequence[Text],
    attempts: pd.DataFrame,
    *,
    target: int,
    recipe: Recipe,
    longest: int,
    start: int | str = 0,
) -> pd.DataFrame:
    """Retry texts that stopped growing below ``target`` tokens, one setting after another.

    ``attempts``: rows of ``growing``, trained with ``recipe`` up to ``longest`` tokens. Returns rows with the same
    columns and ``way``, the name of the setting: the text without growing (same optimizer, the default budget and
    margin), the same with four times the steps, resumed with four times the patience, grown again from another seed,
    and grown by the optimizer of ``Recipe.fullmatrix`` (free norm).

    A setting is tried only on texts that no earlier setting brought to ``target`` (``exact_prefix``). If a setting
    succeeds, the search had ended the text, not a limit of the vector. ``session.on_rows`` is called as runs finish.
    Vectors to resume from come from the store or the bundled vectors, or are trained again.
    """
    lm, store = session.lm, session.store
    short = attempts[~attempts.exact & (attempts.exact_prefix < target)]
    rows = [row | {"way": "as it ended"} for row in short.to_dict("records")]
    left = [text for text in texts if text.id in set(short.text_id)]
    not_grown = recipe.replace(grow=0, margin=Recipe.margin, budget=Recipe.budget, patience=0, token_budget=0)
    free = Recipe.fullmatrix(
        k=recipe.k, grow=recipe.grow, margin=recipe.margin, patience=recipe.patience, budget=recipe.budget,
        schedule="inverse", token_budget=recipe.token_budget,
    )  # fmt: skip

    def jobs(changed: Recipe, tokens: int, parents: Mapping[str, MemVector] | None = None) -> list[Attempt]:
        attempts: list[Attempt] = []
        for text in left if parents is None else [text for text in left if text.id in parents]:
            passage = longest_passage(lm, text, min(tokens, context_room(lm, changed)), start)
            plan = Plan.of(lm, [passage], changed, start=[parents[text.id]] if parents is not None else None)
            attempts.append((text, len(passage), plan.jobs[0]))
        return attempts

    def extended(before: list[Row], name: str, added: Sequence[Row]) -> list[Row]:
        rows = [*before, *(row | {"way": name} for row in added)]
        session.on_rows(pd.DataFrame(rows))
        return rows

    patient = recipe.replace(patience=4 * recipe.patience)
    settings: dict[str, Callable[[], list[Attempt]]] = {
        "as a whole": lambda: jobs(not_grown, target),
        "as a whole, four times the steps": lambda: jobs(not_grown.replace(budget=4 * not_grown.budget), target),
        "four times the patience": lambda: jobs(
            patient, target, _vectors(jobs(recipe, longest), store, progress=session.progress)
        ),
        "another seed": lambda: jobs(recipe.replace(seed=recipe.seed + 1), target),
        "free norm": lambda: jobs(free, target),
    }
    for name, attempts_of_setting in settings.items():
        if not left:
            break
        session.log(f"{name}: {len(left)} passages")
        extend = partial(extended, rows, name)
        rows = extend(finished_rows(run_attempts(session, attempts_of_setting(), on_rows=extend)))
        reached = {row["text_id"] for row in rows if row["exact"] or row["exact_prefix"] >= target}
        left = [text for text in left if text.id not in reached]
    return pd.DataFrame(rows)


def _vectors(attempts: Sequence[Attempt], store: Store, *, progress: bool) -> dict[str, MemVector]:
    """The vectors of these attempts by text id, without those of runs that fail again.

    A table of another machine may name keys that this store lacks: such vectors are trained again.
    """
    bundled = Store.bundled()
    mems = {job.key: bundled.get(job.key) for *_, job in attempts if job.key not in store and job.key in bundled}
    missing = Plan(tuple({job.key: job for *_, job in attempts if job.key not in mems}.values()))
    mems |= {mem.key: mem for mem in run(missing, store, progress=progress).results}
    return {text.id: mems[job.key] for text, _, job in attempts if job.key in mems}
