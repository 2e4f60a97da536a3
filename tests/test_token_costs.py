"""Token costs with and without a vector, compared with the model's logits; stored forms; the model as a coder."""

import numpy as np
import pandas as pd
import pytest
import torch

from memlab import Recipe, check, cram, decode, load
from memlab.experiments import codecs as codecs_experiment
from memlab.experiments import precision
from memlab.experiments.precision import Form, fewest_bits
from memlab.measures import capacity
from memlab.measures.codecs import CodecError
from memlab.probes.token_costs import gains, token_scores
from memlab.results.mem_vector import MemVector
from memlab.texts import originals
from tests.conftest import random_passages


def bits_by_forward(lm, fed, ids, first):
    """Bits of ids[first:] from the model's own forward pass, and whether they are argmax."""
    with torch.no_grad():
        logits = lm.model(inputs_embeds=fed[None]).logits[0].double()
    logits = logits[-len(ids) + first :] if first < len(ids) else logits[:0]
    chosen = torch.log_softmax(logits, -1).gather(1, torch.tensor(ids[first:])[:, None])[:, 0]
    return (-chosen / np.log(2)).numpy(), (logits.argmax(-1).numpy() == ids[first:])


@pytest.mark.parametrize("prefix", [(1,), ()])
def test_gains_agree_with_the_models_forward_pass(any_toy, prefix):
    lm = any_toy
    recipe = Recipe.default(budget=20, prefix=prefix, k=2)
    mems = cram(lm, random_passages(lm, 2, 7), recipe, progress=False)
    table = gains(lm, mems)
    for mem, row in zip(mems, table.to_dict("records"), strict=True):
        ids = mem.token_ids
        before, text = lm.embed(list(prefix)), lm.embed(ids[:-1])
        given, right = bits_by_forward(lm, torch.cat([before, torch.tensor(mem.mem), text]), ids, 0)
        np.testing.assert_allclose(row["token_bits_with"], given, atol=2e-4)
        first = 0 if prefix else 1
        without, hit = bits_by_forward(lm, torch.cat([before, text]), ids, first)
        np.testing.assert_allclose(row["token_bits_without"][first:], without, atol=2e-4)
        assert np.isnan(row["token_bits_without"][:first]).all()
        # Only tokens that are scored in both cases count.
        assert row["scored"] == 7 - first
        assert row["bits_with"] == pytest.approx(given[first:].sum(), abs=2e-3)
        assert row["bits_without"] == pytest.approx(without.sum(), abs=2e-3)
        assert (row["hits_with"], row["hits_without"]) == (right[first:].sum(), hit.sum())
        assert row["accuracy"] == pytest.approx(right[first:].mean())


def test_gains_leave_out_a_first_token_that_the_recipe_does_not_score(toy):
    (mem,) = cram(toy, random_passages(toy, 1, 6), Recipe.paper2025(budget=3), progress=False)
    (row,) = gains(toy, [mem]).to_dict("records")
    assert mem.recipe.first_scored == 2
    assert row["scored"] == 5
    assert row["bits_with"] == pytest.approx(row["token_bits_with"][1:].sum())


def test_a_single_token_without_context_is_not_scored(toy):
    bits, right = token_scores(toy, np.array([3]), toy.embed([]))
    assert np.isnan(bits).tolist() == [True]
    assert right.tolist() == [False]


def test_horizon_bits_are_those_of_the_exact_prefix():
    bits = np.array([5.0, 1, 2, 4, 8, 16])
    attempts = pd.DataFrame(
        {
            "texts": "prose",
            "k": 1,
            "text_id": "a",
            "source": "here",
            "length": [4, 6],
            "tokens": [4, 6],
            "exact": [True, False],
            "exact_prefix": [4, 5],
            "token_passes": [10, 20],
            "bits": [0.1, 0.4],
            "token_bits_without": [bits[:4], bits],
        }
    )
    (row,) = capacity.horizons(attempts).to_dict("records")
    assert (row["texts"], row["k"], row["horizon"], row["longest_exact"], row["failed_at"]) == ("prose", 1, 5, 4, 6)
    assert row["horizon_bits"] == 20
    assert row["token_passes"] == 30


# Stored forms ------------------------------------------------------------------------------------------------------


@pytest.fixture
def crammed(toy):
    mems = cram(toy, random_passages(toy, 4, 4), Recipe.default(budget=60, k=2), progress=False)
    assert sum(mem.exact for mem in mems) >= 3
    return [mem for mem in mems if mem.exact]


def test_precision_calls_exactly_the_decoding_forms_exact(toy, crammed):
    table = precision.precision(toy, crammed, batch=5)
    assert len(table) == len(crammed) * len(precision.FORMS)
    assert table[table.form == "float32"].exact.all()
    by_key = {mem.key: mem for mem in crammed}
    for row in table.itertuples():
        form = next(f for f in precision.FORMS if f.name == row.form)
        changed = form.make(by_key[row.key])
        assert row.exact == check(toy, changed).passed
        assert row.exact == np.array_equal(decode(toy, [changed], batch=1)[0], changed.token_ids)
        assert row.stored_bits == 2 * (toy.d * form.bits + form.overhead)
    assert not table[table.form == "int2"].exact.all()
    assert table[table.form == "int16"].moved.max() < table[table.form == "int4"].moved.min()


def test_fewest_bits_takes_the_smallest_exact_form(toy, crammed):
    table = precision.precision(toy, crammed)
    best = fewest_bits(table)
    assert sorted(best.key) == sorted({mem.key for mem in crammed})
    for row in best.itertuples():
        exact = table[(table.key == row.key) & table.exact]
        assert row.stored_bits == exact.stored_bits.min()
        assert row.bits_a_token == row.stored_bits / 4


def test_the_margin_predicts_the_fewest_bits_by_hand():
    """Four vectors, exact down to 4, 5, 6 and 8 bits."""
    rows = [
        dict(key=f"v{i}", text_id="t", tokens=8, k=1, form=f"int{bits}", bits_a_number=bits, stored_bits=bits * 10,
             exact=bits >= least, margin_float32=margin)
        for i, (least, margin) in enumerate([(4, 9.0), (5, 5.0), (6, 2.0), (8, 0.1)])
        for bits in (4, 5, 6, 7, 8)
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    assert fewest_bits(table).bits_a_number.tolist() == [4, 5, 6, 8]
    assert precision.predicted_by_margin(table).value == pytest.approx(-1)
    # Ranks 4 3 2 1 against 1 2 4 3: rho = 1 - 6 * (9 + 1 + 4 + 4) / 60 = -0.8
    table.loc[table.key == "v2", "margin_float32"] = 0.05
    assert precision.predicted_by_margin(table).value == pytest.approx(-0.8)
    # Opposite ranks at two lengths cancel.
    table.loc[table.key.isin(["v2", "v3"]), "tokens"] = 16
    assert precision.predicted_by_margin(table, at_one_length=True).value == pytest.approx(0)
    table.loc[table.key == "v2", "margin_float32"] = 2.0
    assert precision.predicted_by_margin(table, at_one_length=True).value == pytest.approx(-1)


def test_exact_vectors_of_a_store(toy, crammed, store):
    other = load("toy:gemma3")
    (stranger,) = cram(other, random_passages(other, 1, 3), Recipe.default(budget=1), progress=False)
    for mem in [*crammed, stranger]:
        store.put(mem)
    keys = sorted(mem.key for mem in crammed)
    assert [mem.key for mem in precision.exact_vectors(store, toy, 50)] == keys
    assert [mem.key for mem in precision.exact_vectors(store, toy, 2)] == keys[:2]


def test_a_form_that_overflows_is_not_exact(toy, crammed):
    def refuse(mem: MemVector) -> MemVector:
        return mem.with_mem(mem.mem * 1e30, "larger").cast("float16")

    (row,) = precision.precision(toy, crammed[:1], forms=[Form("float16", 16, 0, refuse)]).to_dict("records")
    assert not row["exact"]
    assert row["margin"] == -np.inf


def test_pruning_nothing_is_exact_and_pruning_nearly_all_is_not(toy, crammed):
    table = precision.pruning(toy, crammed, kept=(1.0, 0.02))
    assert table[table.form == "100% of the numbers"].exact.all()
    assert not table[table.form == "2% of the numbers"].exact.any()
    assert set(table.stored_bits) == {2 * (toy.d * 16 + toy.d), 2 * (toy.d * 0.02 * 16 + toy.d)}


# The model as a coder ----------------------------------------------------------------------------------------------


def test_arithmetic_coding_round_trips_near_the_entropy(any_toy):
    lm = any_toy
    for passage in random_passages(lm, 2, 40):
        coded = codecs_experiment.encode(lm, passage.ids)
        np.testing.assert_array_equal(codecs_experiment.decode(lm, coded, 40), passage.ids)
        bits = lm.token_bits(passage.ids)
        ideal = np.where(np.isnan(bits), np.log2(lm.vocabulary), bits).sum()
        # Two bits more at most. Fewer only by luck: the last interval holds a number j bits shorter once in 2^j.
        assert ideal - 12 <= coded.bits <= ideal + 2


def test_a_reader_must_be_read_in_order(toy):
    reader = codecs_experiment.Reader(toy)
    reader([])
    with pytest.raises(ValueError, match="in order"):
        reader([1, 2])


def test_another_model_cannot_decode_the_code(toy):
    other = load("toy:gemma3")
    assert other.fingerprint != toy.fingerprint
    ids = random_passages(toy, 1, 30)[0].ids
    coded = codecs_experiment.encode(toy, ids)
    try:
        got = codecs_experiment.decode(other, coded, 30)
    except CodecError:
        return
    assert not np.array_equal(got, ids)


def test_the_coding_table_holds_every_codec():
    lm = load("toy:llama")
    passages = [lm.passage(text, 60) for text in originals()[:2]]
    table = codecs_experiment.coding(lm, passages)
    assert len(table) == 2 * 6
    arithmetic = table[table.codec == "arithmetic, toy:llama"]
    assert arithmetic.round_trip.all()
    np.testing.assert_allclose(arithmetic.bits, arithmetic.cross_entropy, rtol=0.01, atol=2)
    assert not table.codec.str.startswith("mem vector").any()
    utf8 = table[table.codec == "UTF-8"].set_index("text_id").bits
    for passage in passages:
        assert utf8[passage.span.id] == 8 * len(passage.string.encode())


def test_survived_counts_texts_of_each_form():
    table = pd.DataFrame({
        "form": ["int8"] * 10 + ["int4"] * 10, "bits_a_number": [8] * 10 + [4] * 10,
        "exact": [True] * 10 + [False] * 10, "text_id": [*range(10)] * 2,
    })  # fmt: skip
    shares = precision.survived(table).set_index("form")
    assert shares.share.to_dict() == {"int8": 1, "int4": 0}
    assert shares.low["int8"] == pytest.approx(0.722, abs=0.001)  # Wilson, 10 of 10: n / (n + 1.96^2)
    assert shares.high["int4"] == pytest.approx(0.278, abs=0.001)
    # Three vectors of one text count as one text.
    again = precision.survived(pd.concat([table] * 3)).set_index("form")
    assert again.low["int8"] == pytest.approx(shares.low["int8"])


def test_the_coding_table_has_vectors_in_their_fewest_exact_bits(toy, crammed):
    passages = list({mem.token_ids.tobytes(): toy.passage_of_ids(mem.token_ids) for mem in crammed}.values())
    other = random_passages(toy, 1, 5)[0]
    table = codecs_experiment.coding(toy, [*passages, other], crammed)
    vectors = table[table.codec == "mem vector, fewest bits"]
    assert len(vectors) == len(passages)
    assert (table[table.codec == "mem vector, float32"].bits == 32 * 2 * toy.d).all()
    by_text = {toy.decode_ids(mem.token_ids): mem for mem in crammed}
    forms = {form.name: form for form in precision.FORMS}
    for row, passage in zip(vectors.itertuples(), passages, strict=True):
        form, mem = forms[row.form], by_text[passage.string]
        assert row.bits == 2 * (toy.d * form.bits + form.overhead) < 32 * 2 * toy.d
        assert check(toy, form.make(mem)).passed


def test_a_vector_that_does_not_decode_on_this_machine_has_no_row(toy, crammed, monkeypatch):
    usual = codecs_experiment.precision

    def undone(lm, mems):
        table = usual(lm, mems)
        return table.assign(exact=table.exact & (table.key != crammed[0].key))

    monkeypatch.setattr(codecs_experiment, "precision", undone)
    (passage,) = {toy.passage_of_ids(crammed[0].token_ids)}
    table = codecs_experiment.coding(toy, [passage], [crammed[0]])
    assert not table.codec.str.startswith("mem vector").any()


def test_a_failed_round_trip_is_false_in_the_table(toy, monkeypatch):
    def broken(*_):
        raise CodecError("damaged")

    monkeypatch.setattr(codecs_experiment, "decode", broken)
    table = codecs_experiment.coding(toy, random_passages(toy, 1, 5))
    assert table.round_trip.tolist()[-1] is False


def test_gain_per_stored_bit(toy, crammed):
    table = precision.gain_per_bit(toy, crammed, precision.precision(toy, crammed))
    gained = gains(toy, crammed).set_index("key")
    for row in table.itertuples():
        without, with_mem = gained.bits_without[row.key], gained.bits_with[row.key]
        assert row.gain_per_stored_bit == pytest.approx((without - with_mem) / row.stored_bits)
    assert (table.gain_per_stored_bit > 0).all()
