"""Trains an encoder through the frozen model: resumable, on a budget of tokens or of minutes.

Step i draws its task and its texts from (seed, i). So a training that was killed goes on as if it had not been. With a
budget of minutes the number of planned tokens is measured; it is part of the checkpoint, and follows the speed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from memlab.models import FrozenLM
from memlab.results.checkpoints import CheckpointStore
from memlab.training.encoders.encoder import Encoder
from memlab.training.encoders.losses import BagHead, backward, bits_with, bits_without
from memlab.training.encoders.settings import EncoderError, Settings

MEASURED_AFTER = 60.0
"""Seconds of training after which the speed is known."""
LEAST_RATE = 0.02
"""Learning rate at the end, as a share of the largest."""
CHOOSING_ROWS = 24
"""Texts of each task on which progress is measured."""
READ_EVERY = 3
"""Checkpoints between two measurements of the progress."""


class Draws(Protocol):
    """Where training texts come from: ``Windows``, or a table in a test."""

    def draw(self, random: np.random.Generator, n: int, rows: int) -> np.ndarray:
        """Token ids (rows, n)."""


@dataclass
class Progress:
    """Where a training is. A checkpoint holds these numbers."""

    steps: int = 0
    tokens: int = 0
    """Tokens scored so far."""
    planned: float = math.inf
    """Tokens to score in all; infinite until the speed is known."""
    seconds: float = 0.0
    bits: float = math.nan
    """Decayed mean of the cross-entropy, bits per token, over all tasks."""

    @property
    def share(self) -> float:
        """Share of the planned tokens."""
        return self.tokens / self.planned


@dataclass(frozen=True)
class Reading:
    """What the texts of the choosing part say of one task."""

    tokens: int
    k: int
    bits_without: float
    """Bits per token without a vector."""
    bits: float
    """Bits per token with the text's own vectors."""

    @property
    def recovered(self) -> float:
        """Share of the bits that the vectors take off; may be negative."""
        return 1 - self.bits / self.bits_without


@dataclass
class Training:
    """An encoder in training."""

    encoder: Encoder
    draws: Draws
    choosing: Draws | None = None
    """Other texts, to measure progress on."""
    folder: Path | None = None
    """Where its checkpoint is."""
    name: str = "encoder"
    corpus: str = ""
    """Hash of the training text."""
    log: Callable[[str], object] = lambda line: None
    every_seconds: float = 120.0
    """Time between two checkpoints."""

    def __post_init__(self) -> None:
        settings: Settings = self.encoder.settings
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed + 1)
            self.bag = BagHead(self.encoder.lm) if settings.bag else None
        self.modules = torch.nn.ModuleDict({"network": self.encoder.network})
        if self.bag is not None:
            self.modules["bag"] = self.bag
        self.weights = dict(self.modules.named_parameters())
        self.optimizer = torch.optim.AdamW(
            self.weights.values(), lr=settings.lr, betas=(0.9, 0.99), weight_decay=settings.weight_decay
        )
        self.progress = Progress()
        self._sets: dict[tuple[int, int], tuple[np.ndarray, float]] = {}
        self._from = 0, 0.0

    def run(
        self,
        *,
        tokens: int | None = None,
        minutes: float | None = None,
        on_step: Callable[[Progress], bool | None] | None = None,
    ) -> Encoder:
        """Train until the budget is used, from the checkpoint if there is one. ``on_step`` may return True to stop.

        Raises ``EncoderError`` without a budget.
        """
        if (tokens is None) == (minutes is None):
            raise EncoderError("Give the budget of the training: either tokens or minutes.")
        if self._resume():
            self.log(f"resumed at step {self.progress.steps}, {self.progress.tokens:,} tokens")
        progress, told, saved, checkpoints = self.progress, -math.inf, time.perf_counter(), 0
        self._from = progress.tokens, progress.seconds
        if tokens is not None:
            progress.planned = tokens
        while progress.share < 1:
            began = time.perf_counter()
            task, bits = self.step()
            progress.seconds += time.perf_counter() - began
            if minutes is not None:
                if progress.planned == math.inf and self._plan(minutes):
                    self.log(f"planned: {progress.planned:,.0f} tokens in {minutes:g} minutes")
                if progress.seconds >= 60 * minutes:
                    progress.planned = progress.tokens
            if progress.seconds - told >= 15:
                told = progress.seconds
                self.log(self._line(task, bits, minutes))
            if time.perf_counter() - saved >= self.every_seconds:
                if minutes is not None and progress.planned < math.inf and progress.share < 1:
                    self._plan(minutes)
                self.save_checkpoint()
                if checkpoints % READ_EVERY == 0:
                    self.log("; ".join(f"{r.tokens} -> {r.k}: {r.recovered:.1%}" for r in self.readings()))
                checkpoints += 1
                saved = time.perf_counter()
            if on_step is not None and on_step(progress):
                return self.encoder
        self.save_checkpoint()
        self.encoder.about |= self.about() | {
            "choosing": [vars(reading) | {"recovered": reading.recovered} for reading in self.readings()]
        }
        return self.encoder

    def step(self) -> tuple[tuple[int, int], float]:
        """One step. Returns (its task, the bits per token before it)."""
        settings, progress = self.encoder.settings, self.progress
        random = np.random.default_rng([settings.seed, progress.steps])
        tasks = settings.stage(progress.share).tasks
        n, k = tasks[random.integers(len(tasks))]
        rows = max(1, min(settings.most_rows, settings.batch_tokens // n))
        ids = self.draws.draw(random, n, rows)
        warm = min(1.0, (progress.steps + 1) / max(1, settings.warmup))
        fall = LEAST_RATE + (1 - LEAST_RATE) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress.share)))
        for group in self.optimizer.param_groups:
            group["lr"] = settings.lr * warm * fall
        self.optimizer.zero_grad(set_to_none=True)
        bits = backward(self.encoder, ids, k, random, self.bag)
        torch.nn.utils.clip_grad_norm_(self.weights.values(), settings.clip)
        self.optimizer.step()
        progress.steps += 1
        progress.tokens += ids.size
        progress.bits = bits if math.isnan(progress.bits) else 0.98 * progress.bits + 0.02 * bits
        return (n, k), bits

    def readings(self, rows: int = CHOOSING_ROWS) -> list[Reading]:
        """How much each task of the last stage takes off, on the same texts each time."""
        found = []
        for n, k in self.encoder.settings.tasks if self.choosing else ():
            if (n, rows) not in self._sets:
                ids = self.choosing.draw(np.random.default_rng([1, n]), n, rows)  # type: ignore[union-attr]
                self._sets[n, rows] = ids, float(bits_without(self.encoder.lm, ids).mean() / n)
            ids, without = self._sets[n, rows]
            found.append(Reading(n, k, without, float(bits_with(self.encoder, ids, k).mean() / n)))
        return found

    def about(self) -> dict[str, Any]:
        """What a file says of the training."""
        p, lm = self.progress, self.encoder.lm
        return {
            "name": self.name,
            "corpus": self.corpus,
            "steps": p.steps,
            "tokens": p.tokens,
            "seconds": round(p.seconds),
            "dtype": str(lm.dtype).removeprefix("torch."),
            "parameters": self.encoder.parameters,
        }

    # Checkpoints -----------------------------------------------------------------------------------------------------

    def save_checkpoint(self) -> None:
        """Write everything that the next step depends on."""
        if self.folder is None:
            return
        arrays = {f"weights.{name}": w.detach().cpu().numpy() for name, w in self.weights.items()}
        for name, weight in self.weights.items():
            for moment, value in self.optimizer.state.get(weight, {}).items():
                arrays[f"{moment}.{name}"] = value.cpu().numpy()
        arrays["progress"] = np.array(list(vars(self.progress).values()), np.float64)
        CheckpointStore(self.folder).save(self.name, arrays, self._made_by())

    def _resume(self) -> bool:
        if self.folder is None:
            return False
        arrays = CheckpointStore(self.folder).load(self.name, self._made_by())
        if arrays is None:
            return False
        values = arrays.pop("progress").tolist()
        for name, value in zip(vars(self.progress), values, strict=True):
            setattr(self.progress, name, int(value) if name in ("steps", "tokens") else value)
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(torch.from_numpy(arrays.pop(f"weights.{name}")))
        for name, array in arrays.items():
            moment, _, of = name.partition(".")
            self.optimizer.state[self.weights[of]][moment] = torch.from_numpy(np.array(array))
        return True

    def _made_by(self) -> dict[str, Any]:
        lm: FrozenLM = self.encoder.lm
        return {
            "settings": self.encoder.settings.to_json(),
            "fingerprint": lm.fingerprint,
            "corpus": self.corpus,
            "dtype": str(lm.dtype),
            "torch": torch.__version__,
        }

    def _plan(self, minutes: float) -> bool:
        """Plan the tokens of the minutes that are left by the speed since this run began, if it is known."""
        p, (tokens, seconds) = self.progress, self._from
        if p.seconds - seconds < MEASURED_AFTER:
            return False
        rate = (p.tokens - tokens) / (p.seconds - seconds)
        p.planned = p.tokens + max(1.0, rate * (60 * minutes - p.seconds))
        return True

    def _line(self, task: tuple[int, int], bits: float, minutes: float | None) -> str:
        p = self.progress
        rate = p.tokens / max(p.seconds, 1e-9)
        left = 60 * minutes - p.seconds if minutes else (p.planned - p.tokens) / rate
        plan = "?" if p.planned == math.inf else f"{p.planned:,.0f}"
        return (
            f"step {p.steps}, {p.tokens:,} of {plan} tokens, {rate:.0f} per second, {left / 60:.0f} min left; "
            f"{task[0]} -> {task[1]}: {bits:.2f} bits a token, mean {p.bits:.2f}"
        )
