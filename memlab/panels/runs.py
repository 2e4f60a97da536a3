"""Panel of a plan: jobs done, running and failed, the time left, and a Stop button."""

from __future__ import annotations

import html
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack

import ipywidgets as w
import pandas as pd

from memlab.panels.base import REDRAW_EVERY, LivePanel
from memlab.panels.style import download_links, link_to, plain_table, status_line
from memlab.results.store import Store
from memlab.sweeps.dispatch import RunProgress
from memlab.sweeps.executors import ExecutorFactory
from memlab.sweeps.plan_file import estimate
from memlab.sweeps.runner import Plan, RunReport, run


def run_panel(
    plan: Plan,
    store: Store,
    *,
    workers: Callable[[], AbstractContextManager[ExecutorFactory]] | None = None,
    chunk: int = 16,
) -> RunPanel:
    """Run the jobs of a plan that the store lacks, and watch them. Stop and start again at any time.

    Without ``workers``, jobs run in this process. ``workers`` opens workers for the duration of a run, for example
    ``lambda: dask_workers("local:2")`` with ``memlab.sweeps.executors.dask_workers``. ``chunk`` is the number of jobs
    that one worker trains together.

    >>> from memlab import Plan, Recipe, Store, load, load_texts
    >>> plan = Plan.grid(load("toy:gemma3"), load_texts("originals", count=2), tokens=4, recipes=Recipe.default(k=4))
    >>> run_panel(plan, Store("a-new-store")).bar.max
    2
    """
    return RunPanel(plan, store, workers, chunk)


class RunPanel(LivePanel):
    """The panel of ``run_panel``. ``report`` is the ``RunReport`` of the last run."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        workers: Callable[[], AbstractContextManager[ExecutorFactory]] | None,
        chunk: int,
    ) -> None:
        super().__init__("Run", icon="play", tooltip="Train the jobs of this plan that the store lacks")
        self.plan, self.store, self.workers, self.chunk = plan, store, workers, chunk
        self.report: RunReport | None = None
        self.bar = w.IntProgress(description="Jobs", min=0, max=max(1, len(plan)), layout=w.Layout(width="420px"))
        self.counts, self.failures, self.links, self.dashboard = w.HTML(), w.HTML(), w.HTML(), w.HTML()
        self.show_widgets(
            "run", self.bar, self.counts, self.buttons(), self.dashboard, self.failures, self.links
        )  # fmt: skip
        self._show_counts(running=0, failed=0)

    def work(self) -> None:
        with ExitStack() as stack:
            executor = stack.enter_context(self.workers()) if self.workers else None
            if address := getattr(executor, "dashboard", None):
                self.dashboard.value = link_to(address, "Dask dashboard")
                stack.callback(setattr, self.dashboard, "value", "")
            time_left = estimate(self.plan, self.store, workers=getattr(executor, "count", 1))
            self.show_status(f"Likely {_duration(time_left.likely)}, at most {_duration(time_left.at_most)}")
            self._began, self._drawn, self._done_before = time.monotonic(), 0.0, self._count_done()
            self.report = report = run(
                self.plan,
                self.store,
                executor=executor,
                chunk=self.chunk,
                progress=False,
                on_progress=self._on_progress,
            )
        self._show_counts(running=0, failed=len(report.failed))
        self._show_failures(report.failed)
        exact = sum(mem.exact for mem in report.results)
        table = pd.DataFrame(
            [(mem.key, mem.text.id, mem.n, mem.k, mem.recipe.name, mem.exact, mem.steps) for mem in report.results],
            columns=["key", "text_id", "tokens", "k", "recipe", "exact", "steps"],
        )
        self.links.value = download_links("runs", table.to_csv(index=False))
        stopped = self.stopping.is_set()
        missing = len(self.plan) - len(report.results)
        failures = f" {len(report.failed)} failed, see below." if report.failed else ""
        hint = f" {missing} are left: run it again." if missing and stopped else failures
        outcome = f"{report.trained} trained now, {exact} of {len(table)} exact."
        self.show_status(f"{'Stopped' if stopped else 'Done'}: {outcome}{hint}")

    def _count_done(self) -> int:
        return sum(job.key in self.store for job in self.plan)

    def _on_progress(self, now: RunProgress) -> bool:
        elapsed = time.monotonic() - self._began
        if elapsed - self._drawn < REDRAW_EVERY:  # counting looks up the whole plan, and a step may take milliseconds
            return self.stopping.is_set()
        self._drawn = elapsed
        self._show_counts(running=now.given_out, failed=now.failed)
        finished, left = self.bar.value - self._done_before, len(self.plan) - self.bar.value
        # Long passages train first, so this estimate is more often too long than too short.
        time_left = f", about {_duration(elapsed / finished * left)} left" if finished else ""
        running = f"Running for {_duration(elapsed)}{time_left}"
        self.show_status(f"Stopping: {now.given_out} still training" if self.stopping.is_set() else running)
        return self.stopping.is_set()

    def _show_counts(self, *, running: int, failed: int) -> None:
        self.bar.value = done = self._count_done()
        rejected = f", {len(self.plan.rejected)} left out" if self.plan.rejected else ""
        self.counts.value = status_line(
            f"{done} of {len(self.plan)} done, {running} running, {failed} failed{rejected}"
        )
        if not failed:
            self._show_failures({})

    def _show_failures(self, failed: dict[str, str]) -> None:
        names = {job.key: f"{job.passage.span.id}, {len(job.passage)} tokens, {job.recipe.name}" for job in self.plan}
        rows = [(names.get(key, key[:12]), reason) for key, reason in failed.items()] + list(self.plan.rejected)
        cells = [(html.escape(name), html.escape(reason)) for name, reason in rows]
        table = pd.DataFrame(cells, columns=["job", "why it failed or was left out"])
        self.failures.value = plain_table(table, escape=False) if rows else ""


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
