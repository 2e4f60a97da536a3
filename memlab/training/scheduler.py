"""The bench: who is trained now, in which company, and one step for all of them."""

from __future__ import annotations

from typing import Any

import torch

from memlab.models import FrozenLM
from memlab.scoring.cuda_graphs import release_graphs
from memlab.scoring.memory import MemoryBudget, group_by_length, measure_budget, out_of_memory
from memlab.scoring.objective import Batch, Scores
from memlab.training.job import TrainingJob


class BatchScheduler:
    """Passages in training, as many as there are slots for, and those that wait, in order."""

    def __init__(self, lm: FrozenLM, waiting: list[TrainingJob], *, progress: bool = False) -> None:
        self.lm, self.waiting, self._progress = lm, waiting, progress
        self.running: list[TrainingJob] = []
        self.positions = self.padding = 0
        """Of the last step."""
        self.between_steps = True
        """Whether nobody on the bench is half-way through a step: an interrupt may come at any moment."""
        self._slots: MemoryBudget | None = None
        self._batches: dict[tuple[Any, ...], Batch] = {}

    def admit(self) -> int:
        """Let waiting passages take the free slots (one always may); how many are on the bench.

        What counts is the length that is trained now. Where texts that grow have come to need more than there is, who
        came last waits again, with all it has learnt.
        """
        if self._slots is None:
            self._slots = measure_budget(self.lm)
        while self.waiting and (not self.running or self._fit([*self.running, self.waiting[0]], self._slots)):
            job = self.waiting.pop(0)
            job.start(self._progress)
            self.running.append(job)
        if any(job.recipe.grow for job in self.running):
            while len(self.running) > 1 and not self._fit(self.running, self._slots):
                self.preempt(1)
        return len(self.running)

    def preempt(self, count: int) -> None:
        """Those who came last wait again."""
        for job in self.running[-count:]:
            job.suspend()
        self.waiting[:0] = self.running[-count:]
        del self.running[-count:]

    @staticmethod
    def _fit(jobs: list[TrainingJob], room: MemoryBudget) -> bool:
        rows = [job.current.length for job in jobs]
        return sum(len(part) / room.rows(max(rows[i] for i in part)) for part in group_by_length(rows)) <= 1

    def step(self) -> bool:
        """Measure all, keep or end those that are done, and let the others take a step; False if memory ran out.

        Then nothing was lost: nobody has moved, and half of the bench waits again, with all it has learnt.
        """
        try:
            measured = self._measure()
        except Exception as error:
            if not out_of_memory(error) or self._slots is None:
                raise
            if release_graphs(self.lm):  # recorded passes kept the memory
                return False
            if len(self.running) < 2:
                raise
            self._slots.halve(self.positions)
            self.preempt(len(self.running) - len(self.running) // 2)
            self._batches = {}
            if self.lm.device.type == "cuda":
                torch.cuda.empty_cache()
            return False
        candidates = []
        self.between_steps = False
        for job, (loss, right, margin, _) in zip(self.running, measured, strict=True):
            if job.record_scores(loss, right, margin):
                candidates.append(job)
        self._confirm(candidates)
        for job, (*_, gradient) in zip(self.running, measured, strict=True):
            job.check_stopping()
            if not job.ended:
                job.apply_update(gradient)
            elif self._slots:
                job.batch_info = {"slots": self._slots.record()}
        self.between_steps = True
        return True

    def _measure(self) -> list[tuple[float, int, float, torch.Tensor]]:
        """(loss, right, margin, gradient) of each passage, in the bench's order."""
        rows = [job.current for job in self.running]
        parts = group_by_length([row.length for row in rows])
        self.positions = sum(len(part) * max(rows[i].length for i in part) for part in parts)
        self.padding = self.positions - sum(row.length for row in rows)
        signatures = [tuple((self.running[i].key, rows[i].length) for i in part) for part in parts]
        self._batches = {s: b for s, b in self._batches.items() if s in signatures}
        out: dict[int, tuple[float, int, float, torch.Tensor]] = {}
        for part, signature in zip(parts, signatures, strict=True):
            if signature not in self._batches:
                self._batches[signature] = Batch(self.lm, [rows[i] for i in part])
            batch = self._batches[signature]
            scores, gradients = batch.scores([self.running[i].mem for i in part], self.lm.dtype, gradient=True)
            out |= dict(zip(part, zip(*_lists(scores), gradients, strict=True), strict=True))
        return [out[i] for i in range(len(self.running))]

    def _confirm(self, candidates: list[TrainingJob], at_once: int = 8) -> None:
        """Ask in float32, together, unless they just were, and those that still pass by decoding, each alone."""
        if self.lm.dtype == torch.float32:
            for job in candidates:
                job.confirm(job.accuracy, job.margin)
            return
        for some in (candidates[i : i + at_once] for i in range(0, len(candidates), at_once)):
            try:
                scores, _ = Batch(self.lm, [job.row for job in some]).scores([job.mem for job in some], torch.float32)
            except Exception as error:
                if not out_of_memory(error) or len(some) < 2:
                    raise
                scores = None  # tried again below, where the error no longer holds what filled the memory
            if scores is None:
                self._confirm(some, at_once=len(some) // 2)
                continue
            for job, share, margin in zip(some, scores.right / scores.scored, scores.min_margin, strict=True):
                job.confirm(float(share), float(margin))


def _lists(scores: Scores) -> tuple[list[float], list[int], list[float]]:
    return scores.loss.tolist(), scores.right.tolist(), scores.min_margin.tolist()
