"""The engine: many passages on one bench, each with its own vectors, rule and clock.

Who is done leaves, who waits enters.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from memlab.decoding import decode as decoding
from memlab.models import FrozenLM, Passage
from memlab.recipes import Recipe
from memlab.results.mem_vector import MemVector
from memlab.results.store import Store, StoreError
from memlab.training.job import TrainingJob
from memlab.training.scheduler import BatchScheduler

CHECKPOINT_EVERY = 300.0
"""Seconds after which it is kept, in the store, where the passages on the bench stand."""
CHECKPOINT_AFTER = 60.0
"""Seconds of training that are worth it."""


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
    """Least lead of a scored token's logit over all others, teacher-forced, logits; negative where one is wrong."""
    finished: int
    total: int
    positions: int = 0
    """Positions fed in this step, padding included."""
    padding: int = 0
    """How many of them were padding."""
    vectors: tuple[torch.Tensor, ...] = ()
    """The vectors measured, each (k, d) float32 on the CPU; they are never written to again."""


class CramInterrupted(KeyboardInterrupt):
    """Training was stopped. Nothing finished is lost: it is in ``finished`` and, if there is one, in the store."""

    def __init__(self, finished: list[MemVector], unfinished: list[MemVector]) -> None:
        self.finished = finished
        self.unfinished = unfinished
        """Best vectors so far of the passages that were begun: unchecked, and refused by a store."""
        super().__init__(f"stopped with {len(finished)} passages finished and {len(unfinished)} begun")

    def __reduce__(self) -> tuple[Any, ...]:
        return CramInterrupted, (self.finished, self.unfinished)  # else it could not come back from another process


def cram(
    lm: FrozenLM,
    passages: Passage | Sequence[Passage],
    recipe: Recipe | Sequence[Recipe] | None = None,
    store: Store | None = None,
    *,
    start: MemVector | Sequence[MemVector | None] | None = None,
    portable: bool = False,
    progress: bool = True,
    on_step: Callable[[Progress], bool | None] | None = None,
) -> list[MemVector]:
    """Train mem vectors for each passage, check them by decoding freely, and return them in the order given.

    ``recipe`` is one for all or one a passage (default: ``Recipe.default()``). With a ``store`` only what is missing
    is trained, and each result is kept as soon as it is done. A long training that was killed goes on where it stood at
    most five minutes before; stopped between two steps, after more than a minute, where it was. ``start`` goes on from
    vectors, one for all or one a passage, instead of from noise. ``portable`` adds the checks that ``mem.portable``
    looks at. ``watch`` is called after every step and stops the training by returning True, as an interrupt does: both
    raise ``CramInterrupted``.

    A passage that cannot be crammed exactly in its budget is returned all the same, with the checks that say so. If
    something else fails midway, the exception's ``finished`` holds what was done (``unsaved`` of a ``StoreError``, what
    the store could not take). Raises ``PassageError`` for a passage that does not fit the model or the recipe,
    ``ModelError`` or ``VectorError`` for a ``start`` of other weights, shape or k, ``ValueError`` for lists of unequal
    length, all before anything is trained.
    Method: per-sample optimisation of input vectors, arXiv 2502.13063.
    """
    jobs = _jobs(lm, passages, recipe or Recipe.default(), start)
    done, waiting = _look_up(jobs, store)
    scheduler = BatchScheduler(lm, waiting, progress=progress)
    try:
        _train(scheduler, done, store=store, portable=portable, progress=progress, on_step=on_step)
    except KeyboardInterrupt:
        for job in [job for job in scheduler.running if job.ended]:  # in this very step: paid for, but for a decode
            done[job.key] = job.result()
            scheduler.running.remove(job)
        if store is not None:  # the interrupt may have come between a result and its place in there
            for result in done.values():
                if result.key not in store:
                    store.put(result)
                store.unfinished.delete(result.key)
            if scheduler.between_steps:
                _save_checkpoints(scheduler, store)
        begun = [job for job in [*scheduler.running, *scheduler.waiting] if job.age]
        raise CramInterrupted(list(done.values()), [job.snapshot() for job in begun]) from None
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
    return TrainingJob(lm, 0, passage, recipe, parent).key


def _jobs(
    lm: FrozenLM,
    passages: Passage | Sequence[Passage],
    recipe: Recipe | Sequence[Recipe],
    start: MemVector | Sequence[MemVector | None] | None,
) -> list[TrainingJob]:
    passages = [passages] if isinstance(passages, Passage) else list(passages)
    recipes = [recipe] * len(passages) if isinstance(recipe, Recipe) else list(recipe)
    parents = list(start) if isinstance(start, Sequence) else [start] * len(passages)
    if not len(passages) == len(recipes) == len(parents):
        raise ValueError(f"{len(passages)} passages, {len(recipes)} recipes, {len(parents)} starts: one each is needed")
    return [TrainingJob(lm, i, *job) for i, job in enumerate(zip(passages, recipes, parents, strict=True))]


def _look_up(jobs: Sequence[TrainingJob], store: Store | None) -> tuple[dict[str, MemVector], list[TrainingJob]]:
    """What the store has, by key, and what must be trained, each key once."""
    unique = {job.key: job for job in jobs}
    if store is None:
        done = {}
    else:
        done = {key: known for key in unique if (known := store.fetch(key))}
        for key, known in list(done.items()):
            if known.redaction:  # the passage is at hand, so its ids can be put back
                ids = unique[key].passage.ids
                if known.matches(ids) and (whole := known.restored(ids)).key == key:
                    done[key] = whole
                else:
                    store.give_way(key, f"{store.file(key)} is redacted, and its hash names another text or model")
                    del done[key]
        if len(done) < len(unique):
            store.check_writable()
        for key in unique.keys() - done.keys():
            unique[key].unfinished = store.unfinished
    # Long ones first, and so side by side with their like: little padding, and no straggler at the end.
    return done, sorted((job for key, job in unique.items() if key not in done), key=lambda job: -job.row.length)


def _train(
    scheduler: BatchScheduler,
    done: dict[str, MemVector],
    *,
    store: Store | None,
    portable: bool,
    progress: bool,
    on_step: Callable[[Progress], bool | None] | None,
) -> None:
    """Train until nobody waits and the bench is empty; results go into ``done`` and the store as they come."""
    total = len(done) + len(scheduler.waiting)
    # Counted in steps, so that even one passage has a time left: what is left at most, less as passages end early.
    steps = sum(j.recipe.budget for j in scheduler.waiting)
    drawn, kept = 0.0, time.perf_counter()
    with tqdm(total=steps, unit="step", disable=not (progress and scheduler.waiting)) as bar:
        resumed: set[str] = set()
        while scheduler.admit():
            for job in scheduler.running:
                if job.resumed and job.key not in resumed:
                    bar.update(job.steps)
                    resumed.add(job.key)
            if not scheduler.step():
                continue
            bar.update(sum(not job.ended for job in scheduler.running))
            if time.perf_counter() - drawn > 0.2:
                drawn = time.perf_counter()
                bar.set_description(f"crammed {len(done)} of {total}", refresh=False)
                bar.set_postfix(_postfix(scheduler.running))
            if on_step and on_step(_told(scheduler, len(done), total)):
                raise KeyboardInterrupt
            for job in [job for job in scheduler.running if job.ended]:
                # On the books first, so that a store that fails, or an interrupt, cannot lose it.
                done[job.key] = job.result()
                scheduler.running.remove(job)
                try:
                    if portable and done[job.key].exact:
                        done[job.key] = decoding.check_portable(scheduler.lm, done[job.key])
                finally:  # a batch of eight may take more memory than there is: exact it is all the same
                    if store is not None:
                        _put(done[job.key], scheduler, store)
                bar.total -= job.recipe.budget - job.steps
            if store is not None and time.perf_counter() - kept > CHECKPOINT_EVERY:
                kept = time.perf_counter()
                _save_checkpoints(scheduler, store)
        bar.set_description(f"crammed {len(done)} of {total}")


def _save_checkpoints(scheduler: BatchScheduler, store: Store) -> None:
    """Keep where all stand that were on the bench for long enough, as far as there is room."""
    for job in [
        *scheduler.running,
        *scheduler.waiting,
    ]:  # some of those that wait had to leave the bench for want of memory
        if job.age >= CHECKPOINT_AFTER and not job.ended and not job.save_checkpoint(store.unfinished):
            break


def _put(mem: MemVector, scheduler: BatchScheduler, store: Store) -> None:
    try:
        store.put(mem)
    except StoreError as error:  # what is finished goes first: states may have taken the room
        # Those of who has not begun here are an earlier run's, and in no memory.
        keys = {mem.key, *(job.key for job in [*scheduler.running, *scheduler.waiting] if job.age)}
        if not error.full or not any(store.unfinished.file(key).exists() for key in keys):
            raise
        for key in keys:
            store.unfinished.delete(key)
        store.put(mem)
    store.unfinished.delete(mem.key)


def _postfix(jobs: Sequence[TrainingJob]) -> dict[str, Any]:
    return {
        "on bench": len(jobs),
        "step": f"{max(j.measured_at for j in jobs)}/{max(j.recipe.budget for j in jobs)}",
        "bits/token": f"{np.mean([j.loss for j in jobs]) / np.log(2):.2f}",
        "right": f"{np.mean([j.accuracy for j in jobs]):.0%}",
    }


def _told(scheduler: BatchScheduler, finished: int, total: int) -> Progress:
    jobs = scheduler.running
    return Progress(
        tuple(j.index for j in jobs),
        tuple(j.measured_at for j in jobs),
        tuple(j.loss / float(np.log(2)) for j in jobs),
        tuple(j.accuracy for j in jobs),
        tuple(j.margin for j in jobs),
        finished,
        total,
        scheduler.positions,
        scheduler.padding,
        tuple(j.measured_mem for j in jobs),
    )
