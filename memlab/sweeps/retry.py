"""The retry policy of runs: what is tried again after an error, and what is recorded as failed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from memlab.models import FrozenLM, Passage
from memlab.recipes import Recipe
from memlab.results.mem_vector import MemVector
from memlab.results.store import Store, StoreError
from memlab.training.cram import Progress, cram


def after_failure(
    jobs: Sequence[int], failures: int, *, worker_failed: bool = False
) -> list[tuple[Sequence[int], int]]:
    """The groups to try next after ``jobs`` have failed together ``failures`` times, each with its number of failures.

    An empty list means: record the error. ``jobs`` have no result. Which of them caused the failure is unknown.

    - Training failed: try each half. A single job is tried once more, because the cause may pass (another program
      that fills the GPU, for example).
    - The worker failed (it died, or could not load the model): try the same jobs once more, because the cause may lie
      outside them. Then try each job alone. Halves would need more attempts, and each attempt can cost a process.
    """
    if worker_failed and failures == 1:
        return [(jobs, 1)]
    if worker_failed:
        return [([job], 2) for job in jobs] if failures == 2 else []
    if half := len(jobs) // 2:
        return [(jobs[:half], 0), (jobs[half:], 0)]
    return [(jobs, failures)] if failures < 2 else []


def train_with_retries(
    lm: FrozenLM,
    keys: Sequence[str],
    passages: Sequence[Passage],
    recipes: Sequence[Recipe],
    parents: Sequence[MemVector | None],
    store: Store,
    *,
    portable: bool = False,
    progress: bool = False,
    on_step: Callable[[Progress], bool | None] | None = None,
    failed: dict[str, str] | None = None,
) -> tuple[list[MemVector], dict[str, str]]:
    """Train one model's jobs in this process; returns (results, {key: error}). The store records the errors, too.

    ``failed``, if given, is the second dictionary, filled during the run. ``on_step`` gets places in ``passages``.
    Raises ``StoreError`` at once, because without a store no later result could be saved.
    """
    results: dict[str, MemVector] = {}
    failed = {} if failed is None else failed

    def train(jobs: Sequence[int]) -> str:
        """Train these jobs; returns the error, or "". Text only: the exception would keep its tensors in memory."""

        def step(now: Progress) -> bool | None:
            return on_step(replace(now, passages=tuple(jobs[i] for i in now.passages))) if on_step else None

        try:
            mems = cram(
                lm,
                [passages[i] for i in jobs],
                [recipes[i] for i in jobs],
                store,
                start=[parents[i] for i in jobs],
                portable=portable,
                progress=progress,
                on_step=step if on_step else None,
            )
        except StoreError:
            raise
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        results.update({mem.key: mem for mem in mems})
        return ""

    waiting: list[tuple[Sequence[int], int]] = [(range(len(keys)), 0)] if keys else []
    while waiting:
        jobs, failures = waiting.pop(0)
        if error := train(jobs):
            retries = after_failure(jobs, failures + 1)
            waiting[:0] = retries
            for key in [keys[i] for i in jobs] if not retries else []:
                failed[key] = error
                store.record_failure(key, error)
    return [results[key] for key in keys if key in results], failed
