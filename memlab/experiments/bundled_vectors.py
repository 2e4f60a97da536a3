"""The bundled vectors, which come with memlab for its notebooks: all exact, made by one resumable plan."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from memlab.experiments.session import Session
from memlab.models import FrozenLM, Passage
from memlab.recipes import Recipe
from memlab.results.atomic import atomic_write
from memlab.results.file_format import tensor_bytes
from memlab.results.mem_vector import MemVector
from memlab.results.store import Store
from memlab.sweeps.runner import Plan, run
from memlab.texts import Text, load_texts
from memlab.training.cram import Progress, cram, key_of

LENGTHS = (8, 16, 32, 64)
SOLUTIONS = 16
EVERY = 5
"""Steps between two points of a stored trajectory."""


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
    """Train what ``session.store`` lacks, and put the exact vectors into ``out``. Returns the exact vectors.

    ``count`` originals and ``count`` texts of random words are trained at each of ``lengths``, with seed 0. Of each
    kind, ``passages`` texts are trained at ``length`` tokens until each has ``solutions`` exact vectors. Their seeds
    start at 0; at most twice ``solutions`` seeds are tried.
    """
    lm, recipe = session.lm, recipe or Recipe.default()
    kinds = [_spread(load_texts("originals"), count), load_texts("random", count=count)]
    texts = [text for kind in kinds for text in kind]
    plan = Plan.grid(lm, texts, tokens=list(lengths), recipes=recipe)
    for what, reason in plan.rejected:
        session.log(f"left out: {what}: {reason}")
    exact = [mem for mem in run(plan, session.store, progress=session.progress).whole() if mem.exact]
    session.log(f"{len(exact)} of {len(plan)} vectors over lengths {', '.join(map(str, lengths))} are exact")
    chosen = [lm.passage(text, length) for kind in kinds for text in kind[:passages]]
    solved: dict[str, list[MemVector]] = {passage.span.id: [] for passage in chosen}
    for first in range(0, 2 * solutions, solutions):
        unfinished = [p for p in chosen if len(solved[p.span.id]) < solutions]
        seeds = [recipe.replace(seed=seed) for seed in range(first, first + solutions)]
        if unfinished:
            plan = Plan.of(lm, unfinished, seeds)
            text_of = {job.key: job.passage.span.id for job in plan}
            for mem in run(plan, session.store, progress=session.progress).whole():
                if mem.exact and len(solved[text_of[mem.key]]) < solutions:
                    solved[text_of[mem.key]].append(mem)
    for name, mems in solved.items():
        session.log(f"{name}: {len(mems)} solutions of {length} tokens")
        exact += mems
    for mem in exact:
        out.put(mem)
    return exact


def write_trajectories(
    lm: FrozenLM, passages: Sequence[Passage], recipe: Recipe, file: Path, *, every: int = EVERY, progress: bool = True
) -> None:
    """Train passages again and store their trajectories: (points, k, d) float16 by key of the result.

    A trajectory has the vector at every ``every``-th step and at the last step. ``file`` (safetensors) gets those of
    exact results; ``read_trajectories`` opens it. If ``file`` already has them all, nothing is trained. Float16 rounds
    a coordinate by 1 part in 2,000.
    """
    keys = {key_of(lm, passage, recipe) for passage in passages}
    if file.exists() and keys <= set(read_trajectories(file)):
        return
    points: dict[int, list[tuple[int, np.ndarray]]] = {i: [] for i in range(len(passages))}

    def record(now: Progress) -> bool:
        for i, step, mem in zip(now.passages, now.steps, now.vectors, strict=True):
            if step % every == 0:
                points[i].append((step, mem.numpy().astype(np.float16)))
        return False

    results = cram(lm, list(passages), recipe, progress=progress, on_step=record)
    tensors, steps = {}, {}
    for i, mem in enumerate(results):
        if not mem.exact:
            continue
        path = [point for point in points[i] if point[0] < mem.steps] + [(mem.steps, mem.mem.astype(np.float16))]
        tensors[mem.key], steps[mem.key] = np.stack([vector for _, vector in path]), [step for step, _ in path]
    file.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"memlab": json.dumps({"schema": 1, "model": lm.name, "fingerprint": lm.fingerprint, "steps": steps})}
    atomic_write(file, tensor_bytes(tensors, metadata))


def read_trajectories(file: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{key: (steps (points,), vectors (points, k, d) float32)} of a file that ``write_trajectories`` wrote."""
    with safetensors.safe_open(file, framework="numpy") as opened:
        metadata: dict[str, Any] = json.loads(opened.metadata()["memlab"])
        return {
            key: (np.array(metadata["steps"][key]), opened.get_tensor(key).astype(np.float32)) for key in opened.keys()
        }


def _spread(texts: Sequence[Text], count: int) -> list[Text]:
    """``count`` texts, evenly spaced in the list, so that each kind of text is among them."""
    return [texts[round(i * (len(texts) - 1) / max(1, count - 1))] for i in range(min(count, len(texts)))]
