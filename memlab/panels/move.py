"""Panel of robustness: change a vector, and read what it still decodes to."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ipywidgets as w
import numpy as np
import pandas as pd

from memlab import charts
from memlab.charts.names import text_title
from memlab.decoding.decode import check, decode
from memlab.measures import robustness
from memlab.models import FrozenLM
from memlab.panels.base import LivePanel
from memlab.panels.decoded import decoded_facts, show_decoded
from memlab.panels.picker import VectorPicker
from memlab.panels.style import box, download_links, dropdown, number_input, row, seed_input
from memlab.panels.tokens import TokenText
from memlab.probes.evaluate import Stopped
from memlab.probes.perturbation import exact_radius
from memlab.results.mem_vector import MemVector, VectorError
from memlab.results.store import Store

NOISE, DROPOUT, ROUNDING = "noise in a random direction", "numbers set to 0", "numbers rounded"
_LABELS = {NOISE: "Noise, %", DROPOUT: "Set to 0, %", ROUNDING: "Bits kept"}
_COLUMNS = ["what", "distance", "right", "exact"]


def move_panel(lm: FrozenLM, mems: Sequence[MemVector], moved: pd.DataFrame, store: Store | None = None) -> MovePanel:
    """Change a vector by noise, dropout or rounding, and read what it still decodes to.

    ``mems`` are the bundled vectors that are offered next to those in ``store`` (None: your own store). ``moved`` is
    ``geometry-noise`` of ``memlab bench geometry``: each try is a dot in the picture of these moved vectors.
    """
    return MovePanel(lm, mems, moved, store)


@dataclass(frozen=True)
class Try:
    """One changed vector."""

    what: str
    """Which vector, and how it was changed."""
    distance: float
    """How far it was moved, as a share of its norm."""
    right: float
    """Share of tokens that decode correctly, 0 to 1."""
    exact: bool


class MovePanel(LivePanel):
    """The panel of ``move_panel``. ``result`` is the last changed vector, ``tries`` is the table of all of them."""

    def __init__(
        self, lm: FrozenLM, mems: Sequence[MemVector], moved: pd.DataFrame, store: Store | None = None
    ) -> None:
        super().__init__("Change it", icon="arrows-alt", tooltip="Change the vector and decode it freely")
        self.lm, self._tries = lm, list[Try]()
        self._edge: float | None = None
        self._seek = self._quiet = False
        self._stored = robustness.survival_by_direction(moved, ("noise",))
        self.picker = VectorPicker(lm, mems, store)
        self.change = dropdown("Change", list(_LABELS))
        self.amount, self._amounts = number_input("Noise, %", 10, 0, 100, about="How much; decoded when it changes")
        self._slider = self._amounts.children[0]
        self._slider.continuous_update = False
        self.seed, self._seeds = seed_input(about="Another seed: another random direction, or other numbers")
        self.find = w.Button(description="Find the edge", icon="search", layout=w.Layout(width="130px"),
                             tooltip="Go on in the direction of the last change, until the text is lost")  # fmt: skip
        self.forget = w.Button(description="Clear tries", icon="eraser", layout=w.Layout(width="120px"))
        self.original, self.facts, self.links = w.HTML(), w.HTML(), w.HTML()
        self.text = TokenText("The text that the changed vector writes")
        self.picker.on_change(lambda _: self._show_original())
        self.change.observe(self._set_bounds, "value")
        for control in (self.amount, self.seed):
            control.observe(self._try_now, "value")
        self.find.on_click(lambda _: self._find_edge())
        self.forget.on_click(lambda _: self._clear_tries())
        self.while_busy = [
            *self.picker.controls, self.change, *self._amounts.children, *self._seeds.children, self.find, self.forget
        ]  # fmt: skip
        self.outputs = []
        self.show_widgets(
            "move", row(self.picker), row(self.change, self._seeds), self._amounts,
            w.HBox([self.start, self.find, self.halt, self.forget, self.status], layout=w.Layout(align_items="center")),
            self.curve, self.original, self.facts, self.text, self.links,
        )  # fmt: skip
        self._show_original()
        self._draw()

    @property
    def tries(self) -> pd.DataFrame:
        """One row per try: ``what distance right exact``. Distances and ``right`` are shares."""
        return pd.DataFrame([vars(one) for one in self._tries], columns=_COLUMNS)

    def moved(self) -> MemVector:
        """The chosen vector, changed as the controls say. Raises ``VectorError`` if none is chosen."""
        mem, share = self._chosen(), self.amount.value / 100
        if self.change.value == NOISE:
            return mem.perturb(share * float(np.linalg.norm(mem.mem)), seed=self.seed.value)
        if self.change.value == ROUNDING:
            return mem.quantise(self.amount.value)
        return mem.dropout(share, seed=self.seed.value)

    def work(self) -> None:
        seek, self._seek = self._seek, False
        moved, mem = self.moved(), self._chosen()
        if seek:
            self._seek_edge(mem, moved)
            return
        self._edge = None
        self._read(mem, moved)
        distance = self._tries[-1].distance
        self.show_status(f"Done: moved by {distance:.1%} of its norm.")

    def _read(self, mem: MemVector, moved: MemVector) -> None:
        """Decode a changed vector, show its text, and keep it as a try."""
        self.result = moved = moved.with_checks(check(self.lm, moved))
        ids = decode(self.lm, [moved], batch=1)[0]
        show_decoded(self.text, self.lm, moved, ids)
        self.facts.value = decoded_facts(self.lm, moved, ids)
        self._keep(mem, self._how(), _distance(mem, moved), float(np.mean(ids == moved.token_ids)), moved.exact)

    def _seek_edge(self, mem: MemVector, moved: MemVector) -> None:
        direction, how = moved.mem - mem.mem, f"on the way to: {self._how()}"
        if not direction.any():
            self.show_status("The change moves nothing, so it has no direction. Choose a larger change.", error=True)
            return
        trials = 0

        def on_trial(radius: float, exact: bool) -> bool:
            nonlocal trials
            trials += 1
            self.show_status(f"Try {trials}: at {radius:.1%} of its norm {'exact' if exact else 'not exact'}")
            return self.stopping.is_set()

        try:
            radius, fails = exact_radius(self.lm, mem, direction, on_trial=on_trial)
        except Stopped:
            self.show_status(f"Stopped after {trials} tries.")
            return
        self._edge = radius
        size = radius * float(np.linalg.norm(mem.mem)) / float(np.linalg.norm(direction))
        self._read(mem, mem.with_mem((mem.mem + size * direction).astype(np.float32), f"the edge, {how}"))
        beyond = f"lost at {fails:.1%}" if np.isfinite(fails) else "the search ended there"
        self.show_status(f"Done: {trials} tries. Exact up to {radius:.1%} of its norm; {beyond}.")

    def _chosen(self) -> MemVector:
        if self.picker.value is None:
            raise VectorError("No vector is chosen. Choose one, or make one in notebook 1.")
        return self.picker.value

    def _keep(self, mem: MemVector, how: str, distance: float, right: float, exact: bool) -> None:
        self._tries.append(Try(f"{text_title(mem.text.id)}: {how}", distance, right, exact))
        self._draw()

    def _draw(self) -> None:
        count = len(self._tries)
        title = f"Your {count} tries on the stored curve" if count > 1 else "Each try becomes a dot on the stored curve"
        self.curve.draw(
            lambda: charts.tries_on_survival(self._stored, self.tries, edge=self._edge).properties(title=title)
        )
        self.links.value = download_links("moved", self.tries.to_csv(index=False)) if count else ""

    def _how(self) -> str:
        if self.change.value == ROUNDING:
            return f"rounded to {self.amount.value} bits"
        what = "noise of {} %" if self.change.value == NOISE else "{} % set to 0"
        return f"{what.format(self.amount.value)}, seed {self.seed.value}"

    def _try_now(self, _: Any) -> None:
        if not self._quiet:
            self._begin()

    def _find_edge(self) -> None:
        self._seek = True
        self._begin()

    def _clear_tries(self) -> None:
        self._tries.clear()
        self._edge = None
        self._draw()

    def _show_original(self) -> None:
        """Another vector was chosen: show its text, and nothing that belongs to the last one."""
        self.text.clear()
        self.facts.value, self._edge, mem = "", None, self.picker.value
        text = "" if mem is None else f"The vector's text: {html.escape(self.lm.decode_ids(mem.token_ids))}"
        self.original.value = text and box(text, "memlab-text", "memlab-note")
        self.show_status("Ready. Move the slider, or press Change it.")

    def _set_bounds(self, _: Any = None) -> None:
        low, high, usual = (2, 16, 5) if self.change.value == ROUNDING else (0, 100, 10)  # bits, or per cent
        self._slider.description = _LABELS[self.change.value]
        self._quiet = True  # only a reader's own change is decoded
        for control in self._amounts.children:
            # The widget refuses a minimum above its maximum, so the maximum grows first.
            control.max = max(high, control.max)
            control.min, control.max = low, high
        self.amount.value = usual
        self._quiet = False
        self._set_busy(False)

    def _set_busy(self, busy: bool) -> None:
        super()._set_busy(busy)
        for control in self._seeds.children:
            control.disabled = busy or self.change.value == ROUNDING  # rounding has no random numbers


def _distance(mem: MemVector, moved: MemVector) -> float:
    """How far a vector was moved, as a share of its norm."""
    return float(np.linalg.norm(moved.mem - mem.mem) / np.linalg.norm(mem.mem))
