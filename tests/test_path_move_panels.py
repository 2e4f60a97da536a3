"""The panels between two solutions and of moved vectors, without a browser, on a toy model."""

import threading
import time

import numpy as np
import pytest

from memlab import Recipe, Store, cram, load
from memlab.decoding.decode import decode
from memlab.experiments import geometry_tables as tables
from memlab.experiments.solutions import solutions
from memlab.experiments.tables import TableError, stored
from memlab.measures import geometry
from memlab.panels import move_panel, path_panel, written_between
from memlab.panels.move import DROPOUT, NOISE, ROUNDING
from memlab.panels.path import MEASURE, READ
from memlab.probes import paths
from memlab.probes.evaluate import Stopped
from memlab.probes.perturbation import exact_radius
from tests.conftest import random_passages

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def solved(tmp_path_factory):
    lm = load("toy:llama")
    store = Store(tmp_path_factory.mktemp("solutions"))
    recipes = [Recipe.default(budget=80, k=2, seed=seed) for seed in range(4)]
    cram(lm, [p for p in random_passages(lm, 4, 4) for _ in recipes], recipes * 4, store, progress=False)
    return lm, store, solutions(store, lm, tokens=4)


@pytest.fixture(scope="module")
def path_places(solved):
    lm, _, mems = solved
    return tables.path_table(lm, mems, count=2, steps=10)


def test_the_table_holds_the_written_tokens_and_the_bend_of_each_curve(solved, path_places):
    lm, store, _ = solved
    for (_, way), rows in path_places.groupby(["pair", "way"]):
        a, b = store.get(rows.a.iloc[0]), store.get(rows.b.iloc[0])
        right = [int((np.asarray(ids) == a.token_ids).sum()) for ids in rows.ids]
        assert right == rows.right.tolist()
        if way == "curve":
            bend = np.asarray(rows.bend.iloc[0], np.float32).reshape(a.mem.shape)
            places = [geometry.bezier(a.mem, bend, b.mem, [t])[0].astype(np.float32) for t in rows.t]
            written = decode(lm, [a.with_mem(place, "curve") for place in places])
            np.testing.assert_array_equal(np.stack(written), np.stack(rows.ids.to_list()))
        else:
            assert all(len(bend) == 0 for bend in rows.bend)


def shown(panel):
    return "".join(panel.text.pieces)


def test_the_slider_shows_the_stored_text_without_decoding(solved, path_places, monkeypatch):
    lm, store, _ = solved
    panel = path_panel(lm, path_places, store)
    monkeypatch.setattr("memlab.panels.path.decode", lambda *_, **__: pytest.fail("nothing is decoded"))
    rows = path_places[(path_places.pair == 0) & (path_places.way == "line")]
    for place, row in zip(range(0, 101, 5), rows.itertuples(), strict=True):
        panel.place.value = place
        assert shown(panel) == lm.decode_ids(row.ids)
        assert ("Exact" in panel.facts.value) == row.exact == ("wrong" not in panel.text.kinds)
        assert f"{row.bits:.2f} bits per token" in panel.status.value
        assert panel.curve._live.params.place == place / 100  # the rule in both pictures
    panel.way.value = "curve"
    assert "trained curve" in panel.status.value


def test_slow_moves_are_answered_within_200_ms(solved, path_places):
    lm, store, _ = solved
    panel = path_panel(lm, path_places, store)

    def fastest(change):
        times = []
        for value in (0, 1, 0, 1, 0):
            start = time.perf_counter()
            change(value)
            times.append(time.perf_counter() - start)
        return min(times)

    assert fastest(lambda i: setattr(panel.place, "value", (20, 80)[i])) < 0.2
    assert fastest(lambda i: setattr(panel.pair, "value", i)) < 0.4  # two pictures are drawn


def test_a_place_between_the_stored_ones_is_read_at_once(solved, path_places):
    lm, store, _ = solved
    panel = path_panel(lm, path_places, store)
    slider = panel._places.children[0]
    panel.place.value = 37
    mem = panel.wait(60)
    a, b = panel.ends
    np.testing.assert_array_equal(mem.mem, a.lerp(b, 0.37).mem)
    assert (panel.place.value, slider.value) == (37, 35)  # the slider stands at the nearest stored place
    assert "read now" in panel.status.value
    assert shown(panel) == lm.decode_ids(decode(lm, [mem], batch=1)[0])
    slider.value = 40
    assert panel.place.value == 40


def test_places_of_all_paths_are_vectors(solved, path_places):
    lm, store, _ = solved
    panel = path_panel(lm, path_places, store)
    a, b = panel.ends
    bend = np.asarray(path_places[path_places.way == "curve"].bend.iloc[0]).reshape(a.mem.shape)
    expected = {
        "line": (a.mem + b.mem) / 2,
        "curve": (a.mem + 2 * bend + b.mem) / 4,
        "nowhere": a.perturb(float(np.linalg.norm(b.mem - a.mem)) / 2, seed=0).mem,
    }
    panel.place.value = 50
    for way, mem in expected.items():
        panel.way.value = way
        np.testing.assert_allclose(panel.result.mem, mem, rtol=1e-4, atol=1e-5)
        panel.start.click()
        assert panel.wait(60).provenance["derived"]


def test_a_click_on_a_dot_goes_to_that_place(solved, path_places):
    lm, store, _ = solved
    panel = path_panel(lm, path_places, store)
    panel._pick([{"t": 0.3, "way": "curve"}])
    assert (panel.place.value, panel.way.value) == (30, "curve")
    assert panel._places.children[0].value == 30
    panel._pick([])
    assert panel.place.value == 30


def test_pairs_of_the_readers_own_are_measured_and_then_shown(solved, path_places):
    lm, store, _ = solved
    known = path_places[path_places.pair == 0]
    panel = path_panel(lm, known, store)
    own = [pair for label, pair in panel.pair.options if label.startswith("yours: ")]
    assert len(own) == len(panel.pair.options) - 1 > 0
    used = {mem.key for pair in own for mem in panel._own[pair]}
    assert not used & {known.a.iloc[0], known.b.iloc[0]}
    panel.pair.value = own[-1]
    assert panel.start.description == MEASURE
    assert "not measured" in panel.status.value
    panel.start.click()
    panel.wait(120)
    assert panel.start.description == READ
    rows = panel.table[panel.table.pair == own[-1]]
    assert set(rows.way) == set(known.way)
    assert [mem.key for mem in panel.ends] == [rows.a.iloc[0], rows.b.iloc[0]]
    assert shown(panel)
    panel.way.value, panel.place.value = "nowhere", 100
    assert shown(panel) == lm.decode_ids(decode(lm, [panel.result], batch=1)[0])
    panel.pair.value = own[0]
    panel.start.click()
    assert panel.pair.disabled
    assert panel.place.disabled
    while "of the curve" not in panel.status.value:
        threading.Event().wait(0.005)
    panel.halt.click()
    panel.wait(60)
    assert "Stopped" in panel.status.value
    assert panel.start.description == MEASURE
    assert not panel.pair.disabled


def test_a_table_without_texts_is_refused(solved, path_places):
    lm, store, _ = solved
    with pytest.raises(TableError, match="no column ids"):
        path_panel(lm, path_places.drop(columns="ids"), store)


def test_tokens_of_both_texts_are_marked(solved):
    lm, _, mems = solved
    between = tables.between_table(lm, mems, count=1)
    assert [lm.decode_ids(ids) for ids in between.ids] == between.written.tolist()
    page = written_between(lm, between).data
    assert page.count("<tr>") == len(between) == paths.POINTS
    first, last = page.split("<tr>")[1], page.split("<tr>")[-1]
    n = len(between.ids.iloc[0])
    assert first.count("memlab-token-first") + first.count("memlab-token-both") == n
    assert last.count("memlab-token-second") + last.count("memlab-token-both") == n


# Moved vectors -------------------------------------------------------------------------------------------------------


@pytest.fixture
def move(solved):
    lm, store, mems = solved
    return move_panel(lm, mems, stored("geometry-noise"), store)


def test_each_change_is_read_and_kept_as_a_try(solved, move):
    lm, _, mems = solved
    mem, size = mems[0], np.linalg.norm(mems[0].mem)
    move.amount.value = 25
    moved = move.wait(60)
    assert np.linalg.norm(moved.mem - mem.mem) == pytest.approx(0.25 * size, rel=1e-3)
    assert move.tries.distance.tolist() == pytest.approx([0.25], rel=1e-3)
    assert shown(move) == lm.decode_ids(decode(lm, [moved], batch=1)[0])
    assert move.tries.exact.tolist() == [moved.exact]
    move.seed.value = 3
    again = move.wait(60)
    assert not np.allclose(again.mem, moved.mem)
    move.amount.value = 0
    assert move.wait(60).exact
    assert "Exact" in move.facts.value
    assert len(move.tries) == 3
    dots = [layer for layer in move.curve.spec["layer"] if "tooltip" in str(layer) and "what" in str(layer["encoding"])]
    assert len(dots) == 1
    assert "download=" in move.links.value
    move.picker.choice.value = 1  # the text of another vector is gone, the tries stay
    assert shown(move) == move.facts.value == ""
    assert len(move.tries) == 3
    move.forget.click()
    assert move.tries.empty
    assert not move.links.value


def test_units_follow_the_change_and_rounding_has_no_seed(solved, move):
    _, _, mems = solved
    slider = move._amounts.children[0]
    assert (slider.description, slider.continuous_update) == ("Noise, %", False)  # read when the slider is released
    move.change.value = DROPOUT
    move.amount.value = 25
    moved = move.wait(60)
    assert (moved.mem == 0).sum() == round(0.25 * moved.mem.size)
    assert slider.description == "Set to 0, %"
    tried = len(move.tries)
    move.change.value = ROUNDING
    assert (move.amount.min, move.amount.max, slider.description) == (2, 16, "Bits kept")
    assert move.seed.disabled
    assert len(move.tries) == tried  # another kind of change is not yet a change
    move.amount.value = 8
    np.testing.assert_array_equal(move.wait(60).mem, mems[0].quantise(8).mem)
    assert move.seed.disabled
    move.change.value = NOISE
    assert (move.amount.min, move.amount.max) == (0, 100)
    assert not move.seed.disabled


def test_the_edge_is_where_the_text_is_lost(solved, move):
    lm, _, mems = solved
    move.amount.value = 30
    direction = move.wait(60).mem - mems[0].mem
    move.find.click()
    mem = move.wait(120)
    radius, fails = exact_radius(lm, mems[0], direction)
    assert mem.exact
    assert np.linalg.norm(mem.mem - mems[0].mem) == pytest.approx(radius * np.linalg.norm(mems[0].mem), rel=1e-3)
    assert f"Exact up to {radius:.1%}" in move.status.value
    assert np.isinf(fails) or f"{fails:.1%}" in move.status.value
    assert any("rule" in str(layer["mark"]) for layer in move.curve.spec["layer"])
    move.amount.value = 0
    move.wait(60)
    move.find.click()
    move.wait(60)
    assert "no direction" in move.status.value


def test_the_search_for_the_edge_stops(solved, move, monkeypatch):
    lm, _, mems = solved
    trials = []
    with pytest.raises(Stopped):
        exact_radius(lm, mems[0], mems[0].mem, on_trial=lambda r, exact: trials.append((r, exact)) or len(trials) == 2)
    assert len(trials) == 2
    move.find.click()
    while "Try 1" not in move.status.value:
        threading.Event().wait(0.002)
        if not move._thread.busy:  # the toy model is fast
            break
    move.halt.click()
    move.wait(60)
    assert "Stopped" in move.status.value or "Exact up to" in move.status.value
    assert not move.find.disabled


def test_a_panel_without_a_vector_says_what_to_do(solved):
    lm, _, _ = solved
    panel = move_panel(lm, [], stored("geometry-noise"))
    panel.start.click()
    assert panel.wait(60) is None
    assert "notebook 1" in panel.status.value
    assert "memlab-error" in panel.status.value


def test_the_stored_texts_are_those_whose_right_tokens_were_counted():
    places, vectors = stored("geometry-paths"), Store.bundled()
    truth = {key: vectors.get(key).token_ids for key in places.a.unique()}
    right = [int((np.asarray(ids) == truth[a]).sum()) for ids, a in zip(places.ids, places.a, strict=True)]
    assert right == places.right.tolist()
    assert {len(bend) for bend in places[places.way == "curve"].bend} == {vectors.get(places.a[0]).mem.size}
    assert {len(bend) for bend in places[places.way != "curve"].bend} == {0}
