"""What all panels share: work in a background thread, a Start and a Stop button, and a status line.

The page stays responsive while work runs. The model's lock makes two panels take turns.
"""

from __future__ import annotations

import threading
import time
import traceback
import weakref
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any

import ipywidgets as w
import pandas as pd

from memlab import charts
from memlab.decoding.decode import check
from memlab.errors import MemlabError
from memlab.models import FrozenLM, Passage
from memlab.panels.live import LiveChart
from memlab.panels.picker import remember
from memlab.panels.style import StaticCopy, status_line, style_sheet
from memlab.recipes import Recipe
from memlab.results.mem_vector import MemVector
from memlab.results.store import Store, StoreError
from memlab.scoring.memory import trim_memory
from memlab.training.cram import CramInterrupted, Progress, cram

_Job = tuple[Callable[[], None], threading.Event]
REDRAW_EVERY = 0.4
"""Seconds between two updates of a running panel."""


class WorkerThread:
    """One daemon thread that runs jobs in order and ends when its owner is garbage collected.

    One thread per panel, not per job: torch keeps its threads, and the allocator keeps memory, for every thread that
    ever called them. Forty decodes of a page of text in forty threads leave 100 MB behind; in one thread, nothing.
    """

    # Not a ThreadPoolExecutor: it joins its thread when Python exits, so a kernel could not shut down while a training
    # runs (measured: a process with a 6-second job ends after 6 seconds, with a daemon thread at once).

    def __init__(self) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._last_done = threading.Event()
        self._last_done.set()
        self.asked = 0
        """Counts what was asked of ``submit_latest``. Raise it, and what waits is never done."""
        # The thread refers to the queue only, so that the owner can be garbage collected.
        threading.Thread(target=_run_jobs, args=(self._jobs,), name="memlab panel", daemon=True).start()
        weakref.finalize(self, self._jobs.put, None)

    @property
    def busy(self) -> bool:
        """True while a submitted job is waiting or running."""
        return not self._last_done.is_set()

    def submit(self, work: Callable[[], None]) -> None:
        """Run ``work`` after all jobs submitted before."""
        self._last_done = threading.Event()
        self._jobs.put((work, self._last_done))

    def submit_latest(self, work: Callable[[], None], *, pause: float) -> None:
        """Run ``work`` unless it is asked for again within ``pause`` seconds. The first request does not wait."""
        self.asked += 1
        self.submit(partial(self._if_latest, self.asked, work, pause))

    def _if_latest(self, number: int, work: Callable[[], None], pause: float) -> None:
        if number > 1:
            time.sleep(pause)
        if number == self.asked:
            work()

    def wait(self, timeout: float | None = None) -> None:
        """Block until all jobs submitted so far are done, ``timeout`` seconds at most."""
        self._last_done.wait(timeout)


def _run_jobs(jobs: SimpleQueue[_Job | None]) -> None:
    while (job := jobs.get()) is not None:
        work, done = job
        try:
            work()
        except Exception:  # one failed job must not stop the next
            traceback.print_exc()
        done.set()
        del job, work, done  # they would keep the owner alive until the next job


class Panel(StaticCopy, w.VBox):
    """A column of widgets with memlab's style sheet."""

    def show_widgets(self, name: str, *widgets: w.Widget) -> None:
        """Fill the panel from top to bottom. ``name`` becomes its CSS class ``memlab-NAME-panel``."""
        self.children = (*widgets, style_sheet())
        self.layout.max_width = "1100px"
        self.add_class(f"memlab-{name}-panel")


class LivePanel(Panel):
    """A panel with a button that starts ``work`` in a thread, and one that stops it.

    To add a panel, subclass it: fill it with ``show_widgets`` in ``__init__``, and implement ``work``.

    >>> class CountPanel(LivePanel):
    ...     def __init__(self):
    ...         super().__init__("Count", icon="play", tooltip="Count to three")
    ...         self.show_widgets("count", self.buttons())
    ...
    ...     def work(self):
    ...         self.show_status("Done: 1, 2, 3")
    >>> panel = CountPanel()
    >>> panel.start.click()
    >>> panel.wait()
    >>> "1, 2, 3" in panel.status.value
    True
    """

    def __init__(self, action: str, *, icon: str, tooltip: str, stops: bool = True) -> None:
        """Set ``stops=False`` for work that takes about two seconds or less: a Stop button would be useless."""
        self._stops = stops
        self.while_busy: list[w.Widget] = []
        """Controls that are disabled while work runs, so that they still describe the result when it appears."""
        self.result: MemVector | None = None
        """The vector that the last run made; None if it made none. It is set before anything is drawn or decoded."""
        self.stopping = threading.Event()
        """Set when Stop is pressed; ``work`` must look at it."""
        self._thread = WorkerThread()
        self.start = w.Button(description=action, button_style="primary", icon=icon, tooltip=tooltip)
        self.halt = w.Button(description="Stop", icon="stop", disabled=True, tooltip="Stop, and show the result so far")
        self.status = w.HTML(status_line("Ready."))
        self.curve = LiveChart()
        self.outputs: list[Any] = [self.curve]
        """Widgets that ``clear`` empties: what the last run showed. ``LiveChart``, ``TokenText`` or ``HTML``."""
        self.start.on_click(lambda _: self._begin())
        self.halt.on_click(lambda _: self.stopping.set())
        super().__init__()

    def buttons(self) -> w.HBox:
        """The buttons and the status line in one row."""
        shown = [self.start, self.halt, self.status] if self._stops else [self.start, self.status]
        return w.HBox(shown, layout=w.Layout(align_items="center"))

    def show_status(self, message: str, *, error: bool = False) -> None:
        """Replace the status line."""
        self.status.value = status_line(message, error=error)

    def wait(self, timeout: float | None = None) -> MemVector | None:
        """Block until the running work is done; returns ``result``. ``timeout`` in seconds."""
        self._thread.wait(timeout)
        return self.result

    def clear(self) -> None:
        """Empty what the last run showed."""
        for output in self.outputs:
            if isinstance(output, w.HTML):
                output.value = ""
            else:
                output.clear()

    def reset(self, _: object = None) -> None:
        """Empty what the last run showed, because a control changed."""
        self.clear()
        self.show_status("Ready.")

    def train(
        self,
        lm: FrozenLM,
        passage: Passage,
        recipe: Recipe,
        store: Store | None,
        start: MemVector | None = None,
    ) -> tuple[MemVector, pd.DataFrame, str]:
        """Cram one passage with live curves and status. Returns the vector, its trace, and a final status message.

        After Stop, the vector is the best one so far. This vector is checked, but not stored.
        """
        began, told, next_drawing = time.perf_counter(), 0.0, 0.0
        points: list[tuple[int, float, float]] = []

        def on_step(now: Progress) -> bool:
            nonlocal told, next_drawing
            points.append((now.steps[0], now.loss_bits[0], now.accuracy[0]))
            self.watch(now)
            elapsed = time.perf_counter() - began
            if elapsed > next_drawing:  # a chart takes 0.1 s: at most a tenth of the time goes into charts
                self.draw(_trace(points), recipe)
                took = time.perf_counter() - began - elapsed
                next_drawing = elapsed + max(REDRAW_EVERY, min(2.0, 10 * took))
            if elapsed - told > REDRAW_EVERY:
                told = elapsed
                steps = f"Step {now.steps[0]} of at most {recipe.budget}"
                self.show_status(f"{steps}, {now.accuracy[0]:.0%} right, {elapsed:.0f} s")
            return self.stopping.is_set()

        try:
            (mem,) = cram(lm, passage, recipe, store, start=start, progress=False, on_step=on_step)
        except CramInterrupted as stopped:
            mem = stopped.finished[0] if stopped.finished else stopped.unfinished[0]
        if mem.is_original:
            place = "in the store" if store is not None else "not stored"
            after = f"{mem.steps} steps, {mem.seconds:.1f} s, {place}."
            outcome = f"Done: {after}" if mem.exact else f"Not exact after {after}"
            if not points:
                outcome = f"It was {place}; nothing was trained."
        else:
            self.result = mem
            mem = mem.with_checks(check(lm, mem))
            outcome = f"Stopped at step {mem.steps}; nothing stored."
        self.result = mem
        remember(mem)
        # A vector that was in the store already has its own, thinned trace.
        trace = _trace(points) if points else pd.DataFrame(dict(mem.trace))
        self.draw(trace, recipe)
        return mem, trace, outcome

    def draw(self, trace: pd.DataFrame, recipe: Recipe) -> None:
        """Show the curves of a training, if there is more than one step."""
        if len(trace) > 1:
            self.curve.draw(lambda: charts.training_curve(trace, budget=recipe.budget))

    def watch(self, now: Progress) -> None:
        """Called after every training step. Subclasses may show more of it."""

    def work(self) -> None:
        """Runs in the thread after a click on Start. Subclasses set ``result`` and a final status."""
        raise NotImplementedError

    def _begin(self) -> None:
        if self._thread.busy:
            return
        self.result = None
        self.stopping.clear()
        self._set_busy(True)
        self.clear()
        self.show_status("Starting ...")
        self._thread.submit(self._guarded)

    def _guarded(self) -> None:
        try:
            self.work()
        except StoreError as error:
            self.result = next(iter(error.unsaved), self.result)
            self._show_error(str(error))
        except MemlabError as error:
            self._show_error(str(error))
        except Exception as error:  # the traceback of a thread is easily missed, so the status line shows the error
            self._show_error(f"{type(error).__name__}: {error}")
            raise
        finally:
            trim_memory()
            self._set_busy(False)

    def _show_error(self, message: str) -> None:
        rescue = " The vector is in panel.result. Save it with .save(path)." if self.result else ""
        self.show_status(message + rescue, error=True)

    def _set_busy(self, busy: bool) -> None:
        self.start.disabled, self.halt.disabled = busy, not busy
        for control in self.while_busy:
            control.disabled = busy


def _trace(points: list[tuple[int, float, float]]) -> pd.DataFrame:
    return pd.DataFrame(points, columns=["step", "loss", "accuracy"])
