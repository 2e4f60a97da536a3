"""Does a token before the vectors help, and why? Exact shares by placement, first-token margin, attention mass.

The claim to test: on some models the first position is the attention sink, and a vector at that position cannot carry
its text; after a sink token it can. This measurement is memlab's own; attention sinks: arXiv 2309.17453.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from memlab.decoding.decode import context_of
from memlab.experiments.session import Session
from memlab.experiments.tables import require_columns
from memlab.measures.statistics import Estimate, mean_intervals, share_label
from memlab.models import FrozenLM, Passage
from memlab.probes.attention import attention_mass
from memlab.recipes import Recipe
from memlab.results.checks import EXACT, latest
from memlab.results.mem_vector import MemVector
from memlab.sweeps.runner import Plan, run
from memlab.texts import Text


def sink(session: Session, passages: Sequence[Passage], *, recipe: Recipe | None = None) -> pd.DataFrame:
    """One row per placement and passage, with a special token ``s`` before the vectors, after them, or absent.

    ``s`` is the special token after which the model's own cross-entropy is lowest; token 0 if a tokenizer has no
    special token. ``first_lead``: margin of the first token, logits. ``on_first``, ``on_mem``: share of the attention
    of the text's positions on position 0 and on the vectors, mean over layers and heads; NaN for a model without
    attention.
    """
    # The preconditioner is measured after the model's sink prefix. Whitening would favour that one placement.
    lm, resume_from, recipe = session.lm, session.resume_from, recipe or Recipe.default(whiten=0)
    token = special_token(lm)
    placements: dict[str, dict[str, tuple[int, ...]]] = {
        PLAIN: dict(prefix=(), suffix=()),
        "s [mem] text": dict(prefix=token, suffix=()),
        "[mem] s text": dict(prefix=(), suffix=token),
    }
    earlier: dict[str, dict[str, Any]] = {}
    if resume_from is not None and len(resume_from):
        require_columns(resume_from, ("model", "placement", "text_id", "key"))
        earlier = {row["key"]: row for row in resume_from.to_dict("records")}
    rows = []
    for name, tokens in placements.items():
        plan = Plan.of(lm, passages, recipe.replace(**tokens))
        missing = Plan(tuple(job for job in plan if job.key not in earlier))
        trained = {mem.key: mem for mem in run(missing, session.store, progress=session.progress).whole()}
        rows += [
            earlier[job.key] | {"text_id": job.passage.span.id}
            if job.key in earlier
            else {"placement": name, "s": token[0], **_row(lm, trained[job.key])}
            for job in plan
        ]
    return pd.DataFrame(rows)


def _row(lm: FrozenLM, mem: MemVector) -> dict[str, Any]:
    mass = attention_mass(lm, mem)[["on_first", "on_mem"]].mean()  # NaN without rows
    return {
        "model": lm.name,
        "text_id": mem.text.id,
        "tokens": mem.n,
        "exact": mem.exact,
        "first_right": latest(mem.checks)[EXACT].first_wrong != 0,
        "steps": mem.steps,
        "accuracy": mem.teacher_forced,
        "bits": mem.loss_bits,
        "first_lead": first_token_margin(lm, mem),
        "on_first": mass.on_first,
        "on_mem": mass.on_mem,
        "norm": float(np.linalg.norm(mem.mem, axis=1).mean()),
        "recipe": mem.recipe.canonical(),
        "key": mem.key,
    }


def sink_passages(lm: FrozenLM, texts: Sequence[Text], tokens: int) -> list[Passage]:
    """Passages of ``tokens`` tokens. A toy knows no language, so it gets random tokens, a quarter of that number."""
    if not lm.name.startswith("toy:"):
        return [lm.passage(text, tokens) for text in texts]
    rng = np.random.default_rng(0)
    length = max(1, tokens // 4)
    return [lm.passage_of_ids(rng.integers(0, lm.vocabulary, length), name=f"random-{i}") for i in range(len(texts))]


def special_token(lm: FrozenLM) -> tuple[int, ...]:
    """The special token after which cross-entropy is lowest, even if the model is better without a sink prefix."""
    nats = {prefix: value for prefix, value in lm.sink_candidates().items() if prefix}
    return min(nats, key=lambda prefix: nats[prefix]) if nats else (0,)


@torch.no_grad()
def first_token_margin(lm: FrozenLM, mem: MemVector) -> float:
    """Logit of the first token minus the largest other logit, decoded from the vectors alone in float32."""
    rows = context_of(lm, mem)
    last = torch.tensor([len(rows) - 1], device=lm.device)
    target = torch.tensor(mem.token_ids[:1].copy(), device=lm.device)
    return float(lm.losses(rows[None], last, target, torch.float32)[1][0])


PLAIN = "[mem] text"
"""The placement without a special token. The others are compared with it."""


def step_ratios(table: pd.DataFrame) -> pd.DataFrame:
    """Steps with the special token over steps without it: ``model placement ratio low high``, one row per placement.

    Geometric mean over passages, each compared with itself, with a 95 % bootstrap interval over passages. Failed runs
    count with their full budget.
    """
    rows = []
    for (model, placement), group in table.groupby(["model", "placement"], sort=False):
        if placement == PLAIN:
            continue
        plain = table[(table.model == model) & (table.placement == PLAIN)].set_index("text_id").steps
        logs = np.log(group.steps.clip(1).to_numpy() / plain.clip(1).loc[group.text_id].to_numpy())
        (low,), (high,) = mean_intervals(logs[:, None])
        rows.append((model, placement, *np.exp([logs.mean(), low, high])))
    return pd.DataFrame(rows, columns=["model", "placement", "ratio", "low", "high"])


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """One row per model and placement: exact share with a 95 % Wilson interval, and medians of the other columns.

    ``steps, over without`` is the ratio of ``step_ratios`` with its interval.
    """
    ratios = {
        (row.model, row.placement): Estimate(row.ratio, row.low, row.high) for row in step_ratios(table).itertuples()
    }
    rows = []
    for (model, placement), group in table.groupby(["model", "placement"], sort=False):
        rows.append(
            {
                "model": model,
                "placement": placement,
                "exact": share_label(group.exact),
                "first token right": f"{int(group.first_right.sum())}/{len(group)}",
                "steps": group.steps.median(),
                "steps, over without": "1" if placement == PLAIN else format(ratios[model, placement], ".2f"),
                "accuracy": round(group.accuracy.mean(), 3),
                "first-token margin": round(group.first_lead.median(), 2),
                "attention on position 0": round(group.on_first.mean(), 3),
                "attention on the vectors": round(group.on_mem.mean(), 3),
            }
        )
    return pd.DataFrame(rows)
