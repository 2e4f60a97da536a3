"""The bench: who is trained now, in which company, and one step for all of them."""

from __future__ import annotations

from typing import Any

import torch

from memlab.models import FrozenLM
from memlab.objective import Batch, Scores
from memlab.replay import let_go
from memlab.slots import Slots, groups, out_of_memory, slots
from memlab.training import Training


class Bench:
    """Passages in training, as many as there are slots for, and those that wait, in order."""

    def __init__(self, lm: FrozenLM, waiting: list[Training], *, progress: bool = False) -> None:
        self.lm, self.waiting, self._progress = lm, waiting, progress
        self.jobs: list[Training] = []
        self.positions = self.padding = 0
        """Of the last step."""
        self.between_steps = True
        """Whether nobody on the bench is half-way through a step: an interrupt may come at any moment."""
        self._slots: Slots | None = None
        self._batches: dict[tuple[Any, ...], Batch] = {}

    def fill(self) -> int:
        """Let waiting passages take the free slots (one always may); how many are on the bench.

        What counts is the length that is trained now. Where texts that grow have come to need more than there is, who
        came last waits again, with all it has learnt.
        """
        if self._slots is None:
            self._slots = slots(self.lm)
        while self.waiting and (not self.jobs or self._fit([*self.jobs, self.waiting[0]], self._slots)):
            job = self.waiting.pop(0)
            job.enter(self._progress)
            self.jobs.append(job)
        if any(job.recipe.grow for job in self.jobs):
            while len(self.jobs) > 1 and not self._fit(self.jobs, self._slots):
                self._send_back(1)
        return len(self.jobs)

    def _send_back(self, count: int) -> None:
        """Those who came last wait again."""
        for job in self.jobs[-count:]:
            job.leave()
        self.waiting[:0] = self.jobs[-count:]
        del self.jobs[-count:]

    @staticmethod
    def _fit(jobs: list[Training], room: Slots) -> bool:
        rows = [job.current.length for job in jobs]
        return sum(len(part) / room.rows(max(rows[i] for i in part)) for part in groups(rows)) <= 1

    def step(self) -> bool:
        """Measure all, keep or end those that are done, and let the others take a step; False if memory ran out.

        Then nothing was lost: nobody has moved, and half of the bench waits again, with all it has learnt.
        """
        try:
            measured = self._measure()
        except Exception as error:
            if not out_of_memory(error) or self._slots is None:
                raise
            if let_go(self.lm):  # recorded passes kept the memory
                return False
            if len(self.jobs) < 2:
                raise
            self._slots.halve(self.positions)
            self._send_back(len(self.jobs) - len(self.jobs) // 2)
            self._batches = {}
            if self.lm.device.type == "cuda":
                torch.cuda.empty_cache()
            return False
        candidates = []
        self.between_steps = False
        for job, (loss, right, margin, _) in zip(self.jobs, measured, strict=True):
            if job.measured(loss, right, margin):
                candidates.append(job)
        self._confirm(candidates)
        for job, (*_, gradient) in zip(self.jobs, measured, strict=True):
            job.settle()
            if not job.ended:
                job.advance(gradient)
            elif self._slots:
                job.bench = {"slots": self._slots.record()}
        self.between_steps = True
        return True

    def _measure(self) -> list[tuple[float, int, float, torch.Tensor]]:
        """(loss, right, margin, gradient) of each passage, in the bench's order."""
        rows = [job.current for job in self.jobs]
        parts = groups([row.length for row in rows])
        self.positions = sum(len(part) * max(rows[i].length for i in part) for part in parts)
        self.padding = self.positions - sum(row.length for row in rows)
        signatures = [tuple((self.jobs[i].key, rows[i].length) for i in part) for part in parts]
        self._batches = {s: b for s, b in self._batches.items() if s in signatures}
        out: dict[int, tuple[float, int, float, torch.Tensor]] = {}
        for part, signature in zip(parts, signatures, strict=True):
            if signature not in self._batches:
                self._batches[signature] = Batch(self.lm, [rows[i] for i in part])
            batch = self._batches[signature]
            scores, gradients = batch.scores([self.jobs[i].mem for i in part], self.lm.dtype, gradient=True)
            out |= dict(zip(part, zip(*_lists(scores), gradients, strict=True), strict=True))
        return [out[i] for i in range(len(self.jobs))]

    def _confirm(self, candidates: list[Training], at_once: int = 8) -> None:
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
            for job, share, margin in zip(some, scores.right / scores.scored, scores.margin, strict=True):
                job.confirm(float(share), float(margin))


def _lists(scores: Scores) -> tuple[list[float], list[int], list[float]]:
    return scores.loss.tolist(), scores.right.tolist(), scores.margin.tolist()
