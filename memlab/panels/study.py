"""Panel of the optimizer study: how each setting changes the number of steps. A setting can be run again."""

from __future__ import annotations

from typing import Any

import ipywidgets as w
import pandas as pd

from memlab import charts
from memlab.decoding.decode import decode
from memlab.experiments.optimizer_study import progress_curves, ranking
from memlab.models import FrozenLM
from memlab.panels.base import LivePanel
from memlab.panels.decoded import readout_html
from memlab.panels.style import download_links, drawn, dropdown, plain_table
from memlab.recipes import Recipe, RecipeError
from memlab.results.store import Store
from memlab.texts import originals

REFERENCE = "incumbent"
_HEADINGS = {
    "contender": "setting",
    "exact": "exact",
    "median_steps": "median steps",
    "passes_per_exact": "token passes per exact passage",
    "bits": "bits per token left",
}
_FORMATS = {"median_steps": "{:.0f}", "passes_per_exact": "{:,.0f}", "bits": "{:.2f}"}


def study_panel(lm: FrozenLM, table: pd.DataFrame, store: Store | None = None) -> StudyPanel:
    """Pick a question, compare its settings with the default, and train one passage again with one of them.

    ``table`` is the table of ``memlab bench optimizer screen``. New vectors go into ``store``, if there is one.
    """
    return StudyPanel(lm, table, store)


class StudyPanel(LivePanel):
    """The panel of ``study_panel``."""

    def __init__(self, lm: FrozenLM, table: pd.DataFrame, store: Store | None = None) -> None:
        super().__init__("Run it again", icon="play", tooltip="Train this passage with this setting now")
        self.lm, self.table, self.store = lm, table, store
        reference = table.question[table.contender == REFERENCE].iloc[0]
        self.question = dropdown("Question", [name for name in table.question.unique() if name != reference])
        self.chart, self.ranked = w.HTML(), w.HTML()
        self.setting = dropdown("Setting")
        self.text = dropdown("Passage", list(dict.fromkeys(table.text_id)))
        self.decoded, self.links = w.HTML(), w.HTML()
        self.outputs += [self.decoded, self.links]
        self.question.observe(self._show, "value")
        self._show()
        self.show_widgets(
            "study", self.question, self.chart, self.ranked, self.setting, self.text, self.buttons(), self.curve,
            self.decoded, self.links,
        )  # fmt: skip

    def work(self) -> None:
        row = self.table[(self.table.contender == self.setting.value) & (self.table.text_id == self.text.value)].iloc[0]
        recipe = Recipe.from_json(row.recipe)
        text = next(text for text in originals() if text.id == row.text_id)
        passage = self.lm.passage(text, int(row.tokens), start=int(row.start))
        mem, trace, outcome = self.train(self.lm, passage, recipe, self.store)
        self.decoded.value = readout_html(self.lm, mem, decode(self.lm, [mem], batch=1)[0])
        csv = trace.to_csv(index=False, float_format="%.6g")
        self.links.value = download_links(mem.key[:12], csv, self.curve.svg())
        stored = f"{row.steps} steps" if row.exact else f"not exact after {row.steps} steps"
        self.show_status(f"{outcome} In the stored table: {stored}.")

    def _show(self, _: Any = None) -> None:
        group = self.table[(self.table.question == self.question.value) | (self.table.contender == REFERENCE)]
        title = f"Passages that are exact by each step: {self.question.value}"
        self.chart.value = drawn(
            lambda: charts.exact_by_step(progress_curves(group), highlight=REFERENCE).properties(title=title)
        )
        self.ranked.value = _ranking_html(ranking(group))
        names = [name for name in group.contender.unique() if self._can_run(group, name)]
        self.setting.options = names
        self.setting.value = names[0] if names else None
        self.start.disabled = not names
        self.show_status("Ready." if names else "These settings did not win. Their code was removed.")

    @staticmethod
    def _can_run(group: pd.DataFrame, name: str) -> bool:
        """Whether this version still has the setting's code, and the setting needs no parent vector."""
        try:
            Recipe.from_json(group.recipe[group.contender == name].iloc[0])
        except RecipeError:
            return False
        return not group.parent[group.contender == name].any()


def _ranking_html(table: pd.DataFrame) -> str:
    cells = {heading: table[name].map(_FORMATS.get(name, "{}").format) for name, heading in _HEADINGS.items()}
    return plain_table(pd.DataFrame(cells).replace("inf", "–"))
