"""The panel of capacity runs: the strip, the text along its bits, the decode."""

import time

import numpy as np
import pandas as pd
import pytest

from memlab import Recipe, Store, charts, cram, load
from memlab.experiments import capacity as capacity_experiment
from memlab.experiments.session import Session
from memlab.experiments.tables import stored
from memlab.panels import capacity_panel, picker
from memlab.panels.capacity import grouped
from memlab.panels.picker import LAST
from memlab.texts import originals, random_words


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(picker, "_LAST", [])
    monkeypatch.setenv("MEMLAB_STORE", str(tmp_path / "own"))
    return Store(tmp_path / "store")


@pytest.fixture
def capacity_runs(store):
    lm = load("toy:gemma3")
    texts = {"originals": originals()[:2], "random": random_words(1)}
    runs = capacity_experiment.exact(
        Session(lm, store, progress=False), texts, ks=(4,), lengths=(1, 2, 10), first=2, attempts=1,
        recipe=Recipe.default(budget=80),
    )  # fmt: skip
    return lm, runs


def spot(panel, key):
    """What a click on the run's point in the strip sends."""
    return [{"i": int(panel.runs.index[panel.runs.key == key][0])}]


@pytest.mark.slow
def test_a_click_shows_the_run_and_the_decode_agrees_with_the_table(capacity_runs, store):
    lm, runs = capacity_runs
    panel = capacity_panel(lm, runs, store)
    assert len(panel.picker.mems) == len(runs)
    for row in runs.itertuples():
        panel._pick_run(spot(panel, row.key))
        assert panel.picker.value.key == row.key
        whole = row.exact_prefix == row.tokens
        title = f"All {row.tokens} tokens come back" if whole else f"The first {row.exact_prefix} of {row.tokens}"
        assert title in panel.curve.svg()
        assert ("memlab-badge-exact" in panel.verdict.value) == whole
        kinds = panel.text.kinds
        assert kinds.count("wrong") == (not whole)
        assert kinds.count("") == row.exact_prefix
        if not whole:
            assert kinds[row.exact_prefix] == "wrong"
            assert panel.text.focus == row.exact_prefix
        panel.start.click()
        mem = panel.wait(60)
        assert mem.key == row.key
        assert "Same result as in the table." in panel.status.value
        assert "decoded just now" in panel.verdict.value
        assert "tokens scored" in panel.explanation.value
        assert panel.text.kinds.count("wrong") == (not whole)
    panel._pick_run(spot(panel, runs.key.iloc[0]))
    assert panel.explanation.value == ""  # the explanation of another run is gone


def test_a_result_that_differs_from_the_table_is_an_error(capacity_runs, store):
    lm, runs = capacity_runs
    panel = capacity_panel(lm, runs.assign(exact_prefix=0), store)
    panel.picker.choose(next(mem for mem in panel.picker.mems if mem.exact))
    panel.start.click()
    panel.wait(60)
    assert "Not the stored result: 0 tokens" in panel.status.value
    assert "memlab-error" in panel.status.value


def test_text_and_chart_point_at_the_same_token(capacity_runs, store):
    lm, runs = capacity_runs
    panel = capacity_panel(lm, runs, store)
    panel.text.picked = 0
    assert panel.curve.children[0].params.place == 1
    panel._pick_token([{"token": 1}])
    assert panel.text.picked == 0
    panel._pick_token([])
    assert panel.text.picked == -1
    assert panel.curve.children[0].params.place == 0
    assert "1: " in panel.text.tips[0]
    assert "bits without the vector" in panel.text.tips[0]


def test_decoding_can_be_stopped(capacity_runs, store):
    lm, runs = capacity_runs
    panel = capacity_panel(lm, runs, store)
    panel.picker.choose(max(panel.picker.mems, key=lambda mem: mem.n))
    clear = panel.clear
    panel.clear = lambda: (clear(), panel.halt.click())  # Stop right after the start
    panel.start.click()
    panel.wait(60)
    assert "Stopped after 1 of" in panel.status.value
    assert panel.explanation.value == ""


def test_without_the_vector_one_sentence_says_why(capacity_runs, tmp_path):
    lm, runs = capacity_runs
    other = runs.assign(protocol="fixed", key=[f"{i:064x}" for i in range(len(runs))])
    novels = other.assign(texts="classics", text_id="classic-105")
    panel = capacity_panel(lm, pd.concat([novels, other, runs], ignore_index=True), Store(tmp_path / "empty"))
    assert panel.runs.group.tolist() == sorted(panel.runs.group.tolist())  # grown runs come first
    assert panel.start.disabled
    for key, texts, words in (
        (other.key[0], "originals", "memlab ships those of grown runs only"),
        (novels.key[0], "classics", "may not distribute the texts of novels"),
    ):
        run = panel.runs[(panel.runs.key == key) & (panel.runs.texts == texts)].iloc[0]
        panel._pick_run([{"i": int(run.i)}])
        assert words in panel.status.value
        assert "memlab capacity" in panel.status.value
        assert panel.start.disabled
        # The text of a bundled original is read all the same.
        assert bool(panel.text.pieces) == (texts == "originals")
        assert f"of {run.tokens} tokens come back" in panel.curve.svg() or "All" in panel.curve.svg()


def test_a_vector_of_your_own_opens_too(capacity_runs, store):
    lm, runs = capacity_runs
    panel = capacity_panel(lm, runs, store)
    (mem,) = cram(lm, lm.passage("The salt ferry left Quell", 5), Recipe.default(k=4, seed=7), progress=False)
    picker.remember(mem)
    panel.picker.source.value = LAST
    panel.wait(60)
    assert panel.shown.mem is mem
    assert "Your own words" in panel.verdict.value
    assert len(panel.text.pieces) == 5
    panel.start.click()
    panel.wait(60)
    assert "Same result" in panel.status.value


def test_the_panel_opens_without_its_charts(capacity_runs, store, monkeypatch):
    def broken(*arguments, **options):
        raise ValueError("no ink")

    lm, runs = capacity_runs
    for name in ("run_strip", "bits_along"):
        monkeypatch.setattr(charts, name, broken)
    panel = capacity_panel(lm, runs, store)
    assert "could not be drawn" in panel.strip.children[0].value
    panel.start.click()
    panel.wait(60)
    assert "Same result" in panel.status.value


def test_runs_have_names_a_reader_knows():
    runs = grouped(stored("capacity"))
    assert runs.group.unique().tolist() == [
        "grown, 1 vector", "grown, 2 to 8 vectors", "trained as a whole", "cut to equal bits",
        "recipe of arXiv 2502.13063",
    ]  # fmt: skip
    assert runs.i.tolist() == list(range(len(runs)))
    assert runs.title.str.fullmatch(r"[A-Z].*, \d+ tokens tried, \d vectors?").all()


@pytest.mark.real
def test_texts_of_runs_without_a_vector_are_those_that_were_trained(real):
    panel = capacity_panel(real, stored("capacity"))
    for group in ("trained as a whole", "cut to equal bits"):
        for texts in ("originals", "random"):
            run = panel.runs[(panel.runs.group == group) & (panel.runs.texts == texts)].iloc[5]
            bits = real.token_bits(panel._ids_of(run))
            assert bits[1:] == pytest.approx(np.asarray(run.token_bits_without)[1:], abs=1e-3)


@pytest.mark.real
def test_a_click_is_answered_within_200_ms(real):
    panel = capacity_panel(real, stored("capacity"))
    one = panel.runs[(panel.runs.group == "grown, 1 vector")].i.tolist()
    times = []
    for i in one:
        start = time.process_time()  # of this process: other work on the machine does not count
        panel._pick_run([{"i": i}])
        times.append(time.process_time() - start)
    assert np.median(times) < 0.2, times
