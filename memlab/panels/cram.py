"""Panel that crams a text with live curves, and shows what the vector decodes to."""

from __future__ import annotations

from typing import Any

import ipywidgets as w

from memlab.decoding.decode import decode
from memlab.models import FrozenLM
from memlab.panels.base import LivePanel
from memlab.panels.decoded import readout_html
from memlab.panels.style import download_links, dropdown, number_input, row, seed_input, text_area
from memlab.recipes import Recipe
from memlab.results.store import Store
from memlab.texts import Text, originals

OWN = "(my own words)"
SHOWN = 1000
"""The panel shows this many characters of a bundled text. If they are not edited, the complete text is used."""


def cram_panel(lm: FrozenLM, store: Store | None = None) -> CramPanel:
    """Pick or type a text, cram it with live curves, and read what the vector decodes to.

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
        super().__init__("Cram", icon="compress", tooltip="Train the vectors")
        self.lm, self.store = lm, store
        names = [OWN, *(text.id for text in originals())]
        self.source = dropdown("Text", names, value="fiction-salt-ferry")
        self.words = text_area("Words", rows=6)
        self.tokens, tokens = number_input("Tokens", 24, 2, 128)
        self.k, vectors = number_input("Vectors k", 1, 1, 8)
        self.seed, seeds = seed_input()
        self.decoded, self.links = w.HTML(), w.HTML()
        self.outputs += [self.decoded, self.links]
        self.source.observe(self._show_text, "value")
        self._show_text()
        self.show_widgets(
            "cram", self.source, self.words, row(tokens, vectors, seeds), self.buttons(), self.curve, self.decoded,
            self.links,
        )  # fmt: skip

    def work(self) -> None:
        original = self._original()
        unedited = original is not None and self.words.value == original.string[:SHOWN]
        text = original if original is not None and unedited else Text("typed", self.words.value, "typed")
        passage = self.lm.passage(text, self.tokens.value)
        recipe = Recipe.default(k=self.k.value, seed=self.seed.value)
        mem, trace, outcome = self.train(self.lm, passage, recipe, self.store)
        self.decoded.value = readout_html(self.lm, mem, decode(self.lm, [mem], batch=1)[0])
        csv = trace.to_csv(index=False, float_format="%.6g")
        self.links.value = download_links(mem.key[:12], csv, self.curve.svg())
        self.show_status(outcome)  # last: when "Done" appears, all results must be visible

    def _original(self) -> Text | None:
        return next((text for text in originals() if text.id == self.source.value), None)

    def _show_text(self, _: Any = None) -> None:
        original = self._original()
        self.words.value = original.string[:SHOWN] if original else ""
