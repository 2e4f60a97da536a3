"""The panel of the encoder gap on a small model: the encoder reads at once, two searches run, one chart has both."""

import numpy as np
import pandas as pd
import pytest

from memlab import Store, charts
from memlab.charts.theme import to_svg
from memlab.experiments.landscape.method import Context
from memlab.experiments.landscape.reading import token_bits
from memlab.panels import encoder_panel
from memlab.probes.token_costs import own_bits
from memlab.training.encoders import Encoder, Settings
from tests.chart_rules import faults

SMALL = Settings(width=24, heads=2, reading_heads=2, longest=16, most=4, whiten=0.0)


@pytest.fixture
def panel(toy, tmp_path):
    made = encoder_panel(toy, Encoder(toy, SMALL), Store(tmp_path))
    made.reading.wait(60)
    made.tokens.value = 8
    made.reading.wait(60)
    return made


def test_the_encoder_reads_at_once(toy, panel):
    assert list(panel.tokens.options) == [8, 16]
    passage = panel.passage()
    assert panel.read.n == len(passage) == 8
    vector = panel.encoder.encode(passage.ids)
    assert np.array_equal(panel.read.mem, vector.numpy())
    own = own_bits(toy, passage.ids).sum()
    left = token_bits(toy, Context(vector), passage.ids, ())[0].sum()
    assert f"{(own - left) / own:.0%} of them recovered" in panel.facts.value
    assert len(panel.encoded.pieces) == 8
    level = [layer for layer in panel.chart.spec["layer"] if layer["mark"]["type"] == "rule"]
    assert len(level) == 1
    assert len(panel.chart.spec["datasets"][level[0]["data"]["name"]]) == 2


def test_two_searches_and_their_store(panel):
    panel.start.click()
    panel.wait(120)
    assert "Done: from noise" in panel.status.value, panel.status.value
    assert "from its own encoding" in panel.status.value
    assert list(dict.fromkeys(panel.curves.arm)) == ["cold", "own"]
    first = panel.curves.groupby("arm").first()
    # The second search starts from the encoder's direction, not from noise. Both have noise-like costs on this toy.
    assert (first.step == 0).all()
    assert panel.result is not None
    kept = list(panel.store.keys())
    assert len(kept) == 1
    assert panel.store.get(kept[0]).is_original
    # Another passage clears what was found.
    panel.tokens.value = 16
    panel.reading.wait(60)
    assert panel.curves.empty
    assert panel.found.value == ""


def test_one_gradient_counts_its_step(panel):
    panel.beginning.value = "gradient"
    panel.start.click()
    panel.wait(120)
    assert panel.curves[panel.curves.arm == "gradient"].step.min() == 1, panel.status.value


def test_a_text_of_nothing_is_one_clear_line(panel):
    panel.given.words.value = "   "
    panel.reading.wait(60)
    assert "There is no text yet" in panel.facts.value
    panel.start.click()
    panel.wait(60)
    assert "There is no text yet" in panel.status.value


def test_the_chart_of_two_searches():
    rows = [("cold", step, 8 - step, step == 7) for step in range(8)]
    rows += [("own", step, 5 - step, False) for step in range(5)]
    curves = pd.DataFrame(rows, columns=["arm", "step", "bits", "exact"])
    levels = pd.DataFrame({"name": ["without a vector"], "bits": [7.5]})
    svg = to_svg(charts.searches_from(levels, curves))
    assert faults(svg) == []
    assert "its own encoding" in svg
    assert "without a vector" in svg
    alone = to_svg(charts.searches_from(levels, curves.head(0)))
    assert faults(alone) == []
    assert "without a vector" in alone
