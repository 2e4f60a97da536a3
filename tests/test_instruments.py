"""The instruments that panels share: colours, names, tables, live charts, text token by token, the picker."""

import itertools
import threading

import altair as alt
import numpy as np
import pandas as pd
import pytest

from memlab import Recipe, Store, charts, cram, load
from memlab.charts import colours
from memlab.charts.names import kind_of, text_title
from memlab.charts.tables import significant
from memlab.panels import picker
from memlab.panels.live import LiveChart
from memlab.panels.picker import BUNDLED, LAST, MINE, VectorPicker
from memlab.panels.style import number_input, seed_input
from memlab.panels.tokens import TokenText
from memlab.texts import originals

# Colours -------------------------------------------------------------------------------------------------------------


def linear(hexadecimal):
    parts = np.array([int(hexadecimal[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    """WCAG 2.1 contrast ratio."""
    bright, dark = sorted((float(linear(c) @ [0.2126, 0.7152, 0.0722]) + 0.05 for c in (one, other)), reverse=True)
    return bright / dark


@pytest.mark.parametrize("page", ["#ffffff", "#111111"])
def test_every_mark_is_seen_on_both_pages(page):
    for colour in [*colours.COLOURS.values(), *colours.OTHERS]:
        assert contrast(colour, page) >= 3, colour


def oklab(hexadecimal, deficiency=None):
    """A colour in Oklab (Ottosson 2020); ``deficiency`` simulates a dichromat (Machado et al. 2009)."""
    simulate = {
        "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    }
    rgb = linear(hexadecimal)
    if deficiency:
        rgb = np.clip(np.array(simulate[deficiency]) @ rgb, 0, 1)
    to_lms = [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
    to_lab = [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
    return np.array(to_lab) @ np.cbrt(np.array(to_lms) @ rgb)


@pytest.mark.parametrize("group", [("ours", "published", "control"), ("originals", "novels", "random")])
@pytest.mark.parametrize("deficiency", [None, "protan", "deutan"])
def test_colours_of_one_picture_differ_for_all_readers(group, deficiency):
    for one, other in itertools.combinations(group, 2):
        pair = [oklab(colours.COLOURS[name], deficiency) for name in (one, other)]
        assert np.linalg.norm(pair[0] - pair[1]) > 0.05, (one, other)


def test_a_thing_has_one_colour_under_all_its_names():
    assert colours.colour("incumbent") == colours.colour("default") == colours.OURS
    assert colours.colour("pg19") == colours.colour("classics") == colours.NOVELS
    assert colours.palette(["mine", "paper2025"])["paper2025"] == colours.PUBLISHED
    with pytest.raises(KeyError):
        colours.colour("nothing of the kind")


def test_axis_labels_are_display_names():
    table = pd.DataFrame({"name": ["paper2025", "it's"], "value": [1.0, 2.0]})
    axis = alt.Axis(labelExpr=colours.labels(table.name))
    chart = alt.Chart(charts.rows.inline(table)).mark_bar().encode(alt.X("value:Q"), alt.Y("name:N", axis=axis))
    svg = charts.to_svg(chart)
    assert "recipe of arXiv 2502.13063" in svg
    assert "it's" in svg or "it&#39;s" in svg


# Names and tables ----------------------------------------------------------------------------------------------------


def test_every_bundled_text_has_a_title_of_its_own():
    titles = [text_title(text.id) for text in originals()]
    assert len(set(titles)) == len(titles)
    assert all("-" not in title and title[0].isupper() for title in titles)
    assert {kind_of(text.id) for text in originals()} == {"originals"}
    assert kind_of("random-0-004") == "random"
    assert kind_of("my thesis") == "own"
    assert text_title("my thesis") == "my thesis"


def test_show_rounds_names_and_hides_the_index():
    table = pd.DataFrame(
        {
            "text_id": ["a", "b"],
            "median_steps": [1094.1, np.inf],
            "share": [0.914, 0.05],
            "exact": [True, False],
            "bits": [0.18328, 49152.0],
            "n": [3, 49152],
        }
    )
    html = charts.show(table, "What it shows", units={"share": "%", "bits": "bits"}).to_html()
    for shown in ("What it shows", "median steps", "1,090", "–", "91 %", "yes", "no", "0.183", "49,200", "49,152"):
        assert shown in html, shown
    assert "bits (bits)" in html
    assert "text_id" not in html
    grouped = table.groupby("exact").bits.mean()
    assert "exact" in charts.show(grouped, "Means").to_html()
    assert charts.show(table[:0], "Empty").to_html()


@pytest.mark.parametrize(
    ("number", "text"), [(0.0, "0"), (-1.234, "-1.23"), (0.000123456, "0.000123"), (1e6, "1,000,000"), (99.96, "100")]
)
def test_three_significant_digits(number, text):
    assert significant(number) == text


# Live charts ---------------------------------------------------------------------------------------------------------


def a_chart(x=2.0):
    table = pd.DataFrame({"x": [1.0, x], "y": [1.0, 2.0]})
    point = alt.selection_point(name="pick", fields=["x"])
    rule = alt.param(name="place", value=1.0)
    return alt.Chart(charts.rows.inline(table)).mark_point().encode(alt.X("x:Q"), alt.Y("y:Q")).add_params(point, rule)


def test_a_live_chart_is_drawn_again_in_place_and_still_answers():
    live, picked = LiveChart(), []
    live.on_pick("pick", picked.append)
    for x in (2.0, 3.0, 4.0):
        live.draw(lambda x=x: a_chart(x))
        live.draw(lambda x=x: a_chart(x))
        (widget,) = live.children
        widget._vl_selections = {"pick": {"value": {"vlPoint": {"or": [{"x": x}]}}, "store": []}}
    assert live.children[0] is widget
    assert picked == [[{"x": 2.0}], [{"x": 3.0}], [{"x": 4.0}]]
    live.set(place=1.5, unknown=3)
    assert widget.params.place == 1.5
    assert "currentColor" in str(live.spec)
    assert live.svg().startswith("<svg")
    live.clear()
    assert live.chart is None
    assert live.svg() == ""
    live.draw(a_chart)
    assert live.children


def test_a_chart_that_cannot_be_drawn_is_one_line():
    live = LiveChart()
    live.draw(lambda: 1 / 0)
    assert "ZeroDivisionError" in live.children[0].value
    live.draw(a_chart)
    assert live.spec


def test_two_threads_draw_with_our_theme_and_leave_the_readers_own():
    before, specifications = alt.theme.active, []

    def draw(seed):
        for i in range(20):
            live = LiveChart()
            live.draw(lambda i=i: a_chart(float(seed + i)))
            specifications.append(live.spec)

    threads = [threading.Thread(target=draw, args=(seed,)) for seed in (0, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert alt.theme.active == before
    assert len(specifications) == 40
    assert all(spec["config"]["axis"]["labelColor"] == "currentColor" for spec in specifications)


# Text, token by token ------------------------------------------------------------------------------------------------


def test_a_token_text_keeps_its_lists_equally_long():
    text = TokenText("Text")
    text.show(["a", "<b>\n", ""], kinds=["right", "wrong", ""], below=["", "c", ""], shades=[0, 0.5, 2])
    assert len(text.tips) == len(text.kinds) == len(text.pieces) == 3
    html = text.static_html()
    assert "&lt;b&gt;" in html
    assert "<rt>c</rt>" in html
    assert "--memlab-shade:75%" in html
    text.picked = 2
    text.show(["a", "b", "c"], keep=True)
    assert text.picked == 2
    text.show(["a"], keep=True)
    assert text.picked == -1
    text.clear()
    assert text.static_html() == ""


def test_number_inputs_and_their_sliders_agree():
    number, row = number_input("Window", 100, 20, 1000)
    slider = row.children[0]
    number.value = 777
    assert slider.value == 777
    slider.value = 50
    assert number.value == 50
    number.value = 5000
    assert number.value == 1000
    seed, row = seed_input(9999)
    row.children[1].click()
    assert seed.value == 0


# The picker ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def made(store, monkeypatch):
    monkeypatch.setattr(picker, "_LAST", [])
    lm = load("toy:gemma3")
    mems = cram(lm, [lm.passage_of_ids(ids) for ids in ([5, 9, 2], [7, 3])], Recipe.default(k=4), store, progress=False)
    return lm, mems, store


def test_the_picker_offers_bundled_vectors_those_of_a_store_and_the_last_made(made):
    lm, mems, store = made
    pick, seen = VectorPicker(lm, mems[:1], store), []
    pick.on_change(seen.append)
    assert pick.value is mems[0]
    pick.source.value = MINE
    assert {mem.key for mem in pick.mems} == {mem.key for mem in mems}
    pick.source.value = LAST
    assert pick.value is None
    assert "in your store" in pick.note.value
    assert pick.choice.disabled
    picker.remember(mems[1])
    pick.refresh()
    assert pick.value is mems[1]
    assert seen[-1] is mems[1]
    pick.choose(mems[0])
    assert pick.source.value == BUNDLED
    assert pick.value is mems[0]
    pick.choose(mems[0].perturb(0.1))
    assert pick.source.value == LAST
    assert pick.value.provenance["derived"]


def test_the_picker_leaves_out_vectors_that_it_cannot_use(made):
    lm, mems, store = made
    store.put(mems[0])
    other = load("toy:llama")
    pick = VectorPicker(other, [], store)
    for source in (BUNDLED, MINE, LAST):
        pick.source.value = source
        assert pick.value is None
    picker.remember(mems[0].redacted())
    assert VectorPicker(lm, [], store).value is None
    assert VectorPicker(lm, mems, store, k=1).value is None


def test_own_texts_are_told_apart_by_their_first_words(made):
    lm, _, _ = made
    mem = cram(lm, lm.passage("own words of mine"), Recipe.default(k=4), progress=False)[0]
    ((label, _),) = VectorPicker(lm, [mem]).choice.options
    assert label.startswith("“own words of mine”")


def test_a_store_that_does_not_exist_is_an_empty_list(made, tmp_path):
    lm, _, _ = made
    pick = VectorPicker(lm, [], Store(tmp_path / "none"))
    pick.source.value = MINE
    assert pick.value is None
