"""The map of vectors without a browser. test_browser_geometry.py drives it in one."""

import re
import threading
import time

import numpy as np
import pytest

from memlab import Recipe, Store, cram, load
from memlab.experiments import geometry_tables as tables
from memlab.experiments import map_places
from memlab.measures import geometry
from memlab.panels import map_panel
from memlab.probes.paths import between_passages
from tests.conftest import random_passages

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def solved(tmp_path_factory):
    lm = load("toy:llama")
    store = Store(tmp_path_factory.mktemp("solutions"))
    recipes = [Recipe.default(budget=80, k=2, seed=seed) for seed in range(4)]
    passages = random_passages(lm, 4, 4)
    cram(lm, [p for p in passages for _ in recipes], recipes * 4, store, progress=False)
    return lm, store, tables.solutions(store, lm, tokens=4)


@pytest.fixture
def panel(solved, store):
    lm, _, mems = solved
    panel = map_panel(lm, mems, store)
    panel.method.value = "pca"
    panel.wait(120)
    return panel


def everything(table):
    return {axis: [table[axis].min() - 1, table[axis].max() + 1] for axis in "xy"}


def test_the_brush_selects_vectors_for_python(panel, solved):
    _, _, mems = solved
    table = panel.table
    assert len(table) == len(mems)
    assert panel.picked == []
    assert panel.selection().empty
    # What a browser sends when a reader drags over the left half.
    middle = float(table.x.median())
    left = {"x": [float(table.x.min()) - 1, middle], "y": [float(table.y.max()) + 1, float(table.y.min()) - 1]}
    panel._on_brush(left)
    chosen = panel.selection()
    assert 0 < len(chosen) < len(mems)
    assert list(chosen.columns) == [*table.columns, "cosine"]
    assert [mems[i].key for i in chosen.i] == [mem.key for mem in panel.picked]
    assert (chosen.x <= middle).all()
    x = np.stack([mem.mem.reshape(-1) for mem in panel.picked])
    np.testing.assert_allclose(chosen.cosine, geometry.cosines(x, x.mean(0, keepdims=True))[:, 0])
    assert f"{len(chosen)} vectors under the brush, of {chosen.passage.nunique()} passages" in panel.brushed.value
    assert "panel.selection()" in panel.brushed.value
    assert panel.side.children[1] is panel.brushed
    panel._on_brush({})
    assert panel.picked == []
    assert panel.side.children[1] is panel.details


def test_the_summary_has_the_most_frequent_passage_first(panel):
    panel._on_brush(everything(panel.table))
    counts, each = panel.brushed.value.split("<table")[1:]
    first_cells = [int(n) for n in re.findall(r"<tr>\s*<td>(\d+)</td>", counts)]
    assert first_cells == sorted(first_cells, reverse=True)
    assert sum(first_cells) == len(panel.mems) == each.count("<tr>")
    assert re.findall("<th>(.*?)</th>", each) == ["cosine", "passage", "kind", "tokens", "seed", "steps"]


def test_a_click_shows_the_text_and_the_true_neighbours(panel, solved):
    lm, _, mems = solved
    panel._on_click([{"i": 5}])
    assert panel.chosen is mems[5]
    assert "".join(panel.details.text.pieces) == lm.decode_ids(mems[5].token_ids)
    x = np.stack([mem.mem.reshape(-1) for mem in mems])
    cosines = geometry.cosines(x)[5]
    near = [i for _, i in panel.details.near.options]
    assert near == [i for i in np.argsort(-cosines, kind="stable") if i != 5][:10]
    assert panel.details.near.options[0][0].startswith(f"{cosines[near[0]]:.2f}")
    assert panel.picker.value is mems[5]
    rows = next(iter(panel.chart.spec["datasets"].values()))
    row, table = next(row for row in rows if row["i"] == 5), panel.table
    np.testing.assert_allclose(row["near_x"], table.x[near], atol=0.001)  # where the lines lead
    np.testing.assert_allclose(row["near_y"], table.y[near], atol=0.001)
    assert panel.chart._live.params.chosen == 5
    panel._on_click([])
    assert panel.chosen is mems[5]


def test_two_vectors_are_compared(panel, solved):
    _, _, mems = solved
    details = panel.details
    assert details.middle.disabled
    panel._on_click([{"i": 2}, {"i": 9}])  # shift-click
    assert (details.chosen, details.other) == (9, 2)
    cosine = geometry.cosines(mems[9].mem.reshape(1, -1), mems[2].mem.reshape(1, -1))[0, 0]
    assert f"Cosine {cosine:.2f} with" in details.comparison.value
    details.hold.value = True
    panel._on_click([{"i": 4}])
    assert (details.chosen, details.other, details.hold.value) == (4, 9, False)
    details.near.index = 1
    assert details.other == details.nearest(4)[1]
    details.middle.click()
    panel.wait(60)
    held, other = mems[4], mems[details.other]
    half = between_passages(panel.lm, held, other, points=3).iloc[1]
    assert f"The middle: {half.of_a} of {held.n} tokens" in details.outcome.value
    assert f"{half.of_b} of {other.n} as in the other" in details.outcome.value
    details.go.click()
    assert details.chosen == panel.details.nearest(4)[1]
    assert details.go.disabled


def test_the_chosen_vector_is_decoded(panel):
    panel.details.decode.click()
    panel.wait(60)
    assert "Exact" in panel.details.outcome.value
    assert set(panel.details.text.kinds) == {"right"}
    assert not panel.details.decode.disabled


def test_words_are_found_in_the_texts(panel, solved):
    lm, _, mems = solved
    word = lm.decode_ids(mems[0].token_ids[:1]).strip().upper()
    panel.word.value = word
    found = [i for i, mem in enumerate(mems) if word.lower() in lm.decode_ids(mem.token_ids).lower()]
    assert panel.chart._live.params.found == found != []
    assert f"{len(found)} vectors of" in panel.found.value
    panel.word.value = "(no such words"
    assert "no text has it" in panel.found.value
    panel.word.value = ""
    assert panel.found.value == ""


def test_a_new_map_keeps_the_choice_and_drops_the_brush(panel):
    panel._on_click([{"i": 3}])
    panel._on_brush(everything(panel.table))
    before = panel.table
    panel.method.value = "tsne"
    panel.wait(120)
    assert not np.allclose(panel.table.x, before.x)
    assert panel.picked == []
    assert panel.chart._live.params.chosen == 3
    assert "t-SNE" in panel.chart.spec["title"]["text"]
    panel.colour.value = "tokens"
    panel.wait(60)
    assert "download=" in panel.links.value


def test_zooming_and_selecting_share_the_view(panel):
    panel.drag.value = "zoom and move"
    panel.wait(60)
    assert {p["name"] for p in panel.chart.spec["params"] if "select" in p} == {"view", "pick"}
    panel._on_view({"x": [0.0, 1.0], "y": [3.0, 2.0]})
    panel.drag.value = "select"
    panel.wait(60)
    assert panel.chart.spec["layer"][0]["encoding"]["y"]["scale"]["domain"] == [2.0, 3.0]
    panel.whole.click()
    panel.wait(60)
    assert "domain" not in panel.chart.spec["layer"][0]["encoding"]["y"]["scale"]


def test_a_map_can_be_brushed_while_another_is_prepared(panel, monkeypatch):
    table, go_on = panel.table, threading.Event()
    usual = geometry.flat_map
    monkeypatch.setattr(geometry, "flat_map", lambda x, how, **more: go_on.wait(60) and usual(x, how, **more))
    panel.method.value = "tsne"
    panel._on_brush(everything(table))
    assert len(panel.picked) == len(panel.mems)  # on the map that is still visible
    go_on.set()
    panel.wait(60)
    assert not np.allclose(panel.table.x, table.x)


def test_your_own_vectors_join_the_map(panel, solved, store):
    lm, _, mems = solved
    (own,) = cram(lm, random_passages(lm, 1, 5, seed=9), Recipe.default(budget=80, k=2), store, progress=False)
    known = panel.table
    panel.picker.source.value = "in your store"
    assert panel.chosen.key == own.key
    assert len(panel.details.near.options) == 10
    panel.wait(60)
    assert len(panel.table) == len(mems) + 1
    panel.method.value = "tsne"
    panel.wait(60)
    assert len(panel.table) == len(mems) + 1
    assert len(known) == len(mems)


def test_a_failed_layout_is_explained_in_the_status_line(solved, store):
    lm, _, mems = solved
    panel = map_panel(lm, mems[:4], store)
    panel.wait(60)
    assert "4 vectors are too few" in panel.status.value
    panel.method.value = "pca"
    panel.wait(60)
    assert len(panel.table) == 4


def test_answers_come_within_200_ms(panel):
    """A click and its neighbours. The best of five."""
    times = []
    for i in (3, 8, 2, 11, 6):
        start = time.perf_counter()
        panel._on_click([{"i": i}])
        times.append(time.perf_counter() - start)
    assert min(times) < 0.2


def test_stored_places_are_those_of_these_numbers_only():
    store = Store.bundled()
    table = store.table()
    mems = [store.get(key) for key in table.key[table.exact]]
    places = map_places.stored_places(mems)
    assert {name: flat.shape for name, flat in places.items()} == dict.fromkeys(places, (len(mems), 2))
    assert set(places) == {"pca", "tsne", "umap"}
    x = np.stack([mem.mem.reshape(-1) for mem in mems])
    distance = [np.linalg.norm(flat[:, None] - flat[None], axis=-1) for flat in (places["pca"], geometry.flat_map(x))]
    np.testing.assert_allclose(*distance, atol=1)  # float32; an axis may be turned round
    assert geometry.neighbours_kept(x, places["umap"]) > 0.5
    np.testing.assert_array_equal(map_places.stored_places(mems[7:9])["umap"], places["umap"][7:9])
    changed = mems[0].with_mem(mems[0].mem * np.float32(1.001), "changed")
    assert map_places.stored_places([changed, *mems[1:]]) == {}


def test_map_table_has_every_vector_on_every_map(solved, store):
    lm, vectors, mems = solved
    table = map_places.map_table(lm, vectors, store, tokens=4)
    assert set(table.method) == {"pca", "tsne", "umap"}
    assert table.groupby("method").key.nunique().eq(len(mems)).all()
    assert np.isfinite(table[["x", "y"]]).all().all()
