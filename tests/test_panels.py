"""Panels without a browser. test_browser.py drives them in one."""

import base64
import concurrent.futures
import contextlib
import doctest
import gc
import json
import pkgutil
import re
import subprocess
import sys
import threading
import time
import weakref
from importlib import import_module
from pathlib import Path

import pandas as pd
import pytest

from memlab import Plan, Recipe, StoreError, Text, charts, cram, load, panels
from memlab.experiments import optimizer_study
from memlab.experiments.session import Session
from memlab.panels import (
    OWN,
    cram_panel,
    readout,
    run_panel,
    setup,
    study_panel,
)
from memlab.panels.base import WorkerThread
from memlab.panels.decoded import show_decoded
from memlab.panels.style import STYLE, plain_table
from memlab.panels.tokens import TokenText
from memlab.sweeps.executors import WorkerError, Workers
from memlab.texts import originals, random_words
from memlab.training import cram as cram_module


@pytest.fixture
def panel(store):
    panel = cram_panel(load("toy:gemma3"), store)
    panel.tokens.value, panel.k.value = 8, 4
    return panel


def test_cram_shows_the_text_and_stores_the_vector(panel, store):
    panel.start.click()
    mem = panel.wait(60)
    assert mem.exact
    assert list(store.keys()) == [mem.key]
    assert mem.text.id == "fiction-salt-ferry"
    assert "memlab-badge-exact" in panel.outcome.value
    assert "".join(panel.developing.text.pieces) == "The salt"
    assert set(panel.developing.text.kinds) == {"right"}
    assert panel.curve.svg().startswith("<svg")
    assert panel.links.value.count("download=") == 4  # table, picture, Python, vector
    assert "Done" in panel.status.value
    assert panel.halt.disabled
    assert not panel.start.disabled
    panel.start.click()  # now from the store, with the stored trace
    assert panel.wait(60).to_bytes() == mem.to_bytes()
    assert panel.curve.svg().startswith("<svg")
    assert "Was in your store" in panel.outcome.value
    assert "memlab-badge-exact" in panel.outcome.value
    assert "nothing was trained" in panel.status.value


def test_bad_input_is_explained_in_the_status_line(panel):
    panel.source.value = OWN
    assert panel.words.value == ""
    for words, reason in [("", "There is no text yet"), ("<b>Gr\u00fc\u00df</b>", "cannot encode")]:
        panel.words.value = words
        panel.start.click()
        assert panel.wait(60) is None
        assert reason in panel.status.value
        assert not panel.start.disabled
    panel.words.value = "My own words"
    panel.start.click()
    assert panel.wait(60).text.id == "typed"


def test_stop_shows_the_unfinished_vector(panel, store):
    panel.source.value = OWN
    panel.words.value = "All of this is far too much for a toy to keep. " * 4
    panel.tokens.value, panel.k.value = 120, 1
    panel.start.click()
    while "Step" not in panel.status.value:
        threading.Event().wait(0.05)
    panel.halt.click()
    mem = panel.wait(60)
    assert not mem.exact
    assert "wrong" in panel.developing.text.kinds
    assert "Not exact:" in panel.outcome.value
    assert "Stopped at step" in panel.status.value
    assert list(store.keys()) == []


def test_all_clicks_of_a_panel_run_in_one_thread_even_after_an_error(panel, monkeypatch, capsys):
    threads, work = [], panel.work

    def failing_work():
        threads.append(threading.current_thread())
        work()
        raise RuntimeError("shown, and the next click works")

    monkeypatch.setattr(panel, "work", failing_work)
    for _ in range(2):
        panel.start.click()
        panel.wait(60)
    assert len(threads) == 2
    assert len(set(threads)) == 1
    assert "the next click" in panel.status.value
    assert capsys.readouterr().err.count("RuntimeError: shown") == 2


def test_worker_thread_runs_jobs_in_order_and_ends_with_its_owner():
    worker, done = WorkerThread(), []
    for i in range(3):
        worker.submit(lambda i=i: done.append((i, threading.current_thread())))
    worker.wait(60)
    assert [i for i, _ in done] == [0, 1, 2]
    assert not worker.busy
    thread = done[0][1]
    assert thread.is_alive()
    del worker
    thread.join(60)
    assert not thread.is_alive()


def test_an_owner_whose_method_was_a_job_can_be_garbage_collected():
    class Owner:
        def __init__(self):
            self.worker = WorkerThread()

        def work(self):
            pass

    owner = Owner()
    owner.worker.submit(owner.work)
    owner.worker.wait(60)
    reference = weakref.ref(owner)
    del owner
    for _ in range(100):
        gc.collect()
        if reference() is None:
            return
        time.sleep(0.02)
    pytest.fail("the thread keeps its owner alive")


@pytest.mark.slow
def test_a_running_job_does_not_delay_the_end_of_its_process():
    """A kernel must be able to shut down while a training runs."""
    code = "import time; from memlab.panels.base import WorkerThread; WorkerThread().submit(lambda: time.sleep(300))"
    subprocess.run([sys.executable, "-c", code + "; time.sleep(0.2)"], check=True, timeout=120)


@pytest.mark.parametrize("package", [charts, panels], ids=lambda package: package.__name__)
def test_examples_in_docstrings_run(package, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [package.__name__, *(f"{package.__name__}.{m.name}" for m in pkgutil.iter_modules(package.__path__))]
    results = [doctest.testmod(import_module(name)) for name in names]
    assert sum(result.attempted for result in results) >= 3
    assert not any(result.failed for result in results)


@pytest.mark.parametrize("package", [charts, panels], ids=lambda package: package.__name__)
def test_every_public_name_has_a_docstring(package):
    assert len(package.__all__) > 20
    assert [name for name in package.__all__ if not getattr(package, name).__doc__] == []


def test_every_class_of_the_style_sheet_is_used(panel):
    source = "".join(file.read_text() for file in Path(panels.__file__).parent.glob("*.[pj][ys]"))
    source += plain_table(pd.DataFrame({"a": ["b"]}))
    styled = set(re.findall(r"\.(memlab-[a-z]+)", STYLE))
    assert {name for name in styled if name not in source} == set()
    assert any(STYLE in child.value for child in panel.children if hasattr(child, "value"))


def test_two_panels_at_once(store):
    lm = load("toy:gemma3")
    panels = [cram_panel(lm, store) for _ in range(2)]
    for i, panel in enumerate(panels):
        panel.tokens.value, panel.k.value, panel.seed.value = 12, 4, i
        panel.start.click()
    assert [p.wait(60).exact for p in panels] == [True, True]


def test_slider_and_number_box_are_linked(panel):
    slider, box = panel.children[1].children[0].children  # the row of tokens
    slider.value = 31
    assert box.value == panel.tokens.value == 31
    assert slider.description


def test_decoded_text_is_escaped_and_its_wrong_tokens_marked():
    lm = load("toy:llama")
    truth, got = (lm.passage(s) for s in ("<b>&x", "<b>!x"))
    (mem,) = cram(lm, truth, Recipe.default(k=4, budget=1), progress=False)
    text = TokenText("Text")
    show_decoded(text, lm, mem, got.ids)
    shown = text.static_html()
    assert ">&lt;</span>" in shown
    assert shown.count("memlab-token-wrong") == 1
    assert "Token 4: wrong, should be &#x27;&amp;&#x27;." in shown
    assert "<rt>&amp;</rt>" in shown


def test_charts_need_no_network_and_have_jupyterlabs_vega_version():
    charts.use_offline_renderer()
    trace = pd.DataFrame({"step": [0, 1, 2], "loss": [9.0, 4.0, 1.0], "accuracy": [0.0, 0.5, 1.0]})
    chart = charts.training_curve(trace)
    bundle, _ = chart._repr_mimebundle_()
    spec = bundle["application/vnd.vegalite.v5+json"]
    assert spec["$schema"].endswith("v5.json")
    assert spec["config"]["background"] == "transparent"
    assert "http" not in json.dumps(spec).replace(spec["$schema"], "")
    assert charts.to_svg(chart).startswith("<svg")


def test_setup(store):
    lm, own_store = setup("toy:opt", store)
    assert lm is load("toy:opt")
    assert own_store is store


def test_edited_words_are_crammed_as_typed(panel):
    panel.words.value = "The salt and nothing else"
    panel.start.click()
    mem = panel.wait(60)
    assert mem.text.id == "typed"


def test_a_failing_store_leaves_the_vector_in_the_panel(panel, store, monkeypatch):
    monkeypatch.setattr(store, "put", lambda mem: (_ for _ in ()).throw(StoreError("disk full", [mem])))
    panel.start.click()
    assert panel.wait(60).exact
    assert "panel.result" in panel.status.value


def broken(*arguments, **options):
    raise ValueError("<no> ink\nand a second line")


def test_a_chart_that_fails_is_one_line_next_to_the_kept_vector(panel, store, monkeypatch):
    monkeypatch.setattr(charts, "training_curve", broken)
    panel.start.click()
    mem = panel.wait(60)
    assert mem.exact
    assert list(store.keys()) == [mem.key]
    assert "Done" in panel.status.value
    assert "".join(panel.developing.text.pieces) == "The salt"
    (error,) = panel.curve.children
    assert "could not be drawn. ValueError: &lt;no&gt; ink</span>" in error.value
    assert "memlab-error" in error.value
    assert panel.links.value.count("download=") == 3  # all but the picture


def test_a_failure_after_the_training_leaves_the_vector_in_the_panel(panel, store, monkeypatch, capsys):
    monkeypatch.setattr("memlab.panels.cram.read_tokens", broken)
    panel.start.click()
    mem = panel.wait(60)
    assert mem.exact
    assert list(store.keys()) == [mem.key]
    assert "ink" in panel.status.value
    assert "panel.result" in panel.status.value
    assert not panel.start.disabled
    assert "ValueError" in capsys.readouterr().err
    monkeypatch.undo()
    panel.words.value = ""
    panel.start.click()
    assert panel.wait(60) is None  # not the vector of the run before
    assert "panel.result" not in panel.status.value


def test_a_panel_opens_without_its_chart(study_table, store, monkeypatch):
    monkeypatch.setattr(charts, "exact_by_step", broken)
    (error,) = study_panel(*study_table, store).chart.children
    assert "could not be drawn" in error.value


def test_a_training_of_more_than_5000_steps_ends_in_its_panel(panel, store, monkeypatch):
    """Altair refuses tables of more than 5,000 rows: that once ended the panel, and lost the vector."""
    steps = 5100

    def long_cram(lm, passage, recipe, store, *, start, progress, on_step):
        (mem,) = cram_module.cram(lm, passage, recipe, store, progress=progress)
        for step in range(steps):
            on_step(cram_module.Progress((0,), (step,), (1.0,), (0.5,), (1.0,), 0, 1))
        return [mem]

    monkeypatch.setattr("memlab.panels.base.cram", long_cram)
    panel.start.click()
    assert panel.wait(60).exact
    assert "Done" in panel.status.value
    assert "of 5,100 steps are drawn" in panel.curve.svg()
    table = base64.b64decode(re.search('base64,([^"]*)', panel.links.value).group(1)).decode()
    assert len(table.splitlines()) == steps + 1  # the table has every step


def test_pages_without_widgets_show_a_copy_of_a_panel(panel):
    early = panel._repr_mimebundle_()
    assert set(early) == {"text/plain", "text/html", "application/vnd.jupyter.widget-view+json"}
    assert "Ready." in early["text/html"]
    assert "<img" not in early["text/html"]
    panel.start.click()
    mem = panel.wait(60)
    copy = panel._repr_mimebundle_()["text/html"]
    assert copy.count('src="data:image/png;base64,') == 1
    assert "<svg" not in copy
    assert "Done: " in copy
    assert STYLE in copy
    shown = readout(panel.lm, mem)._repr_mimebundle_()
    assert "Exact" in shown["text/html"]
    assert "application/vnd.jupyter.widget-view+json" in shown
    panel.close()
    assert panel._repr_mimebundle_ is None or "text/html" in panel._repr_mimebundle_()


def test_a_redacted_vector_has_a_readout(panel):
    panel.start.click()
    mem = panel.wait(60)
    text = readout(panel.lm, mem.redacted()).text
    assert "".join(text.pieces) == "The salt"
    assert "memlab-token-wrong" not in text.static_html()


@pytest.fixture
def study_table(store):
    lm = load("toy:gemma3")
    passages = [lm.passage(text, 6) for text in originals()[:3]]
    return lm, optimizer_study.study(Session(lm, store, progress=False), passages, CONTENDERS, budget=60)


CONTENDERS = {
    "the incumbent": {"incumbent": dict(k=4)},
    "a question": {"AdamW": optimizer_study.ADAMW | dict(lr=0.5, k=4), "other start": dict(k=4, start="other")},
    "another question": {"a stride": dict(k=4, lr=0.2)},
}


def test_study_panel_compares_settings_and_runs_one_again(study_table, store):
    lm, table = study_table
    panel = study_panel(lm, table, store)
    assert [name for _, name in panel.question.options] == ["a question", "another question"]
    assert "a stride" not in panel.ranked.value
    assert "AdamW" in panel.ranked.value
    assert {name for _, name in panel.setting.options} == {"incumbent", "AdamW"}  # the other one needs a parent
    before = panel.chart.spec
    panel.question.value = "another question"
    assert panel.chart.spec != before
    panel.setting.value, panel.text.value = "a stride", panel.text.options[1][1]
    panel.start.click()
    mem = panel.wait(60)
    row = table[(table.contender == "a stride") & (table.text_id == panel.text.value)].iloc[0]
    assert mem.key == row.key
    assert f"In the stored table: {row.steps} steps" in panel.status.value or not row.exact
    assert "64 tokens" not in panel.facts.value
    assert "6 tokens in 4 vectors" in panel.facts.value
    assert len(panel.decoded.pieces) == 6


def test_study_panel_disables_settings_whose_code_was_removed(study_table):
    lm, table = study_table
    table.loc[table.contender == "a stride", "recipe"] = '{"warp": 9}'
    table.loc[table.contender == "incumbent", "recipe"] = '{"warp": 9}'
    panel = study_panel(lm, table)
    assert panel.question.options[-1] == ("another question (to look at only)", "another question")
    panel.question.value = "another question"
    assert panel.start.disabled
    assert "code was removed" in panel.status.value
    assert "a stride" in panel.ranked.value


def test_run_panel_counts_done_and_failed_jobs_and_retries(store, monkeypatch):
    lm = load("toy:gemma3")
    texts = [*originals()[:4], Text("short", "ab")]
    plan = Plan.grid(lm, texts, tokens=[4, 5], recipes=Recipe.default(k=4, budget=60))
    panel = run_panel(plan, store)
    assert "0 of 8 done" in panel.counts.value
    assert "2 left out" in panel.counts.value
    assert "has 2 tokens" in panel.failures.value  # the reason is shown before anything runs
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
    failed = [panel.rows[key] for key in panel.report.failed]
    assert all("&lt;b&gt;out of luck" in row.state.value and "memlab-error" in row.state.value for row in failed)
    assert (panel.bar.value, panel.bar.bar_style) == (6, "danger")
    monkeypatch.undo()
    panel.start.click()
    panel.wait(60)
    assert "8 of 8 done" in panel.counts.value
    assert not any("out of luck" in row.state.value for row in panel.rows.values())
    assert panel.bar.bar_style == "success"
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
