"""One passage in training: its vectors, its optimizer, its scores, and when to stop."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from memlab._version import __version__
from memlab.decoding import decode as decoding
from memlab.decoding.one_pass import Pass
from memlab.models import FrozenLM, Passage, PassageError
from memlab.recipes import Recipe, look_up
from memlab.results.checkpoints import CheckpointStore
from memlab.results.mem_vector import MemVector, VectorError, make_key
from memlab.scoring.objective import Row
from memlab.stop_rules import STOP_RULES
from memlab.training.contexts import checks_in, exact_in_contexts, rows_in
from memlab.training.optimizers import Optimizer, make_optimizer
from memlab.training.preconditioner import Preconditioner, preconditioner_of
from memlab.training.provenance import made_with
from memlab.training.starts import initial_mem, start_digest
from memlab.training.state import STATE, Best, JobState, load_state_arrays, state_arrays

TRACE_POINTS = 100
"""Largest number of points of loss and accuracy in a trace."""
RECHECK_AFTER = 3
"""Steps to wait after a failed check."""
ADOPTED = "adopted"
"""Entry in the provenance of a copied result of an older version: the key of that result."""


@dataclass(frozen=True)
class Measurement:
    """Teacher-forced scores of the vectors before a step."""

    step: int
    loss: float
    """Nats per scored token."""
    accuracy: float
    """Share of the passage's scored tokens that are right."""
    min_margin: float
    """Smallest margin of a scored token, logits."""
    mem: torch.Tensor
    """The vectors. They are never written to."""


class TrainingJob:
    """Trains one passage: holds its state, records its scores, and decides when to stop.

    Raises ``PassageError`` or ``VectorError`` if the passage does not fit the model or the recipe, and ``ModelError``
    if the parent belongs to other weights.
    """

    def __init__(self, lm: FrozenLM, index: int, passage: Passage, recipe: Recipe, parent: MemVector | None) -> None:
        self.lm, self.index, self.passage, self.recipe, self.parent = lm, index, passage, recipe, parent
        prefix = lm.prefix_ids(recipe.prefix)
        lm.layers.at(recipe.where)
        self.row = Row(passage.ids, prefix, recipe.suffix, recipe.k, recipe.first_scored, recipe.where)
        self._check_inputs()
        self.stop_rule = look_up(STOP_RULES, "stop", recipe.stop)
        self.parent_key = parent.lineage_id if parent else None
        inputs = passage.ids, np.array(prefix), np.array(recipe.suffix), recipe
        self.key = make_key(lm.fingerprint, *inputs, self.parent_key)
        self.old_key = ""
        """The key that older versions gave this result. Empty if it is the same."""
        if lm.weights_hash != lm.fingerprint:
            adopted = parent.provenance.get(ADOPTED) if parent and parent.is_original else None
            self.old_key = make_key(lm.weights_hash, *inputs, adopted or self.parent_key)
        self.state = self._fresh_state(torch.empty(0))
        self.optimizer: Optimizer
        self.preconditioner: Preconditioner | None = None
        self.last: Measurement
        """The newest scores."""
        self.argmax: np.ndarray = np.array([], np.int64)
        """(scored,) what the model would have written at each scored token of ``last``; empty if nobody asked."""
        self.ended = ""
        """Why training is over: a stop rule's name, budget, patience or diverged. Empty during training."""
        self.batch_info: dict[str, Any] = {}
        """The memory budget, for the provenance."""
        self.checkpoints: CheckpointStore | None = None
        """Where an earlier run may have left a checkpoint."""
        self._passed: MemVector | None = None
        """The vectors that passed the stop rule, with their check."""
        self._proof: Pass | None = None
        """The pass that proved them, if it was one."""
        self._began = self._suspended = 0.0

    def _check_inputs(self) -> None:
        lm, passage, recipe = self.lm, self.passage, self.recipe
        if passage.tokenizer_hash != lm.tokenizer_hash:
            raise PassageError(
                f"{passage!r} was cut with another model's tokenizer, so its ids mean nothing to {lm.name}. "
                "Cut it again with this model's passage()."
            )
        for given in (recipe.suffix, *(ids for context in recipe.contexts for ids in context), passage.ids):
            lm.check_ids(np.array(given, np.int64))
        row = max(rows_in(self.row, recipe.contexts), key=lambda row: row.length)
        if lm.context and row.length > lm.context:
            longest = lm.context - row.context + 1
            raise PassageError(
                f"{len(passage)} tokens after {row.context} positions of prefix, vectors and suffix exceed "
                f"{lm.name}'s context of {lm.context} positions. "
                + (f"Cut the passage to {longest} tokens." if longest > 0 else "Use fewer vectors (k).")
            )
        if len(passage) < recipe.first_scored:
            raise PassageError(
                f"the recipe scores from token {recipe.first_scored}, but the passage has only {len(passage)}. "
                "Give a longer passage, or a smaller first_scored."
            )
        if self.parent:
            decoding.require_weights(lm, self.parent)
            settings = {"k": (self.parent.k, recipe.k), "where": (self.parent.recipe.where, recipe.where)}
            for name, (begun, wanted) in settings.items():
                if begun != wanted:
                    raise VectorError(
                        f"the vector to start from has {name}={begun}, the recipe {name}={wanted}. Make them equal."
                    )

    def _fresh_state(self, mem: torch.Tensor) -> JobState:
        first = max(self.recipe.grow, self.recipe.first_scored) if self.recipe.grow else len(self.passage)
        return JobState(mem, Best(mem), min(len(self.passage), first))

    def start(self, progress: bool = False) -> None:
        """Begin, resume from a checkpoint, or continue after ``suspend``."""
        if self._began:
            self._began += time.perf_counter() - self._suspended  # waiting is not training time
            self._suspended = 0.0
            return
        self._begin(progress)
        if self.checkpoints and (arrays := self.checkpoints.load(self.key, self._compatibility())):
            try:
                self._restore(arrays)
            except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
                file = self.checkpoints.file(self.key)
                warnings.warn(
                    f"{file} does not fit this training ({error}). The training starts again from the beginning.",
                    stacklevel=2,
                )
                self._begin(progress)

    def suspend(self) -> None:
        """Wait until ``start`` is called again. Nothing is lost."""
        self._suspended = time.perf_counter()

    def _begin(self, progress: bool) -> None:
        self._began = time.perf_counter()
        parent, recipe = self.parent, self.recipe
        self.state = self._fresh_state(
            torch.tensor(parent.mem) if parent else initial_mem(self.lm, self.passage, recipe)
        )
        self.preconditioner = preconditioner_of(self.lm, progress=progress) if recipe.whiten else None
        previous_steps = None if recipe.start == "noise" else 0
        if parent:
            previous_steps = parent.steps if parent.recipe.rule == recipe.rule else 0
        self.optimizer = make_optimizer(recipe, self.preconditioner, previous_steps)

    @property
    def age(self) -> float:
        """Seconds of training, without waiting."""
        return (self._suspended or time.perf_counter()) - self._began if self._began else 0.0

    @property
    def fraction(self) -> float:
        """Share of the budget that is used, 0 to 1; 1 when training is over. For progress bars."""
        if self.ended:
            return 1.0
        by_tokens = self.state.passes / self.recipe.token_budget if self.recipe.token_budget else 0.0
        return min(1.0, max(self.state.steps / max(self.recipe.budget, 1), by_tokens))

    def save_checkpoint(self, where: CheckpointStore) -> bool:
        """Write everything that is needed to resume. False: it could not be written."""
        self.state.seconds = self.age
        optimizer = {f"optimizer.{name}": array for name, array in state_arrays(self.optimizer.state).items()}
        return where.save(self.key, state_arrays(self.state) | optimizer, self._compatibility())

    def _compatibility(self) -> dict[str, Any]:
        """What must be equal for a checkpoint to be used."""
        software = {"state": STATE, "memlab": __version__, "torch": torch.__version__, "dtype": str(self.lm.dtype)}
        return software | {"device": self.lm.device.type} | self._digests()

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        state, prefix = self._fresh_state(self.state.mem), "optimizer."
        load_state_arrays(state, {name: a for name, a in arrays.items() if not name.startswith(prefix)})
        if not state.mem.shape == state.best.mem.shape == self.state.mem.shape:
            shapes = f"{tuple(state.mem.shape)} and {tuple(state.best.mem.shape)}"
            raise ValueError(f"vectors have shapes {shapes}; expected {tuple(self.state.mem.shape)}")
        state.trace = [(int(step), bits, accuracy) for step, bits, accuracy in state.trace]
        optimizer = {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
        load_state_arrays(self.optimizer.state, optimizer)
        state.resumed = [*(int(step) for step in state.resumed), state.steps]
        self.state = state
        self._began = time.perf_counter() - state.seconds

    @property
    def current(self) -> list[Row]:
        """What is trained now, a row per context: the passage, or the prefix that a growing recipe has reached."""
        return rows_in(replace(self.row, token_ids=self.passage.ids[: self.state.length]), self.recipe.contexts)

    def record_scores(self, loss: float, right: int, min_margin: float) -> bool:
        """Record scores of the current vectors (``loss``: nats). True: they may pass the stop rule, see ``confirm``."""
        state, recipe, total = self.state, self.recipe, len(self.passage)
        accuracy = right / (total - recipe.first_scored + 1)
        self.last = Measurement(state.steps, loss, accuracy, min_margin, state.mem)
        state.passes += state.length * (1 + len(recipe.contexts))
        if not np.isfinite(loss):
            self.ended = "diverged"
            return False
        all_right = right == state.length - recipe.first_scored + 1
        candidate = all_right and self.stop_rule.worth_a_decode(recipe, min_margin)
        done = state.length if candidate else 0
        best = state.best
        # In a growing text, the longest prefix without a wrong token counts more than right tokens of a longer prefix.
        if (done, right, -loss) > (best.done, best.right, -best.loss) and done >= best.done:
            # Patience counts from a better accuracy, not from a better loss; in a growing text, from its last growth.
            if done > best.done or (right > best.right and not recipe.grow):
                state.improved_at = state.steps
            state.best = Best(state.mem, right, loss, done)
        if done and state.length < total:
            state.length = min(total, state.length + recipe.grow)
            return False
        return candidate and state.steps >= state.next_check

    def confirm_by_pass(self) -> bool:
        """``confirm`` by the pass that may be the proof of the decode as well. False: only a decode proves anything."""
        candidate = self.snapshot(self.state.mem)
        seen = decoding.read_pass(self.lm, candidate) if self.recipe.first_scored == 1 else None
        if seen is None:
            return False
        self._confirm(candidate, seen.accuracy, seen.margin, seen)
        return True

    def confirm(self, accuracy: float, min_margin: float) -> None:
        """End training if the current vectors pass the stop rule in float32, whatever dtype they were trained in.

        ``accuracy`` and ``min_margin`` are teacher-forced in float32. They predict the decode nearly always, at a
        fraction of its cost. The decode decides.
        """
        self._confirm(self.snapshot(self.state.mem), accuracy, min_margin)

    def _confirm(self, candidate: MemVector, accuracy: float, min_margin: float, seen: Pass | None = None) -> None:
        if accuracy == 1 and self.stop_rule.worth_a_decode(self.recipe, min_margin):
            check = decoding.check(self.lm, candidate, one_pass=seen or True)
            checks = [check, *checks_in(self.lm, candidate, self.recipe.contexts if check.exact else ())]
            exact, margin = all(each.exact for each in checks), min(each.margin for each in checks)
            if self.stop_rule.is_met(self.recipe, exact, margin):
                self._passed = candidate.with_checks(check)
                self._proof = seen if seen and seen.proves else None
                self.ended = self.recipe.stop
                return
        self.state.next_check = self.state.steps + RECHECK_AFTER

    def check_stopping(self) -> None:
        """End training if the budget or the patience is used up, and add a point to the trace."""
        state, recipe = self.state, self.recipe
        spent = recipe.token_budget and state.passes >= recipe.token_budget
        if not self.ended and (state.steps >= recipe.budget or spent):
            self.ended = "budget"
        if not self.ended and recipe.patience and state.steps - state.improved_at >= recipe.patience:
            self.ended = "patience"
        if np.isfinite(self.last.loss):
            self._add_to_trace(self.last.loss / np.log(2), self.last.accuracy)

    def apply_update(self, gradient: torch.Tensor) -> None:
        """One optimizer step. It makes a new tensor, because a measured tensor is never written to."""
        self.state.mem = self.state.mem + self.optimizer.step(self.state.mem, gradient)
        self.state.steps += 1

    def _digests(self) -> dict[str, str]:
        """Of what the training reads beside model, passage and recipe."""
        metric = {"metric": self.preconditioner.digest} if self.preconditioner else {}
        return metric | ({} if self.parent else start_digest(self.lm, self.recipe))

    def _add_to_trace(self, bits: float, accuracy: float) -> None:
        state = self.state
        if state.steps % state.trace_every == 0 or self.ended:  # readers need the last point
            state.trace.append((state.steps, bits, accuracy))
        if len(state.trace) >= TRACE_POINTS and not self.ended:  # keep half the points, twice as far apart
            state.trace_every *= 2
            state.trace = [point for point in state.trace if point[0] % state.trace_every == 0]

    def _trace_columns(self) -> dict[str, tuple[float, ...]]:
        columns = list(zip(*self.state.trace, strict=True)) or [(), (), ()]
        return dict(zip(("step", "loss", "accuracy"), columns, strict=True))

    def snapshot(self, mem: torch.Tensor | None = None) -> MemVector:
        """The best vectors so far (or ``mem``), unchecked. A store refuses them."""
        return MemVector(
            mem=(self.state.best.mem if mem is None else mem).cpu().numpy(),
            token_ids=self.passage.ids,
            prefix_ids=np.array(self.row.prefix_ids, np.int64),
            suffix_ids=np.array(self.row.suffix_ids, np.int64),
            model=self.lm.name,
            revision=self.lm.revision,
            fingerprint=self.lm.fingerprint,
            recipe=self.recipe,
            parent=self.parent_key,
            text=self.passage.span,
            steps=self.state.steps,
            seconds=round(self.age, 3),
            trace=self._trace_columns(),
            provenance={"interrupted": f"at step {self.state.steps}"},
        )

    def result(self) -> MemVector:
        """The final vectors with their checks: exactly the vectors that were measured, not those one step later."""
        mem = self._measured(self._passed or self.snapshot())
        return replace(
            mem,
            trace=self._trace_columns(),
            steps=self.state.steps,
            seconds=round(self.age, 3),
            provenance={
                "ended": self.ended,
                "token_passes": self.state.passes,
                **({"stage": self.state.length} if self.recipe.grow else {}),
                **exact_in_contexts(self.lm, mem),
                **({"resumed": self.state.resumed} if self.state.resumed else {}),
                **self.batch_info,
                **self._digests(),
                **made_with(self.lm),
            },
        )

    def adopt(self, old: MemVector) -> MemVector | None:
        """The result that an older version stored under ``old_key``, with today's key, if it is exact with this model.

        Older keys stand on the weights alone, so the vector may have been trained with another configuration.
        """
        provenance = {**old.provenance, ADOPTED: old.key}
        mine = replace(old, fingerprint=self.lm.fingerprint, parent=self.parent_key, checks=(), provenance=provenance)
        return measured if (measured := self._measured(mine)).exact else None

    def _measured(self, mem: MemVector) -> MemVector:
        """The vectors with what this model does with them."""
        if self._proof and mem is self._passed:
            accuracy, bits = self._proof.accuracy, self._proof.bits
        else:
            accuracy, bits, _ = decoding.teacher_forced(self.lm, mem)
        if not mem.checks:
            mem = mem.with_checks(decoding.check(self.lm, mem))
        if self.recipe.first_scored > 1 and mem.n > 1:
            # The 2025 paper's code never trains the first token. A second check gives that token to the decode.
            mem = mem.with_checks(decoding.check(self.lm, mem, first_given=True))
        return replace(mem, teacher_forced=accuracy, loss_bits=bits if np.isfinite(bits) else None)
