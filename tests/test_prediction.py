"""The predictor on simulated data with known rules: bits decide, length decides, or both."""

import numpy as np
import pandas as pd
import pytest

from memlab.cli.capacity import _accuracy
from memlab.measures import prediction


def world(rng, *, budget=500.0, constant=0.0, noise=0.05, passages=36, ks=(1,), slope=1.0):
    """Passages of three densities. A horizon is where a passage's budget is spent; budgets vary by ``noise``."""
    rows = []
    for i in range(passages):
        k = ks[i // 3 % len(ks)]
        mean = (2.5, 5.0, 10.0)[i % 3]
        bits = rng.exponential(mean, 3000)
        own = budget * k**slope * np.exp(rng.normal(0, noise))
        horizon = int(np.searchsorted(np.cumsum(bits + constant), own))
        rows.append((f"p{i}", f"kind{i % 3}", k, horizon, bits[: 2 * horizon]))
    return pd.DataFrame(rows, columns=["text_id", "texts", "k", "horizon", "token_bits"])


def fitted(table):
    return prediction.fit(table.token_bits.tolist(), table.horizon.tolist(), table.k.tolist())


@pytest.mark.parametrize("constant", [0.0, 4.0])
def test_the_fit_recovers_known_constant_and_budget(constant):
    found = fitted(world(np.random.default_rng(0), constant=constant, budget=600))
    assert found.constant == pytest.approx(constant, abs=1)
    assert found.budget == pytest.approx(600, rel=0.05 if constant == 0 else 0.25)


def test_the_constant_is_large_if_only_length_decides():
    found = fitted(world(np.random.default_rng(0), constant=1000, budget=130_000))
    assert found.constant == max(prediction.CONSTANTS)


@pytest.mark.slow
def test_held_out_passages_are_predicted_better_than_by_the_mean():
    table = world(np.random.default_rng(1))
    result = prediction.report(prediction.held_out(table))
    assert result["passages"] == 36
    assert result["median_error"] < 0.25 * result["baseline_median_error"]


@pytest.mark.slow
def test_an_unseen_kind_is_predicted_if_bits_decide():
    result = prediction.report(prediction.held_out(world(np.random.default_rng(1)), by="texts"))
    assert result["median_error"] < 0.25 * result["baseline_median_error"]


@pytest.mark.slow
def test_intervals_have_their_coverage():
    inside = [
        prediction.report(prediction.held_out(world(np.random.default_rng(i), noise=0.2, passages=30)))["inside"]
        for i in range(6)
    ]
    assert 0.82 <= np.mean(inside) <= 0.99


@pytest.mark.slow
def test_intervals_have_their_coverage_with_several_k():
    """Each k has independent noise: the mean of a passage's errors varies half as much as one error."""
    inside = []
    for i in range(3):
        rng = np.random.default_rng(i)
        table = pd.concat(
            [world(rng, budget=5000, noise=0, passages=24).assign(k=k) for k in (1, 2, 4, 8)], ignore_index=True
        )
        again = table.groupby("text_id").token_bits.transform("first")
        held = [
            np.searchsorted(np.cumsum(bits), 500 * k * np.exp(rng.normal(0, 0.12)))
            for bits, k in zip(again, table.k, strict=True)
        ]
        table = table.assign(token_bits=again, horizon=held)
        inside.append(prediction.report(prediction.held_out(table))["inside"])
    assert 0.84 <= np.mean(inside) <= 0.97


@pytest.mark.slow
def test_horizons_unrelated_to_bits_are_not_predicted():
    """The negative control: horizons shuffled among passages."""
    rng = np.random.default_rng(0)
    table = world(rng)
    table["horizon"] = rng.permutation(np.minimum(table.horizon, table.token_bits.map(len).min()))
    result = prediction.report(prediction.held_out(table))
    assert result["median_error"] > 0.6 * result["baseline_median_error"]


def test_more_vectors():
    table = world(np.random.default_rng(0), ks=(1, 2, 4), slope=0.9, passages=45, noise=0.02)
    found = fitted(table)
    assert found.slope == pytest.approx(0.9, abs=0.05)
    text = np.full(2000, 5.0)
    assert found.horizon(text, 4).value == pytest.approx(500 * 4**0.9 / 5, rel=0.08)
    # 10,000 bits at 500 * k^0.9: k = 20^(1/0.9) = 27.9
    assert found.vectors_needed(text) == pytest.approx(28, abs=3)
    assert found.vectors_needed(text, sure=0.95) >= found.vectors_needed(text)
    assert found.vectors_needed(text[:3]) == 1


def test_vectors_needed_raises_if_more_vectors_held_no_more():
    bits = np.full(400, 4.0)
    for horizons in ([100, 90, 120, 110, 80, 70], [100, 100, 120, 120, 80, 80]):
        found = prediction.fit([bits] * 6, horizons, [1, 2] * 3, passages=[*"aabbcc"])
        with pytest.raises(ValueError, match="more vectors held no more"):
            found.vectors_needed(bits)


def test_one_passage_at_three_k_is_one_passage():
    with pytest.raises(ValueError, match=r"of 1 passages\. Give .* at least 3 passages"):
        prediction.fit([np.full(400, 4.0)] * 3, [100, 200, 300], [1, 2, 3], passages=["a"] * 3)


def test_the_baseline_is_the_mean_at_the_same_k():
    table = pd.DataFrame(
        {"text_id": [*"abcd"] * 2, "texts": "x", "k": [1] * 4 + [4] * 4, "horizon": [10] * 4 + [40] * 4,
         "token_bits": [np.full(200, 4.0)] * 8}
    )  # fmt: skip
    left_out = prediction.held_out(table)
    assert (left_out.baseline == left_out.true).all()
    assert (left_out.own_kind == left_out.true).all()
    assert set(left_out.texts) == {"x"}
    assert "texts" not in prediction.held_out(table.drop(columns="texts"))


def test_two_parts_of_one_text_keep_their_own_bits():
    rows = [
        dict(protocol="exact", model="m", texts="x", text_id=name, start=start, k=1, tokens=90, tried=60.0, exact=False,
             exact_prefix=50, token_passes=1, bits=0.1, token_bits_without=[cost] * 90)
        for name in "abc" for start, cost in ((0, 2.0), (500, 10.0))
    ]  # fmt: skip
    runs = pd.DataFrame(rows)
    for of in ("start", "model"):
        two = runs if of == "start" else runs.assign(start=0, model=[f"m{row['start']}" for row in rows])
        table = prediction.measured(two)
        assert [bits[0] for bits in table.token_bits] == [2.0, 10.0] * 3
        assert table.passage.nunique() == 6


def test_a_prediction_ends_at_the_texts_end():
    found = fitted(world(np.random.default_rng(0)))
    assert tuple(found.horizon(np.full(20, 2.0))) == (20, 20, 20)
    estimate = found.horizon(np.full(2000, 2.0))
    assert estimate.low < estimate.value < estimate.high
    narrower = found.horizon(np.full(2000, 2.0), level=0.5)
    assert estimate.low < narrower.low < narrower.high < estimate.high


def test_with_few_passages_an_interval_is_open():
    few = fitted(world(np.random.default_rng(0), passages=9))
    text = np.full(2000, 2.0)
    assert (few.horizon(text).low, few.horizon(text).high) == (1, 2000)
    assert 1 < few.horizon(text, level=0.6).low < few.horizon(text, level=0.6).high < 2000


def test_fit_errors():
    with pytest.raises(ValueError, match="at least 3"):
        prediction.fit([[1.0, 2]], [1])
    with pytest.raises(ValueError, match="horizon of 5"):
        prediction.fit([[1.0, 2]] * 3, [1, 2, 5])


def rows_of(rng, passages, ks=(1, 2, 4), spread=0.2, tokens=3000):
    """Long texts; each passage has one budget per vector, for every k."""
    rows = []
    for p in range(passages):
        budget, bits = 500 * np.exp(rng.normal(0, spread)), rng.exponential(4, tokens)
        rows += [(f"t{p}", k, int(np.searchsorted(np.cumsum(bits), budget * k)), bits) for k in ks]
    return pd.DataFrame(rows, columns=["text_id", "k", "horizon", "token_bits"])


def fitted_by_passage(table):
    return prediction.fit(
        table.token_bits.tolist(), table.horizon.tolist(), table.k.tolist(), passages=table.text_id.tolist()
    )


def test_intervals_count_passages_not_rows():
    table = rows_of(np.random.default_rng(0), 7)
    found = fitted_by_passage(table)
    assert len(found.errors) == 7
    estimate = found.horizon(table.token_bits[0], 1)
    assert (estimate.low, estimate.high) == (1, len(table.token_bits[0]))  # seven passages are too few for 90 %
    with pytest.raises(ValueError, match=r"7 passages measured are too few .* at most 0\.88"):
        found.vectors_needed(table.token_bits[0], sure=0.95)


def test_baselines_are_the_means_of_all_and_of_the_own_kind():
    table = pd.DataFrame(
        {"text_id": [*"abcdef"], "texts": [*"xxxyyy"], "k": 1, "horizon": [10, 12, 14, 40, 42, 50],
         "token_bits": [np.full(100, 4.0)] * 6}
    )  # fmt: skip
    found = prediction.held_out(table).set_index("text_id")
    assert found.baseline["a"] == np.mean([12, 14, 40, 42, 50])
    assert (found.own_kind["a"], found.own_kind["f"]) == (13, 41)
    result = prediction.reports(found.reset_index())
    assert list(result) == [1]
    # off by 3, 0, 3, 6, 3, 9
    assert result[1]["own_kind_median_error"] == 3
    assert prediction.held_out(table, by="texts").own_kind.isna().all()
    line = _accuracy(1, result[1])
    assert line.startswith("k = 1: median error of 6 passages, each predicted from the others: ")
    assert "mean of the same kind 3" in line
    assert "kind" not in _accuracy(2, {**result[1], "own_kind_median_error": np.nan})


def test_a_passage_measured_at_several_k_counts_once():
    """Two passages with a budget of 400 bits at one k, one with 800 at four k: the median is 400."""
    bits = np.full(2000, 4.0)
    found = prediction.fit(
        [bits] * 6, [100, 100, 200, 400, 800, 1600], [1, 1, 1, 2, 4, 8], passages=["a", "b", *["c"] * 4]
    )
    assert found.budget == pytest.approx(400 + 100 * found.constant)
    assert found.slope == pytest.approx(1)


def test_vectors_needed_holds_the_requested_share_of_passages():
    """Nine in ten new passages fit into the predicted number of vectors."""
    held = tried = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        found = fitted_by_passage(rows_of(rng, 30, ks=(1,)))
        for _ in range(20):
            budget, bits = 500 * np.exp(rng.normal(0, 0.2)), rng.exponential(4, 800)
            held += bits.sum() <= budget * found.vectors_needed(bits, sure=0.9)
            tried += 1
    assert held / tried >= 0.86


@pytest.mark.slow
def test_the_end_of_the_search_does_not_leak_into_predictions():
    """Budgets that nothing predicts: texts cut near the horizon must not improve the prediction."""
    table = rows_of(np.random.default_rng(3), 24, ks=(1,), spread=0.8)
    cut = table.assign(token_bits=[bits[: n + 16] for bits, n in zip(table.token_bits, table.horizon, strict=True)])
    whole, near = (prediction.report(prediction.held_out(t))["median_error"] for t in (table, cut))
    assert near > 0.7 * whole
