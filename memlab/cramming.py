"""The engine: many passages on one bench, each with its own vectors, rule and clock.

Who is done leaves, who waits enters.
"""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from memlab import __version__, decoding
from memlab.models import FrozenLM, Passage, PassageError
from memlab.objective import Batch, Row
from memlab.recipes import Recipe
from memlab.rules import make_rule
from memlab.store import Store, StoreError
from memlab.vectors import MemVector, VectorError, make_key

POSITIONS = 1024
"""Positions trained at once. More buys little on a CPU and costs memory: positions x vocabulary logits."""
TRACE_POINTS = 100


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
    bench: list[_Job] = []
    try:
        _train(lm, bench, waiting, done, store=store, portable=portable, progress=progress, watch=watch)
    except KeyboardInterrupt:
        if store is not None:  # the interrupt may have come between a result and its place in there
            list(map(store.put, done.values()))
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
    return _Job(lm, 0, passage, recipe, parent).key


def initial_mem(lm: FrozenLM, passage: Passage, recipe: Recipe) -> torch.Tensor:
    """The vectors (k, d) training starts from: normal noise with the embeddings' standard deviation.

    The seed comes from the recipe's seed and the passage alone, so neither batch nor order matter.
    """
    name = f"memlab init {recipe.seed} {passage.ids.tolist()}"
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") >> 1)
    noise = torch.randn(recipe.k, lm.d, generator=generator)
    return (noise * (lm.embedding_stats["std"] * recipe.init_scale)).to(lm.device)


@dataclass
class _Best:
    """The vector to be kept if none passes: most tokens right, then the lowest loss."""

    mem: torch.Tensor
    step: int = 0
    right: int = -1
    loss: float = np.inf


class _Job:
    """One passage on its way: its vectors, its rule, what was measured, and when to stop."""

    def __init__(self, lm: FrozenLM, index: int, passage: Passage, recipe: Recipe, parent: MemVector | None) -> None:
        self.lm, self.index, self.passage, self.recipe, self.parent = lm, index, passage, recipe, parent
        if passage.tokenizer_hash != lm.tokenizer_hash:
            raise PassageError(
                f"{passage!r} was cut with another model's tokenizer, its ids mean nothing to {lm.name}: "
                f"cut it again with this model's passage()"
            )
        prefix = lm.prefix_ids(recipe.prefix)
        self.row = Row(passage.ids, prefix, recipe.suffix, recipe.k, recipe.first_scored)
        lm.check_ids(np.array(recipe.suffix, np.int64))
        lm.check_ids(passage.ids)
        if lm.context and self.row.length > lm.context:
            room = lm.context - self.row.context + 1
            raise PassageError(
                f"{len(passage)} tokens behind {self.row.context} positions of prefix, vectors and suffix exceed "
                f"{lm.name}'s context of {lm.context}: "
                + (f"cut the passage to {room} tokens" if room > 0 else "use fewer vectors (k)")
            )
        if len(passage) < recipe.first_scored:
            raise PassageError(f"the recipe scores from token {recipe.first_scored} on, the passage has {len(passage)}")
        if parent:
            decoding.require_weights(lm, parent)
            if parent.k != recipe.k:
                raise VectorError(f"the vector to start from has k={parent.k}, the recipe k={recipe.k}")
        self.parent_key = parent.identity if parent else None
        self.key = make_key(
            lm.fingerprint, passage.ids, np.array(prefix), np.array(recipe.suffix), recipe, self.parent_key
        )
        self.mem = torch.empty(0)
        self.best = _Best(self.mem)
        self.steps = 0
        self.ended = ""
        """Why training is over: exact, teacher_forced, budget, patience or diverged; empty while it is not."""
        self.trace: list[tuple[int, float, float]] = []
        self._every = 1
        self._next_check = 0
        self._kept: MemVector | None = None
        self._began = 0.0

    def enter(self) -> None:
        """Take a place on the bench."""
        self._began = time.perf_counter()
        parent = self.parent
        self.mem = (
            torch.tensor(parent.mem, device=self.lm.device)
            if parent
            else initial_mem(self.lm, self.passage, self.recipe)
        )
        self.best = _Best(self.mem)
        self.rule = make_rule(self.recipe)

    def measured(self, loss: float, right: int, margin: float) -> None:
        """Take note of what the vectors now score, and decide whether they are the ones to keep."""
        scored = len(self.passage) - self.recipe.first_scored + 1
        self.measured_at, self.loss, self.accuracy, self.margin = self.steps, loss, right / scored, margin
        if not np.isfinite(loss):
            self.ended = "diverged"
            return
        if (right, -loss) > (self.best.right, -self.best.loss):
            # Patience counts from a better accuracy, not from a better loss.
            step = self.steps if right > self.best.right else self.best.step
            self.best = _Best(self.mem, step, right, loss)
        if right == scored and self.steps >= self._next_check and self._passes(margin):
            self.ended = self.recipe.stop
        if not self.ended and self.steps >= self.recipe.budget:
            self.ended = "budget"
        if not self.ended and self.recipe.patience and self.steps - self.best.step >= self.recipe.patience:
            self.ended = "patience"
        self._note(loss / np.log(2), self.accuracy)

    def advance(self, gradient: torch.Tensor) -> None:
        """One step of the rule. A new tensor, so that what was measured stays what it was."""
        self.mem = self.mem + self.rule.step(self.mem, gradient)
        self.steps += 1

    def _passes(self, margin: float) -> bool:
        """Whether the vectors just measured are what the recipe wants, in float32 whatever they were trained in.

        If so they are kept: all scored tokens argmax, or decoded freely and with the recipe's margin.
        """
        exact = self.recipe.stop == "exact"
        if exact and margin < self.recipe.margin:
            return False
        candidate = self.snapshot(self.mem)
        # One pass in float32: for an exact stop it foretells the decode nearly always, at a fraction of the price.
        accuracy, _, margin = decoding.teacher_forced(self.lm, candidate, first_scored=self.recipe.first_scored)
        if accuracy == 1 and (not exact or margin >= self.recipe.margin):
            made = decoding.check(self.lm, candidate)
            if not exact or (made.exact and made.margin >= self.recipe.margin):
                self._kept = candidate.with_checks(made)
                return True
        self._next_check = self.steps + 3
        return False

    def _note(self, bits: float, accuracy: float) -> None:
        if self.steps % self._every == 0 or self.ended:  # the last point always: it is the one people look for
            self.trace.append((self.steps, bits, accuracy))
        if len(self.trace) >= TRACE_POINTS and not self.ended:  # half the points, twice as far apart
            self._every *= 2
            self.trace = [point for point in self.trace if point[0] % self._every == 0]

    def _trace(self) -> dict[str, tuple[float, ...]]:
        columns = list(zip(*self.trace, strict=True)) or [(), (), ()]
        return dict(zip(("step", "loss", "accuracy"), columns, strict=True))

    def snapshot(self, mem: torch.Tensor | None = None) -> MemVector:
        """The best vectors so far (or ``mem``) as a value: unchecked, and unfit for a store."""
        return MemVector(
            mem=(self.best.mem if mem is None else mem).cpu().numpy(),
            token_ids=self.passage.ids,
            prefix_ids=np.array(self.row.prefix_ids, np.int64),
            suffix_ids=np.array(self.row.suffix_ids, np.int64),
            model=self.lm.name,
            revision=self.lm.revision,
            fingerprint=self.lm.fingerprint,
            recipe=self.recipe,
            parent=self.parent_key,
            text=self.passage.span,
            steps=self.steps,
            seconds=round(time.perf_counter() - self._began, 3),
            trace=self._trace(),
            provenance={"interrupted": f"at step {self.steps}"},
        )

    def result(self, portable: bool) -> MemVector:
        """The vector that is kept, with its checks: the very one that was measured, not one a step newer."""
        kept = self._kept or self.snapshot()
        accuracy, bits, _ = decoding.teacher_forced(self.lm, kept)
        finite = np.isfinite(bits)
        if not kept.checks:
            kept = kept.with_checks(decoding.check(self.lm, kept))
        if self.recipe.first_scored > 1 and kept.n > 1:
            # The 2025 paper's code never trains the first token: its decoding is given it, in a check of its own.
            kept = kept.with_checks(decoding.check(self.lm, kept, first_given=True))
        if portable and kept.exact:
            kept = decoding.check_portable(self.lm, kept)
        return replace(
            kept,
            teacher_forced=accuracy,
            loss_bits=bits if finite else None,
            trace=self._trace(),
            steps=self.steps,
            seconds=round(time.perf_counter() - self._began, 3),
            provenance={"ended": self.ended, **_provenance(self.lm)},
        )


def _jobs(
    lm: FrozenLM,
    passages: Passage | Sequence[Passage],
    recipe: Recipe | Sequence[Recipe],
    start: MemVector | Sequence[MemVector] | None,
) -> list[_Job]:
    passages = [passages] if isinstance(passages, Passage) else list(passages)
    recipes = [recipe] * len(passages) if isinstance(recipe, Recipe) else list(recipe)
    parents = list(start) if isinstance(start, Sequence) else [start] * len(passages)
    if not len(passages) == len(recipes) == len(parents):
        raise ValueError(f"{len(passages)} passages, {len(recipes)} recipes, {len(parents)} starts: one each is needed")
    return [_Job(lm, i, *job) for i, job in enumerate(zip(passages, recipes, parents, strict=True))]


def _look_up(jobs: Sequence[_Job], store: Store | None) -> tuple[dict[str, MemVector], list[_Job]]:
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
    bench: list[_Job],
    waiting: list[_Job],
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


def _step(batch: Batch, bench: list[_Job]) -> None:
    scores, gradients = batch.scores([job.mem for job in bench], bench[0].lm.dtype, gradient=True)
    measured = zip(scores.loss.tolist(), scores.right.tolist(), scores.margin.tolist(), strict=True)
    for job, (loss, right, margin), gradient in zip(bench, measured, gradients, strict=True):
        job.measured(loss, right, margin)
        if not job.ended:
            job.advance(gradient)


def _admit(bench: list[_Job], waiting: list[_Job]) -> list[_Job]:
    """Waiting passages that fit beside those on the bench (one always does), in the waiting order."""
    entered: list[_Job] = []
    while waiting:
        rows = [job.row.length for job in [*bench, *entered, waiting[0]]]
        if len(rows) > 1 and max(rows) * len(rows) > POSITIONS:
            break
        job = waiting.pop(0)
        job.enter()
        entered.append(job)
    return entered


def _postfix(bench: Sequence[_Job]) -> dict[str, Any]:
    return {
        "on bench": len(bench),
        "step": f"{max(j.measured_at for j in bench)}/{max(j.recipe.budget for j in bench)}",
        "bits/token": f"{np.mean([j.loss for j in bench]) / np.log(2):.2f}",
        "right": f"{np.mean([j.accuracy for j in bench]):.0%}",
    }


def _told(bench: Sequence[_Job], finished: int, total: int) -> Progress:
    return Progress(
        tuple(j.index for j in bench),
        tuple(j.measured_at for j in bench),
        tuple(j.loss / float(np.log(2)) for j in bench),
        tuple(j.accuracy for j in bench),
        tuple(j.margin for j in bench),
        finished,
        total,
    )


def _provenance(lm: FrozenLM) -> dict[str, Any]:
    return {
        "memlab": __version__,
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "device": str(lm.device),
        "dtype": str(lm.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "config_sha256": lm.config_hash,
        "tokenizer_sha256": lm.tokenizer_hash,
        "trained": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
