"""Panel of arithmetic on vectors: choose a formula and vectors, move t, and read what the model writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ipywidgets as w
import numpy as np
import pandas as pd

from memlab.models import FrozenLM
from memlab.panels.decoded import show_mixture
from memlab.panels.instant import InstantPanel
from memlab.panels.picker import VectorPicker
from memlab.panels.style import download_links, dropdown
from memlab.panels.tokens import TokenText
from memlab.probes.arithmetic import FORMULAS, Mixture, Operands, combine, nearest_words, read_mixture
from memlab.results.mem_vector import MemVector
from memlab.results.store import Store

LEGEND = "Teal: A has this token at this place. Brown: B has it. Two colours: both have it. Plain: neither."


def arithmetic_panel(lm: FrozenLM, mems: Sequence[MemVector], store: Store | None = None) -> ArithmeticPanel:
    """Add, mix and scale vectors, and read at once what the model writes from the result."""
    return ArithmeticPanel(lm, mems, store)


class ArithmeticPanel(InstantPanel):
    """The panel of ``arithmetic_panel``. ``result``: the vector that the formula gives; ``mixture``: what it writes."""

    def __init__(self, lm: FrozenLM, mems: Sequence[MemVector], store: Store | None = None) -> None:
        super().__init__()
        self.lm = lm
        self.mixture: Mixture | None = None
        self.formula = dropdown("Formula", list(FORMULAS))
        self.t = w.FloatSlider(
            value=0.5, min=0, max=1, step=0.01, description="t", readout_format=".2f",
            style={"description_width": "90px"}, layout=w.Layout(width="100%", max_width="640px"),
        )  # fmt: skip
        self.vectors = {letter: VectorPicker(lm, mems, store) for letter in "ABC"}
        self.text = TokenText("What the model writes", hint=LEGEND, height="10em")
        self.links = w.HTML()
        self.outputs += [self.text, self.links]
        for place, (letter, picker) in enumerate(self.vectors.items()):
            picker.choice.description = letter
            if place < len(picker.mems):
                picker.choice.value = place
            picker.on_change(self.ask)
        self.formula.observe(self._set_formula, "value")
        self.t.observe(self.ask, "value")
        self.used = w.VBox()
        """The pickers of the vectors that the formula uses."""
        self.show_widgets("arithmetic", self.formula, self.used, self.t, self.status, self.text, self.links)
        self._set_formula()

    def _set_formula(self, _: Any = None) -> None:
        formula = FORMULAS[self.formula.value]
        self.used.children = tuple(self.vectors[letter] for letter in formula.operands)
        self.t.max = formula.most
        self.ask()

    def work(self) -> None:
        self.result = None
        a, b, c = (picker.value for picker in self.vectors.values())
        if a is None or (b is None and "B" in FORMULAS[self.formula.value].operands):
            self.clear()
            self.show_status("No vector is chosen.")
            return
        formula, t = self.formula.value, self.t.value
        used = FORMULAS[formula].operands
        b = b if b is not None and "B" in used else a
        c = c if c is not None and "C" in used else a
        mem = combine(formula, Operands(self.lm, a, b, c, self.vectors["A"].mems), t)
        self.mixture = mixture = read_mixture(self.lm, mem, a, b)
        self.result = mem
        marked = mixture._replace(of_b=np.zeros_like(mixture.of_b)) if b is a else mixture
        whose = show_mixture(self.text, self.lm, marked)
        table = pd.DataFrame({"token": self.text.pieces, "of": whose, "lead_logits": mixture.leads})
        self.links.value = download_links("arithmetic", table.to_csv(index=False))
        sure = f"The model's smallest lead is {mixture.leads.min():.2f} logits."
        status = f"Done: {mixture.of_a[: a.n].sum()} of {a.n} tokens of A"
        if b is a:
            status += f", at {mixture.distance_a:.0%} of A's norm from A. {sure}"
        else:
            status += (
                f", {mixture.of_b[: b.n].sum()} of {b.n} of B; at {mixture.distance_a:.0%} of A's norm from A, "
                f"{mixture.distance_b:.0%} from B. {sure}"
            )
        if "word" in formula:
            ids, cosines = nearest_words(self.lm, a)
            words = ", ".join(repr(self.lm.decode_ids([int(i)])) for i in ids)
            status += f" Nearest word: {words}, cosine {cosines.mean():.2f}."
        self.show_status(status)
