"""The panel of a plan: how many runs are done, running and failed, how long it will still take, and a way to stop."""

from __future__ import annotations

import html
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import ipywidgets as w
import pandas as pd

from memlab.panels.base import LivePanel, link_to, links, plain_table, say
from memlab.results.store import Store
from memlab.sweeps.executors import ExecutorFactory, RunProgress
from memlab.sweeps.plan_file import estimate
from memlab.sweeps.runner import Plan, run


def run_panel(
    plan: Plan,
    store: Store,
    *,
    workers: Callable[[], AbstractContextManager[ExecutorFactory]] | None = None,
    chunk: int = 16,
) -> RunPanel:
    """Run what a plan lacks, and watch; stop it and start it again at will.

    Here, or with ``workers`` that are there while it runs: ``lambda: dask_workers("local:2")`` of
    ``memlab.sweeps.executors``, say.
    """
    return RunPanel(plan, store, workers, chunk)


class RunPanel(LivePanel):
    """The panel of ``run_panel``. ``report`` is what the last run came to."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        workers: Callable[[], AbstractContextManager[ExecutorFactory]] | None,
        chunk: int,
    ) -> None:
        super().__init__("Run", icon="play", tooltip="Train what the store lacks of this plan")
        self.plan, self.store, self.workers, self.chunk = plan, store, workers, chunk
        self.report: Any = None
        self.bar = w.IntProgress(description="Runs", min=0, max=max(1, len(plan)), layout=w.Layout(width="420px"))
        self.counts, self.failures, self.links, self.dashboard = w.HTML(), w.HTML(), w.HTML(), w.HTML()
        self.children = [self.bar, self.counts, self.buttons(), self.dashboard, self.failures, self.links]
        self.add_class("memlab-run-panel")
        self._tell(0, 0)

    def work(self) -> None:
        with ExitStack() as stack:
            executor = stack.enter_context(self.workers()) if self.workers else None
            if address := getattr(executor, "dashboard", None):
                self.dashboard.value = link_to(address, "Dask's dashboard")
                stack.callback(setattr, self.dashboard, "value", "")
            likely = estimate(self.plan, self.store, workers=getattr(executor, "count", 1))
            self.status.value = say(f"Likely {_minutes(likely.likely)}, at most {_minutes(likely.at_most)}")
            self._began, self._drawn, self._there = time.monotonic(), 0.0, self._done()
            self.report = run(
                self.plan, self.store, executor=executor, chunk=self.chunk, progress=False, watch=self._watch
            )
        self._tell(0, len(self.report.failed))
        self._fail(self.report.failed)
        exact = sum(mem.exact for mem in self.report.results)
        table = pd.DataFrame(
            [(m.key, m.text.id, m.n, m.k, m.recipe.name, m.exact, m.steps) for m in self.report.results],
            columns=["key", "text_id", "tokens", "k", "recipe", "exact", "steps"],
        )
        self.links.value = links("runs", table.to_csv(index=False))
        end = "Stopped" if self.stopping.is_set() else "Done"
        missing = len(self.plan) - len(self.report.results)
        failed = f" {len(self.report.failed)} failed, see below." if self.report.failed else ""
        more = f" {missing} are left: run it again." if missing and self.stopping.is_set() else failed
        self.status.value = say(f"{end}: {self.report.trained} trained now, {exact} of {len(table)} exact.{more}")

    def _done(self) -> int:
        return sum(job.key in self.store for job in self.plan)

    def _watch(self, going: RunProgress) -> bool:
        took = time.monotonic() - self._began
        if took - self._drawn < 0.4:  # a step may take milliseconds, and the whole plan is looked up
            return self.stopping.is_set()
        self._drawn = took
        self._tell(going.given_out, going.failed)
        finished, left = self.bar.value - self._there, len(self.plan) - self.bar.value
        # Long passages come first, so this errs on the side of too long.
        ahead = f", about {_minutes(took / finished * left)} left" if finished else ""
        running = f"Running for {_minutes(took)}{ahead}"
        self.status.value = say(f"Stopping: {going.given_out} on benches" if self.stopping.is_set() else running)
        return self.stopping.is_set()

    def _tell(self, running: int, failed: int) -> None:
        done = self._done()
        self.bar.value = done
        said = f"{done} of {len(self.plan)} done, {running} running, {failed} failed"
        out = f", {len(self.plan.rejected)} left out" if self.plan.rejected else ""
        self.counts.value = say(said + out)
        if not failed:
            self._fail({})

    def _fail(self, failed: dict[str, str]) -> None:
        names = {job.key: f"{job.passage.span.id}, {len(job.passage)} tokens, {job.recipe.name}" for job in self.plan}
        rows = [(names.get(key, key[:12]), why) for key, why in failed.items()] + list(self.plan.rejected)
        shown = [(html.escape(what), html.escape(why)) for what, why in rows]
        table = pd.DataFrame(shown, columns=["run", "why it failed, or was left out"])
        self.failures.value = plain_table(table, escape=False) if rows else ""


def _minutes(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
