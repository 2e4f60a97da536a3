"""Hidden states: the hooks against the model's own passes, the lens and the patch against known answers, the table."""

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from memlab import Recipe, Store, Text, charts, cram
from memlab.cli import app
from memlab.decoding.decode import context_of
from memlab.errors import MemlabError
from memlab.experiments.hidden_states import hidden_states
from memlab.experiments.session import Session
from memlab.measures import hidden_states as measures
from memlab.probes.hidden_states import lens, likeliest, patched, stream
from memlab.probes.token_costs import token_scores
from tests.chart_rules import faults
from tests.conftest import random_passages

TEXTS = [
    Text(f"fiction-{word}", f"{word} ink and a grey pen on the long road, " * 3, "fiction") for word in ("red", "old")
]


@pytest.fixture(scope="module")
def pair(toy):
    mems = cram(toy, random_passages(toy, 2, 6), Recipe.default(), progress=False)
    assert all(mem.exact for mem in mems)
    return mems


@pytest.fixture(scope="module")
def table(toy, tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("hidden") / "store")
    return hidden_states(Session(toy, store, progress=False), TEXTS, tokens=8, shelf=None)


# The hooks


def hooks(lm):
    return [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in lm.model.modules()]


def test_the_stream_is_what_the_model_says_of_its_layers(any_toy):
    fed = any_toy.embed([5, 9, 2, 7])[None]
    try:
        states = any_toy.layers.stream(fed)
    except MemlabError:
        pytest.skip("a model without a list of layers")
    with torch.no_grad():
        said = any_toy.model(inputs_embeds=fed, output_hidden_states=True, use_cache=False)
    left = hooks(any_toy)  # transformers has some of its own
    assert len(states) == any_toy.layers.count + 1
    skipped = int(any_toy.family.model_type == "mamba")  # transformers gives its states from after the first layer on
    for own, its in zip(states[skipped:-1], said.hidden_states, strict=False):
        torch.testing.assert_close(own, its, rtol=1e-5, atol=1e-5)
    # What leaves the last layer gives the model's own logits, and that of the first layer does not.
    torch.testing.assert_close(any_toy.layers.read_out(states[-1]), said.logits.float(), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(any_toy.layers.read_out(states[0]), said.logits.float(), atol=1e-2)
    assert hooks(any_toy) == left


def test_the_lens_after_the_last_layer_is_the_model(toy, pair):
    mem = pair[0]
    context = context_of(toy, mem)
    states = stream(toy, context, mem.token_ids)
    assert states.shape == (toy.layers.count + 1, len(context) + mem.n - 1, toy.d)
    torch.testing.assert_close(states[0, : len(context)], context)
    found = lens(toy, states[:, -mem.n :], mem.token_ids)
    bits, right = token_scores(toy, mem.token_ids, context)
    np.testing.assert_allclose(found.bits[-1], bits, rtol=1e-3, atol=1e-3)
    assert right.all()
    assert (found.rank[-1] == 1).all()
    assert (found.best[-1] == mem.token_ids).all()
    assert found.bits[0].sum() > bits.sum()
    seen = likeliest(toy, states[:, len(context) - 1], 4)
    assert (seen[:, 0] == found.best[:, 0]).all()
    assert len(set(seen[-1].tolist())) == 4


def test_a_states_place_is_taken_by_another(toy, pair):
    one, two = pair
    context, other = context_of(toy, one), context_of(toy, two)
    slot = len(one.prefix_ids)
    mine, its = stream(toy, context, one.token_ids), stream(toy, other, two.token_ids)
    plain = token_scores(toy, one.token_ids, context)
    for layer in range(toy.layers.count):
        same = patched(toy, context, one.token_ids, mine[layer, slot][None], slot, layer)
        np.testing.assert_allclose(same[0], plain[0], rtol=1e-4, atol=1e-4)
    # At the first layer's input an exchanged state is an exchanged vector: the other passage comes out.
    bits, right = patched(toy, context, two.token_ids, its[0, slot][None], slot, 0)
    np.testing.assert_allclose(bits, token_scores(toy, two.token_ids, other)[0], rtol=1e-4, atol=1e-4)
    assert right.all()
    assert not patched(toy, context, one.token_ids, its[0, slot][None], slot, 0)[1].all()


# The table


def test_the_table_has_each_part_with_its_controls(toy, table):
    assert list(table.columns) == list(measures.COLUMNS)
    count = toy.layers.count
    sizes = table.groupby(["part", "condition", "source"]).size() / len(TEXTS)
    assert sizes.to_dict() == {
        ("patch", "vector", source): count
        for source in ("itself", "another solution", "another passage's", "random vector")
    } | {("slot", name, ""): count + 1 for name in ("vector", "random vector")} | {
        ("text", name, ""): count + 1 for name in ("vector", "random vector", "nothing")
    }  # fmt: skip
    slot = table[table.part == "slot"]
    assert slot.with_input[slot.layer == 0].to_numpy() == pytest.approx(1)
    norms = slot[slot.layer == 0].pivot(index="text_id", columns="condition", values="norm")
    assert norms["vector"].to_numpy() == pytest.approx(norms["random vector"].to_numpy(), rel=1e-4)
    exact = slot[(slot.condition == "vector") & (slot.layer == count)]
    assert (exact.first_rank == 1).all()
    text = table[(table.part == "text") & (table.layer == count)].set_index(["condition", "text_id"])
    assert (text.right["vector"] == 1).all()
    assert (text.bits["vector"] < text.bits["nothing"]).all()
    patch = table[table.part == "patch"]
    assert (patch.right[patch.source == "itself"] == 1).all()
    assert (patch.source_right[(patch.source == "another passage's") & (patch.layer == 0)] == 1).all()
    assert patch.source_right[patch.source == "another solution"].isna().all()


def test_it_resumes(toy, table, tmp_path, monkeypatch):
    session = Session(toy, Store(tmp_path), table[table.text_id == table.text_id.iloc[0]], progress=False)
    again = hidden_states(session, TEXTS, tokens=8, shelf=None)
    pd.testing.assert_frame_equal(again, table, rtol=1e-3, atol=1e-3)


def test_a_vector_of_the_published_recipe_stands_next_to_them(toy, tmp_path):
    store = Store(tmp_path)
    cram(toy, [toy.passage(text, 8) for text in TEXTS], Recipe.paper2025(budget=5), store, progress=False)
    session = Session(toy, store, progress=False)
    rows = hidden_states(session, TEXTS, tokens=8, shelf=store)
    assert "published recipe" not in set(rows.condition)  # these have another budget, so they are no such vectors
    cram(toy, toy.passage(TEXTS[0], 8), Recipe.paper2025(), store, progress=False)
    rows = hidden_states(session, TEXTS, tokens=8, shelf=store)
    assert set(rows.text_id[rows.condition == "published recipe"]) == {toy.passage(TEXTS[0], 8).span.id}


def test_summary_and_predictions(table):
    told = measures.hidden_summary(table, measures.SLOT, draws=50)
    own = told[(told.condition == "vector") & (told.measure == "norm")].set_index("layer").value
    rows = table[(table.part == "slot") & (table.condition == "vector")]
    assert own[0] == pytest.approx(rows.norm[rows.layer == 0].mean())
    assert set(told.measure) == set(measures.MEASURES[measures.SLOT])
    outcomes = measures.hidden_outcomes(table)
    assert len(outcomes) == len(measures.PREDICTIONS)
    assert outcomes.measured.notna().sum() >= 14
    assert measures.hidden_outcomes(table[:0]).measured.isna().all()
    assert measures.hidden_summary(table[:0], measures.TEXT).empty


def test_the_layer_at_which_another_state_stops_to_take_over():
    """Two layers: at the first the source's text is the cheaper one, at the second the own text."""
    rows = [
        {"part": "patch", "condition": "vector", "source": measures.STRANGER, "layer": layer, "bits": own,
         "source_bits": its, "right": 0.5, "text_id": name}
        for name in ("a", "b")
        for layer, own, its in ((0, 9.0, 1.0), (1, 2.0, 8.0), (2, 0.1, 9.0), (3, 0.1, 9.0))
    ]  # fmt: skip
    rows += [{"part": "slot", "condition": "vector", "source": "", "layer": 4, "text_id": "a", "norm": 1.0}]
    found = measures.numbers(pd.DataFrame(rows).reindex(columns=list(measures.COLUMNS)))
    assert found[measures.PREDICTIONS[-1].name] == pytest.approx(1 / 4)


def test_the_chart_keeps_the_rules(table):
    told = measures.hidden_summary(table, measures.TEXT, draws=20)
    lines = told[told.measure == "right"].rename(columns={"condition": "name"})
    svg = charts.to_svg(charts.by_layer(lines, y_title="tokens that lead", percent=True))
    assert faults(svg) == []
    assert "random vector" in svg
    assert "random vector" not in charts.to_svg(charts.by_layer(lines, y_title="tokens", names={"vector": "own"}))
    assert "no data" in charts.to_svg(charts.by_layer(lines[:0], y_title="tokens"))


@pytest.mark.slow
def test_the_command(tmp_path):
    out = tmp_path / "hidden.parquet"
    asked = ["bench", "hidden-states", "--model", "toy:llama", "-n", "8", "--texts", "originals", "--count", "2"]
    asked += ["--store", str(tmp_path / "store"), "--out", str(out)]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.output
    assert "predictions held" in result.output
    rows = pd.read_parquet(out)
    assert rows.text_id.nunique() == 2
    assert CliRunner().invoke(app, asked).exit_code == 0
    pd.testing.assert_frame_equal(pd.read_parquet(out), rows)
    wrong = CliRunner().invoke(app, [*asked[:-8], "--texts", "originals", "--count", "1"])
    assert wrong.exit_code == 2
    assert "One text is too few" in wrong.output
