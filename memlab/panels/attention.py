"""Panel of attention: how much the text attends to the vector, and the bits of each token."""

from __future__ import annotations

from typing import Any

import ipywidgets as w
import pandas as pd

from memlab import charts
from memlab.models import FrozenLM
from memlab.panels.base import LivePanel, vector_options
from memlab.panels.style import box, download_links, drawn, dropdown
from memlab.probes import attention
from memlab.results.mem_vector import MemVector

TARGETS = (("the vector", "on_mem"), ("the sink token", "on_first"), ("the text itself", "on_text"))


def attention_panel(lm: FrozenLM, mems: list[MemVector]) -> AttentionPanel:
    """Attention of a vector's text by layer and head, and the bits of each token without and with the vector."""
    return AttentionPanel(lm, mems)


class AttentionPanel(LivePanel):
    """The panel of ``attention_panel``. A click runs the model once, a second or two."""

    def __init__(self, lm: FrozenLM, mems: list[MemVector]) -> None:
        super().__init__(
            "Look",
            icon="search",
            tooltip="Run the model once over the vector and its text, about a second",
            stops=False,
        )
        self.lm, self.mems = lm, mems
        self._mass: pd.DataFrame | None = None
        self._name = ""
        """Passage and seed of the vector that the panel shows."""
        self.vector = dropdown("Vector", vector_options(mems))
        self.target = dropdown("Attention to", TARGETS)
        self.chart, self.bars, self.links = w.HTML(), w.HTML(), w.HTML()
        self.outputs += [self.chart, self.bars, self.links]
        self.target.observe(self._draw, "value")
        self.vector.observe(self.reset, "value")
        self.while_busy = [self.vector]
        self.show_widgets(
            "attention", self.vector, self.target, self.buttons(), self.chart, self.bars, self.links
        )  # fmt: skip

    def clear(self) -> None:
        super().clear()
        self._mass = None

    def work(self) -> None:
        self.result = mem = self.mems[self.vector.value]
        self._mass, self._name = attention.attention_mass(self.lm, mem), f"{mem.text.id}, seed {mem.recipe.seed}"
        self._draw()
        table = attention.waterfall(self.lm, mem)
        title = "Bits that each token costs the model"
        self.bars.value = drawn(lambda: charts.token_waterfall(table).properties(title=title))
        self.links.value = download_links("waterfall", table.to_csv(index=False), self.bars.value)
        scored = table.dropna()  # without the vector, nothing predicts the first token: it has no cost
        before, after = float(scored.before.sum()), float(scored.after.sum())
        self.show_status(f"Done: the vector saves {before - after:.0f} of {before:.0f} bits.")

    def _draw(self, _: Any = None) -> None:
        if self._mass is None:
            return
        if not len(self._mass):
            self.chart.value = box("This model has no attention.", "memlab-text")
            return
        target = {value: label for label, value in TARGETS}[self.target.value]
        title = f"Share of the text's attention to {target}"
        mass, column = self._mass, self.target.value
        self.chart.value = drawn(lambda: charts.attention_map(mass, column, title=title, subtitle=self._name))
