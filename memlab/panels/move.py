"""Panel of robustness: change a stored vector, and read what it still decodes to."""

from __future__ import annotations

from typing import Any

import ipywidgets as w
import numpy as np
import pandas as pd

from memlab.decoding.decode import check, decode
from memlab.measures import geometry
from memlab.models import FrozenLM
from memlab.panels.base import LivePanel, vector_options
from memlab.panels.decoded import readout_html
from memlab.panels.style import download_links, dropdown, number_input, row, seed_input
from memlab.results.mem_vector import MemVector

NOISE, DROPOUT, ROUNDING = "noise, % of the norm", "numbers set to 0, %", "rounding, bits per number"


def move_panel(lm: FrozenLM, mems: list[MemVector]) -> MovePanel:
    """Change a stored vector by noise, dropout or rounding, and read what it still decodes to."""
    return MovePanel(lm, mems)


class MovePanel(LivePanel):
    """The panel of ``move_panel``. ``result`` is the last changed vector."""

    def __init__(self, lm: FrozenLM, mems: list[MemVector]) -> None:
        super().__init__(
            "Move it", icon="arrows-alt", tooltip="Change the vector and decode it freely, about a second", stops=False
        )
        self.lm, self.mems = lm, mems
        self.vector = dropdown("Vector", vector_options(mems))
        self.change = dropdown("Change", (NOISE, DROPOUT, ROUNDING))
        self.amount, self._amounts = number_input("How much", 10, 0, 100)
        self.seed, seeds = seed_input()
        self.decoded, self.links = w.HTML(), w.HTML()
        self.outputs += [self.decoded, self.links]
        self.change.observe(self._set_bounds, "value")
        for control in (self.vector, self.change, self.amount, self.seed):
            control.observe(self.reset, "value")
        self.while_busy = [self.vector, self.change, *self._amounts.children, *seeds.children]
        self.show_widgets(
            "move", self.vector, self.change, row(self._amounts, seeds), self.buttons(), self.decoded, self.links
        )

    def _set_bounds(self, _: Any = None) -> None:
        low, high = (2, 16) if self.change.value == ROUNDING else (0, 100)  # bits, or per cent
        for control in self._amounts.children:
            # The widget refuses a minimum above its maximum, so the maximum grows first.
            control.max = max(high, control.max)
            control.min, control.max = low, high

    def moved(self) -> MemVector:
        """The chosen vector, changed as the controls say."""
        mem, share = self.mems[self.vector.value], self.amount.value / 100
        if self.change.value == NOISE:
            return mem.perturb(share * float(np.linalg.norm(mem.mem)), seed=self.seed.value)
        if self.change.value == ROUNDING:
            return mem.quantise(self.amount.value)
        return mem.dropout(share, seed=self.seed.value)

    def work(self) -> None:
        moved = self.moved()
        self.result = moved = moved.with_checks(check(self.lm, moved))
        stored = self.mems[self.vector.value]
        ids = decode(self.lm, [moved], batch=1)[0]
        self.decoded.value = readout_html(self.lm, moved, ids)
        cosine = float(geometry.cosines(moved.mem.reshape(1, -1), stored.mem.reshape(1, -1))[0, 0])
        right = int((ids == moved.token_ids).sum())
        self.links.value = download_links("moved", _comparison_csv(self.lm, moved, ids))
        verdict = "it still decodes exactly" if moved.exact else f"{right} of {moved.n} tokens right"
        self.show_status(f"Done: cosine with the stored vector {cosine:.3f}; {verdict}.")


def _comparison_csv(lm: FrozenLM, mem: MemVector, ids: np.ndarray) -> str:
    """CSV of the passage's tokens next to the decoded tokens."""
    table = pd.DataFrame(
        {"true": [lm.decode_ids([i]) for i in mem.token_ids], "decoded": [lm.decode_ids([i]) for i in ids]}
    )
    return str(table.assign(right=ids == mem.token_ids).to_csv())
