"""Batch scheduler: decides which passages train together, and runs one optimizer step for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from memlab.models import FrozenLM
from memlab.scoring.cuda_graphs import release_graphs
from memlab.scoring.memory import MemoryBudget, group_by_length, in_halves, measure_budget, out_of_memory
from memlab.scoring.objective import Batch
from memlab.training.contexts import Scored, together
from memlab.training.job import TrainingJob


class BatchScheduler:
    """Holds the jobs that train now (``running``) and the jobs that wait, in order."""

    def __init__(self, lm: FrozenLM, waiting: list[TrainingJob], *, progress: bool = False) -> None:
        self.lm, self.waiting, self._progress = lm, waiting, progress
        self.running: list[TrainingJob] = []
        self.positions = self.padding = 0
        """Positions fed in the last step, and how many of them were padding."""
        self.between_steps = True
        """False while some jobs have finished a step and others have not. An interrupt may come at any moment."""
        self.argmax = False
        """Whether each job also gets what the model would have written. On a CPU this costs 0.2 % of a step."""
        self._budget: MemoryBudget | None = None
        self._batches: dict[tuple[Any, ...], Batch] = {}

    def admit(self) -> int:
        """Start waiting jobs while memory allows (one job always may run). Returns the number of running jobs.

        Memory is counted for the length that is trained now. If growing texts need more than there is, the newest
        jobs wait again, and keep their state.
        """
        if self._budget is None:
            self._budget = measure_budget(self.lm)
        while self.waiting and (not self.running or self._fit([*self.running, self.waiting[0]], self._budget)):
            job = self.waiting.pop(0)
            job.start(self._progress)
            self.running.append(job)
        if any(job.recipe.grow for job in self.running):
            while len(self.running) > 1 and not self._fit(self.running, self._budget):
                self.preempt(1)
        return len(self.running)

    def preempt(self, count: int) -> None:
        """Suspend the newest ``count`` jobs. They wait again, at the head of the queue."""
        for job in self.running[-count:]:
            job.suspend()
        self.waiting[:0] = self.running[-count:]
        del self.running[-count:]

    @staticmethod
    def _fit(jobs: list[TrainingJob], budget: MemoryBudget) -> bool:
        lengths = [row.length for job in jobs for row in job.current]
        groups = group_by_length(lengths)
        return sum(len(group) / budget.rows(max(lengths[i] for i in group)) for group in groups) <= 1

    def step(self) -> bool:
        """Score all running jobs, end those that are done, and let the others take a step.

        False: memory ran out. Then no job took a step. Captured passes were freed, or half of the jobs wait again.
        """
        try:
            measured = self._measure()
        except Exception as error:
            if not out_of_memory(error) or self._budget is None:
                raise
            if release_graphs(self.lm):  # captured passes held the memory
                return False
            if len(self.running) < 2:
                raise
            self._budget.halve(self.positions)
            self.preempt(len(self.running) - len(self.running) // 2)
            self._batches = {}
            if self.lm.device.type == "cuda":
                torch.cuda.empty_cache()
            return False
        candidates = []
        self.between_steps = False
        for job, (loss, right, min_margin, _) in zip(self.running, measured, strict=True):
            if job.record_scores(loss, right, min_margin):
                candidates.append(job)
        self._confirm(candidates)
        for job, (*_, gradient) in zip(self.running, measured, strict=True):
            job.check_stopping()
            if not job.ended:
                job.apply_update(gradient)
            elif self._budget:
                job.batch_info = {"slots": self._budget.record()}
        self.between_steps = True
        return True

    def _measure(self) -> list[Scored]:
        """(loss, right, min_margin, gradient) of each running job, in order."""
        cells = [(job, number, row) for job in self.running for number, row in enumerate(job.current)]
        groups = group_by_length([row.length for *_, row in cells])
        self.positions = sum(len(group) * max(cells[i][2].length for i in group) for group in groups)
        self.padding = self.positions - sum(row.length for *_, row in cells)
        signatures = [
            tuple((job.key, number, row.length) for job, number, row in (cells[i] for i in g)) for g in groups
        ]
        self._batches = {s: b for s, b in self._batches.items() if s in signatures}
        scored: dict[tuple[str, int], Scored] = {}
        for group, signature in zip(groups, signatures, strict=True):
            if signature not in self._batches:
                self._batches[signature] = Batch(self.lm, [cells[i][2] for i in group])
            batch, mems = self._batches[signature], [cells[i][0].state.mem for i in group]
            scores, gradients = batch.scores(mems, self.lm.dtype, gradient=True, argmax=self.argmax)
            for i, ids in zip(group, scores.argmax, strict=False):  # none from CUDA graphs
                job, number, _ = cells[i]
                if number == 0:  # the plain context
                    job.argmax = ids.numpy()
            columns = (scores.loss.tolist(), scores.right.tolist(), scores.min_margin.tolist(), gradients)
            names = [(job.key, number) for job, number, _ in (cells[i] for i in group)]
            scored |= dict(zip(names, zip(*columns, strict=True), strict=True))
        contexts = [range(1 + len(job.recipe.contexts)) for job in self.running]
        return [together([scored[job.key, n] for n in some]) for job, some in zip(self.running, contexts, strict=True)]

    def _confirm(self, candidates: list[TrainingJob]) -> None:
        """Score candidates in float32, together (unless they just were). Decode those that still pass, one by one.

        Where one pass can be the proof of a decode, it is the only one.
        """
        candidates = [job for job in candidates if not job.confirm_by_pass()]
        if self.lm.dtype == torch.float32:
            for job in candidates:
                job.confirm(job.last.accuracy, job.last.min_margin)
            return
        for start in range(0, len(candidates), 8):
            chunk = candidates[start : start + 8]
            for job, scores in zip(chunk, in_halves(self._float32_scores, chunk), strict=True):
                job.confirm(*scores)

    def _float32_scores(self, jobs: Sequence[TrainingJob]) -> list[tuple[float, float]]:
        """(accuracy, smallest margin in logits) of each job, teacher-forced."""
        batch = Batch(self.lm, [job.row for job in jobs])
        scores, _ = batch.scores([job.state.mem for job in jobs], torch.float32)
        return list(zip((scores.right / scores.scored).tolist(), scores.min_margin.tolist(), strict=True))
