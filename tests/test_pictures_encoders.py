"""The pictures and the prose of notebook 11: its cells run, and each number is computed again from the tables' rows."""

import re

import numpy as np
import pytest

from memlab import panels
from memlab.experiments.tables import stored
from memlab.measures.encoder_gap import savings
from memlab.training.encoders.shelf import trained
from tests.test_pictures_map import prose_of, run_cells

pytestmark = [pytest.mark.real, pytest.mark.slow]
NAME = "11_the_encoder_gap.ipynb"
TEXT = prose_of(NAME)


@pytest.fixture(scope="module")
def eleven(real):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(panels, "encoder_panel", lambda *args: None)
        return run_cells(NAME, real)


@pytest.fixture(scope="module")
def gap():
    table = stored("encoder-gap")
    return table[table.encoder == "slots"]


def some(table, tokens, k=1, texts="originals"):
    rows = table[(table.tokens == tokens) & (table.k == k) & (table.texts == texts)]
    assert len(rows) == 12
    return rows


def recovered(table, *which):
    rows = some(table, *which)
    return float(np.mean([1 - row.bits_with / row.bits_without for row in rows.itertuples()]))


def test_what_the_encoder_recovers(eleven, gap, real):
    (title,) = eleven["encoder_recovery"]
    short, long = map(int, re.search(r"gives back (\d+)% of 8 tokens of prose, and (\d+)% of 64", title).groups())
    assert short == round(100 * recovered(gap, 8))
    assert long == round(100 * recovered(gap, 64))
    assert "4.6 million weights" in TEXT
    assert round(trained("slots", real).parameters / 1e6, 1) == 4.6


def test_the_gap_in_three_units(eleven, gap):
    (title,) = eleven["gap_units"]
    tokens, bits = map(int, re.search(r"writes (\d+) times as many tokens, and holds (\d+) times", title).groups())
    capacity = stored("capacity")
    capacity = capacity[capacity.k == 1]
    horizon = capacity[capacity.protocol == "exact"].groupby("text_id").exact_prefix.max()
    single = gap[gap.k == 1]
    prefix = single.groupby("text_id").exact_prefix.max()
    both = horizon.index.intersection(prefix.index)
    assert len(both) == 36
    assert tokens == round(np.median((horizon[both] + 1) / (prefix[both] + 1)))
    most = [
        (rows.bits_without - rows.bits_with).groupby(rows.tokens).mean().max()
        for rows in (capacity[capacity.protocol == "fixed"], single)
    ]
    assert bits == pytest.approx(most[0] / most[1], rel=0.25)  # a saturation is fitted, this is not
    assert "holds 18 times as many" in TEXT
    assert bits == 18


def test_what_the_prose_says_of_the_encoder(gap):
    single = gap[gap.k == 1]
    exact = single[single.exact_prefix == single.tokens]
    assert "of 144 texts in one vector, one came back whole" in TEXT
    assert "one of 144 texts in one vector comes back whole, one of 8 tokens" in TEXT
    assert (len(single), exact.tokens.tolist()) == (144, [8])
    taken = (single.bits_without - single.bits_with).groupby([single.texts, single.tokens]).mean()
    assert "about 60 bits" in TEXT
    assert taken.drop(("random", 64)).between(45, 75).all()
    assert abs(taken["random", 64]) < 5
    assert (gap.bits_shuffled > gap.bits_without).mean() > 0.8  # another text's vectors make a text dearer
    assert 0.002 <= gap.seconds_encode.median() <= 0.01
    assert "72 % of the bits of 8 tokens of prose" in TEXT
    assert round(recovered(gap, 8), 2) == 0.72
    early = single.groupby("tokens").steps_to_loss.median()
    assert "after three to five steps from noise" in TEXT
    assert early.between(2.5, 5.4).all()


def test_the_steps_that_a_start_saves(eleven):
    (title,) = eleven["steps_saved"]
    own, another = map(int, re.search(r"saves (\d+)% of the steps, another text's (\d+)%", title).groups())
    table = stored("warm-start")
    table = table[table.tokens == 32]
    ids = {i for _, group in table.groupby("texts") for i in list(dict.fromkeys(group.text_id))[1::2]}  # told on
    chosen, told = table[~table.text_id.isin(ids)], table[table.text_id.isin(ids)]
    cold = told.steps[told.arm == "cold"].sum()
    for arm, share in (("own", own), ("another", another)):
        lr = chosen[chosen.arm == arm].groupby("lr").steps.mean().idxmin()
        assert share == round(100 * (1 - told.steps[(told.arm == arm) & (told.lr == lr)].sum() / cold))
    assert f"own encoding saves {own} % of the steps" in TEXT
    assert abs(another - 33) < 3  # "still saves a third"
    assert "a better place to begin than noise, at 64 tokens, too" in TEXT
    long = savings(stored("warm-start"))
    long = long[(long.tokens == 64) & (long.texts == "all")].set_index("arm")
    assert (long.low[["own", "another", "constant"]] > 0.1).all()
    assert long.low["gradient"] < 0 < long.high["gradient"]
    seconds = table[table.exact].groupby(["arm", "lr"]).seconds.mean()
    assert "saves about a second at 32 tokens, so it pays after seven thousand texts" in TEXT
    assert 7200 / (seconds["cold"].iloc[0] - seconds["own", 0.2]) == pytest.approx(7000, rel=0.1)
    short = stored("warm-start")
    worst = short[(short.tokens == 16) & (short.arm == "own") & (short.lr == 0.2)].sort_values("steps")
    assert "a single text of random words, which took 86 steps" in TEXT
    assert (worst.steps.iloc[-1], worst.texts.iloc[-1]) == (86, "random")
    assert worst.steps.iloc[-2] < 30


def test_predictions(eleven):
    (title,) = eleven["predicted_and_measured"]
    held, all_of_them = map(int, re.search(r"(\d+) of (\d+) predictions held", title).groups())
    assert 0 < held < all_of_them


@pytest.fixture(scope="module")
def smaller():
    return stored("smaller-models")


def share_of_exact(table, part):
    """{model: share of exact rows of a part}."""
    rows = table[table.part == part]
    return rows.exact.astype(bool).groupby(rows.model).mean()


def test_what_breaks_first_in_a_smaller_model(eleven, smaller):
    (title,) = eleven["what_breaks_first"]
    told = re.search(r"perplexity in (\d+) of (\d+) models, new searches in (\d+)", title)
    sooner, models, searches = map(int, told.groups())
    cost = smaller[smaller.part == "text"].groupby("model").code_bits.mean()
    left = 2.0 ** (cost["full model"] - cost)
    changed = left.index[((1 - left).abs() > 0.01) & (left.index != "full model")]
    moved, found = (share_of_exact(smaller, part) for part in ("transfer", "search"))
    assert models == len(changed)
    assert sooner == int((moved[changed] / moved["full model"] < left[changed]).sum()) == models
    assert searches == int((found[changed] / found["full model"] < left[changed]).sum()) == 0
    assert "fifteen smaller models" in TEXT
    assert len(cost) == 16
    assert "24 stored vectors" in TEXT
    assert (smaller[smaller.part == "transfer"].groupby("model").size() == 24).all()


def test_what_the_prose_says_of_smaller_models(smaller):
    cost = smaller[smaller.part == "text"].groupby("model").code_bits.mean()
    more = cost - cost["full model"]
    moved, found = (share_of_exact(smaller, part) for part in ("transfer", "search"))
    assert "prose a little *cheaper* (by 0.03 bits a token)" in TEXT
    assert round(more["smallest 10 % pruned"], 2) == -0.03
    assert moved["smallest 10 % pruned"] == 0
    assert moved["8 bits"] == moved["4 bits"] == 1
    assert moved["4 bits, blocks shifted"] == 0
    assert (
        "costs the model 3 bits more, and 7 of 8 new searches still end exact within 200 steps, as many as on the full"
        in TEXT
    )
    assert round(more["smallest 50 % pruned"]) == 3
    assert found["smallest 50 % pruned"] == found["full model"] == 7 / 8
