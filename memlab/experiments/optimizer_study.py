"""The optimizer study: candidates for the default recipe, compared at equal compute.

The screen compares many contenders on 8 original passages of 64 tokens, one seed, 200 steps of 512 tokens. The final
compares few contenders on many passages. A contender is a change to the incumbent, the recipe that won before.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from memlab.experiments.session import Session
from memlab.experiments.tables import read_table, require_columns, write_table
from memlab.measures.statistics import Estimate, bootstrap, median_interval, share_interval
from memlab.models import FrozenLM, Passage
from memlab.recipes import Recipe
from memlab.results.mem_vector import MemVector
from memlab.sweeps.runner import Plan, run
from memlab.texts import load_texts, with_unique_ids

Changes = Mapping[str, Any]

ADAMW: dict[str, Any] = dict(base="fullmatrix", rule="adamw")

SCREEN: dict[str, dict[str, Changes]] = {
    "the incumbent": {"incumbent": {}, "free norm, cosine, lr 2 (the first default)": dict(base="fullmatrix")},
    "angle of a step": {
        **{f"angle {x}": dict(lr=x) for x in (0.2, 0.3, 0.5, 0.7)},
        "angle 0.1, constant": dict(lr=0.1, schedule="constant"),
        "angle 0.2, cosine": dict(lr=0.2, schedule="cosine"),
    },
    "memory of gradients": {
        **{f"betas {b}": dict(betas=b) for b in ((0.0, 0.99), (0.8, 0.99), (0.95, 0.99), (0.9, 0.9), (0.9, 0.999))},
        **{f"history {h}": dict(history=h) for h in (25, 50, 100)},
    },
    "whitening with the model's metric": {f"whiten {x}": dict(whiten=x) for x in (0.0, 0.125, 0.375, 0.5)},
    "the passage's own curvature": {f"damping {x:g}": dict(damping=x) for x in (1e-4, 1e-3, 0.1, 1.0)},
    "norm of the vector": {f"norm {x:g}": dict(norm=x) for x in (3.0, 10.0, 30.0, 100.0, 4000.0)},
    "first vector": {"another passage's solution": dict(start="other")},
    "place of the vector": {
        "no token before it": dict(prefix="none"),
        "a BOS behind it": dict(prefix="none", suffix="bos"),
    },
    "curriculum": {f"grow by {n}": dict(grow=n) for n in (8, 16)},
    "AdamW": {
        **{f"AdamW lr {lr:g}": ADAMW | dict(lr=lr) for lr in (0.003, 0.01, 0.1, 0.3, 1.0, 3.0)},
        "AdamW lr 1, weight decay 0.01": ADAMW | dict(lr=1.0, weight_decay=0.01),
        "AdamW lr 1, no token before": ADAMW | dict(lr=1.0, prefix="none"),
        "as published, arXiv 2502.13063": dict(base="paper2025"),
        "as published, arXiv 2607.21231": dict(base="progressive2026"),
    },
}
"""Question -> name -> changes to the incumbent, or to the recipe that ``base`` names. ``start="other"`` starts from the
incumbent's solution of the next passage. Settings without a clear win were removed from the code; their results are
still in the table, with their recipes.
"""


@dataclass(frozen=True)
class Stage:
    """A stage of the study: the contenders, their passages, and the number of steps."""

    contenders: Mapping[str, Mapping[str, Changes]]
    texts: tuple[str, ...]
    count: int
    tokens: int
    budget: int
    seeds: tuple[int, ...]


FINAL: dict[str, dict[str, Changes]] = {
    "final": {
        "incumbent": {},
        "norm 4000": dict(norm=4000.0),
        "betas (0.8, 0.99)": dict(betas=(0.8, 0.99)),
        "norm 4000, betas (0.8, 0.99), history 100": dict(norm=4000.0, betas=(0.8, 0.99), history=100),
        "the first default": dict(base="fullmatrix"),
    }
}

STAGES = {
    "screen": Stage(SCREEN, ("originals",), 8, 64, 200, (0,)),
    "final": Stage(FINAL, ("classics", "random"), 16, 64, 200, (0, 1, 2)),
}


def stage_passages(
    lm: FrozenLM, stage: Stage, texts: Sequence[str] | None = None, column: str | None = None
) -> list[Passage]:
    """The passages of a stage. The screen takes every fourth original, so that each kind of text is among them."""
    if stage.texts == ("originals",) and not texts:
        chosen = load_texts("originals")[2::4][: stage.count]
    else:
        named = (load_texts(name, count=stage.count, column=column) for name in texts or stage.texts)
        chosen = with_unique_ids(itertools.chain(*named))
    return [lm.passage(text, stage.tokens) for text in chosen]


def ranking(table: pd.DataFrame) -> pd.DataFrame:
    """Contenders in order of token passes per exact passage; failed runs count with their full budget.

    The Wilson interval of the exact share is over passages: several seeds of one passage count as one observation.
    """
    rows = []
    for name, group in table.groupby("contender", sort=False):
        hits, low, high = _exact(group)
        rows.append(
            {
                "contender": name,
                "exact": f"{hits}/{len(group)}",
                "share": hits / len(group),
                "low": low,
                "high": high,
                "median_steps": group.steps.median(),
                "passes_per_exact": group.token_passes.sum() / hits if hits else np.inf,
                "bits": group.bits.mean(),
                "seconds": group.seconds.iloc[0],
            }
        )
    return pd.DataFrame(rows).sort_values("passes_per_exact", ignore_index=True).round(3)


def halves(table: pd.DataFrame) -> pd.DataFrame:
    """The final stage: every other passage chooses (most exact, then fewest token passes), the other half reports.

    The exact share is over all runs, its 95 % Wilson interval over passages. Token passes are the median over passages.
    Passages differ far more than contenders do. So the last column compares each passage's token passes with those of
    the contender in first place: geometric mean of the ratios, with a bootstrap interval over passages.
    """
    texts = list(dict.fromkeys(zip(table.text_id, table.start, strict=True)))
    choosing = {pair for i, pair in enumerate(texts) if i % 2 == 0}
    in_first = np.array([pair in choosing for pair in zip(table.text_id, table.start, strict=True)])
    first, second = ranking(table[in_first]), table[~in_first]
    first = first.sort_values(["share", "passes_per_exact"], ascending=[False, True], ignore_index=True)
    rows = []
    passes = second.groupby(["contender", "text_id", "start"]).token_passes.mean()
    for place, name in enumerate(first.contender):
        log_ratios = np.log(passes[name] / passes[first.contender[0]]).rename("ratio").reset_index()
        ratio = Estimate(*np.exp(bootstrap(lambda t: t.ratio.mean(), log_ratios)))
        group = second[second.contender == name]
        hits, low, high = _exact(group)
        middle, below, above = median_interval(group.groupby(["text_id", "start"]).token_passes.mean())
        rows.append(
            {
                "contender": name,
                "place by the choosing half": place + 1,
                "exact (reporting half)": f"{hits}/{len(group)} [{low:.2f}, {high:.2f}]",
                "token passes, median": f"{middle:.0f} [{below:.0f}, {above:.0f}]",
                "against the first, passage by passage": "1" if not place else format(ratio, ".2f"),
            }
        )
    return pd.DataFrame(rows)


def _exact(runs: pd.DataFrame) -> tuple[int, float, float]:
    """Number of exact runs, and the Wilson interval of their share over passages."""
    shares = runs.groupby(["text_id", "start"]).exact.mean()
    return int(runs.exact.sum()), *share_interval(shares.sum(), len(shares))


def progress_curves(table: pd.DataFrame) -> pd.DataFrame:
    """Share of exact passages after each number of steps, by contender: ``charts.exact_by_step`` draws it.

    The contenders are in order of that share at the end, then of token passes.
    """
    rows = []
    groups = list(table.groupby("contender", sort=False))
    for name, group in sorted(groups, key=lambda pair: (-pair[1].exact.mean(), pair[1].token_passes.sum())):
        done = np.sort(group.steps[group.exact])
        rows += [(name, 0, 0.0), *((name, int(s), (i + 1) / len(group)) for i, s in enumerate(done))]
        rows.append((name, int(table.steps.max()), len(done) / len(group)))
    return pd.DataFrame(rows, columns=["contender", "step", "share"])


def study(
    session: Session,
    passages: Sequence[Passage],
    contenders: Mapping[str, Mapping[str, Changes]],
    *,
    budget: int,
    seeds: Sequence[int] = (0,),
    out: Path | None = None,
) -> pd.DataFrame:
    """One row per contender, passage and seed. ``out`` (Parquet) is written after each contender and read at the start.

    ``seconds`` is the contender's wall time over all its passages, the same in each of its rows. It is missing if some
    of them came from the store. Rows of other passages and contenders stay in the file. Raises ``RunsFailedError``.
    """
    earlier = read_table(out)
    table = pd.DataFrame() if earlier is None else earlier
    if earlier is not None:
        require_columns(earlier, ("contender", "key"))
    all_runs: set[tuple[str, str]] = set()
    flat = [(question, name, changes) for question, group in contenders.items() for name, changes in group.items()]
    for question, name, changes in flat:
        plan = _plan(session, passages, changes, budget, seeds)
        wanted = {(name, job.key) for job in plan}
        all_runs |= wanted
        if wanted <= _runs(table):
            continue
        began = time.perf_counter()
        report = run(plan, session.store, progress=session.progress)
        seconds = time.perf_counter() - began if report.trained == len(plan) else float("nan")
        rows = pd.DataFrame([_row(question, name, mem, seconds) for mem in report.whole()])
        table = pd.concat([table, rows]).drop_duplicates(["contender", "key"], keep="last", ignore_index=True)
        write_table(table, out)
        session.log(
            f"{name}: {rows.exact.sum()}/{len(rows)} exact, token passes {rows.token_passes.sum()}, "
            f"loss {rows.bits.mean():.3f} bits a token, {seconds:.0f} s"
        )
    return table[[run in all_runs for run in zip(table.contender, table.key, strict=True)]].reset_index(drop=True)


def _runs(table: pd.DataFrame) -> set[tuple[str, str]]:
    return set(zip(table.contender, table.key, strict=True)) if len(table) else set()


def _plan(session: Session, passages: Sequence[Passage], changes: Changes, budget: int, seeds: Sequence[int]) -> Plan:
    changes = dict(changes)
    start = changes.pop("start", None)
    if changes.get("suffix") == "bos":
        changes["suffix"] = session.lm.prefix_ids("bos")
    base = changes.pop("base", "default")
    recipes = [Recipe.named(base, **{"budget": budget, "seed": seed} | changes) for seed in seeds]
    parents = None
    if start == "other":
        solutions = run(Plan.of(session.lm, passages, recipes[0]), session.store, progress=session.progress).whole()
        parents = [*solutions[1:], solutions[0]]
    return Plan.of(session.lm, passages, recipes, start=parents)


def _row(question: str, name: str, mem: MemVector, seconds: float) -> dict[str, Any]:
    return {
        "question": question,
        "contender": name,
        "text_id": mem.text.id,
        "start": mem.text.start,
        "tokens": mem.n,
        "seed": mem.recipe.seed,
        "exact": mem.exact,
        "steps": mem.steps,
        "token_passes": mem.provenance["token_passes"],
        "accuracy": mem.teacher_forced,
        "bits": mem.loss_bits,
        "norm": float(np.linalg.norm(mem.mem, axis=1).mean()),
        "seconds": seconds,
        "recipe": mem.recipe.canonical(),
        "parent": mem.parent or "",
        "key": mem.key,
        "memlab": mem.provenance["memlab"],
        "threads": mem.provenance["threads"],
    }
