"""Panel of information: what each token of a text costs the model, and how much of the text will fit."""

from __future__ import annotations

import html
from typing import Any

import ipywidgets as w
import numpy as np
import pandas as pd

from memlab.measures import capacity_fits
from memlab.measures.prediction import Predictor
from memlab.models import FrozenLM
from memlab.panels.base import LivePanel
from memlab.panels.cram import OWN
from memlab.panels.decoded import token_pieces
from memlab.panels.style import box, dropdown, number_input, plain_table, text_area
from memlab.texts import Text, originals

READ = 4000
"""Characters read from a bundled text: more than eight vectors hold, and few enough to take only seconds."""
_KS = (1, 2, 4, 8)


def information_panel(lm: FrozenLM, predictor: Predictor) -> InformationPanel:
    """Pick or type a text. See the bits of each token, windows of equal information, and the predicted horizons."""
    return InformationPanel(lm, predictor)


class InformationPanel(LivePanel):
    """The panel of ``information_panel``. ``bits`` (n,) are the token costs of the text that was read last."""

    def __init__(self, lm: FrozenLM, predictor: Predictor) -> None:
        super().__init__(
            "Read it", icon="eye", tooltip="Run the frozen model over the text once, about a second", stops=False
        )
        self.lm, self.predictor = lm, predictor
        self.bits: np.ndarray | None = None
        self._ids: np.ndarray = np.array([], np.int64)
        names = [OWN, *(text.id for text in originals())]
        # A text without a measured horizon, so the panel shows a real out-of-sample prediction.
        self.source = dropdown("Text", names, value="speech-retirement-of-a-postman")
        self.words = text_area("Words", rows=5)
        self.window, windows = number_input("Window", 100, 20, 1000)
        self.costs, self.prediction = w.HTML(), w.HTML()
        self.outputs += [self.costs, self.prediction]
        self.source.observe(self._show_text, "value")
        self.words.observe(self.reset, "value")
        self.window.observe(self._draw, "value")
        self._show_text()
        self.while_busy = [self.source, self.words]
        self.show_widgets(
            "information", self.source, self.words, windows, self.buttons(), self.costs, self.prediction
        )  # fmt: skip

    def clear(self) -> None:
        super().clear()
        self.bits = None

    def work(self) -> None:
        passage = self.lm.passage(Text("typed", self.words.value, "typed"), None)
        self._ids, self.bits = passage.ids, self.lm.token_bits(passage.ids)
        self._draw()
        n, total = len(self.bits), float(np.nansum(self.bits))
        self.show_status(f"Done: {n} tokens, {total:.0f} bits, {total / n:.1f} bits per token.")

    def _show_text(self, _: Any = None) -> None:
        original = next((text for text in originals() if text.id == self.source.value), None)
        self.words.value = original.string[:READ] if original else ""

    def _draw(self, _: Any = None) -> None:
        if self.bits is None:
            return
        windows = capacity_fits.equal_information(self.bits, self.window.value)
        self.costs.value = _costs(self.lm, self._ids, self.bits, windows, self.window.value)
        rows = []
        for k in _KS:
            horizon = self.predictor.horizon(self.bits, k)
            complete = " (the whole text)" if horizon.value >= len(self.bits) else ""
            vectors = str(k) if k in self.predictor.ks else f"{k} (extrapolated)"
            rows.append((vectors, f"{horizon.value:.0f}{complete}", f"{horizon.low:.0f} to {horizon.high:.0f}"))
        try:
            needed = self.predictor.vectors_needed(self.bits)
            summary = f"<b>{needed}</b> vector{'s' * (needed > 1)} for the whole text."
        except ValueError as error:
            summary = f"the number of vectors for the whole text is unknown. {html.escape(str(error))}"
        table = pd.DataFrame(rows, columns=["vectors", "tokens they will hold", "90 % interval"])
        summary = f'<div class="memlab-text">Predicted before any training: {summary}</div>'
        self.prediction.value = summary + plain_table(table)


def _costs(lm: FrozenLM, ids: np.ndarray, bits: np.ndarray, windows: list[tuple[int, int]], size: int) -> str:
    """HTML of the text: the more bits a token costs, the stronger its orange background; a bar ends each window."""
    ends = {end for _, end in windows}
    pieces = []
    for i, (piece, cost) in enumerate(zip(token_pieces(lm, ids), bits, strict=True)):
        strength = 0.0 if np.isnan(cost) else min(1.0, cost / 16)
        tip = "not scored" if np.isnan(cost) else f"{cost:.1f} bits"
        text = html.escape(piece).replace("\n", "&#8629;<br>")
        pieces.append(f'<span title="{tip}" style="background:rgba(213,94,0,{0.75 * strength:.2f})">{text}</span>')
        if i + 1 in ends:
            pieces.append('<span class="memlab-window"> &#9474; </span>')
    key = f"Stronger orange: more bits. Blue bars: windows of {size} bits each."
    return f'<div class="memlab-text memlab-note">{key}</div>' + box("".join(pieces), "memlab-text", "memlab-costs")
