"""Distillation: a smaller model is trained to predict what the full model predicts, token by token.

The loss is the Kullback-Leibler divergence from the full model's next-token probabilities, both at a temperature
(Hinton et al., arXiv 1503.02531). All weights but embedding and head are trained, so input vectors keep their meaning.
The weights with the least divergence on held-out text are kept, those before the first step among them: distillation
never makes the smaller model worse there.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from memlab.errors import ArgumentError
from memlab.models import FrozenLM
from memlab.models.smaller import wrapped
from memlab.results.checkpoints import CheckpointStore

CHECKPOINT_EVERY = 300.0
"""Seconds between two checkpoints."""
CHECKS = 20
"""How often the held-out text is measured, without the measure before the first step."""


@dataclass(frozen=True)
class Settings:
    """Everything that decides what is trained, except the models, the text and the number of steps."""

    rows: int = 4
    """Windows of text per step."""
    tokens: int = 128
    """Tokens of a window."""
    lr: float = 2e-4
    """Largest step size of AdamW. It rises over the first 5 % of the steps, then falls along a cosine to 0."""
    temperature: float = 2.0
    """Of both models' probabilities in the loss."""
    clip: float = 1.0
    """Largest norm of a gradient."""
    seed: int = 0


@dataclass(frozen=True)
class Distilled:
    """The outcome."""

    lm: FrozenLM
    steps: int
    trace: np.ndarray
    """(checks, 2): step, and the divergence on the held-out text after it, bits a token at temperature 1."""


def divergence(teacher: torch.Tensor, student: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Mean Kullback-Leibler divergence, nats, of student from teacher, for logits (n, V), times temperature squared."""
    p = torch.log_softmax(teacher.float() / temperature, -1)
    q = torch.log_softmax(student.float() / temperature, -1)
    return (p.exp() * (p - q)).sum(-1).mean() * temperature**2


def held_divergence(teacher: FrozenLM, student: Any, rows: Sequence[np.ndarray]) -> float:
    """Divergence of a student, a model of transformers, on ``rows`` of token ids, bits a token, in float32."""
    found = []
    with torch.no_grad():
        for ids in rows:
            fed = _fed(teacher, [ids])
            found.append(float(divergence(_logits(teacher.model, fed, teacher), _logits(student, fed, teacher))))
    return float(np.mean(found)) / math.log(2)


def distil(
    teacher: FrozenLM,
    student: FrozenLM,
    train: np.ndarray,
    held: Sequence[np.ndarray],
    settings: Settings | None = None,
    *,
    steps: int | None = None,
    minutes: float | None = None,
    checkpoints: CheckpointStore | None = None,
    name: str = "distilled",
    on_step: Callable[[int, int, float], bool | None] | None = None,
) -> Distilled:
    """Train a copy of ``student`` on windows of ``train`` (N,) token ids; ``held``: rows of held-out ids.

    Give ``steps``, or ``minutes``, which are turned into steps by timing two of them. With ``checkpoints``, a killed
    training goes on where it was, and a finished one is read. ``on_step`` receives (step, steps, loss in bits); if it
    returns True, the training is saved and stops, and the result is the best so far. Raises ``ArgumentError``.
    """
    settings = settings or Settings()
    if (steps is None) == (minutes is None):
        raise ArgumentError("Distillation needs either steps or minutes. Give one of them.")
    if len(train) <= settings.tokens or not len(held):
        raise ArgumentError(
            f"There are {len(train)} tokens to train on and {len(held)} held-out rows. Give more than "
            f"{settings.tokens} tokens, and at least one row."
        )
    run = _Run(teacher, student, np.asarray(train, np.int64), held, settings, checkpoints)
    run.begin(steps, minutes)
    saved = time.perf_counter()
    while run.step < run.steps:
        loss = run.advance()
        if run.step % run.every == 0 or run.step == run.steps:
            run.measure()
        stop = bool(on_step and on_step(run.step, run.steps, loss))
        if stop or run.step == run.steps or time.perf_counter() - saved > CHECKPOINT_EVERY:
            run.save()
            saved = time.perf_counter()
        if stop:
            break
    run.put(run.best)
    return Distilled(wrapped(student, run.model, name), run.step, np.array(run.trace))


class _Run:
    def __init__(
        self, teacher: FrozenLM, student: FrozenLM, train: np.ndarray, held: Sequence[np.ndarray],
        settings: Settings, checkpoints: CheckpointStore | None,
    ) -> None:  # fmt: skip
        self.teacher, self.train, self.held, self.settings = teacher, train, held, settings
        self.checkpoints = checkpoints
        self.model = copy.deepcopy(student.model)
        fixed = {id(p) for module in (self.model.get_input_embeddings(), self.model.get_output_embeddings())
                 if module is not None for p in module.parameters()}  # fmt: skip
        self.weights = {n: p for n, p in self.model.named_parameters() if id(p) not in fixed}
        for parameter in self.weights.values():
            parameter.requires_grad_(True)
        self.optimizer = torch.optim.AdamW(self.weights.values(), lr=settings.lr, betas=(0.9, 0.95), weight_decay=0)
        texts = hashlib.sha256(b"".join(np.asarray(ids, np.int64).tobytes() for ids in (train, *held))).hexdigest()
        self.made_by = {
            "teacher": teacher.fingerprint,
            "student": student.fingerprint,
            "texts": texts,
            "settings": asdict(settings),
            "dtype": str(teacher.dtype),
            "torch": torch.__version__,
        }
        described = {name: value for name, value in self.made_by.items() if name != "torch"}
        self.key = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
        self.step = self.steps = 0
        self.trace: list[list[float]] = []
        self.best: dict[str, torch.Tensor] = {}

    def begin(self, steps: int | None, minutes: float | None) -> None:
        stored = self.checkpoints.load(self.key, self.made_by) if self.checkpoints else None
        if stored is not None and (steps is None or int(stored["steps"]) == steps):
            self.steps, self.step = int(stored["steps"]), int(stored["step"])
            self.trace = stored["trace"].tolist()
            self.best = self._of(stored, "best")
            if self.step < self.steps:
                self.put(self._of(stored, "now"))
                for name, parameter in self.weights.items():
                    self.optimizer.state[parameter] = {
                        "step": torch.tensor(float(self.step)),
                        "exp_avg": torch.from_numpy(stored[f"mean {name}"]).to(parameter),
                        "exp_avg_sq": torch.from_numpy(stored[f"square {name}"]).to(parameter),
                    }
            return
        self.steps = steps if steps is not None else self._steps_in(minutes or 0)
        self.measure()

    @property
    def every(self) -> int:
        """Steps between two measures of the held-out text."""
        return max(1, self.steps // CHECKS)

    def advance(self) -> float:
        """One step. Returns its loss, bits."""
        warm = max(1, round(0.05 * self.steps))
        rest = 0.5 * (1 + math.cos(math.pi * (self.step - warm) / max(1, self.steps - warm)))
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.lr * ((self.step + 1) / warm if self.step < warm else rest)
        loss = self._gradient(self.step)
        torch.nn.utils.clip_grad_norm_(self.weights.values(), self.settings.clip)
        self.optimizer.step()
        self.step += 1
        return loss

    def _gradient(self, step: int) -> float:
        s = self.settings
        rng = np.random.default_rng([s.seed, step])  # of the step, so that a resumed run draws the same windows
        starts = rng.integers(0, len(self.train) - s.tokens, s.rows)
        fed = _fed(self.teacher, [self.train[start : start + s.tokens] for start in starts])
        low = self.teacher.dtype == torch.bfloat16
        with torch.autocast(self.teacher.device.type, torch.bfloat16, enabled=low):
            with torch.no_grad():
                wanted = _logits(self.teacher.model, fed, self.teacher)
            given = _logits(self.model, fed, self.teacher)
        loss = divergence(wanted, given, s.temperature)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        return float(loss.detach()) / math.log(2)

    def _steps_in(self, minutes: float) -> int:
        self._gradient(0)
        began = time.perf_counter()
        for step in range(2):
            self._gradient(step)
        each = (time.perf_counter() - began) / 2
        self.optimizer.zero_grad(set_to_none=True)
        return max(1, int(0.85 * 60 * minutes / each))  # the rest is for AdamW, held-out text and checkpoints

    def measure(self) -> None:
        """The held-out text. The weights are kept if they are the best so far."""
        found = held_divergence(self.teacher, self.model, self.held)
        if not self.trace or found < min(bits for _, bits in self.trace):
            self.best = {name: p.detach().clone() for name, p in self.weights.items()}
        self.trace.append([float(self.step), found])

    def save(self) -> None:
        if self.checkpoints is None:
            return
        arrays = {"steps": np.array(self.steps), "step": np.array(self.step), "trace": np.array(self.trace)}
        arrays |= {f"best {name}": tensor.cpu().numpy() for name, tensor in self.best.items()}
        if self.step < self.steps:
            for name, parameter in self.weights.items():
                state = self.optimizer.state[parameter]
                arrays[f"now {name}"] = parameter.detach().cpu().numpy()
                arrays[f"mean {name}"] = state["exp_avg"].cpu().numpy()
                arrays[f"square {name}"] = state["exp_avg_sq"].cpu().numpy()
        self.checkpoints.save(self.key, arrays, self.made_by)

    def _of(self, stored: dict[str, np.ndarray], kind: str) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(stored[f"{kind} {name}"]).to(p) for name, p in self.weights.items()}

    @torch.no_grad()
    def put(self, weights: dict[str, torch.Tensor]) -> None:
        for name, parameter in self.weights.items():
            parameter.copy_(weights[name])


def _fed(teacher: FrozenLM, rows: Sequence[np.ndarray]) -> torch.Tensor:
    """(b, p + n, d) embeddings of rows of equal length after the full model's sink prefix."""
    prefix = np.array(teacher.sink_prefix, np.int64)
    return torch.stack([teacher.embed(np.concatenate([prefix, ids])) for ids in rows])


def _logits(model: Any, fed: torch.Tensor, teacher: FrozenLM) -> torch.Tensor:
    """(b * n, V) logits after each position of the text, of embeddings with the sink prefix."""
    logits: torch.Tensor = model(inputs_embeds=fed.clone(), use_cache=False).logits
    return logits[:, len(teacher.sink_prefix) :].flatten(0, 1)
