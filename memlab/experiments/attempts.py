"""Attempts: one vector trained for one passage, and the row that records its outcome. All horizon searches use them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from memlab.experiments.session import Session
from memlab.experiments.tables import require_columns
from memlab.models import FrozenLM, Passage, PassageError
from memlab.recipes import Recipe
from memlab.results.checks import EXACT, latest
from memlab.results.mem_vector import MemVector
from memlab.sweeps.dispatch import RunProgress
from memlab.sweeps.runner import Job, Plan, run
from memlab.texts import Text

ATTEMPT = (
    "text_id", "source", "length", "tokens", "tried", "seed", "exact", "exact_prefix", "steps", "token_passes",
    "accuracy", "bits", "norm", "ended", "recipe", "key",
)  # fmt: skip
"""Columns of an attempt. ``tried``: the length (tokens) that failed, if the attempt is not exact. For a recipe that
grows its text this is the stage at which the recipe's patience ran out; missing if the token budget ran out first."""

Attempt = tuple[Text, int, Job]
"""A text, the length that was asked for (tokens), and the job. A cut may make the job's passage a token shorter."""
Row = dict[str, Any]


def run_attempts(
    session: Session, attempts: Sequence[Attempt], *, on_rows: Callable[[list[Row]], object] | None = None
) -> list[Row | None]:
    """The row of each attempt, from ``session.resume_from`` or trained now; None for an attempt whose run failed.

    Two texts with the same beginning share a key, but each has its own row. ``on_rows`` receives the rows so far
    whenever a run has finished.
    """
    earlier: dict[str, Row] = {}
    if session.resume_from is not None and len(session.resume_from):
        require_columns(session.resume_from, ATTEMPT)
        earlier = {row["key"]: row for row in session.resume_from[[*ATTEMPT]].to_dict("records")}
    missing = {job.key: job for *_, job in attempts if job.key not in earlier}

    def rows_with(mems: Mapping[str, MemVector]) -> list[Row | None]:
        rows: list[Row | None] = []
        for text, tokens, job in attempts:
            if job.key in earlier:
                rows.append(earlier[job.key] | {"text_id": text.id, "source": text.source, "length": tokens})
            elif job.key in mems:
                rows.append(attempt_row(text, tokens, job.recipe.seed, mems[job.key]))
            else:
                rows.append(None)
        return rows

    finished, problems = 0, list[Exception]()

    def on_progress(now: RunProgress) -> bool:
        nonlocal finished
        if on_rows and now.finished > finished:
            finished = now.finished
            try:
                rows = finished_rows(
                    rows_with({key: session.store.get(key) for key in missing if key in session.store})
                )
                on_rows(rows)
                session.log(f"{len(rows)} of {len(attempts)} passages done")
            except Exception as error:  # a table that cannot be written must not count as a failed training run
                problems.append(error)
        return bool(problems)

    report = run(Plan(tuple(missing.values())), session.store, progress=session.progress, on_progress=on_progress)
    if problems:
        raise problems[0]
    for key, reason in report.failed.items():
        session.log(f"failed, and counted as not exact: {key[:12]}: {reason}")
    rows = rows_with({mem.key: mem for mem in report.results})
    if on_rows:
        on_rows(finished_rows(rows))
    return rows


def finished_rows(rows: Sequence[Row | None]) -> list[Row]:
    """The rows without the attempts that failed or are not finished yet."""
    return [row for row in rows if row]


def attempt_row(text: Text, tokens: int, seed: int, mem: MemVector) -> Row:
    """The outcome of one attempt, with the columns ``ATTEMPT``."""
    check = latest(mem.checks)[EXACT]
    return {
        "text_id": text.id,
        "source": text.source,
        "length": tokens,
        "tokens": mem.n,
        "tried": _failed_length(mem),
        "seed": seed,
        "exact": mem.exact,
        "exact_prefix": mem.n if check.first_wrong is None else check.first_wrong,
        "steps": mem.steps,
        "token_passes": mem.provenance.get("token_passes"),
        "accuracy": mem.teacher_forced,
        "bits": mem.loss_bits,
        "norm": float(np.linalg.norm(mem.mem, axis=1).mean()),
        "ended": mem.provenance.get("ended"),
        "recipe": mem.recipe.name,
        "key": mem.key,
    }


def _failed_length(mem: MemVector) -> float:
    if not mem.recipe.grow:
        return float(mem.n)
    return float(mem.provenance.get("stage", mem.n)) if mem.provenance.get("ended") == "patience" else float("nan")


def one_job(lm: FrozenLM, text: Text, tokens: int, recipe: Recipe, start: int | str) -> Job:
    """The job for the first ``tokens`` tokens of a text. Raises ``PassageError`` if the text is shorter."""
    return Plan.of(lm, [lm.passage(text, tokens, start=start)], recipe).jobs[0]


def longest_passage(lm: FrozenLM, text: Text, tokens: int, start: int | str) -> Passage:
    """The first ``tokens`` tokens of a text, or all of a shorter one. ``tokens`` must fit into the model's context."""
    try:
        return lm.passage(text, tokens, start=start)
    except PassageError:
        return lm.passage(text, None, start=start)


def context_room(lm: FrozenLM, recipe: Recipe) -> int:
    """Tokens that fit into the model's context after the recipe's vectors. The last token is predicted, never fed."""
    before = len(lm.prefix_ids(recipe.prefix)) + recipe.k + len(recipe.suffix)
    return min(lm.context - before + 1, lm.context - 1) if lm.context else sys.maxsize
