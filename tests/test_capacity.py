"""Measures of capacity against sums done by hand, published figures, and data made with known parameters."""

import csv
import itertools
import math

import numpy as np
import pandas as pd
import pytest

from memlab import Recipe
from memlab.measures import capacity, capacity_fits
from memlab.measures.statistics import (
    Estimate,
    bootstrap,
    median_interval,
    rank_correlation,
    rank_correlation_p,
    share_interval,
)
from memlab.texts import data_folder


def reference(name):
    with open(data_folder() / "reference" / f"{name}.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# The paper's own table ---------------------------------------------------------------------------------------------


def test_utilisation_matches_the_papers_table():
    printed = [row for row in reference("paper2025-capacity") if row["utilisation"]]
    assert len(printed) == 28
    for row in printed:
        d, vocabulary = int(row["d"]), int(row["vocabulary"])
        got = capacity.token_utilisation(float(row["token_gain"]), d, vocabulary, k=int(row["k"]))
        assert got == pytest.approx(float(row["utilisation"]), abs=0.00051), row


def test_theoretical_capacity_by_hand():
    # 4096 numbers of 16 bits are 65,536 bits; a token of 128,256 is 16.969 bits.
    assert capacity.theoretical_tokens(4096, 128256) == pytest.approx(65536 / (math.log(128256) / math.log(2)))
    assert capacity.theoretical_tokens(4096, 128256) == pytest.approx(3862.2, abs=0.1)
    assert capacity.theoretical_tokens(8, 256, bits=4, k=3) == pytest.approx(12)


def test_nats_and_bits_of_the_papers_largest_model():
    (row,) = [r for r in reference("paper2025-capacity") if r["model"] == "llama-3.1-8b" and r["texts"] == "pg19"]
    bits = float(row["information_gain_nats"]) / math.log(2)
    assert capacity.nats(bits) == pytest.approx(4865.7)
    assert capacity.bits_per_dimension(bits, int(row["d"])) == pytest.approx(1.7138, abs=1e-3)


def test_bits_of_nats_is_the_inverse_of_nats():
    assert capacity.bits_of_nats(math.log(8)) == pytest.approx(3)
    assert capacity.bits_of_nats(capacity.nats(12.5)) == pytest.approx(12.5)
    assert capacity.bits_of_nats(pd.Series([0.0, math.log(2)])).tolist() == pytest.approx([0, 1])


def test_utilisations_are_medians_over_passages_per_number_of_the_vector():
    gains = pd.DataFrame(
        {"texts": [*"bbba"], "token_gain": [10, 30, 20, 3], "information_gain_bits": [40.0, 60, 80, 16]}
    )
    # 8 numbers of 16 bits are 128 bits; a token of a vocabulary of 256 is 8 bits: 16 tokens could be named.
    table = capacity.utilisations(gains, d=8, vocabulary=256)
    assert table.index.tolist() == ["b", "a"]
    assert table.token_gain.tolist() == [20, 3]
    assert table.token_utilisation.tolist() == pytest.approx([20 / 16, 3 / 16])
    assert table.information_gain_bits.tolist() == [60, 16]
    assert table.bits_per_dimension.tolist() == pytest.approx([60 / 8, 2])


def test_gains_are_summed_over_the_tokens_scored_in_both():
    assert capacity.information_gain([np.nan, 8, 4], [3, 1, 0.5]) == pytest.approx(10.5)
    with pytest.raises(ValueError, match="3 tokens without"):
        capacity.information_gain([1, 2, 3], [1, 2])
    assert capacity.token_gain(30, 12) == 18
    assert capacity.compression_ratio(100, 576 * 32) == pytest.approx(800 / 18432)


def test_pooled_estimators_by_hand():
    """Two lengths reach the threshold on average, one run of them does not. Failing runs of all lengths are pooled."""
    runs = pd.DataFrame(
        [
            # length accuracy hits_with hits_without bits_with bits_without
            (16, 1.00, 15, 5, 1.0, 60.0),
            (16, 0.99, 15, 4, 2.0, 62.0),  # 0.99 counts as held and, in the pooled gains, as failing
            (32, 1.00, 31, 9, 2.0, 130.0),
            (32, 0.98, 30, 10, 8.0, 128.0),  # the mean at 32 is 0.99: held
            (64, 0.90, 57, 21, 40.0, 250.0),
            (64, 0.80, 50, 20, 60.0, 260.0),
        ],
        columns=["length", "accuracy", "hits_with", "hits_without", "bits_with", "bits_without"],
    )
    (row,) = capacity.paper_estimates(runs).to_dict("records")
    assert row["max_tokens"] == 32
    assert (row["runs"], row["failing"]) == (6, 4)
    assert row["token_gain"] == pytest.approx((11 + 20 + 36 + 30) / 4)
    # Deviations of 11, 20, 36, 30 from 24.25, squared, over 3.
    assert row["token_gain_sd"] == pytest.approx(math.sqrt((13.25**2 + 4.25**2 + 11.75**2 + 5.75**2) / 3))
    assert row["information_gain_bits"] == pytest.approx((60 + 120 + 210 + 200) / 4)
    assert row["information_gain_nats"] == pytest.approx(147.5 * 0.6931471805599453)
    both = pd.concat([runs.assign(texts="a"), runs[runs.length < 64].assign(texts="b", accuracy=0.5)])
    first, second = capacity.paper_estimates(both).to_dict("records")
    assert (first["texts"], first["max_tokens"]) == ("a", 32)
    assert (second["texts"], second["max_tokens"], second["failing"]) == ("b", 0, 4)


# Exact -------------------------------------------------------------------------------------------------------------


def test_explain_when_99_percent_accuracy_decodes_nothing():
    n = 200
    fed = np.ones(n, bool)
    fed[0] = False
    without = np.full(n, 4.0)
    given = np.full(n, 0.01)
    given[0] = 9.0
    free = np.zeros(n, bool)
    result = capacity.explain(without, given, np.zeros(n, bool), fed, free).set_index("measure")
    assert result.loc["tokens scored", ["paper2025", "exact"]].tolist() == [199, 200]
    assert result.loc["accuracy", "paper2025"] == 1
    assert bool(result.loc["holds the passage", "paper2025"])
    assert not result.loc["holds the passage", "exact"]
    assert "token 1 of 200, which the published count leaves out" in result.loc["holds the passage", "why"]
    assert result.loc["tokens gained", "exact"] == 0
    assert result.loc["information gained, bits", "paper2025"] == pytest.approx(199 * 3.99)
    assert result.loc["information gained, bits", "exact"] == 0  # nothing of it is decoded
    assert "token 1 gains -5.0 bits" in result.loc["information gained, bits", "why"]


def test_explain_compares_gains_over_the_same_tokens():
    """Without a prefix, token 1 has no cost. Fifty tokens are decoded; the bare model knew only tokens after those."""
    n = 200
    fed, free = np.ones(n, bool), np.arange(n) < 50
    without = np.where(np.arange(n) == 0, np.nan, 4.0)
    knew = np.arange(n) >= 130  # 70 hits of the bare model, all behind token 50
    result = capacity.explain(without, np.full(n, 0.01), knew, fed, free).set_index("measure")
    assert result.loc["tokens gained", "exact"] == 50
    assert result.loc["information gained, bits", "exact"] == pytest.approx(49 * 3.99)
    assert "nan" not in result.to_string().lower()
    assert "right while the true text is fed" in result.loc["holds the passage", "why"]
    fed[50] = False
    result = capacity.explain(without, np.full(n, 0.01), knew, fed, free).set_index("measure")
    assert "allows one wrong token in a hundred" in result.loc["holds the passage", "why"]


def test_explain_when_both_protocols_agree():
    right = np.ones(10, bool)
    result = capacity.explain(np.full(10, 2.0), np.zeros(10), ~right, right, right).set_index("measure")
    assert bool(result.loc["holds the passage", "exact"])
    assert result.loc["tokens gained", "exact"] == 10
    assert "to the end" in result.loc["holds the passage", "why"]


def test_exact_estimates_count_censored_passages():
    horizons = pd.DataFrame(
        {
            "texts": ["a"] * 3 + ["b"] * 2,
            "horizon": [100, 120, 256, 60, 62],
            "horizon_bits": [400.0, 410, 800, 500, 510],
            "failed_at": [112, 128, None, 64, 64],
        }
    )
    first, second = capacity.exact_estimates(horizons).to_dict("records")
    assert first["tokens"].value == 120
    assert (first["least"], first["most"], first["censored"]) == (100, 256, 1)
    assert second["bits"].value == 505
    assert second["censored"] == 0
    assert format(second["tokens"], ".0f") == "61 [–, –]"  # of two passages


def test_median_interval_is_open_above_at_censored_horizons():
    table = pd.DataFrame({"horizon": [100, 110, 120, 130, 140, 256, 256, 256], "horizon_bits": 1.0})
    table["failed_at"] = [112, 120, 128, 144, 160, None, None, None]
    (row,) = capacity.exact_estimates(table).to_dict("records")
    assert row["tokens"] == (135, 100, math.inf)
    (row,) = capacity.exact_estimates(table.assign(failed_at=300)).to_dict("records")
    assert row["tokens"] == (135, 100, 256)


# Fits, on data made with known parameters -----------------------------------------------------------------------------


def simulated(rng, c=450.0, passages=24, noise=15.0):
    """Texts of 100 to 1,500 bits; a vector removes c bits, with noise."""
    bits = rng.uniform(100, 1500, passages)
    left = np.maximum(0, bits - c + rng.normal(0, noise, passages))
    return pd.DataFrame({"text_id": range(passages), "bits_without": bits, "bits_with": left})


def test_saturation_is_the_least_squares_fit():
    runs = simulated(np.random.default_rng(1))
    grid = np.arange(300, 600, 0.05)
    cost = [((np.maximum(0, runs.bits_without - c) - runs.bits_with) ** 2).sum() for c in grid]
    assert capacity_fits.saturation(runs.bits_without, runs.bits_with) == pytest.approx(grid[np.argmin(cost)], abs=0.06)


@pytest.mark.slow
def test_saturation_recovers_a_known_c():
    rng = np.random.default_rng(0)
    hits = 0
    for i in range(100):
        found = capacity_fits.saturation_interval(simulated(rng), draws=300, seed=i)
        assert found.value == pytest.approx(450, abs=25)
        hits += found.low <= 450 <= found.high
    assert 85 <= hits <= 99  # nominal 95; a percentile interval of 24 passages falls a little short


@pytest.mark.slow
def test_saturations_separate_kinds_with_different_c():
    rng = np.random.default_rng(1)
    tables = []
    for kind, c in (("prose", 450), ("lists", 450), ("noise", 300)):
        runs = simulated(rng).assign(texts=kind, protocol="fixed", k=1)
        runs["text_id"] = kind + runs.text_id.astype(str)
        runs["bits_with"] = np.maximum(0, runs.bits_without - c)
        tables.append(runs.assign(exact=runs.bits_with == 0, tried=40.0, tokens=40))
    alike, apart = pd.concat(tables[:2]), pd.concat(tables)
    result = capacity_fits.saturations(alike).set_index("texts")
    assert [round(result.C[kind].value) for kind in ("prose", "lists", "all")] == [450, 450, 450]
    assert result.off.max() < 1e-6
    result = capacity_fits.saturations(apart).set_index("texts")
    assert result.off["all"] > 30 > result.off["noise"]
    # What grew and was not trained to its end says nothing; nor does a single kind of all.
    grown = alike[alike.texts == "prose"].assign(exact=False, tried=20.0)
    assert not len(capacity_fits.saturations(grown))
    assert capacity_fits.saturations(alike[alike.texts == "prose"]).texts.tolist() == ["prose"]


def attempts(rng, half=140.0, slope=8.0, passages=24):
    """Every passage at every length; the odds of exact fall with length to the power -slope."""
    lengths = np.arange(64, 257, 16)
    rows = [(p, n, rng.random() < 1 / (1 + (n / half) ** slope)) for p in range(passages) for n in lengths]
    return pd.DataFrame(rows, columns=["text_id", "length", "exact"])


@pytest.mark.slow
def test_n50_recovers_a_known_size():
    rng = np.random.default_rng(0)
    hits = 0
    for i in range(40):
        found = capacity_fits.n50_interval(attempts(rng), draws=100, seed=i)
        assert found.value == pytest.approx(140, rel=0.12)
        hits += found.low <= 140 <= found.high
    assert 33 <= hits <= 40


def searched(rng, half, passages, spread=0.3, grid=range(32, 257, 16)):
    """Results of a search over a grid of lengths, for passages with log-logistic limits around ``half``."""
    lengths = np.array(grid)
    limits = half * np.exp(spread * rng.logistic(0, 1, passages) * np.sqrt(3) / np.pi)
    reached = [int(lengths[lengths <= limit].max(initial=0)) for limit in limits]
    failed = [lengths[lengths > limit].min() if (lengths > limit).any() else None for limit in limits]
    return pd.DataFrame({"text_id": range(passages), "horizon": reached, "failed_at": failed})


@pytest.mark.slow
@pytest.mark.parametrize("half", [40, 128, 200, 256])
def test_n50_of_a_search_recovers_the_passages_median_limit(half):
    """The search brackets a limit below the grid's first length, between two lengths, or beyond its end."""
    rng, hits, found = np.random.default_rng(half), 0, []
    for i in range(30):
        estimate = capacity_fits.n50_of_search_interval(searched(rng, half, 24), draws=100, seed=i)
        hits += estimate.low <= half <= estimate.high
        found.append(estimate.value)
    assert np.median(found) == pytest.approx(half, rel=0.05)
    assert 25 <= hits <= 30


def test_n50_of_a_search_without_bracketed_limits():
    assert np.isnan(capacity_fits.n50_of_search([256, 256], [None, None]))  # at least 256, and no more is known
    # Nothing ever came back: somewhere below the first length.
    assert capacity_fits.n50_of_search([0, 0, 0], [32, 32, 32]) < 32


def test_failed_at_is_above_the_horizon():
    attempts = pd.DataFrame(
        {
            "text_id": "a", "source": "here", "length": [96, 112, 128, 144], "tokens": [96, 112, 128, 144],
            "exact": [True, False, False, False], "exact_prefix": [96, 30, 120, 40], "token_passes": 1,
            "bits": [0.0, 0.3, 0.2, 0.1],
        }
    )  # fmt: skip
    (row,) = capacity.horizons(attempts).to_dict("records")
    assert (row["horizon"], row["longest_exact"], row["failed_at"], row["bits_at_failure"]) == (120, 96, 128, 0.2)


def test_the_right_charge_makes_kinds_agree():
    """Tokens cost their bits and two more: the kinds differ in bits, and agree with a charge of two."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(60):
        bits_a_token = (3.0, 6.0, 12.0)[i % 3]
        budget = 1000 * np.exp(rng.normal(0, 0.05))
        tokens = budget / (bits_a_token + 2)
        rows.append((f"t{i}", f"kind{i % 3}", tokens, tokens * bits_a_token))
    table = pd.DataFrame(rows, columns=["text_id", "texts", "horizon", "horizon_bits"])
    spreads = {c: capacity_fits.spread(capacity_fits.charged(table, c), "horizon_bits") for c in (0, 2, 1000)}
    assert spreads[2] < 0.1 * spreads[0] < spreads[1000]
    assert capacity_fits.spread(capacity_fits.charged(table, 1e9), "horizon_bits") == pytest.approx(
        capacity_fits.spread(table, "horizon")
    )
    given = capacity_fits.charged(table.assign(failed_at=200.0, failed_bits=900.0), 0.5)
    assert set(given.failed_bits) == {1000.0}


def test_runs_of_two_recipes_are_not_pooled():
    attempts = pd.DataFrame(
        {
            "text_id": "a", "source": "here", "length": 96, "tokens": 96, "exact": [True, False], "token_passes": 1,
            "exact_prefix": [96, 30], "bits": 0.1, "recipe": ["growing", "default"],
        }
    )  # fmt: skip
    with pytest.raises(capacity.MixedRecipesError, match=r"runs of several recipes \(growing, default\)"):
        capacity.horizons(attempts)
    assert capacity.horizons(attempts[attempts.recipe == "default"]).horizon.tolist() == [30]
    # Other seeds of one recipe are one search.
    seeds = attempts.assign(recipe=["default", "default seed=1"])
    assert capacity.horizons(seeds).horizon.tolist() == [96]
    # Two recipes are not to be pooled over passages or k either; what k entails is no other recipe.
    other = attempts.assign(text_id=["a", "b"])
    with pytest.raises(capacity.MixedRecipesError):
        capacity.horizons(other)
    grown = other.assign(k=[1, 2], recipe=["growing", "growing k=2 grow=16 seed=3 token_budget=9"])
    assert capacity.horizons(grown).k.tolist() == [1, 2]
    with pytest.raises(capacity.MixedRecipesError):
        capacity.horizons(grown.assign(recipe=["growing", "fullmatrix k=2"]))
    # Two models may have been tried each with its own.
    assert len(capacity.horizons(other.assign(model=["one", "two"]))) == 2
    with pytest.raises(capacity.MixedRecipesError):
        capacity.paper_estimates(pd.DataFrame({"recipe": ["paper2025", "default"]}))


def test_a_custom_recipe_is_one_recipe_at_every_k():
    mine = Recipe.default(grow=8, patience=300, margin=0.3)
    names = [mine.replace(k=k, grow=8 * k, seed=k, token_budget=k).name for k in (1, 2, 4)]
    capacity.require_one_recipe(pd.DataFrame({"recipe": names, "k": [1, 2, 4]}))
    for other in (mine.replace(k=2, grow=8), mine.replace(k=2, grow=16, patience=30), Recipe.default()):
        with pytest.raises(capacity.MixedRecipesError):
            capacity.require_one_recipe(pd.DataFrame({"recipe": [names[0], other.name], "k": [1, other.k]}))
    both = [Recipe.growing().name, Recipe.growing(grow=1).name]
    with pytest.raises(capacity.MixedRecipesError):
        capacity.require_one_recipe(pd.DataFrame({"recipe": both}))


@pytest.mark.parametrize(
    "changes",
    [
        {"betas": (0.8, 0.99)},
        {"prefix": "none", "suffix": (5, 7)},
        {"prefix": (1, 2), "lr": 1e-5},
        {"grow": 12, "schedule": "cosine"},
        {"stop": "teacher_forced", "rule": "adamw"},
    ],
)
def test_a_recipe_is_read_back_from_its_name(changes):
    """Tables have the name only: every kind of field value is read, and seeds of one recipe are one recipe."""
    recipe = Recipe.default(**changes)
    names = [recipe.name, recipe.replace(seed=3, token_budget=9).name]
    capacity.require_one_recipe(pd.DataFrame({"recipe": names}))
    with pytest.raises(capacity.MixedRecipesError):
        capacity.require_one_recipe(pd.DataFrame({"recipe": [*names, "default"]}))


def test_a_name_that_is_not_a_recipes_is_compared_as_it_is():
    capacity.require_one_recipe(pd.DataFrame({"recipe": ["found elsewhere"] * 2}))
    with pytest.raises(capacity.MixedRecipesError, match=r"several recipes \(default retired=1, found elsewhere\)"):
        capacity.require_one_recipe(pd.DataFrame({"recipe": ["default retired=1", "found elsewhere"]}))


def test_rows_with_missing_labels_are_kept():
    attempts = pd.DataFrame(
        {"text_id": ["a", "b"], "length": 96, "tokens": 96, "exact": False, "token_passes": 1, "exact_prefix": 50,
         "bits": 0.1, "source": ["here", None]}
    )  # fmt: skip
    assert len(capacity.horizons(pd.concat([attempts.assign(start=0, model="m"), attempts]))) == 4


def test_seventeen_runs_at_the_threshold_reach_it():
    runs = pd.DataFrame(
        {"length": [101] * 17, "accuracy": 0.99, "hits_with": 99, "hits_without": 9, "bits_with": 1.0,
         "bits_without": 9.0}
    )  # fmt: skip
    assert runs.accuracy.mean() < 0.99  # by the last bit
    found = capacity.paper_estimates(runs)
    assert found.max_tokens[0] == 101
    assert found.failing[0] == 17


def test_saturation_counts_after_a_concat_with_an_empty_table():
    runs = pd.DataFrame(
        {"protocol": "fixed", "k": 1, "texts": "x", "text_id": [*"abcdefgh"], "exact": [True] * 3 + [False] * 5,
         "tried": 64.0, "tokens": 64, "bits_without": 500.0, "bits_with": 10.0}
    )  # fmt: skip
    both = pd.concat([pd.DataFrame({"protocol": []}), runs], ignore_index=True)
    assert capacity_fits.saturations(both.astype({"exact": object}))["not exact"].tolist() == [5]


def test_two_parts_of_one_text_are_two_passages():
    attempts = pd.DataFrame(
        {
            "text_id": "a", "length": 96, "tokens": 96, "exact": False, "token_passes": 1, "exact_prefix": [50, 30],
            "bits": 0.1, "start": [0, 200],
        }
    )  # fmt: skip
    assert capacity.horizons(attempts).horizon.tolist() == [50, 30]
    # And a slope is within passages: here each holds as much with two vectors as with one.
    four = capacity.horizons(pd.concat([attempts.assign(k=1), attempts.assign(k=2)]))
    assert capacity_fits.vectors_slope(four) == pytest.approx(0)


def test_doublings_compare_each_passage_with_itself():
    rows = [("a", "x", 1, 100), ("a", "x", 2, 210), ("a", "x", 4, 399), ("b", "x", 1, 80), ("b", "x", 2, 160),
            ("c", "y", 1, 50), ("c", "y", 2, 150), ("d", "y", 1, 500)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["text_id", "texts", "k", "horizon"])
    found = capacity_fits.doublings(table.assign(horizon_bits=table.horizon * 3.0)).set_index(["texts", "k"])
    assert found.twice.to_dict() == {("x", 1): 2, ("y", 1): 2, ("all", 1): 2, ("x", 2): 4}
    assert found.passages.to_dict() == {("x", 1): 2, ("y", 1): 1, ("all", 1): 3, ("x", 2): 1}
    assert found.tokens["x", 1] == pytest.approx(2.05)
    assert (found.least["all", 1], found.most["all", 1]) == pytest.approx((2.0, 3.0))
    assert found.bits["x", 2] == pytest.approx(1.9)
    assert not len(capacity_fits.doublings(table[table.k == 1].assign(horizon_bits=1.0)))


def test_a_grown_text_fails_at_the_stage_where_it_gave_up():
    """Three texts of 64 tokens: one gave up at 24, one ran out of token passes, one reached the end."""
    attempts = pd.DataFrame(
        {
            "text_id": ["a", "b", "c"], "length": 64, "tokens": 64, "tried": [24.0, np.nan, np.nan],
            "exact": [False, False, True], "exact_prefix": [17, 40, 64], "token_passes": 1, "bits": [3.0, 2.0, 0.0],
            "token_bits_without": [[1.0] * 64] * 3,
        }
    )  # fmt: skip
    found = capacity.horizons(attempts.assign(source="here")).astype(object)
    found = found.where(found.notna(), None)
    assert list(found.horizon) == [17, 40, 64]
    assert list(found.failed_at) == [24, None, None]
    assert list(found.failed_bits) == [24, None, None]
    assert list(found.bits_at_failure) == [None] * 3  # the loss is of all 64, most of which were never trained


def test_a_length_that_was_exact_once_has_not_failed():
    """The requested 128 tokens were cut at 126. One seed failed at that length, another did not."""
    attempts = pd.DataFrame(
        {
            "text_id": "a", "source": "here", "length": [112, 128, 128, 144], "tokens": [112, 126, 126, 144],
            "exact": [True, False, True, False], "exact_prefix": [112, 30, 126, 40], "token_passes": 1, "bits": 0.1,
        }
    )  # fmt: skip
    (row,) = capacity.horizons(attempts).to_dict("records")
    assert (row["horizon"], row["failed_at"]) == (126, 144)
    assert len(capacity.outcomes(attempts)[1]) == 1


def test_gains_at_the_horizon_are_of_the_exact_prefix():
    attempts = pd.DataFrame(
        {"text_id": "a", "source": "here", "length": [4, 6], "tokens": [4, 6], "exact": [True, False],
         "exact_prefix": [4, 1], "token_passes": 1, "bits": 0.1}
    )  # fmt: skip
    attempts["token_bits_without"] = [[np.nan, 3.0, 2.0, 1.0], [np.nan, 3.0, 2.0, 1.0, 5.0, 5.0]]
    attempts["token_bits_with"] = [[0.5, 0.5, 0.5, 0.5], [1.0] * 6]
    attempts["token_right_without"] = [[False, False, True, True], [True] * 6]
    (row,) = capacity.horizons(attempts).to_dict("records")
    assert (row["horizon_bits"], row["failed_bits"]) == (6, 16)
    assert row["token_gain"] == 2
    assert row["information_gain_bits"] == pytest.approx(4.5)


def test_saturation_interval_is_open_above_if_everything_fits():
    runs = pd.DataFrame({"text_id": range(8), "bits_without": np.linspace(100, 400, 8), "bits_with": 0.1})
    found = capacity_fits.saturation_interval(runs, draws=50)
    assert found.value == pytest.approx(400, abs=1)
    assert found.high == math.inf


def test_n50_if_all_none_or_a_clear_cut_are_exact():
    assert np.isnan(capacity_fits.n50([10, 20], [True, True]))
    assert np.isnan(capacity_fits.n50([10, 20, 30, 40], [False, False, True, True]))
    # Without overlap, half way (on a logarithm) between the longest exact and the shortest failed.
    assert capacity_fits.n50([10, 20, 40, 80], [True, True, False, False]) == pytest.approx(math.sqrt(800), rel=0.01)


def test_vectors_slope():
    table = pd.DataFrame(
        [(text, k, c * k**0.9) for text, c in (("a", 100.0), ("b", 300.0)) for k in (1, 2, 4)],
        columns=["text_id", "k", "horizon"],
    )
    # A passage only measured at one k says nothing about the slope.
    table = pd.concat([table, pd.DataFrame([("c", 8, 5.0)], columns=table.columns)])
    assert capacity_fits.vectors_slope(table) == pytest.approx(0.9)
    assert np.isnan(capacity_fits.vectors_slope(table[table.k == 1]))
    # What ended with the grid, and what held nothing, has no slope to tell.
    more = pd.DataFrame([("d", 1, 256.0, None), ("d", 2, 256.0, None), ("e", 1, 0.0, 32), ("e", 2, 50.0, 64)],
                        columns=["text_id", "k", "horizon", "failed_at"])  # fmt: skip
    both = pd.concat([table.assign(failed_at=999), more])
    assert capacity_fits.vectors_slope(both) == pytest.approx(0.9)


def test_windows_of_equal_information():
    bits = np.random.default_rng(0).exponential(4, 500)
    windows = capacity_fits.equal_information(bits, 60)
    assert windows[0][0] == 0
    assert all(a[1] == b[0] for a, b in itertools.pairwise(windows))
    held = [bits[a:b].sum() for a, b in windows]
    for (a, b), sum_ in zip(windows, held, strict=True):
        # To the nearest token: neither one more nor one less would be closer.
        assert abs(sum_ - 60) <= abs(bits[a : b - 1].sum() - 60) + 1e-9
        assert abs(sum_ - 60) <= abs(bits[a : b + 1].sum() - 60) + 1e-9
    assert bits[windows[-1][1] :].sum() < 60 + bits.max()
    assert capacity_fits.equal_information([np.nan, 1, 1], 1) == [(0, 2), (2, 3)]
    assert capacity_fits.equal_information([1, 1], 5) == []
    with pytest.raises(ValueError, match="more than 0"):
        capacity_fits.equal_information([1, 1], 0)


def test_tokens_held():
    assert capacity_fits.tokens_held([np.nan, 2, 3, 4], 5) == 3
    assert capacity_fits.tokens_held([2, 3, 4], 4.9) == 1
    assert capacity_fits.tokens_held([2, 3, 4], 100) == 3


def kinds(rng, per_bits, passages=12):
    """Horizons of three kinds of text that cost 3, 5 and 9 bits a token; ``per_bits``: the limit is one of bits."""
    rows = []
    for texts, cost in (("plain", 3.0), ("dense", 5.0), ("random", 9.0)):
        for p in range(passages):
            if per_bits:
                bits = rng.normal(500, 40)
                tokens = bits / cost
            else:
                tokens = rng.normal(100, 8)
                bits = tokens * cost
            rows.append((f"{texts}-{p}", texts, tokens, bits))
    return pd.DataFrame(rows, columns=["text_id", "texts", "horizon", "horizon_bits"])


@pytest.mark.parametrize("per_bits", [True, False])
def test_information_not_length_in_worlds_of_bits_and_of_tokens(per_bits):
    table = kinds(np.random.default_rng(0), per_bits)
    result = capacity_fits.information_not_length(table, draws=300).set_index("unit")
    apart, one = ("tokens", "bits") if per_bits else ("bits", "tokens")
    assert result.loc[apart, "p"] < 0.01
    assert result.loc[one, "p"] > 0.05
    # Means of log2(3), log2(5), log2(9) lie 0.79 octaves (standard deviation) apart.
    assert result.loc[apart, "spread"] == pytest.approx(np.log2([3, 5, 9]).std(ddof=1), rel=0.1)
    less = result.loc["tokens less bits"]
    assert (less.low > 0) if per_bits else (less.high < 0)


def test_a_coarse_search_step_does_not_understate_the_spread():
    """Limits half an octave apart, searched in steps of 16 tokens: lower ends understate that, middles do not."""
    rows = []
    rng = np.random.default_rng(0)
    for texts, cost, mean in (("plain", 2.0, 600), ("random", 12.0, 600 * 2**0.5)):
        for p in range(60):
            limit = mean * 2 ** rng.normal(0, 0.15)
            reached = 16 * int(limit / cost / 16)
            rows.append((f"{texts}-{p}", texts, reached, reached * cost, reached + 16, (reached + 16) * cost))
    names = ["text_id", "texts", "horizon", "horizon_bits", "failed_at", "failed_bits"]
    table = pd.DataFrame(rows, columns=names)
    true = np.log2([600, 600 * 2**0.5]).std(ddof=1)
    result = capacity_fits.information_not_length(table, draws=50).set_index("unit").spread
    lower = capacity_fits.information_not_length(table[names[:4]], draws=50).set_index("unit").spread
    assert abs(result.bits - true) < 0.06
    assert abs(result.bits - true) < abs(lower.bits - true)


@pytest.mark.slow
def test_p_is_calibrated_for_kinds_that_do_not_differ():
    """The kinds differ in neither unit. Tokens have more noise, which must not look like a difference."""
    wrong = {"tokens": 0, "bits": 0, "tokens less bits": 0}
    for i in range(120):
        rng = np.random.default_rng(i)
        bits = 500 * 2 ** rng.normal(0, 0.15, 36)
        table = pd.DataFrame({"text_id": range(36), "texts": np.repeat(list("abc"), 12), "horizon_bits": bits})
        table["horizon"] = bits / 4 * 2 ** rng.normal(0, 0.35, 36)
        result = capacity_fits.information_not_length(table, draws=60, seed=i).set_index("unit")
        for unit in wrong:
            wrong[unit] += result.loc[unit, "p"] <= 0.05
    assert all(count <= 14 for count in wrong.values()), wrong  # nominal 6 of 120


def test_a_kind_without_horizons_gives_nan():
    table = kinds(np.random.default_rng(0), True)
    table.loc[table.texts == "random", ["horizon", "horizon_bits"]] = 0
    result = capacity_fits.information_not_length(table, draws=50)
    assert result.p.isna().all()
    assert result.spread.isna().all()
    assert (result.left_out == 12).all()
    result = capacity_fits.information_not_length(table[table.texts != "random"].assign(failed_at=None), draws=50)
    assert result.p.notna().all()
    assert (result.censored == 24).all()


def test_charges_are_the_test_at_each_charge():
    """One row per charge: spread and p of the bits, with the charge added to every token."""
    table = kinds(np.random.default_rng(0), False)
    charges = capacity_fits.charges(table, (0, 3), draws=60)
    assert charges.charge.tolist() == [0, 3]
    for charge, row in zip((0, 3), charges.itertuples(), strict=True):
        extra = table.assign(horizon_bits=table.horizon_bits + charge * table.horizon)
        means = np.log2(extra.horizon_bits).groupby(extra.texts).mean()
        assert row.spread == pytest.approx(means.std(ddof=1))
        assert row.p < 0.05


def test_bits_a_token_and_spread_within_kinds_by_hand():
    table = pd.DataFrame({"texts": [*"yyxx"], "horizon": [10.0, 30, 100, 100], "horizon_bits": [20.0, 120, 500, 300]})
    assert capacity_fits.bits_a_token(table).to_dict() == {"y": 3, "x": 4}
    within = capacity_fits.spread_within_kinds(table)
    assert within.index.tolist() == ["y", "x"]
    # 10 and 30: mean 20, standard deviation (n - 1) sqrt(200).
    assert within.horizon.tolist() == pytest.approx([math.sqrt(200) / 20, 0])
    assert within.horizon_bits.tolist() == pytest.approx([math.sqrt(5000) / 70, math.sqrt(20000) / 400])


# Correlations --------------------------------------------------------------------------------------------------------


def test_rank_correlation_is_scipys():
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    x = rng.integers(0, 12, 40)
    table = pd.DataFrame({"text_id": range(40), "x": x, "y": x + rng.normal(0, 4, 40)})
    found = rank_correlation(table, "x", "y", draws=300)
    assert found.value == pytest.approx(spearmanr(table.x, table.y).statistic)
    assert found.low < found.value < found.high


def test_rank_correlation_within_groups_ignores_their_levels():
    """Inside each text y falls with x, and texts with larger x have larger y."""
    rows = [(text, 10 * text + x, 100 * text - x) for text in range(8) for x in range(4)]
    table = pd.DataFrame(rows, columns=["text_id", "x", "y"])
    assert rank_correlation(table, "x", "y", within="text_id", draws=50) == pytest.approx((-1, -1, -1))
    assert rank_correlation(table, "x", "y", draws=50).value > 0.9


def test_rank_correlation_p_against_all_permutations():
    """Five passages have 120 orders: the p of all of them is known exactly."""
    from scipy.stats import spearmanr

    table = pd.DataFrame({"x": [1, 2, 3, 4, 5], "y": [2, 1, 3, 5, 4]})
    observed = spearmanr(table.x, table.y).statistic
    exact = np.mean(
        [spearmanr(table.x, order).statistic >= observed - 1e-12 for order in itertools.permutations(table.y)]
    )
    assert rank_correlation_p(table, "x", "y", draws=2000) == pytest.approx(exact, abs=0.02)
    assert rank_correlation_p(table.assign(y=-table.x), "x", "y", draws=99) == 1


# Intervals -----------------------------------------------------------------------------------------------------------


def test_bootstrap_keeps_a_passages_rows_together():
    # Ten rows a passage, all alike: as many independent values as passages, so the interval is as wide as theirs.
    values = np.random.default_rng(0).normal(0, 1, 20)
    table = pd.DataFrame({"text_id": np.repeat(np.arange(20), 10), "x": np.repeat(values, 10)})
    together = bootstrap(lambda t: t.x.mean(), table, draws=2000)
    alone = bootstrap(lambda t: t.x.mean(), table.assign(text_id=range(200)), draws=2000)
    error = values.std() / math.sqrt(20)
    assert together.high - together.low == pytest.approx(2 * 1.96 * error, rel=0.12)
    assert alone.high - alone.low < 0.5 * (together.high - together.low)


def test_bootstrap_within_keeps_groups_their_size():
    table = pd.DataFrame({"text_id": list("abcdef"), "texts": ["x"] * 4 + ["y"] * 2, "n": [1] * 6})
    sizes = []
    bootstrap(lambda t: sizes.append(tuple(t.texts.value_counts()[["x", "y"]])) or 0.0, table, within="texts", draws=20)
    assert set(sizes) == {(4, 2)}


def test_bootstrap_gives_no_interval_if_many_draws_are_undefined():
    exact = [True, False, False, False, False, False]
    table = pd.DataFrame({"text_id": range(6), "exact": exact, "length": [10, 20, 30, 40, 50, 60]})
    found = bootstrap(lambda t: capacity_fits.n50(t.length, t.exact), table, draws=200)
    assert np.isfinite(found.value)
    assert np.isnan(found.low)
    assert np.isnan(found.high)


def test_bootstrap_of_five_passages_gives_no_interval():
    table = pd.DataFrame({"text_id": [0, 1, 2, 3, 4, 4], "x": [1.0, 2, 3, 4, 5, 6]})
    found = bootstrap(lambda t: t.x.mean(), table, draws=50)
    assert format(found, ".1f") == "3.5 [–, –]"
    assert np.isfinite(bootstrap(lambda t: t.x.mean(), table.assign(text_id=range(6)), draws=50).low)


def test_share_interval_is_wilsons():
    # By the formula: (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n), p = 7/8, n = 8.
    z, n, p = 1.959964, 8, 7 / 8
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = share_interval(7, 8)
    assert low == pytest.approx((middle - half) / (1 + z * z / n), abs=1e-6)
    assert high == pytest.approx((middle + half) / (1 + z * z / n), abs=1e-6)
    assert share_interval(0, 5)[0] == 0
    assert share_interval(5, 5)[1] == 1
    # Sixteen passages, one of them right in two of three seeds: as wide as sixteen trials are.
    low, high = share_interval(15 + 2 / 3, 16)
    assert share_interval(15, 16)[0] < low < share_interval(47, 48)[0]


@pytest.mark.parametrize("n", [6, 8, 24])
def test_median_interval_covers(n):
    """For a normal distribution and for a very skewed one."""
    rng = np.random.default_rng(n)
    for draw, middle in ((rng.standard_normal, 0.0), (lambda size: rng.exponential(1, size), math.log(2))):
        hits = sum(low <= middle <= high for _, low, high in (median_interval(draw(n)) for _ in range(600)))
        assert 0.93 <= hits / 600 <= 0.995
    assert format(Estimate(143.6, 120, 160), ".0f") == "144 [120, 160]"


def test_median_interval_of_few_values_is_open():
    assert median_interval([3.0, 1.0, 2.0]) == (2, -math.inf, math.inf)
    assert median_interval([1.0, 2, 3, 4, 5, 6]) == (3.5, 1, 6)
    assert median_interval([1.0, 2, 3, 4, 5, 6], open_above=[False] * 5 + [True]) == (3.5, 1, math.inf)
