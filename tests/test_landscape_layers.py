"""A vector in every layer: its place in the landscape, and its horizons."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from memlab import Recipe, cram
from memlab.experiments.landscape import measure, reading
from memlab.experiments.landscape.layers import InEveryLayer
from memlab.experiments.landscape.method import LandscapeError
from memlab.experiments.landscape.prefix_tuning import horizons, prefix_tuning, summary
from memlab.experiments.session import Session
from memlab.texts import Text

pytestmark = pytest.mark.slow  # the laws and known answers of many methods: a minute together

RECIPE = Recipe.layers(budget=60)


def passages(lm, count=3, tokens=6):
    rng = np.random.default_rng(5)
    return [lm.passage_of_ids(rng.integers(0, lm.vocabulary, tokens), name=f"p{i}") for i in range(count)]


@pytest.mark.parametrize("k", [1, 2])
def test_the_bytes_alone_give_the_passage_back(toy, k):
    method = InEveryLayer(recipe=RECIPE.replace(k=k))
    chosen = passages(toy)
    stored = [method.store(toy, passage) for passage in chosen]
    assert {len(data) for data in stored} == {4 * k * 2 * toy.d}
    contexts = [InEveryLayer(recipe=method.recipe).context(toy, data, 6) for data in stored]
    ids = reading.written(toy, contexts, 6, [()] * 3)
    for passage, context, row in zip(chosen, contexts, ids, strict=True):
        assert row.tolist() == passage.ids.tolist()
        bits, right = reading.token_bits(toy, context, passage.ids, ())
        (mem,) = cram(toy, passage, method.recipe, progress=False)
        assert bits.sum() == pytest.approx(6 * mem.loss_bits, rel=1e-3)
        assert right.all()
    swapped = replace(contexts[0], layers=contexts[0].layers.flip(0))
    assert not reading.token_bits(toy, swapped, chosen[0].ids, ())[1].all()


def test_a_row_of_the_landscape(toy, store):
    table = measure.landscape(
        Session(toy, store, progress=False), {"random": passages(toy)}, [InEveryLayer(recipe=RECIPE)], cue=""
    )
    assert table.exact.all()
    assert (table.stored_bits == 32 * 2 * toy.d).all()
    assert (table.bits_shuffled > table.bits_with).all()


def test_a_passage_that_is_not_found_is_left_out_with_a_way_out(toy):
    with pytest.raises(LandscapeError, match=r"not exact within 0 steps\. Give a recipe with a larger budget"):
        InEveryLayer(recipe=RECIPE.replace(budget=0)).store(toy, passages(toy)[0])


@pytest.fixture
def texts():
    return [Text(name, words * 3, "typed") for name, words in (("a", "the cat sat. "), ("b", "qx7 zz! w@"))]


def test_horizons_of_two_places_resume(toy, store, texts):
    chosen = {"input": Recipe.default(budget=30, whiten=0), "every layer": Recipe.layers(budget=30)}
    seen = []
    table = prefix_tuning(
        Session(toy, store, on_rows=seen.append, progress=False), texts, chosen, lengths=(4, 8, 12, 16)
    )
    assert set(table["where"]) == {"input", "every layer"}
    assert (table.numbers == table["where"].map({"input": toy.d, "every layer": 2 * toy.d})).all()
    assert len(seen[-1]) == len(table)
    assert (table[table.tokens == 4].own_bits > 0).all()
    again = prefix_tuning(
        Session(toy, type(store)(store.path.parent / "empty"), table, progress=False), texts, chosen,
        lengths=(4, 8, 12, 16),
    )  # fmt: skip
    pd.testing.assert_frame_equal(again, table)
    assert not list((store.path.parent / "empty").glob("objects/*/*"))
    one = prefix_tuning(
        Session(toy, store, table, progress=False), texts[:1], {"layer 1": Recipe.layers(where="layer 1", budget=3)},
        lengths=(4,),
    )  # fmt: skip
    pd.testing.assert_frame_equal(one[: len(table)], table)
    assert one["where"].iloc[-1] == "layer 1"
    means = summary(table).set_index("where")
    assert means.loc["input", "times an input vector"] == 1


def test_horizons_of_a_table_made_by_hand():
    rows = [
        ("input", "a", 128, True, 10, 576, 800.0), ("input", "a", 160, False, 400, 576, 1000.0),
        ("every layer", "a", 256, True, 20, 17280, 1600.0), ("every layer", "a", 512, True, 40, 17280, 3200.0),
        ("input", "b", 128, False, 400, 576, 900.0), ("every layer", "b", 256, False, 400, 17280, 1700.0),
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["where", "text_id", "tokens", "exact", "steps", "numbers", "own_bits"])
    found = horizons(table).sort_values(["where", "text_id"], ascending=[False, True])
    assert found.horizon.to_list() == [128, 0, 512, 0]
    assert found.ended.to_list() == [True, True, False, True]
    row = summary(table).set_index("where").loc["every layer"]
    assert row["times an input vector"] == 4
    assert row["open"] == 1
    assert row["numbers a token"] == 17280 / 512
    assert row["bits a number"] == pytest.approx(3200 / 17280 / 2)
