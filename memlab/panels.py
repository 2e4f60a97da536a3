"""Panels for notebooks: charts and ipywidgets around the toolkit. No numerics here.

Training runs in a thread, so the page never freezes and *Stop* is heard; the model's lock keeps two panels apart.
"""

from __future__ import annotations

import base64
import html
import threading
import time
from typing import Any

import ipywidgets as w
import pandas as pd

from memlab import charts
from memlab.cramming import CramInterrupted, Progress, cram
from memlab.decoding import EXACT, check, decode
from memlab.models import FrozenLM, ModelError, PassageError, load
from memlab.recipes import Recipe
from memlab.store import Store, StoreError
from memlab.texts import Text, TextError, originals
from memlab.vectors import MemVector, VectorError

OWN = "(my own words)"
SHOWN = 1000
"""Characters of a bundled text that the panel shows; crammed is the text."""
_WRONG = "color:#D55E00;font-weight:600;text-decoration:underline wavy #D55E00"
_TEXT = "color:var(--jp-content-font-color1,inherit);font-size:14px;line-height:1.6"
# What a half-trained vector writes can be one word of 300 characters, or twenty spaces.
_AS_WRITTEN = "white-space:pre-wrap;overflow-wrap:anywhere"


def setup(model: str = "smollm2-135m", store: Store | None = None) -> tuple[FrozenLM, Store]:
    """First line of a notebook: charts that need no network, the model, and the user's store."""
    charts.use_offline_renderer()
    return load(model), store if store is not None else Store()


def cram_panel(lm: FrozenLM, store: Store | None = None) -> CramPanel:
    """Pick or type a text, cram it, watch, and read what the vector writes back."""
    return CramPanel(lm, store)


def marked(lm: FrozenLM, ids: Any, truth: Any) -> str:
    """HTML of decoded ids, tokens that differ from the truth marked; the pointer shows what should stand there."""
    pieces, written = [], ""
    for i, (got, wanted) in enumerate(zip(ids, truth, strict=True)):
        # What this token adds: a character of several tokens appears with its last one.
        grown = lm.decode_ids(ids[: i + 1])
        piece = grown[len(written) :] if grown.startswith(written) else lm.decode_ids([got])
        written = grown
        shown = html.escape(piece).replace("\n", "&#8629;<br>")
        if got == wanted:
            pieces.append(shown)
        else:
            tip = html.escape(f"token {i + 1}: should be {lm.decode_ids([wanted])!r}", quote=True)
            pieces.append(f'<span class="memlab-wrong" style="{_WRONG}" title="{tip}">{shown or "&middot;"}</span>')
    return f'<span style="{_TEXT}">{"".join(pieces)}</span>'


def readout(lm: FrozenLM, mem: MemVector) -> w.HTML:
    """A stored vector decoded now, next to what its teacher-forced accuracy promised."""
    return w.HTML(_readout(lm, mem, decode(lm, [mem], batch=1)[0]))


class CramPanel(w.VBox):
    """The panel of ``cram_panel``. ``result`` is the last vector, ``wait()`` blocks until it is there."""

    def __init__(self, lm: FrozenLM, store: Store | None = None) -> None:
        self.lm, self.store = lm, store
        self.result: MemVector | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        wide = {"description_width": "90px"}
        names = [OWN, *(t.id for t in originals())]
        self.source = w.Dropdown(options=names, value="fiction-salt-ferry", description="Text", style=wide)
        self.words = w.Textarea(description="Words", rows=6, style=wide, layout=w.Layout(width="auto"))
        self.tokens, tokens = _number("Tokens", 24, 2, 128)
        self.k, vectors = _number("Vectors k", 1, 1, 8)
        self.seed, seeds = _number("Seed", 0, 0, 99)
        self.start = w.Button(description="Cram", button_style="primary", icon="compress", tooltip="Train the vectors")
        self.halt = w.Button(description="Stop", icon="stop", disabled=True, tooltip="Stop and show what there is")
        self.status = w.HTML(_say("Ready."))
        self.curve = w.HTML()
        self.decoded = w.HTML()
        self.links = w.HTML()
        self.source.observe(self._fill, "value")
        self.start.on_click(lambda _: self._begin())
        self.halt.on_click(lambda _: self._stop.set())
        self._fill()
        buttons = w.HBox([self.start, self.halt, self.status], layout=w.Layout(align_items="center"))
        numbers = w.HBox([tokens, vectors, seeds], layout=w.Layout(flex_flow="row wrap"))
        super().__init__([self.source, self.words, numbers, buttons, self.curve, self.decoded, self.links])
        self.layout.max_width = "900px"
        self.add_class("memlab-cram-panel")

    def wait(self, timeout: float | None = None) -> MemVector | None:
        """Until the training that runs is over; returns its vector (None if it failed)."""
        if self._thread:
            self._thread.join(timeout)
        return self.result

    def _picked(self) -> Text | None:
        return next((t for t in originals() if t.id == self.source.value), None)

    def _fill(self, _: Any = None) -> None:
        picked = self._picked()
        self.words.value = picked.string[:SHOWN] if picked else ""
        self.words.placeholder = "Type or paste some text"

    def _begin(self) -> None:
        if self._thread and self._thread.is_alive():
            return
        self.result = None
        self._stop.clear()
        self.start.disabled, self.halt.disabled = True, False
        self.curve.value = self.decoded.value = self.links.value = ""
        self.status.value = _say("Starting ...")
        self._thread = threading.Thread(target=self._work, name="memlab cram panel", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            self._train()
        except StoreError as error:
            self.result = next(iter(error.unsaved), None)
            kept = " The vector is in panel.result: save it with .save(path)." if self.result else ""
            self.status.value = _say(f"{error}.{kept}", wrong=True)
        except (TextError, PassageError, ModelError, VectorError) as error:
            self.status.value = _say(str(error), wrong=True)
        except Exception as error:  # a thread's traceback is seen by nobody: say it where the reader looks
            self.status.value = _say(f"{type(error).__name__}: {error}", wrong=True)
            raise
        finally:
            self.start.disabled, self.halt.disabled = False, True

    def _train(self) -> None:
        picked = self._picked()
        untouched = picked is not None and self.words.value == picked.string[:SHOWN]
        text = picked if picked is not None and untouched else Text("typed", self.words.value, "typed")
        passage = self.lm.passage(text, self.tokens.value)
        recipe = Recipe.default(k=self.k.value, seed=self.seed.value)
        began, drawn, points = time.perf_counter(), 0.0, []

        def watch(now: Progress) -> bool:
            nonlocal drawn
            points.append((now.steps[0], now.loss_bits[0], now.accuracy[0]))
            if (elapsed := time.perf_counter() - began) - drawn > 0.4:
                drawn = elapsed
                self._draw(_frame(points), recipe.budget)
                self.status.value = _say(
                    f"Step {now.steps[0]} of at most {recipe.budget}, {now.accuracy[0]:.0%} right, {elapsed:.0f} s"
                )
            return self._stop.is_set()

        try:
            (mem,) = cram(self.lm, passage, recipe, self.store, progress=False, watch=watch)
        except CramInterrupted as stopped:
            mem = stopped.finished[0] if stopped.finished else stopped.unfinished[0]
        if mem.pristine:
            how = "kept in the store" if self.store is not None else "not stored"
            outcome = _say(f"Done: {mem.steps} steps, {mem.seconds:.1f} s, {how}.")
        else:
            mem = mem.with_checks(check(self.lm, mem))
            outcome = _say(f"Stopped at step {mem.steps}; nothing stored.")
        # A vector that was in the store already brings its own, thinned trace.
        trace = _frame(points) if points else pd.DataFrame(dict(mem.trace))
        self._draw(trace, recipe.budget)
        self.decoded.value = _readout(self.lm, mem, decode(self.lm, [mem], batch=1)[0])
        csv = trace.to_csv(index=False, float_format="%.6g")
        self.links.value = _links(mem.key[:12], csv, self.curve.value)
        self.result = mem
        self.status.value = outcome  # last: who reads "Done" finds all of it there

    def _draw(self, trace: pd.DataFrame, budget: int) -> None:
        self.curve.value = charts.to_svg(charts.training_curve(trace, budget=budget))


def _frame(points: list[tuple[int, float, float]]) -> pd.DataFrame:
    return pd.DataFrame(points, columns=["step", "loss", "accuracy"])


def _readout(lm: FrozenLM, mem: MemVector, ids: Any) -> str:
    made = next((c for c in mem.checks if c.settings == EXACT), None)
    truth = ids if mem.redaction else mem.token_ids  # without the ids there is nothing to compare with
    right = int((ids == truth).sum())
    verdict = "<b>exact</b>" if mem.exact else "<b>not exact</b>"
    numbers = [f"{mem.n} tokens in {mem.k} vector{'s' if mem.k > 1 else ''}: {verdict}"]
    if not mem.redaction:
        numbers.append(f"{right} of {mem.n} tokens right")
    if mem.teacher_forced is not None:
        numbers.append(f"teacher-forced {mem.teacher_forced:.1%}")
    if made and mem.exact:
        numbers.append(f"smallest margin {made.margin:.2f}")
    head = f'<div style="{_TEXT}">Decoded from the vector alone &mdash; {" &middot; ".join(numbers)}</div>'
    box = "border-left:3px solid var(--jp-border-color1,#999);margin:6px 0;padding:2px 12px;" + _AS_WRITTEN
    return f'{head}<div class="memlab-decoded" style="{box}">{marked(lm, ids, truth)}</div>'


def _number(name: str, value: int, low: int, high: int) -> tuple[w.BoundedIntText, w.HBox]:
    """A slider to drag and a box to type in; sliders say nothing to a screen reader, the box does."""
    slider = w.IntSlider(
        value=value, min=low, max=high, description=name, readout=False, layout=w.Layout(width="210px")
    )
    box = w.BoundedIntText(value=value, min=low, max=high, layout=w.Layout(width="64px"), tooltip=name)
    w.link((slider, "value"), (box, "value"))
    return box, w.HBox([slider, box])


def _say(message: str, *, wrong: bool = False) -> str:
    style = "color:#D55E00;font-weight:600" if wrong else _TEXT
    return f'<span role="status" class="memlab-status" style="{style};margin-left:8px">{html.escape(message)}</span>'


def _links(name: str, csv: str, svg: str) -> str:
    def link(data: str, kind: str, ending: str, label: str) -> str:
        encoded = base64.b64encode(data.encode()).decode()
        style = "color:var(--jp-content-link-color,#0072B2);margin-right:16px"
        return f'<a style="{style}" download="memlab-{name}.{ending}" href="data:{kind};base64,{encoded}">{label}</a>'

    return link(csv, "text/csv", "csv", "Table (CSV)") + link(svg, "image/svg+xml", "svg", "Picture (SVG)")
