"""Panel that crams a text. The text develops while the vector is trained, and comes back from the vector alone."""

from __future__ import annotations

import base64
import contextlib
import functools
import html
import time
from typing import Any

import ipywidgets as w
import numpy as np

from memlab.charts.names import counted
from memlab.errors import MemlabError
from memlab.models import FrozenLM, Passage, PassageError
from memlab.panels.base import LivePanel, WorkerThread
from memlab.panels.decoded import decoded_facts, token_pieces, wrong_tokens
from memlab.panels.developing import DevelopingText
from memlab.panels.outlook import note_step, outlook
from memlab.panels.style import (
    badge,
    download_links,
    link_to,
    number_input,
    row,
    seed_input,
    status_line,
)
from memlab.panels.text_input import TextInput
from memlab.probes.token_reading import Reading, read_tokens
from memlab.recipes import Recipe
from memlab.results import card
from memlab.results.mem_vector import MemVector
from memlab.results.store import Store
from memlab.training.cram import Progress, key_of

SHOWN = 1000
"""The panel shows this many characters of a bundled text. If they are not edited, the complete text is used."""
MOST = 128
"""The largest number of tokens."""
AFTER = 40
"""Tokens shown after the cut, to show where it falls."""
PAUSE = 0.25
"""Seconds without a further change before the forecast is made."""
NOTEBOOKS = {
    "Put it on the map (notebook 5)": "05_where_vectors_lie.ipynb",
    "Change it and see what survives (notebook 7)": "07_robustness.ipynb",
    "Look inside the model (notebook 8)": "08_inside_the_model.ipynb",
}


def cram_panel(lm: FrozenLM, store: Store | None = None) -> CramPanel:
    """Pick or type a text, cram it, and see it develop: each token turns dark when the model gets it right.

    Vectors go into ``store``, if there is one.

    >>> from memlab import load
    >>> panel = cram_panel(load("toy:gemma3"))
    >>> panel.tokens.value, panel.k.value = 8, 4
    >>> panel.start.click()
    >>> panel.wait().n
    8
    """
    return CramPanel(lm, store)


class CramPanel(LivePanel):
    """The panel of ``cram_panel``. ``result`` is the last vector; ``wait()`` blocks until it is trained."""

    def __init__(self, lm: FrozenLM, store: Store | None = None) -> None:
        super().__init__("Cram", icon="compress", tooltip="Search for vectors that make the model write this text")
        self.lm, self.store = lm, store
        self.given = TextInput("fiction-salt-ferry", rows=5, shown=SHOWN)
        self.source, self.words = self.given.source, self.given.words
        self.tokens, tokens = number_input("Tokens, up to", 24, 2, MOST, about="A shorter text is crammed completely")
        self.k, vectors = number_input("Vectors k", 1, 1, 8, about="More vectors hold more text")
        self.seed, seeds = seed_input()
        self.ahead, self.outcome, self.links = w.HTML(), w.HTML(), w.HTML()
        self.developing = DevelopingText(lm, lambda step: self.curve.set(place=step))
        self.next = w.HBox(layout=w.Layout(flex_flow="row wrap", align_items="center"))
        self._again = {name: w.Button(layout=w.Layout(width="auto")) for name in ("tokens", "k", "seed", "on")}
        for name, button in self._again.items():
            button.on_click(functools.partial(self._go_again, name))
        self.outputs += [self.developing, self.outcome, self.links]
        self._values: dict[str, int | None] = {}
        self._start_from: MemVector | None = None
        self._bits: tuple[np.ndarray, np.ndarray] = np.array([]), np.array([])
        self._stepped = 0.0
        self.forecasting = WorkerThread()
        """Its ``wait()`` blocks until the forecast is shown."""
        for name in ("pick_a", "pick_b"):
            self.curve.on_pick(name, self._pick_step)
        self.given.on_change(self._changed)
        for control in (self.tokens, self.k, self.seed):
            control.observe(self._changed, "value")
        self.while_busy = [*self.given.controls, *self._again.values()]
        self.while_busy += [child for line in (tokens, vectors, seeds) for child in line.children]
        self.show_widgets(
            "cram", self.given, row(tokens, vectors, seeds), self.ahead, self.buttons(), self.outcome,
            self.developing, self.curve, self.next, self.links,
        )  # fmt: skip
        self._changed()

    # Training --------------------------------------------------------------------------------------------------------

    def work(self) -> None:
        passage, start = self.passage(), self._start_from
        recipe = Recipe.default(k=self.k.value, seed=self.seed.value)
        self.developing.begin(passage)
        with contextlib.suppress(MemlabError):
            self._forecast(passage)  # the one that was asked for last may not have been made yet
        self._stepped = 0.0
        mem, trace, outcome = self.train(self.lm, passage, recipe, self.store, start)
        reading = read_tokens(self.lm, mem)
        self._show_outcome(mem, reading)
        csv = trace.to_csv(index=False, float_format="%.6g")
        python = card.python(mem) if mem.is_original else ""
        self.links.value = (
            download_links(mem.key[:12], csv, self.curve.svg(), python=python)
            + vector_link(mem)
            + '<span class="memlab-text memlab-note">In Python this vector is <code>panel.result</code>.</span>'
        )
        self.show_status(outcome)  # last: when "Done" appears, all results must be visible

    def watch(self, now: Progress) -> None:
        if self._stepped:
            note_step(self.lm, time.perf_counter() - self._stepped, now.positions)
        self._stepped = time.perf_counter()
        self.developing.add(now.steps[0], now.argmax[0] if now.argmax else np.array([], int), now.loss_bits[0])

    def passage(self) -> Passage:
        """What will be crammed: the first tokens of the text, or all of it if it is shorter."""
        return self.given.passage(self.lm, self.tokens.value)

    # What comes out ---------------------------------------------------------------------------------------------------

    def _show_outcome(self, mem: MemVector, reading: Reading) -> None:
        stored = not self.developing.development.steps
        first = badge("stored", "Was in your store") if stored else ""
        self.outcome.value = decoded_facts(self.lm, mem, reading.ids, first=first)
        self.developing.finish(mem, reading.ids, self._notes(mem, reading))
        n, k, exact = mem.n, mem.k, not len(wrong_tokens(mem, reading.ids))
        more, fewer = min(MOST, n + n // 2), max(2, 2 * n // 3)
        self._suggest("tokens", f"{more} tokens" if exact else f"{fewer} tokens", more if exact else fewer)
        self._suggest("k", f"{k + 1} vectors", k + 1)
        self._suggest("seed", "Another seed", mem.recipe.seed + 1)
        self._suggest("on", "Go on from here", None)
        all_of_it = n < self.tokens.value  # the text has no more tokens to offer
        names = (["seed"] if all_of_it else ["tokens", "seed"]) if exact else ["on", "tokens", "k", "seed"]
        shown = [self._again[name] for name in names if name != "k" or k < self.k.max]
        links = "".join(link_to(file, label) for label, file in NOTEBOOKS.items()) if exact else ""
        self.next.children = (w.HTML('<span class="memlab-text">Next:&nbsp;</span>'), *shown, w.HTML(links))

    def _notes(self, mem: MemVector, reading: Reading) -> list[str]:
        notes = []
        won = self.developing.development.won
        for i, token in enumerate(reading.tokens.itertuples()):
            parts = [f"Margin {token.margin:.1f} logits."]
            if i < len(won) and won[i] >= 0:
                parts.insert(0, f"Won at step {won[i]}.")
            if np.isfinite(token.before):
                parts.append(f"Costs {token.before:.1f} bits without the vector, {token.after:.1f} with it.")
            notes.append(" ".join(parts))
        return notes

    def _suggest(self, name: str, label: str, value: int | None) -> None:
        self._again[name].description = label
        self._again[name].tooltip = f"Cram again: {label}"
        self._values[name] = value

    def _go_again(self, name: str, _: Any) -> None:
        """Change one setting and cram, or go on with the vector that is there."""
        if self._thread.busy:
            return
        start = self.result if name == "on" else None
        if name != "on":
            getattr(self, name).value = self._values[name]
        self._begin(start)

    def _begin(self, start: MemVector | None = None) -> None:
        if not self._thread.busy:
            self.forecasting.asked += 1  # a forecast that waits is of no use any more
            self._start_from = start
            super()._begin()

    def clear(self) -> None:
        super().clear()
        for shown in self.next.children:
            if isinstance(shown, w.HTML):
                shown.close()
        self.next.children = tuple[w.Widget, ...]()

    def _pick_step(self, points: Any) -> None:
        if points:
            self.developing.go_to(int(points[0]["step"]))

    # Before training --------------------------------------------------------------------------------------------------

    def _changed(self, _: Any = None) -> None:
        """Something else will be crammed: show what, and soon also what that will take."""
        if self._thread.busy:
            return
        self.reset()
        self.forecasting.submit_latest(self._look_ahead, pause=PAUSE)

    def _look_ahead(self) -> None:
        asked = self.forecasting.asked
        try:
            passage, whole = self.passage(), self._longer(MOST + AFTER)
        except MemlabError as error:
            self.ahead.value = status_line(str(error))
            return
        n = len(passage)
        pieces = token_pieces(self.lm, np.concatenate([passage.ids, whole.ids[n : n + AFTER]]))
        if asked == self.forecasting.asked:
            self.developing.preview(pieces, n)
            self._forecast(passage)

    def _forecast(self, passage: Passage) -> None:
        """Say how large the passage is, whether it will fit, and how long that will take."""
        n, whole, asked = len(passage), self._longer(MOST + AFTER), self.forecasting.asked
        size = f"{counted(n, 'token')}: all of it." if len(whole) == n else f"The first {counted(n, 'token')}:"
        self.ahead.value = _line(size)
        recipe = Recipe.default(k=self.k.value, seed=self.seed.value)
        known = self.store is not None and key_of(self.lm, passage, recipe) in self.store
        bits = self._token_bits(passage, whole)
        rest = "It is in your store: it opens at once." if known else outlook(self.lm, bits, recipe)
        if asked == self.forecasting.asked:
            self.ahead.value = _line(f"{size} {rest}")

    def _longer(self, tokens: int) -> Passage:
        """Up to ``tokens`` tokens of the text."""
        text = self.given.text()
        for count in (tokens, None):
            with contextlib.suppress(PassageError):
                return self.lm.passage(text, count)
        return self.passage()  # for instance a model with a short context

    def _token_bits(self, passage: Passage, whole: Passage) -> np.ndarray:
        """Bits (n,) of a passage. A text is read once, whatever is cut off it."""
        ids, bits = self._bits
        n = len(passage)
        if not np.array_equal(ids[:n], passage.ids):
            longest = whole if np.array_equal(whole.ids[:n], passage.ids) else passage
            self._bits = ids, bits = longest.ids, self.lm.token_bits(longest.ids)
        return bits[:n]


def _line(message: str) -> str:
    return f'<div class="memlab-text">{html.escape(message)}</div>'


def vector_link(mem: MemVector) -> str:
    """A link that downloads the vector's file. The link contains the data: no server."""
    data = base64.b64encode(mem.to_bytes()).decode()
    address = f"data:application/octet-stream;base64,{data}"
    name = f"memlab-{mem.key[:12]}.safetensors"
    return f'<a class="memlab-link" download="{name}" href="{address}">Vector (safetensors)</a>'
