"""Charts and panels without a browser; test_browser.py looks at them in one."""

import concurrent.futures
import contextlib
import json
import threading

import numpy as np
import pandas as pd
import pytest

from memlab import Plan, Recipe, Store, StoreError, Text, charts, load
from memlab.experiments import capacity as capacity_experiment
from memlab.experiments import optimizer_study
from memlab.measures import capacity_fits, prediction
from memlab.panels import (
    OWN,
    capacity_panel,
    cram_panel,
    information_panel,
    marked,
    readout,
    run_panel,
    setup,
    study_panel,
)
from memlab.panels.base import LastingThread
from memlab.sweeps.executors import WorkerError, Workers
from memlab.texts import originals, random_words
from memlab.training import cram as cram_module


@pytest.fixture
def panel(store):
    panel = cram_panel(load("toy:gemma3"), store)
    panel.tokens.value, panel.k.value = 8, 4
    return panel


def test_cram_shows_the_text_and_keeps_the_vector(panel, store):
    panel.start.click()
    mem = panel.wait(60)
    assert mem.exact
    assert list(store.keys()) == [mem.key]
    assert mem.text.id == "fiction-salt-ferry"
    assert "exact" in panel.decoded.value
    assert "memlab-wrong" not in panel.decoded.value
    assert "<svg" in panel.curve.value
    assert panel.links.value.count("download=") == 2
    assert "Done" in panel.status.value
    assert panel.halt.disabled
    assert not panel.start.disabled
    panel.start.click()  # from the store now, with the stored trace
    assert panel.wait(60).to_bytes() == mem.to_bytes()
    assert "<svg" in panel.curve.value


def test_own_words_and_what_is_wrong_with_them(panel):
    panel.source.value = OWN
    assert panel.words.value == ""
    for words, reason in [("", "is empty"), ("Hm", "8 were asked for"), ("<b>Gr\u00fc\u00df</b>", "cannot encode")]:
        panel.words.value = words
        panel.start.click()
        assert panel.wait(60) is None
        assert reason in panel.status.value
        assert not panel.start.disabled
    panel.words.value = "My own words"
    panel.start.click()
    assert panel.wait(60).text.id == "typed"


def test_stop_shows_what_there_is(panel, store):
    panel.source.value = OWN
    panel.words.value = "All of this is far too much for a toy to keep. " * 4
    panel.tokens.value, panel.k.value = 120, 1
    panel.start.click()
    while "Step" not in panel.status.value:
        threading.Event().wait(0.05)
    panel.halt.click()
    mem = panel.wait(60)
    assert not mem.exact
    assert "memlab-wrong" in panel.decoded.value
    assert "Stopped at step" in panel.status.value
    assert list(store.keys()) == []


def test_every_press_is_served_by_one_thread_which_ends_with_its_panel(panel, monkeypatch, capsys):
    served, work = [], panel.work

    def watched():
        served.append(threading.current_thread())
        work()
        raise RuntimeError("seen, and the next press is served all the same")

    monkeypatch.setattr(panel, "work", watched)
    for _ in range(2):
        panel.start.click()
        panel.wait(60)
    assert len(served) == 2
    assert len(set(served)) == 1
    assert "the next press" in panel.status.value
    assert capsys.readouterr().err.count("RuntimeError: seen") == 2

    lasting, done = LastingThread(), []
    for i in range(3):
        lasting.ask(lambda i=i: done.append((i, threading.current_thread())))
    lasting.wait(60)
    assert [i for i, _ in done] == [0, 1, 2]
    assert not lasting.busy
    thread = done[0][1]
    assert thread.is_alive()
    del lasting
    thread.join(60)
    assert not thread.is_alive()


def test_two_panels_at_once(store):
    lm = load("toy:gemma3")
    panels = [cram_panel(lm, store) for _ in range(2)]
    for i, panel in enumerate(panels):
        panel.tokens.value, panel.k.value, panel.seed.value = 12, 4, i
        panel.start.click()
    assert [p.wait(60).exact for p in panels] == [True, True]


def test_sliders_and_boxes_go_together(panel):
    slider, box = panel.children[2].children[0].children
    slider.value = 31
    assert box.value == panel.tokens.value == 31
    assert slider.description


def test_marked_escapes_and_marks():
    lm = load("toy:llama")
    truth, got = (lm.passage(s).ids for s in ("<b>&x", "<b>!x"))
    shown = marked(lm, got, truth)
    assert "&lt;b&gt;" in shown
    assert shown.count("memlab-wrong") == 1
    assert "token 4: should be &#x27;&amp;&#x27;" in shown


def test_charts_need_no_network_and_speak_labs_version():
    charts.use_offline_renderer()
    trace = pd.DataFrame({"step": [0, 1, 2], "loss": [9.0, 4.0, 1.0], "accuracy": [0.0, 0.5, 1.0]})
    chart = charts.training_curve(trace)
    bundle = chart._repr_mimebundle_()
    spec = bundle["application/vnd.vegalite.v5+json"]
    assert spec["$schema"].endswith("v5.json")
    assert spec["config"]["background"] == "transparent"
    assert "http" not in json.dumps(spec).replace(spec["$schema"], "")
    assert charts.to_svg(chart).startswith("<svg")


def test_setup(store):
    lm, mine = setup("toy:opt", store)
    assert lm is load("toy:opt")
    assert mine is store


def test_edited_words_are_the_readers_own(panel):
    panel.words.value = "The salt and nothing else"
    panel.start.click()
    mem = panel.wait(60)
    assert mem.text.id == "typed"
    panel.words.value = "The"
    panel.start.click()
    assert panel.wait(60) is None
    assert "has 3 tokens" in panel.status.value


def test_a_store_that_fails_leaves_the_vector_in_the_panel(panel, store, monkeypatch):
    monkeypatch.setattr(store, "put", lambda mem: (_ for _ in ()).throw(StoreError("disk full", [mem])))
    panel.start.click()
    assert panel.wait(60).exact
    assert "panel.result" in panel.status.value


def test_a_redacted_vector_can_be_read_out(panel):
    panel.start.click()
    mem = panel.wait(60)
    shown = readout(panel.lm, mem.redacted()).value
    assert "The salt" in shown
    assert "memlab-wrong" not in shown


@pytest.fixture
def study_table(store):
    lm = load("toy:gemma3")
    passages = [lm.passage(text, 6) for text in originals()[:3]]
    return lm, optimizer_study.study(lm, passages, CONTENDERS, store, budget=60)


CONTENDERS = {
    "the incumbent": {"incumbent": dict(k=4)},
    "a question": {"AdamW": optimizer_study.ADAMW | dict(lr=0.5, k=4), "other start": dict(k=4, start="other")},
    "another question": {"a stride": dict(k=4, lr=0.2)},
}


def test_study_panel_answers_questions_and_runs_a_setting_again(study_table, store):
    lm, table = study_table
    panel = study_panel(lm, table, store)
    assert panel.question.options == ("a question", "another question")
    assert "a stride" not in panel.ranked.value
    assert "AdamW" in panel.ranked.value
    assert set(panel.setting.options) == {"incumbent", "AdamW"}  # the other one needs a parent
    before = panel.chart.value
    panel.question.value = "another question"
    assert panel.chart.value != before
    panel.setting.value, panel.text.value = "a stride", panel.text.options[1]
    panel.start.click()
    mem = panel.wait(60)
    row = table[(table.contender == "a stride") & (table.text_id == panel.text.value)].iloc[0]
    assert mem.key == row.key
    assert "<svg" in panel.curve.value
    assert f"In the stored table: {row.steps} steps" in panel.status.value or not row.exact


def test_study_panel_says_which_settings_are_gone(study_table):
    lm, table = study_table
    table.loc[table.contender == "a stride", "recipe"] = '{"warp": 9}'
    table.loc[table.contender == "incumbent", "recipe"] = '{"warp": 9}'
    panel = study_panel(lm, table)
    panel.question.value = "another question"
    assert panel.start.disabled
    assert "taken out" in panel.status.value
    assert "a stride" in panel.ranked.value


@pytest.fixture
def capacity_runs(store):
    lm = load("toy:gemma3")
    texts = {"originals": originals()[:2], "random": random_words(1)}
    runs = capacity_experiment.exact(
        lm, texts, store, ks=(4,), lengths=(1, 2, 10), first=2, attempts=1, recipe=Recipe.default(budget=80),
        progress=False,
    )  # fmt: skip
    return lm, runs


def test_capacity_panel_decodes_and_explains_what_is_stored(capacity_runs, store, monkeypatch):
    lm, runs = capacity_runs
    panel = capacity_panel(lm, runs, store)
    assert panel.kind.options == ("originals", "random")
    before, drawn, draw = panel.chart.value, [], charts.to_svg
    monkeypatch.setattr(charts, "to_svg", lambda chart: drawn.append(chart) or draw(chart))
    panel.text.value = panel.text.options[1]
    assert panel.chart.value != before
    assert len(drawn) == 2  # the attempts, and the run chosen: each once
    for label, key in panel.run.options:
        panel.run.value = key
        row = runs[runs.key == key].iloc[0]
        told = f"The first {row.exact_prefix} of {row.tokens} tokens" if not row.exact else f"All {row.tokens} tokens"
        assert told in panel.along.value
        panel.start.click()
        mem = panel.wait(60)
        assert mem.key == key
        assert ("all of" in label) == mem.exact
        assert "as stored" in panel.status.value
        assert "NOT" not in panel.status.value
        assert "tokens scored" in panel.told.value
        assert ("memlab-wrong" in panel.decoded.value) == (not mem.exact)
    panel.kind.value = "random"
    assert panel.text.options == ("random-0-000",)
    assert panel.told.value == ""  # what was told of another run is gone


def test_decoding_in_the_capacity_panel_can_be_stopped(capacity_runs, store):
    lm, runs = capacity_runs
    panel = capacity_panel(lm, runs, store)
    panel.halt.click()  # before it starts, which forgets it
    panel.start.click()
    panel.wait(60)
    assert "as stored" in panel.status.value
    told = panel.told.value
    begin = panel.clear
    panel.clear = lambda: (begin(), panel.halt.click())  # pressed as soon as it begins
    panel.start.click()
    panel.wait(60)
    assert "Stopped after 1 of" in panel.status.value
    assert told
    assert panel.told.value == panel.decoded.value == ""


def test_capacity_panel_begins_with_what_is_exact(capacity_runs, store):
    """A table may begin with runs of another protocol, whose vectors need not be there."""
    lm, runs = capacity_runs
    other = runs.assign(protocol="fixed", key=[f"{i:064x}" for i in range(len(runs))])
    panel = capacity_panel(lm, pd.concat([other, runs], ignore_index=True), store)
    assert panel.protocol.options == ("exact", "fixed")
    assert not panel.start.disabled


def test_capacity_panel_says_what_it_has_no_vector_of(capacity_runs, tmp_path):
    lm, runs = capacity_runs
    panel = capacity_panel(lm, runs, Store(tmp_path / "empty"))
    assert panel.start.disabled
    assert "not in the store" in panel.status.value


def test_information_panel_reads_a_text_and_predicts():
    lm = load("toy:gemma3")
    rng = np.random.default_rng(0)
    bits = [rng.exponential(6, 100) for _ in range(6)]
    predictor = prediction.fit(bits, [20, 25, 30, 22, 27, 24])
    panel = information_panel(lm, predictor)
    panel.source.value = OWN
    panel.words.value = "The <b>salt</b>\nferry left Quell at first light"
    panel.start.click()
    panel.wait(60)
    assert "Done" in panel.status.value, panel.status.value
    assert "&lt;" in panel.shown.value
    assert "<b>" not in panel.shown.value
    total = float(np.nansum(panel.bits))
    for width in (50, 20):
        panel.window.value = width
        windows = panel.shown.value.count("memlab-window")
        assert windows == len(capacity_fits.equal_information(panel.bits, width)) > 0
        assert windows == pytest.approx(total / width, abs=1.5)
    assert f"<b>{predictor.vectors_needed(panel.bits)}</b> vector" in panel.told.value
    assert "2 (extrapolated)" in panel.told.value  # one vector was measured
    assert "1 (extrapolated)" not in panel.told.value
    panel.words.value = "x" * 5000
    assert panel.shown.value == panel.told.value == ""  # what was said of another text is gone
    assert "Ready" in panel.status.value
    panel.start.click()
    panel.wait(60)
    assert "longer than toy:gemma3" in panel.status.value
    assert panel.shown.value == ""
    panel.window.value = 60  # nothing was read: nothing is drawn
    assert panel.shown.value == ""


def test_run_panel_shows_what_is_done_what_failed_and_goes_on(store, monkeypatch):
    lm = load("toy:gemma3")
    texts = [*originals()[:4], Text("short", "ab")]
    plan = Plan.grid(lm, texts, tokens=[4, 5], recipes=Recipe.default(k=4, budget=60))
    panel = run_panel(plan, store)
    assert "0 of 8 done" in panel.counts.value
    assert "2 left out" in panel.counts.value
    assert "has 2 tokens" in panel.failures.value  # why a text was left out is there before anything runs
    real = cram_module.TrainingJob.result

    def stubborn(self):
        if self.passage.span.id == texts[0].id:
            raise RuntimeError("<b>out of luck</b>")
        return real(self)

    monkeypatch.setattr(cram_module.TrainingJob, "result", stubborn)
    panel.start.click()
    panel.wait(60)
    assert len(panel.report.failed) == 2
    assert "2 failed" in panel.counts.value
    assert "&lt;b&gt;out of luck" in panel.failures.value
    assert texts[0].id in panel.failures.value
    assert panel.bar.value == 6
    monkeypatch.undo()
    panel.start.click()
    panel.wait(60)
    assert "8 of 8 done" in panel.counts.value
    assert "out of luck" not in panel.failures.value
    assert "Done: 2 trained now" in panel.status.value
    assert panel.links.value.count("download=") == 1


def test_run_panel_opens_and_closes_workers_and_links_to_their_dashboard(store):
    lm = load("toy:gemma3")
    opened = []

    @contextlib.contextmanager
    def workers():
        opened.append("in")
        yield Workers(InThisProcess, "http://127.0.0.1:1/status", 1)
        opened.append("out")

    class InThisProcess(concurrent.futures.ThreadPoolExecutor):
        def __init__(self):
            opened.append(panel.dashboard.value)
            super().__init__(1)

    panel = run_panel(Plan.grid(lm, originals()[:2], tokens=4, recipes=Recipe.default(k=4)), store, workers=workers)
    panel.start.click()
    panel.wait(60)
    assert "Done: 2 trained now" in panel.status.value
    assert opened[::2] == ["in", "out"]
    assert 'href="http://127.0.0.1:1/status"' in opened[1]
    assert panel.dashboard.value == ""

    @contextlib.contextmanager
    def none():
        raise WorkerError("no workers today")
        yield

    other = run_panel(panel.plan, store, workers=none)
    other.start.click()
    other.wait(60)
    assert "no workers today" in other.status.value


def test_run_panel_can_be_stopped(store):
    lm = load("toy:gemma3")
    plan = Plan.grid(lm, random_words(6), tokens=60, recipes=Recipe.default(budget=400))
    panel = run_panel(plan, store)
    panel.start.click()
    while "Running" not in panel.status.value:
        threading.Event().wait(0.02)
    panel.halt.click()
    panel.wait(60)
    assert "Stopped" in panel.status.value
    assert "are left: run it again" in panel.status.value
    assert not panel.start.disabled
