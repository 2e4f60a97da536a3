"""The panel of the optimiser study: what each choice does to the steps a passage takes, and one of them run again."""

from __future__ import annotations

from typing import Any

import ipywidgets as w
import pandas as pd

from memlab import charts
from memlab.decoding.decode import decode
from memlab.experiments.optimizer_study import progress_curves, ranking
from memlab.models import FrozenLM
from memlab.panels.base import LivePanel, links, plain_table, say
from memlab.panels.cram import readout_html
from memlab.recipes import Recipe, RecipeError
from memlab.results.store import Store
from memlab.texts import originals

REFERENCE = "incumbent"
_COLUMNS = {
    "contender": "setting",
    "exact": "exact",
    "median_steps": "median steps",
    "passes_per_exact": "token passes an exact passage",
    "bits": "bits a token left",
}


def study_panel(lm: FrozenLM, table: pd.DataFrame, store: Store | None = None) -> StudyPanel:
    """Pick a question, see its settings beside the default's, and run one of them again, live."""
    return StudyPanel(lm, table, store)


class StudyPanel(LivePanel):
    """The panel of ``study_panel``; ``table`` is that of ``memlab bench recipe screen``."""

    def __init__(self, lm: FrozenLM, table: pd.DataFrame, store: Store | None = None) -> None:
        super().__init__("Run it again", icon="play", tooltip="Train this passage with this setting, now")
        self.lm, self.table, self.store = lm, table, store
        wide = {"description_width": "90px"}
        questions = [q for q in table.question.unique() if q != table.question[table.contender == REFERENCE].iloc[0]]
        self.question = w.Dropdown(options=questions, description="Question", style=wide)
        self.chart = w.HTML()
        self.ranked = w.HTML()
        self.setting = w.Dropdown(description="Setting", style=wide, layout=w.Layout(width="420px"))
        self.text = w.Dropdown(
            options=list(dict.fromkeys(table.text_id)), description="Passage", style=wide,
            layout=w.Layout(width="420px"),
        )  # fmt: skip
        self.decoded = w.HTML()
        self.links = w.HTML()
        self.question.observe(self._show, "value")
        self._show()
        picks = w.VBox([self.setting, self.text])
        self.children = [
            self.question, self.chart, self.ranked, picks, self.buttons(), self.curve, self.decoded, self.links,
        ]  # fmt: skip
        self.add_class("memlab-study-panel")

    def clear(self) -> None:
        super().clear()
        self.decoded.value = self.links.value = ""

    def work(self) -> None:
        row = self.table[(self.table.contender == self.setting.value) & (self.table.text_id == self.text.value)].iloc[0]
        recipe = Recipe.from_json(row.recipe)
        text = next(t for t in originals() if t.id == row.text_id)
        passage = self.lm.passage(text, int(row.tokens), start=int(row.start))
        mem, trace, outcome = self.train(self.lm, passage, recipe, self.store)
        self.decoded.value = readout_html(self.lm, mem, decode(self.lm, [mem], batch=1)[0])
        self.links.value = links(mem.key[:12], trace.to_csv(index=False, float_format="%.6g"), self.curve.value)
        self.result = mem
        then = f"{row.steps} steps" if row.exact else f"not exact after {row.steps}"
        self.status.value = outcome.replace("</span>", f" In the stored table: {then}.</span>")

    def _show(self, _: Any = None) -> None:
        group = self.table[(self.table.question == self.question.value) | (self.table.contender == REFERENCE)]
        chart = charts.exact_by_step(progress_curves(group), highlight=REFERENCE)
        self.chart.value = charts.to_svg(
            chart.properties(title=f"Passages exact after so many steps: {self.question.value}")
        )
        self.ranked.value = _html(ranking(group))
        names = [name for name in group.contender.unique() if self._runs(group, name)]
        self.setting.options = names
        self.setting.value = names[0] if names else None
        self.start.disabled = not names
        self.status.value = say("Ready." if names else "These settings lost, and their code was taken out.")

    @staticmethod
    def _runs(group: pd.DataFrame, name: str) -> bool:
        """Whether this version still has what the setting needs (what wins nowhere is taken out), and no parent."""
        try:
            Recipe.from_json(group.recipe[group.contender == name].iloc[0])
        except RecipeError:
            return False
        return not group.parent[group.contender == name].any()


def _html(table: pd.DataFrame) -> str:
    forms = {"median_steps": "{:.0f}", "passes_per_exact": "{:,.0f}", "bits": "{:.2f}"}
    shown = pd.DataFrame({label: table[c].map(forms.get(c, "{}").format) for c, label in _COLUMNS.items()})
    return plain_table(shown.replace("inf", "–"))
