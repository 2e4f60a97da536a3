"""The reader: its numbers against ``generate`` of transformers, and the panel without a browser."""

import numpy as np
import pytest
import torch

from memlab import Recipe, VectorError, cram, decode, load
from memlab.panels import reader_panel
from memlab.probes.token_reading import read_tokens
from tests.conftest import random_passages


@pytest.fixture(scope="module")
def read():
    """A toy, an exact vector, and one after two steps of training."""
    lm = load("toy:llama")
    (exact,) = cram(lm, random_passages(lm, 1, 6), Recipe.default(budget=80, k=2), progress=False)
    (raw,) = cram(lm, random_passages(lm, 1, 6), Recipe.default(budget=2, k=2), progress=False)
    assert exact.exact
    assert not raw.exact
    return lm, exact, raw


def generated_logits(lm, mem):
    """(n, V): the logits of ``generate`` while it writes from the embeddings alone."""
    embedding = lm.model.get_input_embeddings()
    rows = torch.cat([embedding(torch.tensor(mem.prefix_ids)), torch.tensor(mem.mem)])
    out = lm.model.generate(
        inputs_embeds=rows[None], max_new_tokens=mem.n, do_sample=False, eos_token_id=None, pad_token_id=0,
        output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    return torch.cat(out.logits)


@pytest.mark.parametrize("which", [1, 2])
def test_margins_and_probabilities_are_those_of_generate(read, which):
    lm, mem = read[0], read[which]
    reading, logits = read_tokens(lm, mem), generated_logits(lm, mem)
    np.testing.assert_array_equal(reading.ids, logits.argmax(-1))
    np.testing.assert_array_equal(reading.ids, decode(lm, mem)[0])
    for i, (true, row) in enumerate(zip(mem.token_ids, logits, strict=True)):
        others = row.clone()
        others[true] = -torch.inf
        assert reading.tokens.margin[i] == pytest.approx(float(row[true] - others.max()), abs=1e-3)
        assert reading.tokens.rival[i] == lm.decode_ids([int(others.argmax())])
        top = row.softmax(-1).topk(5)
        likely = reading.likely[reading.likely.position == i + 1]
        np.testing.assert_allclose(likely.probability, top.values, atol=1e-4)
        assert likely.token.tolist() == [lm.decode_ids([int(j)]) for j in top.indices]
        assert likely.true.tolist() == [int(j) == true for j in top.indices]
    assert (reading.tokens.right == (reading.ids == mem.token_ids)).all()
    assert ((reading.tokens.margin > 0) == reading.tokens.right).all()


def test_bits_are_the_models_own(read):
    lm, mem, _ = read
    tokens = read_tokens(lm, mem).tokens
    np.testing.assert_allclose(tokens.before, lm.token_bits(mem.token_ids), atol=1e-4, equal_nan=True)
    assert tokens.after.mean() == pytest.approx(mem.loss_bits, abs=1e-3)


def test_the_first_wrong_token_is_named(read):
    lm, exact, raw = read
    assert read_tokens(lm, exact).first_wrong is None
    (wrong,) = np.flatnonzero(decode(lm, raw)[0] != raw.token_ids)[:1]
    assert read_tokens(lm, raw).first_wrong == wrong
    with pytest.raises(VectorError, match="redacted"):
        read_tokens(lm, exact.redacted())


def test_the_panel_reads_when_a_vector_is_chosen(read):
    lm, exact, raw = read
    panel = reader_panel(lm, [exact, raw])
    panel.wait(60)
    tokens = panel.reading.tokens
    weakest = int(tokens.margin.idxmin())
    assert panel.result is exact
    assert ">Exact<" in panel.verdict.value
    assert f"The smallest margin is {tokens.margin[weakest]:.2f} logits, at token {weakest + 1}" in panel.status.value
    assert panel.text.picked == weakest  # the weakest place is shown first
    assert panel.curve.spec["params"][-1]["value"] == weakest + 1
    assert set(panel.text.kinds) == {""}
    panel.vector.choice.value = 1
    panel.wait(60)
    wrong = panel.reading.first_wrong
    assert "Not exact" in panel.verdict.value
    assert f"the first at token {wrong + 1}: the model writes" in panel.status.value
    assert panel.text.kinds[wrong] == "wrong"
    assert panel.text.below[wrong] == lm.decode_ids([raw.token_ids[wrong]])
    assert panel.text.picked == wrong
    assert "reads its own wrong words" in panel.text.tips[wrong + 1]
    assert panel.text.shades[wrong + 1 :] == [0.0] * (raw.n - wrong - 1)


def test_only_an_exact_check_makes_the_panel_say_exact(read, store):
    lm, exact, _ = read
    unchecked = exact.with_mem(exact.mem, "a copy")
    panel = reader_panel(lm, [exact, unchecked], store)
    panel.wait(60)
    assert ">Exact<" in panel.verdict.value
    panel.vector.choice.value = 1
    panel.wait(60)
    assert "All 6 tokens right, not checked" in panel.verdict.value


def test_a_click_on_a_bar_picks_the_token_and_back(read):
    lm, exact, _ = read
    panel = reader_panel(lm, [exact])
    panel.wait(60)
    panel._pick([{"position": 2}])  # what a browser sends
    assert panel.text.picked == 1
    panel.text.picked = 4
    assert panel.curve._live.params.picked == 5
    panel._pick([])  # a click beside the bars changes nothing
    assert panel.text.picked == 4


def test_the_latest_choice_wins_and_an_empty_list_is_no_error(read, monkeypatch):
    lm, exact, raw = read
    seen = []
    monkeypatch.setattr("memlab.panels.reader.read_tokens", lambda lm, mem: seen.append(mem) or read_tokens(lm, mem))
    panel = reader_panel(lm, [exact, raw])
    panel.wait(60)
    for place in (1, 0, 1, 0, 1):
        panel.vector.choice.value = place
    panel.wait(60)
    assert panel.result is raw
    assert seen == [exact, raw]  # those in between were skipped
    empty = reader_panel(lm, [])
    empty.wait(60)
    assert "No vector is chosen" in empty.status.value
