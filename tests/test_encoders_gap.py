"""The gap between an encoder and the search, and warm starts: known answers, and one round of each on a toy."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from memlab import Recipe, Store, Text, cram
from memlab.cli import app
from memlab.experiments.encoder_gap import encoder_gap, searches
from memlab.experiments.encoder_warm_start import starts_of, warm_start
from memlab.experiments.session import Session
from memlab.measures import encoder_gap as measures
from memlab.measures.encoder_outcomes import outcomes
from memlab.measures.encoder_predictions import EXPECTED
from memlab.training.encoders import Encoder, Settings
from memlab.training.encoders.shelf import folders

SMALL = Settings(width=24, heads=2, reading_heads=2, longest=16, most=4, whiten=0.0)
TEXTS = {"typed": [Text(f"text-{i}", f"{i} ferries wait. Nobody pays the toll today.", "typed") for i in range(4)]}


@pytest.fixture(scope="module")
def encoder(toy):
    return Encoder(toy, SMALL)


# Known answers


def test_the_step_at_which_a_search_has_a_loss():
    assert measures.steps_to_loss([10, 6, 4], 10) == 0
    assert measures.steps_to_loss([10, 6, 4], 20) == 0
    assert measures.steps_to_loss([10, 6, 4], 6) == 1
    assert measures.steps_to_loss([10, 12, 4], 8) == 1.5
    assert math.isnan(measures.steps_to_loss([10, 6, 4], 3))


def gap_rows(prefixes, held):
    same = {
        "texts": "typed", "k": 1, "encoder": "slots", "right": 0, "steps_to_loss": 3.0, "search_steps": 20.0,
        "search_exact": True, "search_bits": 0.0, "seconds_encode": 0.01, "seconds_search": 1.0, "model": "m",
    }  # fmt: skip
    return pd.DataFrame(
        [
            same
            | {
                "text_id": f"text-{i}",
                "tokens": n,
                "bits_without": 6.0 * n,
                "bits_with": max(0.0, 6.0 * n - held),
                "bits_shuffled": 6.0 * n,
                "bits_constant": 6.0 * n - 2,
                "exact_prefix": prefix if n == 16 else 0,
            }
            for i, prefix in enumerate(prefixes)
            for n in (8, 16, 32)
        ]
    )


def test_the_gap_in_tokens_and_in_bits():
    table = gap_rows([0, 1, 3, 1], held=40.0)
    horizons = pd.DataFrame(
        {"texts": "typed", "text_id": [f"text-{i}" for i in range(4)], "horizon": [99, 99, 99, 199]}
    )
    assert measures.gap_in_tokens(table, horizons).value == np.median([100, 50, 25, 100])
    assert math.isnan(measures.gap_in_tokens(table, horizons.assign(texts="other")).value)
    runs = pd.DataFrame(
        {"text_id": ["a", "b", "c"], "bits_without": [900.0, 1000, 1200], "bits_with": [100.0, 200, 400]}
    )
    encoder, search, ratio = measures.gap_in_bits(table, runs)
    assert encoder.value == pytest.approx(40)
    assert search.value == pytest.approx(800)
    assert ratio == pytest.approx(20)
    units = measures.gap_in_units(table, horizons, runs, draws=200).set_index("unit")
    assert units.search["tokens written exactly"] == 99
    assert units.encoder["tokens written exactly"] == 1
    assert units.ratio["bits taken off at most"] == pytest.approx(20)
    assert units.ratio["steps, 16 tokens"] == pytest.approx(20 / 3)
    assert (units.low.fillna(0) <= units.ratio).all()
    assert (units.ratio <= units.high.fillna(math.inf)).all()
    (first,) = measures.encoder_summary(table[table.tokens == 8]).to_dict("records")
    assert first["recovered"] == pytest.approx(40 / 48)
    assert first["beyond_constant"] == pytest.approx(38 / 48)
    assert (first["steps_to_loss"], first["reached"], first["passages"]) == (3, 4, 4)


def warm_rows(saved, noise=0.0, seed=0):
    """Searches whose arm ``own`` needs a share less at the first angle 0.2, and more than cold at the others."""
    random = np.random.default_rng(seed)
    rows = []
    for i in range(24):
        cold = 20 + random.integers(0, 10)
        for arm, lr, steps in [
            ("cold", 0.4, cold), ("own", 0.1, 2 * cold), ("own", 0.2, (1 - saved) * cold + noise * random.normal()),
            ("own", 0.4, 3 * cold), ("another", 0.2, cold + 5),
        ]:  # fmt: skip
            rows.append({"texts": "typed", "text_id": f"t{i:02}", "tokens": 32, "arm": arm, "lr": lr, "steps": steps,
                         "exact": True})  # fmt: skip
    return pd.DataFrame(rows)


def test_savings_are_told_on_the_half_that_did_not_choose():
    table = warm_rows(0.25)
    chosen = measures.chosen_rates(table).set_index("arm").lr
    assert chosen["own"] == 0.2
    rows = measures.savings(table).query("texts == 'all'").set_index("arm")
    assert rows.saved["own"] == pytest.approx(0.25)
    assert rows.saved["another"] < 0
    assert rows.passages["own"] == 12
    half = measures.halves(table.text_id)
    assert len(half[0]) == len(half[1]) == 12
    assert not set(half[0]) & set(half[1])
    # The control: a step size that is best by luck on the choosing half only gains nothing on the telling one.
    lucky = warm_rows(0.0).assign(lr=0.2).query("arm in ('cold', 'own')").drop_duplicates(["text_id", "arm"])
    lucky = lucky.assign(lr=np.where(lucky.arm == "cold", 0.4, 0.2))
    lucky.loc[(lucky.arm == "own") & lucky.text_id.isin(half[0]), "steps"] = 1
    lucky.loc[(lucky.arm == "own") & lucky.text_id.isin(half[1]), "steps"] = 100
    assert measures.savings(lucky).query("texts == 'all'").saved.iloc[0] < -2


def test_searches_that_fail_do_not_count_as_savings():
    table = warm_rows(0.25)
    table.loc[(table.arm == "own") & (table.text_id == "t01"), "exact"] = False
    (own,) = measures.savings(table).query("texts == 'all' and arm == 'own'").to_dict("records")
    assert (own["passages"], own["lost"]) == (11, 1)


def test_break_even():
    assert measures.break_even(7200, 4, 0.1) == pytest.approx(18000)
    assert math.isinf(measures.break_even(7200, -1, 0.1))


def test_predictions_are_intervals():
    assert len({e.quantity for e in EXPECTED}) == len(EXPECTED)
    assert all(e.low < e.high for e in EXPECTED)


# On a toy


def test_a_search_tells_its_loss_before_each_step(toy):
    passages = [toy.passage(text, 4) for text in TEXTS["typed"][:2]]
    found = searches(toy, passages, Recipe.default())
    plain = cram(toy, passages, Recipe.default(), progress=False)
    for search, mem in zip(found, plain, strict=True):
        assert np.array_equal(search.mem.mem, mem.mem)
        assert len(search.losses) == mem.steps + 1
        assert search.losses[0] > search.losses[-1]


def test_a_search_begins_at_its_start(toy, encoder):
    passages = [toy.passage(text, 4) for text in TEXTS["typed"][:2]]
    own = starts_of(encoder, "own", passages, TEXTS["typed"][2:], Recipe.default())
    assert all(float(rows.norm()) == pytest.approx(400 * toy.d**0.5, rel=1e-4) for rows in own)
    found = searches(toy, passages, Recipe.default(budget=1, lr=0.1), own)
    for start, search in zip(own, found, strict=True):
        cosine = torch.nn.functional.cosine_similarity(start, torch.tensor(search.mem.mem), dim=-1)
        assert float(cosine) > math.cos(0.11)
    # The solution itself, as a start, needs no step.
    solved = searches(toy, passages, Recipe.default())
    again = searches(toy, passages, Recipe.default(), [s.mem.mem for s in solved])
    assert all(search.mem.steps <= 1 and search.mem.exact for search in again)
    another = starts_of(encoder, "another", passages, [], Recipe.default())
    assert torch.equal(another[0], own[1])
    steady = starts_of(encoder, "constant", passages, TEXTS["typed"][2:], Recipe.default())
    assert torch.equal(steady[0], steady[1])


@pytest.mark.slow
def test_the_gap_is_measured_and_resumes(toy, encoder):
    seen = []
    constant = Encoder(toy, dataclasses.replace(SMALL, network="constant"))
    session = Session(toy, Store(None), on_rows=seen.append)
    table = encoder_gap(session, TEXTS, {"slots": encoder}, constant=constant, tasks=((4, 1), (4, 2)))
    assert list(table.columns) == list(measures.COLUMNS)
    assert len(table) == 8
    assert len(seen) == 2
    assert table.search_exact.all()
    assert (table.search_bits < table.bits_with).all()
    reached = table.dropna(subset="steps_to_loss")
    assert (reached.steps_to_loss <= reached.search_steps).all()
    assert table.bits_constant.notna().all()
    more = {"slots": encoder, "other": Encoder(toy, dataclasses.replace(SMALL, seed=1))}
    again = encoder_gap(dataclasses.replace(session, resume_from=table), TEXTS, more, tasks=((4, 1), (4, 2)))
    assert len(again) == 16
    pd.testing.assert_frame_equal(again[again.encoder == "slots"].reset_index(drop=True), table)


@pytest.mark.slow
def test_warm_starts_are_measured_and_resume(toy, encoder):
    seen = []
    session = Session(toy, Store(None), on_rows=seen.append)
    some = {"typed": TEXTS["typed"][:2]}
    given = {"others": TEXTS["typed"][2:], "lengths": (4,), "rates": (0.2,)}
    table = warm_start(session, some, encoder, **given)
    assert list(table.columns) == list(measures.WARM_COLUMNS)
    assert table.groupby("arm").size().to_dict() == dict.fromkeys(measures.ARMS, 2)
    assert (table.exact).all()
    rerun = warm_start(dataclasses.replace(session, resume_from=table[table.arm != "own"]), some, encoder, **given)
    assert sorted(rerun.steps) == sorted(table.steps)
    assert len(seen) == 6
    assert len(measures.savings(table)) == 2 * 4


def test_the_commands_say_which_encoder_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("MEMLAB_CACHE", str(tmp_path))
    assert folders()[0] == tmp_path / "encoders"
    for command in ("encoder-gap", "warm-start"):
        run = CliRunner().invoke(
            app, ["bench", command, "--model", "toy:llama", "--texts", "originals", "--count", "2"]
        )
        assert run.exit_code == 2
        assert "encoder train slots" in run.output
    run = CliRunner().invoke(app, ["bench", "encoder-gap", "--model", "toy:llama", "--task", "16"])
    assert run.exit_code == 2


def test_each_prediction_meets_its_own_rows():
    """A table whose rows say what is predicted gives these numbers back, and nothing else is measured."""
    first = gap_rows([2, 2, 2, 2], held=12.0).assign(texts="originals")
    table = pd.concat([first, first.assign(encoder="constant", bits_with=lambda t: t.bits_without - 3)])
    horizons = pd.DataFrame({"texts": "originals", "text_id": [f"text-{i}" for i in range(4)], "horizon": 149})
    runs = pd.DataFrame({"text_id": ["a"], "bits_without": [900.0], "bits_with": [660.0]})
    warm = warm_rows(0.25)
    told = outcomes(table, horizons, runs, warm).set_index("quantity").measured
    assert told["16 tokens in 1 vector, recovered"] == pytest.approx(12 / 96)
    assert told["16 tokens in 1 vector, exact prefix"] == 2
    assert told["exact horizon of the search over exact prefix of the encoder, (h + 1) / (e + 1)"] == pytest.approx(50)
    assert told["bits that the search takes off at most over the encoder's saturation"] == pytest.approx(20)
    assert told["steps of a cold search to the encoder's loss, 32 tokens"] == 3
    assert told["constant vector, 16 tokens in 1 vector, recovered, gross"] == pytest.approx(3 / 96)
    assert told["warm start from the own encoding, 32 tokens"] == pytest.approx(0.25)
    assert told["warm start from another passage's encoding, 32 tokens"] < 0
    measured = set(told.dropna().index)
    assert len(measured) == 13
    assert not any("MiniLM" in quantity or "16 tokens in 4" in quantity for quantity in measured)
    assert outcomes(table, horizons, runs).measured.isna().sum() == told.isna().sum() + 2
