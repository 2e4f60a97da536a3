"""Kinds of text, their steps and horizons, and what the predictor said of them before."""

import base64
import re
import string

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from memlab import Recipe, Store, Text, load_texts
from memlab.cli import app
from memlab.experiments.kinds import kinds
from memlab.experiments.session import Session
from memlab.experiments.tables import stored
from memlab.measures import forecast
from memlab.measures.kinds import COLUMNS, EXPECTED, HORIZON, STEPS, by_kind, order_kept
from memlab.texts import TextError
from memlab.texts.kinds import NAMES

PATTERNS = {
    "digits": r"\d{800}",
    "base64": r"[A-Za-z0-9+/]+=*",
    "list": r"To buy:(\n- \d+ (kg|boxes|m|pieces) of [a-z]+){100}",
    "table": r"place,year,people,share(\n[A-Z][a-z]+,\d{4},\d+,0\.\d{3}|\n[A-Z][a-z]+,\d{4},\d+,1\.000)+",
    "invented": r"([A-Z][a-z]+( [a-z]+){4,8}\. ?)+",
    "capitals": r"[^a-z]+",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_kind_is_always_the_same_and_no_two_texts_are(name):
    texts = load_texts(f"kind:{name}", count=6)
    assert len(texts) == len({text.string for text in texts}) == len({text.id for text in texts}) == 6
    assert [text.string for text in load_texts(f"kind:{name}", count=2)] == [text.string for text in texts[:2]]
    if name in PATTERNS:
        assert all(re.fullmatch(PATTERNS[name], text.string) for text in texts)


def test_each_kind_is_what_its_name_says():
    assert all(len(base64.b64decode(text.string)) == 800 for text in load_texts("kind:base64", count=3))
    assert all(set(text.string) & set("äöüß") for text in load_texts("kind:german"))
    letters = "".join(text.string for text in load_texts("kind:russian"))
    assert not set(letters) & set(string.ascii_letters)
    for text in load_texts("kind:code"):
        assert re.search(r"^(def|class) ", text.string, re.MULTILINE)
    for text in load_texts("kind:repeated", count=4):
        sentence = text.string.split(". ")[0] + "."
        assert text.string.count(sentence) == 200
    assert load_texts("kind:digits", seed=1)[0].string != load_texts("kind:digits")[0].string


def test_an_unknown_kind_names_those_that_exist():
    with pytest.raises(TextError, match=r"There is no kind of text 'klingon'.*german"):
        load_texts("kind:klingon")


# The experiment -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def forecaster():
    return forecast.of_runs(stored("capacity"))


def texts_of(count):
    return {
        "words": [Text(f"words-{i}", f"{i} ferries wait at the old pier. Nobody pays.", "x") for i in range(count)],
        "numbers": [Text(f"numbers-{i}", f"{i} 12 99 31 47 80 15 26 73 64 58", "x") for i in range(count)],
    }


def test_steps_and_horizons_are_measured_and_resume(toy, tmp_path, forecaster):
    lengths = (4, 8, 12)
    said, saved = [], []
    session = Session(toy, Store(tmp_path), None, said.append, saved.append, progress=False)
    options = {"horizons": 1, "tokens": 6, "lengths": lengths, "recipe": Recipe.default(k=2, budget=60)}
    table = kinds(session, texts_of(2), forecaster, **options)
    assert tuple(table.columns) == COLUMNS
    assert table[table.part == STEPS].groupby("kind").text_id.nunique().to_dict() == {"words": 2, "numbers": 2}
    assert table[table.part == HORIZON].groupby("kind").text_id.nunique().to_dict() == {"words": 1, "numbers": 1}
    for row in table.itertuples():
        text = next(text for text in texts_of(2)[row.kind] if text.id == row.text_id)
        costs = np.nan_to_num(toy.token_bits(toy.passage(text, row.tokens).ids))
        assert row.own_bits == pytest.approx(costs.sum())
    # What was predicted is what the forecaster says of the same bits; the first kind's rows are in each later table.
    first = table[(table.part == STEPS) & (table.text_id == "words-1")].iloc[0]
    costs = np.nan_to_num(toy.token_bits(toy.passage(texts_of(2)["words"][1], 6).ids))
    assert first.steps_ahead == pytest.approx(forecaster.ahead(costs).steps.value)
    assert all(set(rows.kind) >= {"words"} for rows in saved)

    def never(*args, **options):
        raise AssertionError("trained again")

    again = Session(toy, Store(tmp_path / "empty"), table, said.append, saved.append, progress=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("memlab.sweeps.runner.cram", never, raising=False)
        repeated = kinds(again, texts_of(2), forecaster, **options)
    assert list(Store(tmp_path / "empty").keys()) == []
    pd.testing.assert_frame_equal(
        repeated.sort_values(["kind", "part", "key"], ignore_index=True),
        table.sort_values(["kind", "part", "key"], ignore_index=True),
        check_dtype=False,
    )


def rows_of(kind, bits, steps, horizon, ahead):
    base = dict.fromkeys(COLUMNS, 0) | {
        "kind": kind,
        "source": "x",
        "recipe": "default",
        "model": "m",
        "ended": "exact",
    }
    rows = [
        base | {"part": STEPS, "text_id": f"{kind}-{i}", "tokens": 32, "exact": True, "steps": steps + i,
                "own_bits": 32 * bits, "steps_ahead": steps}
        for i in range(3)
    ]  # fmt: skip
    for n, exact in ((horizon, True), (horizon + 16, False)):
        rows.append(
            base | {"part": HORIZON, "text_id": f"{kind}-0", "tokens": n, "length": n, "tried": n, "exact": exact,
                    "exact_prefix": n if exact else 3, "own_bits": n * bits, "horizon_ahead": ahead,
                    "horizon_ahead_low": ahead - 20, "horizon_ahead_high": ahead + 20}
        )  # fmt: skip
    return rows


def test_the_summary_has_the_known_answers():
    table = pd.DataFrame([*rows_of("easy", 4, 10, 160, 150), *rows_of("hard", 8, 30, 80, 120)])
    points = by_kind(table, draws=100).set_index("kind")
    assert points.steps.to_dict() == {"easy": 11, "hard": 31}
    assert points.bits.to_dict() == {"easy": 4, "hard": 8}
    assert points.horizon.to_dict() == {"easy": 160, "hard": 80}
    assert points.horizon_bits.to_dict() == {"easy": 640, "hard": 640}
    assert points.inside.to_dict() == {"easy": 1, "hard": 0}
    assert points.open.to_dict() == {"easy": 0, "hard": 0}
    three = points.reset_index()
    three = pd.concat([three, three.tail(1).assign(kind="third", bits=9.0, steps=5.0)])
    assert order_kept(three, "bits", "horizon_bits") != order_kept(three, "bits", "steps")
    assert order_kept(three, "bits", "steps") == pytest.approx(-0.5)
    assert np.isnan(order_kept(three.head(2), "bits", "steps"))


def test_every_kind_has_a_prediction():
    assert set(EXPECTED) == set(NAMES)
    assert all(low < high for low, high in EXPECTED.values())


def test_the_command(tmp_path):
    out = tmp_path / "kinds.parquet"
    result = CliRunner().invoke(
        app,
        ["bench", "kinds", "--texts", "digits", "--count", "2", "--horizons", "0", "-n", "6", "--model", "toy:llama",
         "--budget", "30", "--store", str(tmp_path), "--out", str(out)],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "digits" in result.output
    assert len(pd.read_parquet(out)) == 2
