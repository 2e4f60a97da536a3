"""Panel of information: what each token of a text costs the model, and where one vector's room for it ends."""

from __future__ import annotations

import html
from typing import Any

import ipywidgets as w
import numpy as np

from memlab.charts.colours import SURPRISAL
from memlab.charts.names import counted
from memlab.decoding.decode import decode
from memlab.errors import MemlabError
from memlab.measures.prediction import Predictor
from memlab.models import FrozenLM
from memlab.panels.base import LivePanel
from memlab.panels.decoded import decoded_facts, token_pieces
from memlab.panels.developing import DevelopingText
from memlab.panels.outlook import outlook
from memlab.panels.style import number_input
from memlab.panels.text_input import TextInput
from memlab.panels.tokens import TokenText
from memlab.recipes import Recipe
from memlab.results.store import Store
from memlab.texts import Text
from memlab.training.cram import Progress

READ = 4000
"""Characters read from a bundled text: more than eight vectors hold, and few enough to take only seconds."""
MOST = 512
"""The largest number of tokens that the panel crams."""
MOST_BITS = 16
"""Bits at which the background of a token is strongest."""
PAUSE = 0.3
"""Seconds without a further key before the text is read."""
_SHADE = f"color-mix(in srgb, {SURPRISAL} 75%, transparent)"
_LEGEND = (
    '<div class="memlab-text memlab-note">The background is the bits that a token costs: 0&nbsp;'
    f'<span style="display:inline-block;width:120px;height:0.9em;vertical-align:middle;'
    f'background:linear-gradient(90deg, transparent, {_SHADE})"></span>&nbsp;{MOST_BITS} or more. '
    "A bar: so much fits into one vector, two vectors, and so on. Underlined: for nine of ten texts one vector ends "
    "somewhere there.</div>"
)


def information_panel(lm: FrozenLM, predictor: Predictor, store: Store | None = None) -> InformationPanel:
    """Pick or type a text. While you type, see the bits of each token and where the vectors end; then cram it.

    Vectors go into ``store``, if there is one.
    """
    return InformationPanel(lm, predictor, store)


class InformationPanel(LivePanel):
    """The panel of ``information_panel``. ``bits`` (n,) are the token costs of the text that was read last."""

    def __init__(self, lm: FrozenLM, predictor: Predictor, store: Store | None = None) -> None:
        super().__init__("Cram it and see", icon="compress", tooltip="Train one vector for the first tokens")
        self.lm, self.predictor, self.store = lm, predictor, store
        self.bits: np.ndarray | None = None
        # A text without a measured horizon, so the panel shows a real out-of-sample prediction.
        self.given = TextInput("speech-retirement-of-a-postman", rows=4, shown=READ)
        self.source, self.words = self.given.source, self.given.words
        self.text = TokenText(
            "The text, by the bits of its tokens", hint="Point at a token to see its bits.", height="17em"
        )
        self.text.colour = SURPRISAL
        self.summary, self.ahead, self.verdict = w.HTML(), w.HTML(), w.HTML()
        self.tokens, tokens = number_input("Tokens", 100, 2, MOST, about="How many tokens the button crams")
        self.developing = DevelopingText(lm, lambda step: self.curve.set(place=step))
        self.outputs += [self.verdict, self.developing]
        self.given.on_change(self._ask)
        self.tokens.observe(self._look_ahead, "value")
        self.while_busy = [*self.given.controls, *tokens.children]
        self.start.layout.width = "auto"
        self.show_widgets(
            "information", self.given, self.text, w.HTML(_LEGEND), self.summary, tokens, self.ahead,
            self.buttons(), self.verdict, self.developing, self.curve,
        )  # fmt: skip
        self._ask()

    def work(self) -> None:
        passage = self.lm.passage(self._opening(), self.tokens.value)
        self.developing.begin(passage)
        mem, _, outcome = self.train(self.lm, passage, Recipe.default(), self.store)
        ids = decode(self.lm, [mem], batch=1)[0]
        self.verdict.value = decoded_facts(self.lm, mem, ids)
        self.developing.finish(mem, ids, [])
        self.show_status(outcome)

    def watch(self, now: Progress) -> None:
        self.developing.add(now.steps[0], now.argmax[0] if now.argmax else np.array([], int), now.loss_bits[0])

    def _opening(self) -> Text:
        text = self.given.text()
        return Text(text.id, text.string[:READ], text.source) if text.id == self.source.value else text

    def _ask(self, _: Any = None) -> None:
        """Read the text in the thread, unless it changes again within ``PAUSE``."""
        self._thread.submit_latest(self._read, pause=PAUSE)

    def _read(self) -> None:
        self.clear()
        self.bits = None
        self.start.disabled = True
        try:
            if not self.words.value.strip():
                self._show_nothing("Type or paste some text: it is read while you type.")
                return
            passage = self.lm.passage(self._opening(), None)
            self.bits = self.lm.token_bits(passage.ids)
            self._show_bits(passage.ids, self.bits)
        except MemlabError as error:
            self._show_nothing(str(error), error=True)

    def _show_nothing(self, message: str, *, error: bool = False) -> None:
        self.text.clear()
        self.summary.value = self.ahead.value = ""
        self.show_status(message, error=error)

    def _show_bits(self, ids: np.ndarray, bits: np.ndarray) -> None:
        n, costs = len(bits), np.nan_to_num(bits)
        horizon, ends = self.predictor.horizon(bits, 1), self.ends(bits)
        known = horizon.low > 1 or horizon.high < n
        zone = range(round(horizon.low), round(horizon.high)) if known else range(0)
        so_far = np.cumsum(costs)
        tips = [f"Token {i + 1}: {cost:.1f} bits; {so_far[i]:,.0f} bits so far." for i, cost in enumerate(costs)]
        if np.isnan(bits[0]):
            tips[0] = "Token 1: nothing stands before it, so it is not scored."
        below = [""] * n
        for k, end in enumerate(ends, 1):
            below[end - 1] = counted(k, "vector")
        self.text.show(
            token_pieces(self.lm, ids), kinds=["zone" if i in zone else "" for i in range(n)], below=below,
            shades=np.clip(costs / MOST_BITS, 0, 1), tips=tips, bars=[end - 1 for end in ends],
        )  # fmt: skip
        self.summary.value = f'<div class="memlab-text">{self._summary(bits, known)}</div>'
        self.tokens.max = min(MOST, n) if n > 2 else 2
        self.tokens.value = max(2, round(horizon.value))
        self._look_ahead()
        self.start.disabled = False
        self.show_status("Ready.")

    def ends(self, bits: np.ndarray) -> list[int]:
        """Tokens that one, two, ... vectors are predicted to hold, while that is less than the whole text."""
        ends: list[int] = []
        while (end := round(self.predictor.horizon(bits, len(ends) + 1).value)) < len(bits):
            if ends and end <= ends[-1]:
                break
            ends.append(end)
        return ends

    def _summary(self, bits: np.ndarray, known: bool) -> str:
        """HTML of what is predicted, before any training."""
        n, total, horizon = len(bits), float(np.nansum(bits)), self.predictor.horizon(bits, 1)
        said = [f"{n} tokens, {total:,.0f} bits, {total / n:.1f} bits per token."]
        low, high = round(horizon.low), round(horizon.high)
        interval = "" if not known else f" (nine of ten texts: {low} to {high})"
        if known and high >= n:
            interval = f" (nine of ten texts: at least {low})" if low < n else " (nearly certain)"
        held = "all of it" if horizon.value >= n else f"the first <b>{horizon.value:.0f}</b> tokens"
        said.append(f"Predicted before any training: one vector holds {held}{interval}.")
        if horizon.value < n:
            try:
                needed = self.predictor.vectors_needed(bits)
                most = max(self.predictor.ks)
                beyond = f" (measured: up to {most})" if needed > most else ""
                said.append(f"The whole text needs <b>{needed}</b> vectors{beyond}.")
            except ValueError as error:
                said.append(f"How many vectors the whole text needs is not known. {html.escape(str(error))}")
        return " ".join(said)

    def _look_ahead(self, _: Any = None) -> None:
        n = self.tokens.value
        self.start.description = f"Cram the first {n} tokens and see"
        if self.bits is not None:
            said = outlook(self.lm, self.bits[:n], Recipe.default())
            self.ahead.value = f'<div class="memlab-text memlab-note">{html.escape(said)}</div>'
