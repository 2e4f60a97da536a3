"""What panels share: a button that starts work in a thread, one that stops it, a line that says how it goes.

The page never freezes, and *Stop* is heard where there is one; the model's lock keeps two panels apart.
"""

from __future__ import annotations

import base64
import html
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import ipywidgets as w
import pandas as pd

from memlab import charts
from memlab.decoding.decode import check
from memlab.models import FrozenLM, ModelError, Passage, PassageError
from memlab.recipes import Recipe, RecipeError
from memlab.results.mem_vector import MemVector, VectorError
from memlab.results.store import Store, StoreError
from memlab.scoring.memory import trim_memory
from memlab.sweeps.executors import WorkerError
from memlab.texts import TextError
from memlab.training.cram import CramInterrupted, Progress, cram

TEXT = "color:var(--jp-content-font-color1,inherit);font-size:14px;line-height:1.6"


class LastingThread:
    """A thread that does what it is asked, one after the other, for as long as its owner lives.

    Torch keeps threads, and the allocator room, for each thread that calls them: forty reads of a page of text, each in
    a thread of its own, leave 100 MB behind, in one thread nothing.
    """

    def __init__(self) -> None:
        self._asked: SimpleQueue[tuple[Callable[[], None], threading.Event] | None] = SimpleQueue()
        self._over = threading.Event()
        self._over.set()
        # Known to the thread is the queue alone, so that an owner that nobody else knows can go.
        threading.Thread(target=_serve, args=(self._asked,), name="memlab panel", daemon=True).start()
        weakref.finalize(self, self._asked.put, None)

    @property
    def busy(self) -> bool:
        """Whether there is something left to do."""
        return not self._over.is_set()

    def ask(self, work: Callable[[], None]) -> None:
        """Do this, when all that was asked before is done."""
        self._over = threading.Event()
        self._asked.put((work, self._over))

    def wait(self, timeout: float | None = None) -> None:
        """Until all that was asked so far is done; ``timeout`` in seconds."""
        self._over.wait(timeout)


def _serve(asked: SimpleQueue[tuple[Callable[[], None], threading.Event] | None]) -> None:
    while (job := asked.get()) is not None:
        work, over = job
        try:
            work()
        except Exception:  # the next thing asked is done all the same
            traceback.print_exc()
        over.set()
        del job, work, over  # else the owner is kept until something else is asked


class LivePanel(w.VBox):
    """``start`` runs ``work`` in a thread, ``halt`` asks it to stop; ``result`` is what it made, ``wait()`` gets it."""

    def __init__(self, action: str, *, icon: str, tooltip: str, stops: bool = True) -> None:
        """``stops=False`` where the work is over in a second or two: a button that comes too late is none."""
        self._stops = stops
        self.while_busy: list[w.Widget] = []
        """Controls that wait while work goes on, so that its answer is to what they show."""
        self.result: MemVector | None = None
        self.stopping = threading.Event()
        self._thread = LastingThread()
        self.start = w.Button(description=action, button_style="primary", icon=icon, tooltip=tooltip)
        self.halt = w.Button(description="Stop", icon="stop", disabled=True, tooltip="Stop and show what there is")
        self.status = w.HTML(say("Ready."))
        self.curve = w.HTML()
        self.start.on_click(lambda _: self._begin())
        self.halt.on_click(lambda _: self.stopping.set())
        super().__init__()
        self.layout.max_width = "900px"

    def buttons(self) -> w.HBox:
        """Start, stop and status in a row."""
        shown = [self.start, self.halt, self.status] if self._stops else [self.start, self.status]
        return w.HBox(shown, layout=w.Layout(align_items="center"))

    def wait(self, timeout: float | None = None) -> MemVector | None:
        """Until the work that runs is over; returns its vector (None if it failed)."""
        self._thread.wait(timeout)
        return self.result

    def clear(self) -> None:
        """Empty what the last run showed."""
        self.curve.value = ""

    def train(
        self, lm: FrozenLM, passage: Passage, recipe: Recipe, store: Store | None
    ) -> tuple[MemVector, pd.DataFrame, str]:
        """Cram one passage while ``curve`` and ``status`` tell how it goes; the vector, its trace, a last status.

        Stopped, it is the best vector so far, checked all the same.
        """
        began, drawn = time.perf_counter(), 0.0
        points: list[tuple[int, float, float]] = []

        def watch(now: Progress) -> bool:
            nonlocal drawn
            points.append((now.steps[0], now.loss_bits[0], now.accuracy[0]))
            if (elapsed := time.perf_counter() - began) - drawn > 0.4:
                drawn = elapsed
                self.draw(_frame(points), recipe)
                self.status.value = say(
                    f"Step {now.steps[0]} of at most {recipe.budget}, {now.accuracy[0]:.0%} right, {elapsed:.0f} s"
                )
            return self.stopping.is_set()

        try:
            (mem,) = cram(lm, passage, recipe, store, progress=False, on_step=watch)
        except CramInterrupted as stopped:
            mem = stopped.finished[0] if stopped.finished else stopped.unfinished[0]
        if mem.is_original:
            how = "kept in the store" if store is not None else "not stored"
            outcome = say(f"Done: {mem.steps} steps, {mem.seconds:.1f} s, {how}.")
        else:
            mem = mem.with_checks(check(lm, mem))
            outcome = say(f"Stopped at step {mem.steps}; nothing stored.")
        # A vector that was in the store already brings its own, thinned trace.
        trace = _frame(points) if points else pd.DataFrame(dict(mem.trace))
        self.draw(trace, recipe)
        return mem, trace, outcome

    def draw(self, trace: pd.DataFrame, recipe: Recipe) -> None:
        """Show a training's curves."""
        self.curve.value = charts.to_svg(charts.training_curve(trace, budget=recipe.budget))

    def work(self) -> None:
        """What the button starts; sets ``result`` and a last status."""
        raise NotImplementedError

    def _begin(self) -> None:
        if self._thread.busy:
            return
        self.result = None
        self.stopping.clear()
        self._busy(True)
        self.clear()
        self.status.value = say("Starting ...")
        self._thread.ask(self._guarded)

    def _guarded(self) -> None:
        try:
            self.work()
        except StoreError as error:
            self.result = next(iter(error.unsaved), None)
            kept = " The vector is in panel.result: save it with .save(path)." if self.result else ""
            self.status.value = say(f"{error}.{kept}", wrong=True)
        except (TextError, PassageError, ModelError, VectorError, RecipeError, WorkerError) as error:
            self.status.value = say(str(error), wrong=True)
        except Exception as error:  # a thread's traceback is seen by nobody: say it where the reader looks
            self.status.value = say(f"{type(error).__name__}: {error}", wrong=True)
            raise
        finally:
            trim_memory()
            self._busy(False)

    def _busy(self, busy: bool) -> None:
        self.start.disabled, self.halt.disabled = busy, not busy
        for control in self.while_busy:
            control.disabled = busy


def _frame(points: list[tuple[int, float, float]]) -> pd.DataFrame:
    return pd.DataFrame(points, columns=["step", "loss", "accuracy"])


def number(name: str, value: int, low: int, high: int) -> tuple[w.BoundedIntText, w.HBox]:
    """A slider to drag and a box to type in; sliders say nothing to a screen reader, the box does."""
    slider = w.IntSlider(
        value=value, min=low, max=high, description=name, readout=False, layout=w.Layout(width="210px")
    )
    box = w.BoundedIntText(value=value, min=low, max=high, layout=w.Layout(width="64px"), tooltip=name)
    w.link((slider, "value"), (box, "value"))
    return box, w.HBox([slider, box])


def say(message: str, *, wrong: bool = False) -> str:
    """A status line; red if something is wrong."""
    style = "color:#D55E00;font-weight:600" if wrong else TEXT
    return f'<span role="status" class="memlab-status" style="{style};margin-left:8px">{html.escape(message)}</span>'


def plain_table(table: pd.DataFrame, *, escape: bool = True) -> str:
    """HTML of a table of strings in the page's own colours, close-set: the buttons below it should stay in sight."""
    text: str = table.to_html(index=False, border=0, classes="memlab-table", escape=escape)
    rule = "padding: 0 14px 0 0 !important; line-height: 1.4; text-align: left !important"
    style = f"<style>.memlab-table td, .memlab-table th {{{rule}}}</style>"
    colour = "color:var(--jp-content-font-color1,inherit)"
    return f'{style}<div style="{colour};overflow-x:auto;max-width:100%">{text}</div>'


def token_pieces(lm: FrozenLM, ids: Any) -> list[str]:
    """What each token adds to the text: a character of several tokens appears with its last one."""
    pieces, written = [], ""
    for i, got in enumerate(ids):
        grown = lm.decode_ids(ids[: i + 1])
        pieces.append(grown[len(written) :] if grown.startswith(written) else lm.decode_ids([got]))
        written = grown
    return pieces


_LINK = "color:var(--jp-content-link-color,#0072B2);margin-right:16px"


def link_to(address: str, label: str) -> str:
    """A link that opens a page of its own."""
    return f'<a style="{_LINK}" href="{html.escape(address)}" target="_blank" rel="noopener">{html.escape(label)}</a>'


def links(name: str, csv: str, svg: str = "") -> str:
    """Table, and picture if there is one, to take away without a server."""

    def link(data: str, kind: str, ending: str, label: str) -> str:
        encoded = base64.b64encode(data.encode()).decode()
        return f'<a style="{_LINK}" download="memlab-{name}.{ending}" href="data:{kind};base64,{encoded}">{label}</a>'

    table = link(csv, "text/csv", "csv", "Table (CSV)")
    return table + link(svg, "image/svg+xml", "svg", "Picture (SVG)") if svg else table
