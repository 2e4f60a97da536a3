"""The optimiser study: contenders for the default recipe at equal compute, many on few passages, then few on many.

Screen: 8 original passages of 64 tokens, one seed, 200 steps of 512 tokens. A contender is a change to the incumbent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from memlab.models import FrozenLM, Passage
from memlab.recipes import Recipe
from memlab.runs import Plan, run
from memlab.store import Store
from memlab.vectors import MemVector

Changes = Mapping[str, Any]

INCUMBENT: dict[str, Any] = dict(rule="fullmatrix", lr=2.0, betas=(0.9, 0.99), schedule="cosine", damping=1e-4)

SCREEN: dict[str, Changes] = {
    "incumbent": {},
    **{f"lr {lr}": dict(lr=lr) for lr in (0.3, 0.5, 1.0, 3.0, 5.0)},
    **{
        f"betas {b}": dict(betas=b)
        for b in ((0.8, 0.99), (0.95, 0.99), (0.9, 0.95), (0.9, 0.999), (0.5, 0.99), (0.9, 0.9))
    },
    **{f"damping {x:g}": dict(damping=x) for x in (1e-2, 1e-3, 1e-5, 1e-6)},
    **{f"exponent {x}": dict(exponent=x) for x in (0.25, 0.75, 1.0)},
    **{f"history {h}": dict(history=h) for h in (50, 100)},
    **{f"schedule {x}": dict(schedule=x) for x in ("constant", "linear")},
    "schedule inverse, lr 4": dict(schedule="inverse", lr=4.0),
    "schedule inverse, lr 8": dict(schedule="inverse", lr=8.0),
    "warm-up 10": dict(warmup=10),
    "adapt 0.1": dict(adapt=0.1),
    "adapt 0.3": dict(adapt=0.3),
    "adapt 0.3, constant": dict(adapt=0.3, schedule="constant"),
    "weight decay 0.01": dict(weight_decay=0.01),
    **{f"norm held at {n:g}": dict(norm=n) for n in (5.0, 30.0, 100.0)},
    **{
        f"norm held at {n:g}, inverse, lr {lr:g}": dict(norm=n, lr=lr, schedule="inverse")
        for n, lr in ((30.0, 15.0), (100.0, 50.0), (100.0, 100.0))
    },
    "norm held at 100, lr 5": dict(norm=100.0, lr=5.0),
    **{f"init scale {x:g}": dict(init_scale=x) for x in (0.01, 10.0, 100.0)},
    "init mean embedding": dict(init="mean"),
    "init average of tokens": dict(init="average"),
    "start from another passage's solution": dict(start="other"),
    "prefix none": dict(prefix="none"),
    "prefix none, suffix BOS": dict(prefix="none", suffix="bos"),
    **{f"temperature {t}": dict(temperature=t) for t in (0.25, 0.5, 2.0)},
    "hinge 2": dict(hinge=2.0),
    "hinge 5": dict(hinge=5.0),
    "focus 1": dict(focus=1.0),
    "focus 4": dict(focus=4.0),
    "grow by 8": dict(grow=8),
    "grow by 16": dict(grow=16),
    "rank 64": dict(rank=64),
    "rank 256": dict(rank=256),
    "rounding": dict(rounding=True),
    "normalised, lr 0.3": dict(rule="normalised", lr=0.3),
    "normalised, lr 1": dict(rule="normalised", lr=1.0),
    "lbfgs": dict(rule="lbfgs", lr=1.0),
    **{f"adamw lr {lr:g}": dict(rule="adamw", lr=lr) for lr in (0.003, 0.01, 0.1, 0.3, 1.0, 3.0)},
    "adamw lr 1, betas (0.9, 0.9)": dict(rule="adamw", lr=1.0, betas=(0.9, 0.9)),
    "adamw lr 1, prefix none": dict(rule="adamw", lr=1.0, prefix="none"),
}
"""Name -> what differs from the incumbent. ``start="other"``: from the incumbent's solution of the next passage."""


def study(
    lm: FrozenLM,
    passages: Sequence[Passage],
    contenders: Mapping[str, Changes],
    store: Store,
    *,
    budget: int,
    seeds: Sequence[int] = (0,),
    out: Path | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> pd.DataFrame:
    """One row a contender, passage and seed; ``out`` (Parquet) is written after each contender and read at the start.

    ``seconds`` is the contender's wall time over all its passages, the same in each of its rows.
    """
    table = pd.read_parquet(out) if out and out.exists() else pd.DataFrame()
    for name, changes in contenders.items():
        if len(table) and name in set(table.contender):
            continue
        began = time.perf_counter()
        results = _results(lm, passages, changes, store, budget, seeds)
        seconds = time.perf_counter() - began
        rows = pd.DataFrame([_row(name, mem, seconds) for mem in results])
        table = pd.concat([table, rows], ignore_index=True)
        if out:
            out.parent.mkdir(parents=True, exist_ok=True)
            table.to_parquet(out, index=False)
        tell(
            f"{name}: {rows.exact.sum()}/{len(rows)} exact, token passes {rows.token_passes.sum()}, "
            f"bits left {rows.bits.mean():.3f}, {seconds:.0f} s"
        )
    return table


def _results(
    lm: FrozenLM, passages: Sequence[Passage], changes: Changes, store: Store, budget: int, seeds: Sequence[int]
) -> list[MemVector]:
    changes = dict(INCUMBENT) | dict(changes)
    start = changes.pop("start", None)
    if changes.get("suffix") == "bos":
        changes["suffix"] = lm.prefix_ids("bos")
    recipes = [Recipe(budget=budget, seed=seed, **changes) for seed in seeds]
    parents = None
    if start == "other":
        known = run(Plan.of(lm, passages, recipes[0]), store, progress=False).results
        parents = [*known[1:], known[0]]
    return run(Plan.of(lm, passages, recipes, start=parents), store, progress=False).results


def _row(name: str, mem: MemVector, seconds: float) -> dict[str, Any]:
    return {
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
        "key": mem.key,
        "memlab": mem.provenance["memlab"],
        "threads": mem.provenance["threads"],
    }
