"""Panel of the optimizer study: how each setting changes the number of steps. A setting can be run again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ipywidgets as w
import numpy as np
import pandas as pd

from memlab import charts
from memlab.charts.names import display, text_title
from memlab.charts.tables import significant
from memlab.decoding.decode import decode
from memlab.experiments.optimizer_study import progress_curves, ranking
from memlab.models import FrozenLM, Passage
from memlab.panels.base import LivePanel
from memlab.panels.decoded import decoded_facts, show_decoded, token_pieces
from memlab.panels.live import LiveChart
from memlab.panels.style import download_links, dropdown, plain_table
from memlab.panels.tokens import TokenText
from memlab.recipes import Recipe, RecipeError
from memlab.results.store import Store
from memlab.texts import originals
from memlab.training.cram import Progress

REFERENCE = "incumbent"
TELLING = ("norm of the vector", "AdamW", "whitening with the model's metric")
"""Questions that the list begins with."""
QUESTIONS = {"whitening with the model's metric": "the model's preconditioner"}
"""{question in the table: how the panel calls it}, where the two differ."""
_HEADINGS = {
    "contender": "setting",
    "exact": "exact",
    "median_steps": "median steps",
    "passes_per_exact": "token passes per exact passage",
    "bits": "bits per token left",
}


def study_panel(lm: FrozenLM, table: pd.DataFrame, store: Store | None = None) -> StudyPanel:
    """Pick a question, compare its settings with the default, and train one passage again with one of them.

    ``table`` is the table of ``memlab bench optimizer screen``. New vectors go into ``store``, if there is one.
    """
    return StudyPanel(lm, table, store)


class StudyPanel(LivePanel):
    """The panel of ``study_panel``. The chart shows the stored runs, and the runs made here as marks."""

    def __init__(self, lm: FrozenLM, table: pd.DataFrame, store: Store | None = None) -> None:
        super().__init__("Run it again", icon="play", tooltip="Train this passage with this setting now")
        self.lm, self.table, self.store = lm, table, store
        self.runs: list[dict[str, Any]] = []
        """The runs made here with the chosen passage: what ``charts.exact_by_step`` draws as marks."""
        self._argmax: np.ndarray | None = None
        self.question = dropdown("Question", self._questions())
        self.chart, self.ranked = LiveChart(height=330), w.HTML()
        self.chart.layout.width = "680px"
        self.setting = dropdown("Setting")
        self.text = dropdown("Passage", [(text_title(name), name) for name in dict.fromkeys(table.text_id)])
        self.facts, self.links = w.HTML(), w.HTML()
        self.decoded = TokenText("Text decoded from the vector alone", height="15em")
        self.outputs = [self.facts, self.decoded, self.links]
        self.while_busy = [self.question, self.setting, self.text]
        self.question.observe(self._ask, "value")
        self.text.observe(self._forget, "value")
        self._ask()
        for choice in (self.setting, self.text):
            choice.layout.width = "auto"
        start = w.HBox([self.start, self.halt])
        controls = w.VBox(
            [self.setting, self.text, start, self.status, self.facts, self.decoded, self.links],
            layout=w.Layout(flex="1 1 380px", min_width="340px"),
        )
        both = w.HBox([self.chart, controls], layout=w.Layout(flex_flow="row wrap", align_items="flex-start"))
        self.show_widgets("study", self.question, both, self.ranked)

    def work(self) -> None:
        row = self._row(self.setting.value)
        passage = self._show_passage()
        mem, trace, outcome = self.train(self.lm, passage, Recipe.from_json(row.recipe), self.store)
        self._mark(row, mem.steps, mem.exact)
        ids = decode(self.lm, [mem], batch=1)[0]
        self.facts.value = decoded_facts(self.lm, mem, ids)
        show_decoded(self.decoded, self.lm, mem, ids)
        csv = trace.to_csv(index=False, float_format="%.6g")
        self.links.value = download_links(mem.key[:12], csv, self.chart.svg())
        stored = f"{row.steps} steps" if row.exact else f"not exact after {row.steps} steps"
        self.show_status(f"{outcome} In the stored table: {stored}.")

    def draw(self, trace: pd.DataFrame, recipe: Recipe) -> None:
        """Move the rule in the chart to the step that the training has reached, and mark the tokens right by then."""
        self.chart.set(step=int(trace.step.iloc[-1]))
        if (best := self._argmax) is not None:
            first = len(self._ids) - len(best)  # some recipes do not score the first token
            right = [i >= first and best[i - first] == token for i, token in enumerate(self._ids)]
            self.decoded.kinds = ["right" if hit else "waiting" for hit in right]

    def watch(self, now: Progress) -> None:
        self._argmax = now.argmax[0] if now.argmax else None

    def _questions(self) -> list[tuple[str, str]]:
        """(label, name): telling questions first, and those of which no setting can be run last."""
        reference = self.table.question[self.table.contender == REFERENCE].iloc[0]
        names = [name for name in self.table.question.unique() if name != reference]
        can = {name: bool(self._settings(self.table[self.table.question == name])) for name in names}
        names.sort(key=lambda name: (not can[name], TELLING.index(name) if name in TELLING else len(TELLING)))
        return [(QUESTIONS.get(name, name) + ("" if can[name] else " (to look at only)"), name) for name in names]

    @property
    def _group(self) -> pd.DataFrame:
        return self.table[(self.table.question == self.question.value) | (self.table.contender == REFERENCE)]

    def _row(self, contender: str) -> Any:
        return self.table[(self.table.contender == contender) & (self.table.text_id == self.text.value)].iloc[0]

    def _show_passage(self) -> Passage:
        """Show the chosen passage, pale: nothing has written it yet."""
        row = self.table[self.table.text_id == self.text.value].iloc[0]
        text = next(text for text in originals() if text.id == row.text_id)
        passage = self.lm.passage(text, int(row.tokens), start=int(row.start))
        self._ids, self._argmax = passage.ids, None
        self.decoded.hint = "The passage. While a vector trains, tokens that it gets right turn dark."
        self.decoded.show(token_pieces(self.lm, passage.ids), kinds=["waiting"] * len(passage))
        return passage

    def _ask(self, _: Any = None) -> None:
        """Show the chosen question."""
        self.clear()
        self._show_passage()
        group = self._group
        order = list(dict.fromkeys(progress_curves(group).contender))  # as in the chart
        self.ranked.value = _ranking_html(ranking(group).set_index("contender").loc[order].reset_index())
        names = [name for name in order if name in self._settings(group)]
        self.setting.options = [(display(name), name) for name in names]
        others = [name for name in names if name != REFERENCE]
        self.setting.value = others[0] if others else names[0] if names else None
        self.start.disabled = not names
        self.show_status("Ready." if names else "These settings did not win. Their code was removed.")
        self._draw()  # last: who sees the chart can choose among its settings

    def _forget(self, _: Any) -> None:
        """Another passage: the marks of the last one go."""
        self.runs.clear()
        self.reset()
        self._show_passage()
        self._draw()

    def _mark(self, row: Any, steps: int, exact: bool) -> None:
        """Keep a run, next to the stored run of the same passage and setting; a new run replaces the last one."""
        self.runs = [run for run in self.runs if run["contender"] != row.contender]
        same = self.table[self.table.contender == row.contender]
        share = float((same.exact & (same.steps <= row.steps)).mean())
        label = f"{display(row.contender)}: {steps} steps, stored {row.steps}"
        run = {"contender": row.contender, "share": share, "label": label}
        self.runs.append(run | {"step": float(row.steps), "now": False, "exact": bool(row.exact)})
        self.runs.append(run | {"step": float(steps), "now": True, "exact": exact})
        self._draw()

    def _draw(self) -> None:
        group = self._group
        columns = ["contender", "share", "label", "step", "now", "exact"]
        runs = pd.DataFrame([run for run in self.runs if run["contender"] in set(group.contender)], columns=columns)
        title = [f"Passages exact by each step: {QUESTIONS.get(self.question.value, self.question.value)}"]
        curves = progress_curves(group)
        self.chart.draw(
            lambda: charts.exact_by_step(curves, highlight=REFERENCE, width=380, height=270, runs=runs).properties(
                title=title
            )
        )

    def _settings(self, group: pd.DataFrame) -> list[str]:
        """Settings whose code this version still has, and which need no parent vector."""
        names: Sequence[str] = group.contender.unique()
        return [name for name in names if self._can_run(group, name)]

    @staticmethod
    def _can_run(group: pd.DataFrame, name: str) -> bool:
        try:
            Recipe.from_json(group.recipe[group.contender == name].iloc[0])
        except RecipeError:
            return False
        return not group.parent[group.contender == name].any()


def _ranking_html(table: pd.DataFrame) -> str:
    cells = table[list(_HEADINGS)].assign(
        contender=table.contender.map(display),
        median_steps=table.median_steps.map("{:.0f}".format),
        passes_per_exact=table.passes_per_exact.map(significant),
        bits=table.bits.map("{:.2f}".format),
    )
    return plain_table(cells.rename(columns=_HEADINGS))
