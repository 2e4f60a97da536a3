"""What it costs to train one vector for use: under several contexts at once, with instructions before and behind it.

All contexts have the same vectors and the same passage. The loss is the mean over the contexts. Training ends when
every token is right in every context, teacher-forced, with the recipe's margin. Then the passage is decoded freely in
all of them, and in wordings that the training did not use. The recipe's field ``contexts`` says which they are.

Predicted before the run, for SmolLM2-135M-Instruct, 12 originals of 32 tokens:
1. A vector of the plain context is exact with a held-out wording before it for less than a third of the passages, and
   with one behind it for none.
2. A vector of all five contexts needs 2 to 6 times the steps of the plain one.
3. It is exact with a held-out wording before it for more than half of the passages, and for fewer with one behind it.
4. More vectors need fewer steps, and are exact with held-out wordings no more often.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from memlab.experiments.conditions import context_of, ids_of
from memlab.experiments.landscape.method import Context
from memlab.experiments.landscape.reading import written
from memlab.experiments.session import Session
from memlab.experiments.tables import require_columns
from memlab.experiments.use_tasks import INSTRUCTIONS, around
from memlab.models import FrozenLM, Passage
from memlab.recipes import Recipe
from memlab.training.cram import cram

Around = tuple[str, str]
"""Words before and behind the vector."""
COLUMNS = (
    "training", "k", "contexts", "text_id", "tokens", "steps", "ended", "plain", "trained", "held_before", "held_after",
    "seconds", "model",
)  # fmt: skip
"""One row per training and passage. ``ended``: whether every token was right in every context, with the margin.
``plain``: exact without an instruction. ``trained``: share of the training's contexts in which it is exact.
``held_before``, ``held_after``: share of the held-out wordings in which it is, before and behind the vector."""
PLAIN: Around = ("", "")
"""No instruction: what every vector is trained for."""


def wordings(lm: FrozenLM, *, held_out: bool, position: str) -> list[Around]:
    """The contexts of the instruction to repeat the text."""
    chosen = [i.words for i in INSTRUCTIONS if i.task == "repeat" and i.held_out == held_out]
    found = [around(lm.tokenizer, position, words) for words in chosen]
    return [words for words in found if words is not None]


def trainings(lm: FrozenLM) -> dict[str, list[Around]]:
    """{training: its contexts}."""
    before, after = (wordings(lm, held_out=False, position=position) for position in ("before", "after"))
    return {"plain": [PLAIN], "before": [PLAIN, *before], "before and after": [PLAIN, *before, *after]}


def recipe_for(lm: FrozenLM, recipe: Recipe, contexts: Sequence[Around]) -> Recipe:
    """The recipe with these contexts. The first one must be the plain one, which every training has."""
    pairs = [(ids_of(lm, before).tolist(), ids_of(lm, behind).tolist()) for before, behind in contexts[1:]]
    return recipe.replace(contexts=pairs)


def exact_in(lm: FrozenLM, mem: torch.Tensor, passage: Passage, contexts: Sequence[Around]) -> np.ndarray:
    """(contexts,) whether the free decode is the passage. Float32."""
    embedded = [
        context_of(lm, ids_of(lm, before), mem.to(lm.device), ids_of(lm, behind)) for before, behind in contexts
    ]
    held = [Context(rows[len(lm.sink_prefix) :]) for rows in embedded]
    decoded = written(lm, held, len(passage), [()] * len(held), batch=1)
    return np.array([np.array_equal(ids, passage.ids) for ids in decoded], bool)


def use_training(
    session: Session,
    passages: Sequence[Passage],
    *,
    ks: Sequence[int] = (1, 2, 4),
    recipe: Recipe | None = None,
) -> pd.DataFrame:
    """The table with the columns ``COLUMNS``. Rows of ``session.resume_from`` are not trained again."""
    lm = session.lm
    table = pd.DataFrame(columns=list(COLUMNS))
    if session.resume_from is not None and len(session.resume_from):
        require_columns(session.resume_from, COLUMNS)
        table = session.resume_from[list(COLUMNS)]
    held = [wordings(lm, held_out=True, position=position) for position in ("before", "after")]
    for k in ks:
        for name, contexts in trainings(lm).items():
            done = set(table.text_id[(table.training == name) & (table.k == k)])
            left = [passage for passage in passages if passage.span.id not in done]
            if not left:
                continue
            asked = recipe_for(lm, (recipe or Recipe.default()).replace(k=k), contexts)
            rows: list[dict[str, Any]] = []
            for passage, found in zip(left, cram(lm, left, asked, session.store, progress=False), strict=True):
                mem = torch.from_numpy(found.mem.copy())
                exact = exact_in(lm, mem, passage, contexts)
                shares = [float(exact_in(lm, mem, passage, some).mean()) for some in held]
                rows.append(
                    {"training": name, "k": k, "contexts": len(contexts), "text_id": passage.span.id,
                     "tokens": len(passage), "steps": found.steps, "ended": found.provenance["ended"] == asked.stop,
                     "plain": bool(exact[0]), "trained": float(exact.mean()), "held_before": shares[0],
                     "held_after": shares[1], "seconds": found.seconds, "model": lm.name}
                )  # fmt: skip
            new = pd.DataFrame(rows)[list(COLUMNS)]
            table = pd.concat([table, new], ignore_index=True) if len(table) else new
            session.on_rows(table)
            session.log(f"{name}, k = {k}: {new.steps.median():.0f} steps, exact in {new.trained.mean():.0%} of them")
    return table


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """One row per training and k: median ``steps``, and the means of the shares over passages."""
    by = table.groupby(["training", "k", "contexts"], sort=False)
    means = by[["ended", "plain", "trained", "held_before", "held_after"]].agg(lambda values: float(values.mean()))
    return pd.concat([by.size().rename("passages"), by.steps.median(), means], axis=1).reset_index()
