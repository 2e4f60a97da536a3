"""The panel of the optimizer study: what it opens with, and how a run is drawn into the chart that it repeats."""

import pandas as pd
import pytest

from memlab import load
from memlab.experiments import optimizer_study
from memlab.experiments.optimizer_study import progress_curves, ranking
from memlab.experiments.session import Session
from memlab.experiments.tables import stored
from memlab.panels import study_panel
from memlab.panels.study import TELLING
from memlab.texts import originals

CONTENDERS = {
    "the incumbent": {"incumbent": dict(k=4)},
    "a question": {"a stride": dict(k=4, lr=0.2), "AdamW": optimizer_study.ADAMW | dict(lr=0.5, k=4)},
}


@pytest.fixture
def opened(store):
    lm = load("toy:gemma3")
    passages = [lm.passage(text, 6) for text in originals()[:3]]
    table = optimizer_study.study(Session(lm, store, progress=False), passages, CONTENDERS, budget=60)
    return study_panel(lm, table, store), table


def marks(panel):
    """The runs drawn in the chart: (setting, steps, run now)."""
    found = set()
    for rows in panel.chart.spec["datasets"].values() if "datasets" in panel.chart.spec else ():
        found |= {(r["contender"], r["step"], r["now"]) for r in rows if "now" in r}
    for layer in panel.chart.spec["layer"]:
        for r in layer.get("data", {}).get("values", ()):
            if "now" in r:
                found.add((r["contender"], r["step"], r["now"]))
    return found


def run(panel, setting):
    panel.setting.value = setting
    panel.start.click()
    return panel.wait(60)


def test_two_settings_on_one_passage_stay_in_the_chart_side_by_side(opened):
    panel, table = opened
    assert marks(panel) == set()
    first, second = run(panel, "a stride"), run(panel, "incumbent")
    of_passage = table[table.text_id == panel.text.value].set_index("contender").steps
    assert marks(panel) == {
        ("a stride", first.steps, True), ("a stride", of_passage["a stride"], False),
        ("incumbent", second.steps, True), ("incumbent", of_passage["incumbent"], False),
    }  # fmt: skip
    panel.text.value = panel.text.options[2][1]
    assert marks(panel) == set()  # another passage: the marks of the last one are gone
    assert "Ready" in panel.status.value


def test_a_mark_stands_on_the_line_of_its_setting(opened):
    panel, table = opened
    run(panel, "a stride")
    curve = progress_curves(table)
    line = curve[curve.contender == "a stride"]
    for mark in panel.runs:
        if not mark["now"] and mark["exact"]:
            assert mark["share"] == pytest.approx(line[line.step <= mark["step"]].share.max())


def test_a_rule_moves_while_a_setting_trains(opened, monkeypatch):
    panel, _ = opened
    moved = []
    monkeypatch.setattr(panel.chart, "set", lambda **values: moved.append(values["step"]))
    monkeypatch.setattr("memlab.panels.base.REDRAW_EVERY", 0.0)
    panel.store = None  # so that it trains
    kinds = []
    panel.decoded.observe(lambda change: kinds.append(change["new"]), "kinds")
    mem = run(panel, "a stride")
    assert any("right" in seen and "waiting" in seen for seen in kinds)  # its tokens turn dark one after the other
    assert moved == sorted(moved)
    assert max(moved) == mem.steps


def test_the_table_and_the_labels_of_the_lines_have_one_order(opened):
    panel, table = opened
    names = [panel.ranked.value.index(f">{name}<") for name in dict.fromkeys(progress_curves(table).contender)
             if name != "incumbent"]  # fmt: skip
    assert names == sorted(names)


def test_curves_come_in_the_order_of_their_ends():
    study = stored("recipe-screen")
    for _, group in study.groupby("question"):
        ends = progress_curves(group).groupby("contender", sort=False).share.last()
        assert ends.is_monotonic_decreasing
        best = ranking(group).iloc[0]
        if best.share == ends.iloc[0]:
            assert ends.index[0] == best.contender


@pytest.mark.real
def test_the_stored_study_opens_with_a_telling_question(real):
    panel = study_panel(real, stored("recipe-screen"))
    names = [name for _, name in panel.question.options]
    assert tuple(names[: len(TELLING)]) == TELLING
    only_to_look = [label.endswith("(to look at only)") for label, _ in panel.question.options]
    assert only_to_look == sorted(only_to_look)
    for (label, name), closed in zip(panel.question.options, only_to_look, strict=True):
        panel.question.value = name
        others = {value for _, value in panel.setting.options} - {"incumbent"}
        assert bool(others) != closed, label
    assert pd.Series(names).is_unique
