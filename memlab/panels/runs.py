"""Panel of a plan: its forecast, a row per run while they train, the vector of a finished run, and a Stop button."""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack

import ipywidgets as w
import pandas as pd

from memlab.charts.names import display, text_title
from memlab.decoding.decode import decode
from memlab.errors import MemlabError
from memlab.panels.base import REDRAW_EVERY, LivePanel, WorkerThread
from memlab.panels.decoded import decoded_facts, show_decoded
from memlab.panels.picker import remember
from memlab.panels.style import badge, download_links, link_to, plain_table, status_line
from memlab.panels.tokens import TokenText
from memlab.results.mem_vector import MemVector
from memlab.results.store import Store
from memlab.sweeps.dispatch import RunProgress
from memlab.sweeps.executors import ExecutorFactory
from memlab.sweeps.plan_file import estimate
from memlab.sweeps.runner import Job, Plan, RunReport, run

ROWS = 50
"""Runs that have a row of their own. Failures of further runs are listed below."""


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
    """The panel of ``run_panel``. ``report``: the ``RunReport`` of the last run; ``result``: the vector opened last."""

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
        self.bar = w.IntProgress(description="Runs", min=0, max=max(1, len(plan)), layout=w.Layout(width="420px"))
        self.counts, self.forecast, self.failures, self.links, self.dashboard = (w.HTML() for _ in range(5))
        self.facts, self.decoded = w.HTML(), TokenText("Text decoded from the vector of a run", height="12em")
        self.outputs = [self.facts, self.decoded, self.links]
        self.rows = {job.key: _Row(job, self._open) for job in plan.jobs[:ROWS]}
        rows = w.VBox(
            [*(row.widget for row in self.rows.values())], layout=w.Layout(max_height="340px", overflow="auto")
        )
        self.while_busy = [row.open for row in self.rows.values()]
        top = w.HBox([self.bar, self.counts])
        self.show_widgets(
            "run", top, self.forecast, self.buttons(), self.dashboard, rows, self.failures, self.facts, self.decoded,
            self.links,
        )  # fmt: skip
        self._show({}, failed={})
        self._forecasts = WorkerThread()  # its own thread: a click on Run need not wait for the forecast
        self._forecasts.submit(self._forecast)

    def work(self) -> None:
        self.forecast.value = ""
        with ExitStack() as stack:
            executor = stack.enter_context(self.workers()) if self.workers else None
            if address := getattr(executor, "dashboard", None):
                self.dashboard.value = link_to(address, "Dask dashboard")
                stack.callback(setattr, self.dashboard, "value", "")
            self._began, self._drawn, self._done_before = time.monotonic(), 0.0, self._count_done()
            self._failed_before = set(self.store.failures())  # they are tried again now
            self.report = report = run(
                self.plan,
                self.store,
                executor=executor,
                chunk=self.chunk,
                progress=False,
                on_progress=self._on_progress,
            )
        self._show({}, failed=report.failed)
        exact = sum(mem.exact for mem in report.results)
        table = pd.DataFrame(
            [(mem.key, mem.text.id, mem.n, mem.k, mem.recipe.name, mem.exact, mem.steps) for mem in report.results],
            columns=["key", "text_id", "tokens", "k", "recipe", "exact", "steps"],
        )
        self.links.value = download_links("runs", table.to_csv(index=False)) if len(table) else ""
        stopped, missing = self.stopping.is_set(), len(self.plan) - len(report.results)
        parts = [f"{report.trained} trained now"]
        if len(table):
            parts.append(f"{exact} of {len(table)} exact")
        if report.failed:
            parts.append(f"{len(report.failed)} failed, in red below")
        hint = f" {missing} are left: run it again." if missing and stopped else ""
        self.show_status(f"{'Stopped' if stopped else 'Done'}: {', '.join(parts)}.{hint}")

    def _forecast(self) -> None:
        try:
            time_left = estimate(self.plan, self.store)
        except Exception:  # any: a forecast is never worth the run; an error shows again when it runs
            return
        if self._thread.busy or self.report:
            return  # the run has begun, and tells more
        missing = f"{time_left.runs} to train: likely {_duration(time_left.likely)}, at most"
        one = " with one worker" if self.workers else ""
        text = f"{missing} {_duration(time_left.at_most)}, measured now{one}." if time_left.runs else "All are done."
        self.forecast.value = status_line(text)

    def _count_done(self) -> int:
        return sum(job.key in self.store for job in self.plan)

    def _on_progress(self, now: RunProgress) -> bool:
        elapsed = time.monotonic() - self._began
        if elapsed - self._drawn < REDRAW_EVERY:  # counting looks up the whole plan, and a step may take milliseconds
            return self.stopping.is_set()
        self._drawn = elapsed
        failures = self.store.failures() if now.failed else {}
        self._show(now.training, failed={k: why for k, why in failures.items() if k not in self._failed_before})
        finished, left = self.bar.value - self._done_before, len(self.plan) - self.bar.value
        # Long passages train first, so this estimate is more often too long than too short.
        time_left = f", about {_duration(elapsed / finished * left)} left" if finished else ""
        running = f"Running for {_duration(elapsed)}{time_left}"
        self.show_status(f"Stopping: {now.given_out} still training" if self.stopping.is_set() else running)
        return self.stopping.is_set()

    def _show(self, training: Mapping[str, tuple[int, float] | None], *, failed: Mapping[str, str]) -> None:
        """Show each run as it is now. ``training`` as in ``RunProgress``; ``failed`` is {key: reason}."""
        failed = {job.key: failed[job.key] for job in self.plan if job.key in failed}
        self.bar.value = done = self._count_done()
        self.bar.bar_style = "danger" if failed else "success" if done == len(self.plan) else ""
        rejected = f", {len(self.plan.rejected)} left out" if self.plan.rejected else ""
        running = sum(key not in self.store for key in training)
        self.counts.value = status_line(
            f"{done} of {len(self.plan)} done, {running} running, {len(failed)} failed{rejected}"
        )
        for row in self.rows.values():
            row.show(self.store, training, failed)
        names = {job.key: _name(job) for job in self.plan}
        others = [(names[key], status_line(why, error=True)) for key, why in failed.items() if key not in self.rows]
        others += [(name, status_line(f"left out: {why}")) for name, why in self.plan.rejected]
        cells = [(html.escape(name), why) for name, why in others]
        table = pd.DataFrame(cells, columns=["run", "why there is no result"])
        self.failures.value = plain_table(table, escape=False) if others else ""

    def _open(self, job: Job) -> None:
        """Decode the vector of a finished run, and make it the last made for all panels."""
        self.start.disabled = True
        self._thread.submit(lambda: self._decode(job))  # the buttons are disabled while a run works

    def _decode(self, job: Job) -> None:
        try:
            mem = self.store.get(job.key)
            remember(mem)
            self.result = mem
            ids = decode(job.lm, [mem], batch=1)[0]
            self.facts.value = decoded_facts(job.lm, mem, ids)
            show_decoded(self.decoded, job.lm, mem, ids)
            self.show_status(f"Opened: {_name(job)}. Other panels offer it as last made.")
        except MemlabError as error:
            self.show_status(str(error), error=True)
        finally:
            self.start.disabled = False


class _Row:
    """One run: its name, how far it is, and a button that opens its vector."""

    def __init__(self, job: Job, on_open: Callable[[Job], None]) -> None:
        self.key = job.key
        self.mem: MemVector | None = None
        self.open = w.Button(description="Open", icon="folder-open", tooltip="Decode this vector now")
        self.open.layout = w.Layout(width="90px", visibility="hidden")
        self.open.on_click(lambda _: on_open(job))
        name = w.HTML(status_line(_name(job)), layout=w.Layout(width="420px"))
        self.state = w.HTML(layout=w.Layout(flex="1 1 auto"))
        self.widget = w.HBox([name, self.state, self.open], layout=w.Layout(align_items="center", min_height="32px"))

    def show(self, store: Store, training: Mapping[str, tuple[int, float] | None], failed: Mapping[str, str]) -> None:
        """Update the row. A finished run is read from the store once."""
        if self.mem is None and self.key in store:
            try:
                self.mem = store.get(self.key)
            except MemlabError as error:
                failed = {self.key: str(error)}
        self.open.layout.visibility = "visible" if self.mem else "hidden"
        if self.mem:
            mark = badge("exact", "Exact") if self.mem.exact else badge("wrong", "Not exact")
            self.state.value = mark + status_line(f"{self.mem.steps} steps, done after {self.mem.seconds:.1f} s")
        elif self.key in failed:
            self.state.value = badge("wrong", "Failed") + status_line(failed[self.key], error=True)
        elif self.key in training:
            now = training[self.key]
            text = f"step {now[0]}, {now[1]:.0%} of tokens right" if now else "with a worker"
            self.state.value = status_line(text)
        else:
            self.state.value = status_line("waiting")


def _name(job: Job) -> str:
    recipe = job.recipe.replace(seed=0).name
    return f"{text_title(job.passage.span.id)}, {len(job.passage)} tokens, {display(recipe)}, seed {job.recipe.seed}"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
