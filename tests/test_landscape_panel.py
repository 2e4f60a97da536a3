"""The panel of the landscape: families on and off, a text or the mean of its kind, a point that is read."""

import numpy as np
import pandas as pd
import pytest

from memlab import charts, load
from memlab.charts.theme import to_svg
from memlab.measures import landscape as measures
from memlab.measures.landscape_predictions import PREDICTIONS, outcomes
from memlab.measures.systems import FAMILIES, REFERENCES, SYSTEMS
from memlab.panels import landscape_panel
from tests.chart_rules import faults


@pytest.fixture(scope="module")
def lm():
    return load("toy:llama")


@pytest.fixture
def table():
    """Two kinds of text with two passages each, four methods with plain numbers."""
    methods = [
        ("F5", "arithmetic coding", "arithmetic code", "code", "nothing", 102, 0, True),
        ("F1", "mem vector", "mem vector, float32", "read", "nothing", 4400, 3, True),
        ("F2", "full text", "full text", "read", "nothing", 102, 8, False),
        ("F4", "KVzip", "kept by repeating, 50 %", "read", "target", 900_000, 20, False),
        ("F6", "retrieval", "found by its mean state", "find", "nothing", 64, 93, False),
        ("F6", "Learnable vector storage compression", "product quantisation", "read", "nothing", 300, 290, False),
    ]
    rows = []
    for family, system, method, decoder, sees, bits, left, exact in methods:
        for i, text in enumerate(("essay-on-waiting", "fiction-salt-ferry", "random-0-000", "random-0-001")):
            ids = np.arange(6) + i
            written = [] if decoder == "find" else (ids if exact else np.r_[ids[:3], 9, 9, 9]).tolist()
            rows.append(
                dict(
                    method=method, system=system, family=family, text_id=text, texts="originals" if i < 2 else "random",
                    tokens=6, stored_bits=bits, shared_bits=0.0, cue="", decoder=decoder, sees=sees,
                    bits_without=100.0, bits_with=left + i, bits_shuffled=101.0, right=3,
                    exact_prefix=6 if exact else 3,
                    edit=0.5, exact=exact, seconds_store=0.1, seconds_read=0.1, model="toy:llama", detail="{}",
                    ids=written,
                )
            )  # fmt: skip
    return pd.DataFrame(rows)


def test_a_point_is_read(lm, table):
    panel = landscape_panel(lm, table)
    assert set(panel.points.method) == set(table.method)
    assert panel.points.set_index("method").recovered_share["full text"] == pytest.approx(0.915)
    panel._on_pick([{"method": "full text"}])
    assert "3 tokens, then wrong" in panel.verdict.value
    assert panel.tokens.kinds[:4] == ["right", "right", "right", "wrong"]
    assert "102 bits stored, 100 are its own" in panel.verdict.value
    panel._on_pick([{"method": "mem vector, float32"}])
    assert "memlab-badge-exact" in panel.verdict.value
    assert set(panel.tokens.kinds) == {"right"}
    panel._on_pick([{"method": "found by its mean state"}])
    assert "writes nothing" in panel.tokens.hint
    assert not panel.tokens.pieces


def test_families_and_texts_are_chosen(lm, table):
    panel = landscape_panel(lm, table)
    assert [label for label, _ in panel.text.options][:2] == ["mean of our own prose", "mean of random words"]
    panel.families["F4"].value = False
    assert "kept by repeating, 50 %" not in set(panel.points.method)
    for button in panel.families.values():
        button.value = False
    assert set(panel.points.family) == {list(panel.families)[-1]}  # the last one stays
    assert "no data" not in to_svg(panel.chart.chart)
    for button in panel.families.values():
        button.value = True
    panel.text.value = ("text", "random-0-001")
    assert panel.points.passages.eq(1).all()
    assert panel.points.set_index("method").recovered_share["arithmetic code"] == pytest.approx(0.97)
    panel.show("arithmetic code")
    assert "Random words 1" in panel.verdict.value


def test_a_brush_lists_methods(lm, table):
    panel = landscape_panel(lm, table)
    panel._on_brush({"stored_share": [50, 0.5], "y": [0.8, 1.1]})
    assert set(panel.selection().method) == {"arithmetic code", "mem vector, float32", "full text"}
    assert "3 methods under the brush" in panel.brushed.value
    panel._on_brush(None)
    assert panel.brushed.value == ""
    # A point far below the chart stands at its lower edge, and the brush finds it there.
    panel._on_brush({"stored_share": [1, 10], "y": [-0.3, -0.2]})
    assert panel.selection().method.tolist() == ["product quantisation"]


def test_the_charts_follow_the_rules_and_hold_many_methods(table):
    points = measures.summary(table, draws=20).merge(table[["method", "sees"]].drop_duplicates())
    one = points[points.texts == "originals"]
    assert not faults(to_svg(charts.landscape_map(one, ceiling=0.9)))
    assert not faults(to_svg(charts.bit_prices(one)))
    many = pd.concat([one.assign(method=[f"{m} {i}" for m in one.method]) for i in range(60)])
    assert to_svg(charts.landscape_map(many)).count("<path") > 300
    assert "no data" in to_svg(charts.landscape_map(one.head(0)))
    assert "hollow" not in to_svg(charts.landscape_map(one))


def test_what_is_read_of_a_stored_cache_is_a_cross(table):
    plain = measures.shares(table).drop_duplicates("method").assign(passages=2)
    fetched = plain.assign(read_share=plain.stored_share.where(plain.family != "F4", plain.stored_share / 4))
    before, drawn = to_svg(charts.landscape_map(plain)), to_svg(charts.landscape_map(fetched))
    crosses = drawn.count('aria-roledescription="point"') - before.count('aria-roledescription="point"')
    assert crosses == (plain.family == "F4").sum() == 1
    for svg in (before, drawn):  # the legend stays
        assert all(f">{FAMILIES[family]}<" in svg for family in plain.family.unique())


def test_every_prediction_names_something_that_is_measured(table):
    assert {p.system for p in PREDICTIONS} <= {*SYSTEMS, *REFERENCES}
    rows = outcomes(table).set_index(["system", "quantity", "texts"])
    assert rows.held["mem vector", "recovered_share", "originals"].tolist()[0] is True
    assert rows.measured["retrieval", "recovered_share", "originals"] == pytest.approx(0.065)
    assert rows.held["retrieval", "recovered_share", "originals"] is False
    assert np.isnan(rows.measured["SCOPE", "recovered_share", "originals"])
