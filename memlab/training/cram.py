"""Training engine: trains many passages in one continuous batch.

Each passage has its own vectors, optimizer and step count. Finished passages leave, and waiting ones take their place.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from memlab.decoding import decode as decoding
from memlab.decoding.first_use import check_first_use, remember_exact
from memlab.errors import ArgumentError, as_list, require_function, require_type
from memlab.models import FrozenLM, Passage
from memlab.recipes import Recipe
from memlab.results.mem_vector import MemVector
from memlab.results.store import Store, StoreError
from memlab.training.job import TrainingJob
from memlab.training.scheduler import BatchScheduler

CHECKPOINT_EVERY = 300.0
"""Seconds between two rounds of checkpoints in the store."""
CHECKPOINT_AFTER = 60.0
"""Seconds of training after which a passage is worth a checkpoint."""
REDRAW_EVERY = 0.2
"""Seconds between two drawings of the progress bar."""


@dataclass(frozen=True)
class Progress:
    """What ``on_step`` receives after every step: one entry per passage in the batch.

    >>> from memlab import Recipe, cram, load
    >>> lm, seen = load("toy:llama"), []
    >>> mems = cram(lm, lm.passage_of_ids([5, 9, 2]), Recipe.default(k=4), progress=False, on_step=seen.append)
    >>> seen[0].steps, seen[-1].accuracy
    ((0,), (1.0,))
    """

    passages: tuple[int, ...]
    """Indices in the list given to ``cram``."""
    steps: tuple[int, ...]
    """Steps taken so far. The next three fields describe the vectors after these steps."""
    loss_bits: tuple[float, ...]
    """Cross-entropy, bits per scored token."""
    accuracy: tuple[float, ...]
    """Share of scored tokens that are argmax, teacher-forced."""
    margin: tuple[float, ...]
    """Smallest margin of a scored token, teacher-forced, logits. Negative if a token is wrong."""
    finished: int
    """Passages with a result, those from the store included."""
    total: int
    """All passages, each key once."""
    positions: int = 0
    """Positions fed in this step, padding included."""
    padding: int = 0
    """Number of these positions that were padding."""
    vectors: tuple[torch.Tensor, ...] = ()
    """The measured vectors, each (k, d) float32 on the CPU. They are never written to again."""
    argmax: tuple[np.ndarray, ...] = ()
    """What the model would write at each scored token, given the true text before it: token ids (scored,). The first
    is that of token ``first_scored``. Empty if the passes are CUDA graphs."""


class CramInterrupted(KeyboardInterrupt):
    """Training was stopped. Finished results are not lost: they are in ``finished`` and in the store, if there is one.

    >>> from memlab import CramInterrupted, Recipe, cram, load
    >>> lm = load("toy:llama")
    >>> try:
    ...     cram(lm, lm.passage_of_ids([5, 9, 2]), Recipe.default(k=4), progress=False, on_step=lambda now: True)
    ... except CramInterrupted as stop:
    ...     print(stop)
    stopped with 0 passages finished and 1 begun
    """

    def __init__(self, finished: list[MemVector], unfinished: list[MemVector]) -> None:
        self.finished = finished
        self.unfinished = unfinished
        """Best vectors so far of the passages that were begun. They are unchecked, and a store refuses them."""
        super().__init__(f"stopped with {len(finished)} passages finished and {len(unfinished)} begun")

    def __reduce__(self) -> tuple[Any, ...]:
        return CramInterrupted, (self.finished, self.unfinished)  # so that another process can send it


def cram(
    lm: FrozenLM,
    passages: Passage | Sequence[Passage],
    recipe: Recipe | str | Sequence[Recipe | str] | None = None,
    store: Store | None = None,
    *,
    start: MemVector | Sequence[MemVector | None] | None = None,
    portable: bool = False,
    progress: bool = True,
    on_step: Callable[[Progress], bool | None] | None = None,
) -> list[MemVector]:
    """Train mem vectors for each passage, check them by free decoding, and return them in the order given.

    >>> from memlab import Recipe, cram, load
    >>> lm = load("toy:llama")
    >>> (mem,) = cram(lm, lm.passage_of_ids([5, 9, 2]), Recipe.default(k=4), progress=False)
    >>> mem.exact, mem.mem.shape
    (True, (4, 384))

    ``recipe`` is a recipe or its name, or one per passage (default: ``Recipe.default()``). With a ``store``, only
    missing results are trained, and each result is stored as soon as it is done. Stored vectors are checked when
    this process first uses them; one that is not exact here is returned with the check that says so, and a warning.
    A long training that was killed resumes from its last checkpoint, at most five minutes old. A training that was
    stopped between two steps, after more than a minute, resumes at that step. ``start`` gives vectors to start from
    instead of noise, one for all passages or one per passage. ``portable`` adds the checks that ``mem.portable``
    needs. ``on_step`` is called after every step. If it returns True, training stops. An interrupt stops it too.
    Both raise ``CramInterrupted``.

    A passage that is not exact within its budget is also returned, with the checks that say so. If something else
    fails, the exception's ``finished`` holds the results so far (a ``StoreError`` has ``unsaved``: the results that
    the store could not take). Before any training, cram raises ``PassageError`` for a passage that does not fit the
    model or the recipe, ``ModelError`` or ``VectorError`` for a ``start`` with other weights, shape or k, and
    ``ArgumentError`` for lists of unequal length.
    Method: per-sample optimisation of input vectors, arXiv 2502.13063.
    """
    require_type("lm", lm, FrozenLM, "a model that load(name) returns")
    require_type("store", store, (Store, type(None)), "a Store, such as Store(folder)")
    require_function("on_step", on_step)
    jobs = _jobs(lm, passages, "default" if recipe is None else recipe, start)
    done, waiting = _look_up(lm, jobs, store)
    scheduler = BatchScheduler(lm, waiting, progress=progress)
    scheduler.argmax = on_step is not None
    try:
        _train(scheduler, done, store=store, portable=portable, progress=progress, on_step=on_step)
    except KeyboardInterrupt:
        for job in [job for job in scheduler.running if job.ended]:  # they ended in this step and lack only the decode
            done[job.key] = job.result()
            scheduler.running.remove(job)
        if store is not None:  # the interrupt may have come before the store had the result
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
        error.finished = list(done.values())  # type: ignore[attr-defined]  # for instance out of memory: keep the results
        raise
    results = [done[job.key] for job in jobs]
    if portable:  # results from the store may lack these checks
        results = [decoding.check_portable(lm, mem) if mem.exact else mem for mem in results]
    return results


def key_of(lm: FrozenLM, passage: Passage, recipe: Recipe | str, parent: MemVector | None = None) -> str:
    """The key of the result of these inputs, trained or not. Raises what ``cram`` would raise for them."""
    return _jobs(lm, passage, recipe, parent)[0].key


def _jobs(
    lm: FrozenLM,
    passages: Passage | Sequence[Passage],
    recipe: Recipe | str | Sequence[Recipe | str],
    start: MemVector | Sequence[MemVector | None] | None,
) -> list[TrainingJob]:
    passages = as_list("passages", passages, Passage, "passages, such as lm.passage(text)")

    def one_each(argument: str, value: Any, kind: tuple[type, ...], expected: str) -> list[Any]:
        return as_list(argument, value, kind, expected) * (len(passages) if isinstance(value, kind) else 1)

    recipes = [Recipe.of(one) for one in one_each("recipe", recipe, (Recipe, str, Mapping), "a recipe, or its name")]
    parents = one_each("start", start, (MemVector, type(None)), "a mem vector")
    if not len(passages) == len(recipes) == len(parents):
        raise ArgumentError(
            f"{len(passages)} passages, {len(recipes)} recipes, {len(parents)} starts. "
            "Give one recipe and one start for all passages, or one each."
        )
    return [TrainingJob(lm, i, *job) for i, job in enumerate(zip(passages, recipes, parents, strict=True))]


def _look_up(
    lm: FrozenLM, jobs: Sequence[TrainingJob], store: Store | None
) -> tuple[dict[str, MemVector], list[TrainingJob]]:
    """Results in the store, by key, and the jobs to train, each key once."""
    unique = {job.key: job for job in jobs}
    done: dict[str, MemVector] = {}
    if store is not None:
        stored = {key: mem for key, job in unique.items() if (mem := _stored(store, key, job))}
        done = dict(zip(stored, check_first_use(lm, list(stored.values())), strict=True))
        for key in unique.keys() - done.keys():
            job = unique[key]
            old = _stored(store, job.old_key, job) if job.old_key else None
            if old and old.exact and (adopted := job.adopt(old)):
                remember_exact(lm, adopted)
                done[key] = adopted
                with contextlib.suppress(StoreError):  # a store that cannot be written can still be used
                    store.put(adopted)
        if len(done) < len(unique):
            store.check_writable()
        for key in unique.keys() - done.keys():
            unique[key].checkpoints = store.unfinished
    # Long passages first: passages of similar length train together, with little padding and no straggler at the end.
    return done, sorted((job for key, job in unique.items() if key not in done), key=lambda job: -job.row.length)


def _stored(store: Store, key: str, job: TrainingJob) -> MemVector | None:
    """The result of a key in the store, with its token ids; None if there is none that can be used."""
    stored = store.fetch(key)
    if stored is None or not stored.redaction:
        return stored
    ids = job.passage.ids  # the passage is given, so its ids can be put back
    if stored.matches(ids) and (restored := stored.restored(ids)).key == key:
        return restored
    store.set_aside(key, f"{store.file(key)} is redacted, and its hash names another text or model")
    return None


def _train(
    scheduler: BatchScheduler,
    done: dict[str, MemVector],
    *,
    store: Store | None,
    portable: bool,
    progress: bool,
    on_step: Callable[[Progress], bool | None] | None,
) -> None:
    """Train until no job waits or runs. Each result goes into ``done`` and the store at once."""
    total, saved_at = len(done) + len(scheduler.waiting), time.perf_counter()
    with _ProgressBar(scheduler.waiting, len(done), show=progress) as bar:
        while scheduler.admit():
            if not scheduler.step():
                continue
            bar.update(scheduler.running, len(done))
            if on_step and on_step(_progress(scheduler, len(done), total)):
                raise KeyboardInterrupt
            for job in [job for job in scheduler.running if job.ended]:
                # Record the result first, so that neither a store that fails nor an interrupt can lose it.
                done[job.key] = job.result()
                scheduler.running.remove(job)
                if done[job.key].exact:
                    remember_exact(job.lm, done[job.key])
                try:
                    if portable and done[job.key].exact:
                        done[job.key] = decoding.check_portable(scheduler.lm, done[job.key])
                finally:  # these checks may run out of memory, and the vector is exact without them
                    if store is not None:
                        _put(done[job.key], scheduler, store)
            if store is not None and time.perf_counter() - saved_at > CHECKPOINT_EVERY:
                saved_at = time.perf_counter()
                _save_checkpoints(scheduler, store)
        bar.draw([], len(done))


class _ProgressBar:
    """A bar over all passages. A passage in training counts with the share of its budget that is used.

    The total is the number of passages and never changes, because the notebook's bar keeps its first total.
    """

    def __init__(self, jobs: Sequence[TrainingJob], finished: int, *, show: bool) -> None:
        self._jobs, self._stored, self._drawn = list(jobs), finished, 0.0
        self._bar = tqdm(
            total=finished + len(jobs),
            initial=finished,
            bar_format="{l_bar}{bar}| {elapsed}<{remaining}{postfix}",
            smoothing=0,  # passages end in jumps; the mean rate gives the steadiest estimate of the time left
            miniters=0,
            disable=not (show and jobs),
        )

    def __enter__(self) -> _ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def update(self, running: Sequence[TrainingJob], finished: int) -> None:
        """Draw, if the last drawing is old enough."""
        if not self._bar.disable and time.perf_counter() - self._drawn > REDRAW_EVERY:
            self.draw(running, finished)

    def draw(self, running: Sequence[TrainingJob], finished: int) -> None:
        if self._bar.disable:
            return
        self._drawn = time.perf_counter()
        self._bar.set_description(f"crammed {finished} of {self._bar.total}", refresh=False)
        self._bar.set_postfix(_postfix(running) if running else {}, refresh=False)
        self._bar.n = self._stored + sum(job.fraction for job in self._jobs)
        self._bar.refresh()


def _save_checkpoints(scheduler: BatchScheduler, store: Store) -> None:
    """Save every job that has trained long enough, preempted jobs too. Stop if a checkpoint cannot be written."""
    for job in [*scheduler.running, *scheduler.waiting]:
        if job.age >= CHECKPOINT_AFTER and not job.ended and not job.save_checkpoint(store.unfinished):
            break


def _put(mem: MemVector, scheduler: BatchScheduler, store: Store) -> None:
    try:
        store.put(mem)
    except StoreError as error:  # a result matters more than checkpoints, which may fill the disk
        # Checkpoints of jobs that have not begun belong to an earlier run. They stay: their state is nowhere else.
        keys = {mem.key, *(job.key for job in [*scheduler.running, *scheduler.waiting] if job.age)}
        if not error.full or not any(store.unfinished.file(key).exists() for key in keys):
            raise
        for key in keys:
            store.unfinished.delete(key)
        store.put(mem)
    store.unfinished.delete(mem.key)


def _postfix(jobs: Sequence[TrainingJob]) -> dict[str, Any]:
    return {
        "in batch": len(jobs),
        "step": f"{max(j.last.step for j in jobs)}/{max(j.recipe.budget for j in jobs)}",
        "bits/token": f"{np.mean([j.last.loss for j in jobs]) / np.log(2):.2f}",
        "right": f"{np.mean([j.last.accuracy for j in jobs]):.0%}",
    }


def _progress(scheduler: BatchScheduler, finished: int, total: int) -> Progress:
    jobs = scheduler.running
    return Progress(
        passages=tuple(j.index for j in jobs),
        steps=tuple(j.last.step for j in jobs),
        loss_bits=tuple(j.last.loss / float(np.log(2)) for j in jobs),
        accuracy=tuple(j.last.accuracy for j in jobs),
        margin=tuple(j.last.min_margin for j in jobs),
        finished=finished,
        total=total,
        positions=scheduler.positions,
        padding=scheduler.padding,
        vectors=tuple(j.last.mem for j in jobs),
        argmax=tuple(j.argmax for j in jobs),
    )
