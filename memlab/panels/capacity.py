"""Panel of capacity runs: it decodes one stored vector and compares two protocols."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ipywidgets as w
import numpy as np
import pandas as pd

from memlab import charts
from memlab.decoding.decode import decode
from memlab.measures import capacity
from memlab.models import FrozenLM
from memlab.panels.base import LivePanel
from memlab.panels.decoded import readout_html
from memlab.panels.style import drawn, dropdown, plain_table
from memlab.probes.token_costs import gains
from memlab.results.checks import EXACT
from memlab.results.store import Store


def capacity_panel(lm: FrozenLM, runs: pd.DataFrame, store: Store | None = None) -> CapacityPanel:
    """Pick a passage and one of its runs, decode the stored vector, and compare the results of both protocols.

    ``runs`` is a table of ``memlab capacity``. ``store`` holds its vectors (default: the bundled store).
    """
    return CapacityPanel(lm, runs, store)


class CapacityPanel(LivePanel):
    """The panel of ``capacity_panel``."""

    def __init__(self, lm: FrozenLM, runs: pd.DataFrame, store: Store | None = None) -> None:
        super().__init__(
            "Decode it now",
            icon="play",
            tooltip="Read the stored vector and decode it freely, about 20 tokens per second",
        )
        self.lm, self.runs, self.store = lm, runs, store or Store.bundled()
        # The exact protocol comes first, if the table has it.
        protocols = sorted(dict.fromkeys(runs.protocol), key=lambda name: name != "exact")
        self.protocol = dropdown("Protocol", protocols)
        self.kind, self.text, self.run = dropdown("Texts"), dropdown("Passage"), dropdown("Run")
        self.attempts, self.along, self.decoded, self.explanation = w.HTML(), w.HTML(), w.HTML(), w.HTML()
        self.outputs += [self.decoded, self.explanation]
        self.protocol.observe(self._show_kinds, "value")
        self.kind.observe(self._show_texts, "value")
        self.text.observe(self._show_runs, "value")
        self.run.observe(self._show_run, "value")
        self.while_busy = [self.protocol, self.kind, self.text, self.run]
        self.show_widgets(
            "capacity", self.protocol, self.kind, self.text, self.attempts, self.run, self.along, self.buttons(),
            self.decoded, self.explanation,
        )  # fmt: skip
        self._show_kinds()

    def work(self) -> None:
        mem = self.store.get(self.run.value)

        def on_token(tokens: int) -> bool:
            if tokens % 8 == 0:
                self.show_status(f"Decoded {tokens} of {mem.n} tokens")
            return self.stopping.is_set()

        ids = decode(self.lm, [mem], batch=1, on_token=on_token)[0]
        if len(ids) < mem.n:
            self.show_status(f"Stopped after {len(ids)} of {mem.n} tokens.")
            return
        self.result = mem
        (costs,) = gains(self.lm, [mem]).to_dict("records")
        table = capacity.explain(
            costs["token_bits_without"],
            costs["token_bits_with"],
            costs["token_right_without"],
            costs["token_right_with"],
            ids == mem.token_ids,
        )
        self.decoded.value = f'<div class="memlab-scroll">{readout_html(self.lm, mem, ids)}</div>'
        self.explanation.value = plain_table(table.map(_cell))
        wrong = np.flatnonzero(ids != mem.token_ids)
        first_wrong = int(wrong[0]) if len(wrong) else None
        same = any(c.settings == EXACT and c.first_wrong == first_wrong for c in mem.checks)
        self.show_status(f"Done: decoded from the stored bytes, {'' if same else 'NOT '}as stored.", error=not same)

    def _passage_runs(self) -> pd.DataFrame:
        runs = self.runs[self.runs.protocol == self.protocol.value]
        return runs[(runs.texts == self.kind.value) & (runs.text_id == self.text.value)]

    def _set_options(self, control: w.Dropdown, options: list[Any], on_change: Callable[..., None]) -> None:
        """Replace the options and choose the first. ``on_change`` runs once, at the end, because each call draws."""
        control.unobserve(on_change, "value")
        control.options = options
        control.index = 0
        control.observe(on_change, "value")
        on_change()

    def _show_kinds(self, _: Any = None) -> None:
        kinds = self.runs.texts[self.runs.protocol == self.protocol.value]
        self._set_options(self.kind, list(dict.fromkeys(kinds)), self._show_texts)

    def _show_texts(self, _: Any = None) -> None:
        chosen = (self.runs.protocol == self.protocol.value) & (self.runs.texts == self.kind.value)
        self._set_options(self.text, list(dict.fromkeys(self.runs.text_id[chosen])), self._show_runs)

    def _show_runs(self, _: Any = None) -> None:
        runs = self._passage_runs().sort_values(["k", "length"])
        options = [(f"{_outcome(run)}, k = {run.k}, seed {run.seed}", run.key) for run in runs.itertuples()]
        self._set_options(self.run, options, self._show_run)

    def _show_run(self, _: Any = None) -> None:
        self.clear()
        run = self.runs[self.runs.key == self.run.value].iloc[0]
        self.attempts.value = self._draw_attempts(int(run.k))
        self.along.value = drawn(
            lambda: charts.bits_along(run.token_bits_without, run.token_bits_with, int(run.exact_prefix))
        )
        stored = self.run.value in self.store
        self.start.disabled = not stored
        absent = "This vector is not in the store. Run memlab capacity to train it again."
        self.show_status("Ready." if stored else absent)

    def _draw_attempts(self, k: int) -> str:
        """SVG of the passage's attempts, or an empty string if there is only one.

        An attempt that grew its text step by step is left out unless it is exact: it was not trained on all its text.
        """
        runs = self._passage_runs()
        runs = runs[(runs.k == k) & (runs.exact | (runs.tried == runs.tokens))]
        if len(runs) < 2:
            return ""
        title = f"Bits that {self.text.value} still costs with {k} vector{'s' * (k > 1)}"
        return drawn(lambda: charts.attempts_by_length(runs).properties(title=title))


def _outcome(run: Any) -> str:
    return f"all of {run.tokens} tokens" if run.exact else f"the first {run.exact_prefix} of {run.tokens} tokens"


def _cell(value: Any) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1 else f"{value:.0f}"
    return str(value)
