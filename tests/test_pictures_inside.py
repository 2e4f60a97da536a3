"""The titles of the pictures of notebook 8 are sentences. Here they are computed again from the stored tables."""

import ast
import json

import numpy as np

from memlab.experiments.tables import stored
from memlab.measures import knockouts
from memlab.measures.statistics import bootstrap, mean_intervals
from tests.browser_lab import ROOT


def titles():
    """All texts in the code of the notebook."""
    cells = json.loads((ROOT / "notebooks" / "08_inside_the_model.ipynb").read_text())["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return {
        node.value
        for source in sources
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def test_a_tenth_of_the_attention_goes_to_the_vector_half_to_the_sink_token():
    assert "A tenth of the attention goes to the vector, half to the sink token" in titles()
    mass = stored("geometry-attention")
    assert round(mass.on_mem.mean(), 2) == 0.10
    assert round(mass.on_first.mean(), 2) == 0.51
    by_passage = mass.groupby("text_id")[["on_mem", "on_first"]].mean()
    low, high = mean_intervals(by_passage)
    assert (np.array([0.09, 0.45]) < low).all()
    assert (high < np.array([0.12, 0.56])).all()


def test_layers_0_to_9_give_the_vector_3_percent_and_layers_10_to_29_give_it_14():
    assert "Layers 0 to 9 give the vector 3 % of it, layers 10 to 29 give it 14 %" in titles()
    mass = stored("geometry-attention")
    assert sorted(mass.layer.unique()) == list(range(30))
    assert round(100 * mass.on_mem[mass.layer <= 9].mean()) == 3
    assert round(100 * mass.on_mem[mass.layer >= 10].mean()) == 14


def test_hiding_the_sink_token_does_at_least_as_much_harm_as_hiding_the_vector():
    title = "On average, hiding the sink token, which holds no text, does at least as much harm as hiding the vector"
    assert title in titles()
    hidden = stored("geometry-knockouts")
    harm = 1 - hidden[hidden["mode"] != "none"].groupby(["mode", "what"]).accuracy.mean().unstack()
    assert (harm.prefix >= harm.mem).all()  # mean over layers and passages, in each of the three pictures
    assert set(harm.index) == {"only", "until", "from"}
    gap = knockouts.difference(hidden).set_index("mode")
    np.testing.assert_allclose(gap.difference[harm.index], harm.prefix - harm.mem)
    assert (gap.low[["only", "from"]] > 0).all()  # sure in two of them, and not against the sentence in the third
    assert gap.low["until"] < 0 < gap.high["until"]


def test_smollm2_needs_a_quarter_of_the_steps_and_for_no_other_model_is_a_saving_certain():
    title = "SmolLM2 needs a quarter of the steps after a special token; for no other model is a saving certain"
    assert title in titles()
    sink = stored("sink")
    steps = sink.pivot(index=["model", "text_id"], columns="placement", values="steps")
    for model, rows in steps.groupby("model"):
        for placement in ("s [mem] text", "[mem] s text"):
            logs = np.log(rows[placement] / rows["[mem] text"]).rename("log").reset_index()
            ratio = np.exp(bootstrap(lambda t: float(t.log.mean()), logs, draws=500))
            if (model, placement) == ("smollm2-135m", "s [mem] text"):
                assert round(ratio[0], 2) == 0.25
                assert ratio[2] < 0.5
            else:
                assert ratio[2] >= 0.99, (model, placement)  # Gemma's interval ends at 1.00


def test_mean_intervals_are_those_of_the_general_bootstrap():
    gaps = stored("geometry-attention").groupby("text_id").on_mem.mean()
    low, high = mean_intervals(gaps.to_numpy()[:, None])
    same = bootstrap(lambda t: float(t.on_mem.mean()), gaps.reset_index())
    np.testing.assert_allclose([low[0], high[0]], same[1:], rtol=1e-12)
    assert mean_intervals(gaps.to_numpy()[:5, None])[0] == -np.inf  # too few for an interval


def test_knock_outs_are_means_over_passages():
    hidden = stored("geometry-knockouts")
    table = knockouts.by_layer(hidden).set_index(["what", "mode", "layer"])
    one = hidden[(hidden.what == "mem") & (hidden["mode"] == "only") & (hidden.layer == 18)].accuracy
    row = table.loc[("mem", "only", 18)]
    assert row.accuracy == one.mean()
    assert one.min() <= row.low < row.accuracy < row.high <= one.max()
