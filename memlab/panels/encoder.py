"""Panel of the encoder gap: what an encoder's vector writes, and searches that start from it and from noise."""

from __future__ import annotations

import html
from typing import Any

import ipywidgets as w
import numpy as np
import pandas as pd
import torch

from memlab import charts
from memlab.charts.encoders import ARMS, STARTS
from memlab.charts.names import counted
from memlab.decoding.decode import decode
from memlab.errors import MemlabError
from memlab.experiments.encoder_gap import started
from memlab.experiments.encoder_warm_start import starts_of
from memlab.experiments.landscape.method import Context
from memlab.experiments.landscape.reading import token_bits
from memlab.measures.encoder_gap import steps_to_loss
from memlab.models import FrozenLM, Passage
from memlab.panels.base import LivePanel, WorkerThread
from memlab.panels.decoded import decoded_facts, show_decoded
from memlab.panels.live import LiveChart
from memlab.panels.style import badge, download_links, dropdown, row, status_line
from memlab.panels.text_input import TextInput
from memlab.panels.tokens import TokenText
from memlab.probes.token_costs import own_bits
from memlab.recipes import Recipe
from memlab.results.mem_vector import MemVector
from memlab.results.store import Store
from memlab.texts import originals
from memlab.training.encoders import Encoder

LENGTHS = (8, 16, 32, 64)
"""Tokens that can be chosen, up to the longest that the encoder takes."""
ANGLES = (0.1, 0.2, 0.4)
"""First angles of a search that does not start from noise, radians."""
PAUSE = 0.25
"""Seconds without a further change before the encoder reads the text."""


def encoder_panel(lm: FrozenLM, encoder: Encoder, store: Store | None = None) -> EncoderPanel:
    """Pick or type a text: the encoder's vector writes it at once, and a search starts from it and from noise.

    Vectors that are found from noise go into ``store``, if there is one.
    """
    return EncoderPanel(lm, encoder, store)


class EncoderPanel(LivePanel):
    """The panel of ``encoder_panel``. ``read`` is the encoder's vector, ``curves`` the table of the searches."""

    def __init__(self, lm: FrozenLM, encoder: Encoder, store: Store | None = None) -> None:
        super().__init__("Search", icon="play", tooltip="Search from noise, and from the start that is chosen")
        self.lm, self.encoder, self.store = lm, encoder, store
        self.read: MemVector | None = None
        self.curves = _no_curves()
        self._bits = self._own = 0.0
        self._arm = "cold"
        self.given = TextInput("fiction-salt-ferry", rows=3, shown=400)
        lengths = [n for n in LENGTHS if n <= encoder.settings.longest]
        self.tokens = dropdown("Tokens", lengths, value=16 if 16 in lengths else lengths[-1])
        self.beginning = dropdown("Start also from", [(name, arm) for arm, name in ARMS.items()], value="own")
        self.angle = dropdown("First angle, radians", ANGLES, value=0.2)
        for choice in (self.tokens, self.beginning, self.angle):
            choice.layout.width = "auto"
            choice.style.description_width = "initial"
        self.facts, self.found, self.links = w.HTML(), w.HTML(), w.HTML()
        self.encoded = TokenText("What the encoder's vector writes", height="6.5em")
        self.decoded = TokenText("What the last vector that was searched for writes", height="6.5em")
        self.chart = LiveChart(height=330)
        self.chart.layout.min_width = "520px"
        self.outputs = [self.found, self.decoded, self.links]
        self.while_busy = [*self.given.controls, self.tokens, self.beginning, self.angle]
        self.reading = WorkerThread()
        """Its ``wait()`` blocks until the encoder's vector is shown."""
        self.given.on_change(self._changed)
        self.tokens.observe(self._changed, "value")
        texts = w.VBox(
            [
                _heading("The encoder, one pass"),
                self.facts,
                self.encoded,
                _heading("The search"),
                self.found,
                self.decoded,
                self.links,
            ],
            layout=w.Layout(flex="1 1 380px", min_width="340px"),
        )
        both = w.HBox([self.chart, texts], layout=w.Layout(flex_flow="row wrap", align_items="flex-start"))
        self.show_widgets("encoder", self.given, row(self.tokens, self.beginning, self.angle), self.buttons(), both)
        self._changed()

    def passage(self) -> Passage:
        """The first tokens of the text, or all of it if it is shorter."""
        return self.given.passage(self.lm, self.tokens.value)

    # The encoder ------------------------------------------------------------------------------------------------------

    def _changed(self, _: Any = None) -> None:
        """Another text: the encoder reads it soon, and the searches of the last one go."""
        if self._thread.busy:
            return
        self.reset()
        self.curves = _no_curves()
        self.reading.submit_latest(self._read, pause=PAUSE)

    def _read(self) -> None:
        asked = self.reading.asked
        try:
            passage = self.passage()
            vector = self.encoder.encode(passage.ids)
        except MemlabError as error:
            self.facts.value = status_line(str(error), error=True)
            return
        (mem,) = started(self.lm, [passage], Recipe.default(), [vector])
        bits, _ = token_bits(self.lm, Context(vector), passage.ids, ())
        ids = decode(self.lm, [mem], batch=1)[0]
        if asked != self.reading.asked:
            return
        self.read, self._bits = mem, float(bits.sum())
        self._own = own = float(own_bits(self.lm, passage.ids).sum())
        show_decoded(self.encoded, self.lm, mem, ids)
        wrong = np.flatnonzero(np.asarray(ids) != passage.ids)
        outcome = f"{counted(int(wrong[0]), 'token')} right, then wrong" if len(wrong) else "All tokens right"
        told = f"{counted(len(passage), 'token')}, {own:.0f} bits; {(own - self._bits) / own:.0%} of them recovered"
        self.facts.value = f'<div class="memlab-text">{badge("plain", outcome)}{html.escape(told)}</div>'
        self._draw()

    # The searches -----------------------------------------------------------------------------------------------------

    def work(self) -> None:
        self.reading.wait()
        passage = self.passage()
        self.curves = _no_curves()
        told = []
        for arm in ("cold", self.beginning.value):
            self._arm = arm
            recipe, parent, spent = self._start(arm, passage)
            store = self.store if parent is None else None
            mem, trace, _ = self.train(self.lm, passage, recipe, store, parent)
            self._keep(trace, mem.exact, spent)
            steps = f"{mem.steps + spent} steps" if mem.exact else f"not exact after {mem.steps + spent} steps"
            told.append(f"from {STARTS[arm]}: {steps}")
            ids = decode(self.lm, [mem], batch=1)[0]
            self.found.value = decoded_facts(self.lm, mem, ids)
            show_decoded(self.decoded, self.lm, mem, ids)
            if self.stopping.is_set():
                break
        worth = steps_to_loss(self.curves[self.curves.arm == "cold"].bits.to_numpy(), self._bits / len(passage))
        reached = f" The encoder is worth {worth:.1f} of the first steps." if np.isfinite(worth) else ""
        self.links.value = download_links("searches", self.curves.to_csv(index=False), self.chart.svg())
        said = "; ".join(told)
        self.show_status(f"{'Stopped' if self.stopping.is_set() else 'Done'}: {said}.{reached}")

    def _start(self, arm: str, passage: Passage) -> tuple[Recipe, MemVector | None, int]:
        """The recipe of a search, the result that it begins with, and the steps which that start has cost."""
        if arm == "cold":
            return Recipe.default(), None, 0
        recipe = Recipe.default(lr=self.angle.value)
        others = [text for text in originals() if text.id != passage.span.id]
        other = self.lm.passage(others[0], len(passage))
        starts: list[torch.Tensor] | None = starts_of(self.encoder, arm, [passage, other], others[-8:], recipe)
        assert starts is not None
        return recipe, started(self.lm, [passage], recipe, starts[:1])[0], int(arm == "gradient")

    def draw(self, trace: pd.DataFrame, recipe: Recipe) -> None:
        """The curve of the search that runs, next to those that are done."""
        self._keep(trace, False, int(self._arm == "gradient"))

    def _keep(self, trace: pd.DataFrame, exact: bool, spent: int) -> None:
        new = pd.DataFrame({"arm": self._arm, "step": trace.step + spent, "bits": trace.loss.astype(float)})
        new["exact"] = False
        if len(new):
            new.loc[new.index[-1], "exact"] = exact
        others = self.curves[self.curves.arm != self._arm]
        self.curves = pd.concat([others, new], ignore_index=True) if len(others) else new
        self._draw()

    def _draw(self) -> None:
        if self.read is None:
            return
        n, curves = self.read.n, self.curves
        levels = pd.DataFrame(
            [("without a vector", self._own / n), ("after the encoder's vector", self._bits / n)],
            columns=["name", "bits"],
        )
        self.chart.draw(lambda: charts.searches_from(levels, curves))


def _no_curves() -> pd.DataFrame:
    return pd.DataFrame({"arm": [], "step": [], "bits": [], "exact": []})


def _heading(words: str) -> w.HTML:
    return w.HTML(f'<div class="memlab-text"><b>{html.escape(words)}</b></div>')
