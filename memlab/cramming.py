"""The engine: many passages on one bench, each with its own vectors, rule and clock.

Who is done leaves, who waits enters.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from memlab import decoding
from memlab.models import FrozenLM, Passage
from memlab.objective import Batch
from memlab.recipes import Recipe
from memlab.store import Store, StoreError
from memlab.training import Training
from memlab.vectors import MemVector

POSITIONS = 1024
"""Positions trained at once. More buys little on a CPU and costs memory: positions x vocabulary logits."""


@dataclass(frozen=True)
class Progress:
    """What a ``watch`` function sees after every step, one entry for each passage then on the bench."""

    passages: tuple[int, ...]
    """Their places in the list given to ``cram``."""
    steps: tuple[int, ...]
    """Steps taken before the vectors that the next three speak of."""
    loss_bits: tuple[float, ...]
    """Cross-entropy of the vectors then measured, bits a scored token."""
    accuracy: tuple[float, ...]
    """Share of scored tokens that are argmax, teacher-forced."""
    margin: tuple[float, ...]
    finished: int
    total: int


class CramInterrupted(KeyboardInterrupt):
    """Training was stopped. Nothing finished is lost: it is in ``finished`` and, if there is one, in the store."""

    def __init__(self, finished: list[MemVector], unfinished: list[MemVector]) -> None:
        self.finished = finished
        self.unfinished = unfinished
        """Best vectors so far of the passages on the bench: unchecked, and refused by a store."""
        super().__init__(f"stopped with {len(finished)} passages finished and {len(unfinished)} on the bench")


def cram(
    lm: FrozenLM,
    passages: Passage | Sequence[Passage],
    recipe: Recipe | Sequence[Recipe] | None = None,
    store: Store | None = None,
    *,
    start: MemVector | Sequence[MemVector] | None = None,
    portable: bool = False,
    progress: bool = True,
    watch: Callable[[Progress], bool | None] | None = None,
) -> list[MemVector]:
    """Train mem vectors for each passage, check them by decoding freely, and return them in the order given.

    ``recipe`` is one for all or one a passage (default: ``Recipe.default()``). With a ``store`` only what is missing
    is trained, and each result is kept as soon as it is done. ``start`` goes on from vectors, one for all or one a
    passage, instead of from noise. ``portable`` adds the checks that ``mem.portable`` looks at. ``watch`` is called
    after every step and stops the training by returning True, as an interrupt does: both raise ``CramInterrupted``.

    A passage that cannot be crammed exactly in its budget is returned all the same, with the checks that say so. If
    something else fails midway, the exception's ``finished`` holds what was done (``unsaved`` of a ``StoreError``, what
    the store could not take).
    Method: per-sample optimisation of input vectors, arXiv 2502.13063.
    """
    jobs = _jobs(lm, passages, recipe or Recipe.default(), start)
    done, waiting = _look_up(jobs, store)
    bench: list[Training] = []
    try:
        _train(lm, bench, waiting, done, store=store, portable=portable, progress=progress, watch=watch)
    except KeyboardInterrupt:
        if store is not None:  # the interrupt may have come between a result and its place in there
            for result in done.values():
                if result.key not in store:
                    store.put(result)
        raise CramInterrupted(list(done.values()), [job.snapshot() for job in bench]) from None
    except StoreError as error:
        error.unsaved = [v for v in done.values() if store is not None and v.key not in store]
        raise
    except Exception as error:
        error.finished = list(done.values())  # type: ignore[attr-defined]  # out of memory, say: they were paid for
        raise
    results = [done[job.key] for job in jobs]
    if portable:  # what came from the store may not have been asked this yet
        results = [decoding.check_portable(lm, mem) if mem.exact else mem for mem in results]
    return results


def key_of(lm: FrozenLM, passage: Passage, recipe: Recipe, parent: MemVector | None = None) -> str:
    """The key that the result of these inputs has, or will have. Raises what ``cram`` would raise for them."""
    return Training(lm, 0, passage, recipe, parent).key


def _jobs(
    lm: FrozenLM,
    passages: Passage | Sequence[Passage],
    recipe: Recipe | Sequence[Recipe],
    start: MemVector | Sequence[MemVector] | None,
) -> list[Training]:
    passages = [passages] if isinstance(passages, Passage) else list(passages)
    recipes = [recipe] * len(passages) if isinstance(recipe, Recipe) else list(recipe)
    parents = list(start) if isinstance(start, Sequence) else [start] * len(passages)
    if not len(passages) == len(recipes) == len(parents):
        raise ValueError(f"{len(passages)} passages, {len(recipes)} recipes, {len(parents)} starts: one each is needed")
    return [Training(lm, i, *job) for i, job in enumerate(zip(passages, recipes, parents, strict=True))]


def _look_up(jobs: Sequence[Training], store: Store | None) -> tuple[dict[str, MemVector], list[Training]]:
    """What the store has, by key, and what must be trained, each key once."""
    unique = {job.key: job for job in jobs}
    if store is None:
        done = {}
    else:
        done = {key: known for key in unique if (known := store.fetch(key))}
        for key, known in done.items():
            if known.redaction:  # the passage is at hand, so its ids can be put back
                done[key] = known.restored(unique[key].passage.ids)
        if len(done) < len(unique):
            store.check_writable()
    # Long ones first, and so side by side with their like: little padding, and no straggler at the end.
    return done, sorted((job for key, job in unique.items() if key not in done), key=lambda job: -job.row.length)


def _train(
    lm: FrozenLM,
    bench: list[Training],
    waiting: list[Training],
    done: dict[str, MemVector],
    *,
    store: Store | None,
    portable: bool,
    progress: bool,
    watch: Callable[[Progress], bool | None] | None,
) -> None:
    """Train until nobody waits and the bench is empty; results go into ``done`` and the store as they come."""
    total = len(done) + len(waiting)
    # Counted in steps, so that even one passage has a time left: what is left at most, less as passages end early.
    bar = tqdm(total=sum(j.recipe.budget for j in waiting), unit="step", disable=not (progress and waiting))
    batch: Batch | None = None
    drawn = 0.0
    with bar:
        while bench or waiting:
            if entered := _admit(bench, waiting):
                bench += entered
                batch = None
            batch = batch or Batch(lm, [job.row for job in bench])
            _step(batch, bench)
            bar.update(sum(not job.ended for job in bench))
            if time.perf_counter() - drawn > 0.2:
                drawn = time.perf_counter()
                bar.set_description(f"crammed {len(done)} of {total}", refresh=False)
                bar.set_postfix(_postfix(bench))
            if watch and watch(_told(bench, len(done), total)):
                raise KeyboardInterrupt
            for job in [job for job in bench if job.ended]:
                # On the books first, so that a store that fails, or an interrupt, cannot lose it.
                done[job.key] = job.result(portable)
                bench.remove(job)
                batch = None
                if store is not None:
                    store.put(done[job.key])
                bar.total -= job.recipe.budget - job.steps
        bar.set_description(f"crammed {len(done)} of {total}")


def _step(batch: Batch, bench: list[Training]) -> None:
    scores, gradients = batch.scores([job.mem for job in bench], bench[0].lm.dtype, gradient=True)
    measured = zip(scores.loss.tolist(), scores.right.tolist(), scores.margin.tolist(), strict=True)
    for job, (loss, right, margin), gradient in zip(bench, measured, gradients, strict=True):
        job.measured(loss, right, margin)
        if not job.ended:
            job.advance(gradient)


def _admit(bench: list[Training], waiting: list[Training]) -> list[Training]:
    """Waiting passages that fit beside those on the bench (one always does), in the waiting order."""
    entered: list[Training] = []
    while waiting:
        rows = [job.row.length for job in [*bench, *entered, waiting[0]]]
        if len(rows) > 1 and max(rows) * len(rows) > POSITIONS:
            break
        job = waiting.pop(0)
        job.enter()
        entered.append(job)
    return entered


def _postfix(bench: Sequence[Training]) -> dict[str, Any]:
    return {
        "on bench": len(bench),
        "step": f"{max(j.measured_at for j in bench)}/{max(j.recipe.budget for j in bench)}",
        "bits/token": f"{np.mean([j.loss for j in bench]) / np.log(2):.2f}",
        "right": f"{np.mean([j.accuracy for j in bench]):.0%}",
    }


def _told(bench: Sequence[Training], finished: int, total: int) -> Progress:
    return Progress(
        tuple(j.index for j in bench),
        tuple(j.measured_at for j in bench),
        tuple(j.loss / float(np.log(2)) for j in bench),
        tuple(j.accuracy for j in bench),
        tuple(j.margin for j in bench),
        finished,
        total,
    )
