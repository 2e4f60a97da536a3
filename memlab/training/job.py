"""One passage on its way: its vectors, its rule, what was measured of them, and when to stop."""

from __future__ import annotations

import hashlib
import operator
import platform
import time
import warnings
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from memlab._version import __version__
from memlab.decoding import decode as decoding
from memlab.models import FrozenLM, Passage, PassageError
from memlab.recipes import Recipe
from memlab.results.checkpoints import CheckpointStore
from memlab.results.mem_vector import MemVector, VectorError, make_key
from memlab.scoring.objective import Row
from memlab.training.optimizers import load_state, make_optimizer, state_dict
from memlab.training.preconditioner import preconditioner_of

STATE = 1
"""Version of what ``Training.keep`` writes."""
TRACE_POINTS = 100
"""Points of loss and accuracy kept of a training, at most."""


def initial_mem(lm: FrozenLM, passage: Passage, recipe: Recipe) -> torch.Tensor:
    """The vectors (k, d) training starts from: normal noise with the embeddings' standard deviation.

    The seed comes from the recipe's seed and the passage alone, so neither batch nor order matter.
    """
    name = f"memlab init {recipe.seed} {passage.ids.tolist()}"
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") >> 1
    return torch.randn(recipe.k, lm.d, generator=torch.Generator().manual_seed(seed)) * lm.embedding_stats["std"]


@dataclass
class _Best:
    """The vector to be kept if none passes: most tokens right, then the lowest loss."""

    mem: torch.Tensor
    right: int = -1
    loss: float = np.inf
    done: int = 0
    """Tokens of the text, or of the prefix of it then trained, if all of them were right, with the recipe's margin."""


class TrainingJob:
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
        self.parent_key = parent.lineage_id if parent else None
        self.key = make_key(
            lm.fingerprint, passage.ids, np.array(prefix), np.array(recipe.suffix), recipe, self.parent_key
        )
        self.mem = torch.empty(0)
        self.best = _Best(self.mem)
        self.steps = 0
        self.passes = 0
        """Tokens fed and scored so far: tokens x steps, unless the passage grows."""
        self.length = min(len(passage), max(recipe.grow, recipe.first_scored) if recipe.grow else len(passage))
        self.ended = ""
        """Why training is over: exact, teacher_forced, budget, patience or diverged; empty while it is not."""
        self.trace: list[tuple[int, float, float]] = []
        self._every = 1
        self._next_check = 0
        self._better_at = 0
        self.batch_info: dict[str, Any] = {}
        """What the bench was like, for the provenance."""
        self._kept: MemVector | None = None
        self._began = self._left = 0.0
        self.unfinished: CheckpointStore | None = None
        """Where an earlier run may have left its state."""
        self.resumed: list[int] = []
        """Steps at which it was gone on from there."""

    def start(self, progress: bool = False) -> None:
        """Take a place on the bench; who had to leave it goes on where it was."""
        if self._began:
            self._began += time.perf_counter() - self._left  # what it waited is no time of its training
            self._left = 0.0
            return
        self._begin(progress)
        if self.unfinished and (state := self.unfinished.load(self.key, self._compatibility())):
            try:
                self._restore(state)
            except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
                where = self.unfinished.file(self.key)
                warnings.warn(f"{where} holds no state of this training ({error!r}): it begins anew", stacklevel=2)
                self._begin(progress)

    def suspend(self) -> None:
        """Make way for others, for a while."""
        self._left = time.perf_counter()

    def _begin(self, progress: bool) -> None:
        self._began = time.perf_counter()
        parent = self.parent
        self.mem = torch.tensor(parent.mem) if parent else initial_mem(self.lm, self.passage, self.recipe)
        self.best = _Best(self.mem)
        self.preconditioner = preconditioner_of(self.lm, progress=progress) if self.recipe.whiten else None
        begun = (parent.steps if parent.recipe.rule == self.recipe.rule else 0) if parent else None
        self.optimizer = make_optimizer(self.recipe, self.preconditioner, begun=begun)
        self.steps, self.resumed = 0, []

    @property
    def age(self) -> float:
        """Seconds on the bench."""
        return (self._left or time.perf_counter()) - self._began if self._began else 0.0

    def save_checkpoint(self, where: CheckpointStore) -> bool:
        """Leave there all it takes to go on from here; False if there was no room."""
        numbers = [float(operator.attrgetter(name)(self)) for name in _NUMBERS]
        arrays = {
            "mem": self.mem,
            "best": self.best.mem,
            "numbers": torch.tensor(numbers, dtype=torch.float64),
            "trace": torch.tensor(self.trace, dtype=torch.float64).reshape(-1, 3),
            "resumed": torch.tensor(self.resumed, dtype=torch.int64),
            **{f"rule.{name}": value for name, value in state_dict(self.optimizer).items()},
        }
        return where.save(self.key, {n: v.cpu().numpy() for n, v in arrays.items()}, self._compatibility())

    def _compatibility(self) -> dict[str, Any]:
        made = {"state": STATE, "memlab": __version__, "torch": torch.__version__, "dtype": str(self.lm.dtype)}
        return made | {"device": self.lm.device.type} | self._preconditioner_digest()

    def _restore(self, state: dict[str, np.ndarray]) -> None:
        held = {name: torch.from_numpy(np.array(value)) for name, value in state.items()}
        numbers = dict(zip(_NUMBERS, held.pop("numbers").tolist(), strict=True))
        mem, best = held.pop("mem"), held.pop("best")
        if not mem.shape == best.shape == self.mem.shape:
            raise ValueError(f"vectors of {tuple(mem.shape)}, {tuple(best.shape)}, not {tuple(self.mem.shape)}")
        told = {name: numbers.pop(f"best.{name}") for name in ("right", "loss", "done")}
        trace, resumed = held.pop("trace").tolist(), held.pop("resumed").tolist()
        load_state(self.optimizer, {name.removeprefix("rule."): value for name, value in held.items()})
        self.mem, self.best = mem, _Best(best, int(told["right"]), told["loss"], int(told["done"]))
        self.trace = [(int(step), bits, accuracy) for step, bits, accuracy in trace]
        self._began = time.perf_counter() - numbers.pop("age")
        for name, value in numbers.items():
            setattr(self, name, int(value))
        self.resumed = [*resumed, self.steps]

    @property
    def current(self) -> Row:
        """What is trained now: the passage, or the prefix of it that a growing recipe has come to."""
        return replace(self.row, token_ids=self.passage.ids[: self.length])

    def record_scores(self, loss: float, right: int, margin: float) -> bool:
        """Take note of what the vectors now score; True if they may be what the recipe wants, see ``confirm``."""
        whole = len(self.passage) - self.recipe.first_scored + 1
        scored = self.length - self.recipe.first_scored + 1
        self.measured_at, self.loss, self.accuracy, self.margin = self.steps, loss, right / whole, margin
        self.measured_mem = self.mem
        self.passes += self.length
        if not np.isfinite(loss):
            self.ended = "diverged"
            return False
        enough = self.recipe.stop != "exact" or margin >= self.recipe.margin
        done = self.length if right == scored and enough else 0
        # Of a growing text, the longest prefix that was all right counts, not the most tokens of a longer one.
        if (done, right, -loss) > (self.best.done, self.best.right, -self.best.loss) and done >= self.best.done:
            # Patience counts from a better accuracy, not from a better loss; in a growing text, from its last growth.
            if done > self.best.done or (right > self.best.right and not self.recipe.grow):
                self._better_at = self.steps
            self.best = _Best(self.mem, right, loss, done)
        if done and self.length < len(self.passage):
            self.length = min(len(self.passage), self.length + self.recipe.grow)
            return False
        return right == scored and enough and self.steps >= self._next_check

    def confirm(self, accuracy: float, margin: float) -> None:
        """Keep the vectors just measured if they are what the recipe wants, in float32 whatever they were trained in.

        ``accuracy`` and ``margin`` are theirs, teacher-forced in float32: that foretells the decode nearly always, at
        a fraction of the price. What decides is the decode.
        """
        exact = self.recipe.stop == "exact"
        if accuracy == 1 and (not exact or margin >= self.recipe.margin):
            candidate = self.snapshot(self.mem)
            made = decoding.check(self.lm, candidate)
            if not exact or (made.exact and made.margin >= self.recipe.margin):
                self._kept = candidate.with_checks(made)
                self.ended = self.recipe.stop
                return
        self._next_check = self.steps + 3

    def check_stopping(self) -> None:
        """Whether this was the last step."""
        spent = self.recipe.token_budget and self.passes >= self.recipe.token_budget
        if not self.ended and (self.steps >= self.recipe.budget or spent):
            self.ended = "budget"
        if not self.ended and self.recipe.patience and self.steps - self._better_at >= self.recipe.patience:
            self.ended = "patience"
        if np.isfinite(self.loss):
            self._note(self.loss / np.log(2), self.accuracy)

    def apply_update(self, gradient: torch.Tensor) -> None:
        """One step of the rule. A new tensor, so that what was measured stays what it was."""
        self.mem = self.mem + self.optimizer.step(self.mem, gradient)
        self.steps += 1

    def _preconditioner_digest(self) -> dict[str, str]:
        return {"metric": self.preconditioner.digest} if self.preconditioner else {}

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
            seconds=round(self.age, 3),
            trace=self._trace(),
            provenance={"interrupted": f"at step {self.steps}"},
        )

    def result(self) -> MemVector:
        """The vector that is kept, with its checks: the very one that was measured, not one a step newer."""
        kept = self._kept or self.snapshot()
        accuracy, bits, _ = decoding.teacher_forced(self.lm, kept)
        finite = np.isfinite(bits)
        if not kept.checks:
            kept = kept.with_checks(decoding.check(self.lm, kept))
        if self.recipe.first_scored > 1 and kept.n > 1:
            # The 2025 paper's code never trains the first token: its decoding is given it, in a check of its own.
            kept = kept.with_checks(decoding.check(self.lm, kept, first_given=True))
        return replace(
            kept,
            teacher_forced=accuracy,
            loss_bits=bits if finite else None,
            trace=self._trace(),
            steps=self.steps,
            seconds=round(self.age, 3),
            provenance={
                "ended": self.ended,
                "token_passes": self.passes,
                **({"stage": self.length} if self.recipe.grow else {}),
                **({"resumed": self.resumed} if self.resumed else {}),
                **self.batch_info,
                **self._preconditioner_digest(),
                **_provenance(self.lm),
            },
        )


_NUMBERS = (
    "steps", "passes", "length", "_better_at", "_next_check", "_every", "best.right", "best.loss", "best.done", "age"
)  # fmt: skip
"""What a state holds besides tensors."""


def _provenance(lm: FrozenLM) -> dict[str, Any]:
    return {
        "memlab": __version__,
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "device": str(lm.device),
        "dtype": str(lm.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        **({"replay": True} if lm.graph_cache and lm.graph_cache.replayed else {}),
        "machine": platform.machine(),
        "config_sha256": lm.config_hash,
        "tokenizer_sha256": lm.tokenizer_hash,
        "trained": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
