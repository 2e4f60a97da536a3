"""The vectors that come with memlab, for its notebooks to look at: made by one plan, all exact, resumable."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from memlab.experiments.session import Session
from memlab.models import FrozenLM, Passage
from memlab.recipes import Recipe
from memlab.results.atomic import atomic_write
from memlab.results.mem_vector import MemVector
from memlab.results.store import Store
from memlab.sweeps.runner import Plan, run
from memlab.texts import Text, load_texts
from memlab.training.cram import Progress, cram, key_of

LENGTHS = (8, 16, 32, 64)
SOLUTIONS = 16
EVERY = 5
"""Steps between two points of a trajectory."""


def train_bundled(
    session: Session,
    out: Store,
    *,
    count: int = 16,
    lengths: Sequence[int] = LENGTHS,
    passages: int = 6,
    solutions: int = SOLUTIONS,
    length: int = 32,
    recipe: Recipe | None = None,
) -> list[MemVector]:
    """Train what is missing into ``session.store`` and put the exact ones into ``out``.

    ``count`` originals and ``count`` texts of random words at each of ``lengths``, seed 0; and of ``passages`` of each
    kind, at ``length`` tokens, ``solutions`` exact ones: seeds from 0 on, as many as it takes (at most twice that).
    """
    lm, recipe = session.lm, recipe or Recipe.default()
    kinds = [_spread(load_texts("originals"), count), load_texts("random", count=count)]
    texts = [text for kind in kinds for text in kind]
    plan = Plan.grid(lm, texts, tokens=list(lengths), recipes=recipe)
    for what, why in plan.rejected:
        session.log(f"left out: {what}: {why}")
    kept = [mem for mem in run(plan, session.store, progress=session.progress).whole() if mem.exact]
    session.log(f"{len(kept)} of {len(plan)} over lengths {', '.join(map(str, lengths))} are exact")
    chosen = [lm.passage(text, length) for kind in kinds for text in kind[:passages]]
    found: dict[str, list[MemVector]] = {passage.span.id: [] for passage in chosen}
    for first in range(0, 2 * solutions, solutions):
        short = [p for p in chosen if len(found[p.span.id]) < solutions]
        seeds = [recipe.replace(seed=seed) for seed in range(first, first + solutions)]
        if short:
            plan = Plan.of(lm, short, seeds)
            of = {job.key: job.passage.span.id for job in plan}
            for mem in run(plan, session.store, progress=session.progress).whole():
                if mem.exact and len(found[of[mem.key]]) < solutions:
                    found[of[mem.key]].append(mem)
    for name, mems in found.items():
        session.log(f"{name}: {len(mems)} solutions of {length} tokens")
        kept += mems
    for mem in kept:
        out.put(mem)
    return kept


def trajectories(
    lm: FrozenLM, passages: Sequence[Passage], recipe: Recipe, file: Path, *, every: int = EVERY, progress: bool = True
) -> None:
    """Train again and keep the way: (steps, k, d) float16, every so many steps and the last, by key of the result.

    Of passages that end exact, in one safetensors file, which ``read_trajectories`` opens; where it has them all,
    nothing is done. Float16 rounds a coordinate by 1 part in 2,000.
    """
    keys = {key_of(lm, passage, recipe) for passage in passages}
    if file.exists() and keys <= set(read_trajectories(file)):
        return
    ways: dict[int, list[tuple[int, np.ndarray]]] = {i: [] for i in range(len(passages))}

    def watch(now: Progress) -> bool:
        for i, step, mem in zip(now.passages, now.steps, now.vectors, strict=True):
            if step % every == 0:
                ways[i].append((step, mem.numpy().astype(np.float16)))
        return False

    made = cram(lm, list(passages), recipe, progress=progress, on_step=watch)
    tensors, steps = {}, {}
    for i, mem in enumerate(made):
        if not mem.exact:
            continue
        way = [point for point in ways[i] if point[0] < mem.steps] + [(mem.steps, mem.mem.astype(np.float16))]
        tensors[mem.key], steps[mem.key] = np.stack([point for _, point in way]), [step for step, _ in way]
    file.parent.mkdir(parents=True, exist_ok=True)
    about = {"memlab": json.dumps({"schema": 1, "model": lm.name, "fingerprint": lm.fingerprint, "steps": steps})}
    atomic_write(file, safetensors.numpy.save(tensors, about))


def read_trajectories(file: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{key: (steps (m,), vectors (m, k, d) float32)} of a file that ``trajectories`` wrote."""
    with safetensors.safe_open(file, framework="numpy") as opened:
        about: dict[str, Any] = json.loads(opened.metadata()["memlab"])
        return {
            key: (np.array(about["steps"][key]), opened.get_tensor(key).astype(np.float32)) for key in opened.keys()
        }


def _spread(texts: Sequence[Text], count: int) -> list[Text]:
    """``count`` of them, evenly over the list, so that each kind of text is there."""
    return [texts[round(i * (len(texts) - 1) / max(1, count - 1))] for i in range(min(count, len(texts)))]
