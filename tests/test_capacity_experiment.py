"""Both protocols from texts to tables, on a toy, through the command line."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from memlab import Recipe, Store, decode, load
from memlab.cli import app
from memlab.cli import common as cli_common
from memlab.experiments import capacity as capacity_experiment
from memlab.experiments import published
from memlab.experiments.attempts import context_room
from memlab.experiments.growing import growing
from memlab.experiments.session import Session
from memlab.experiments.tables import reference
from memlab.measures import capacity, prediction
from memlab.measures.capacity_report import n50_of_fixed_lengths, summaries
from memlab.models import PRESETS
from memlab.texts import Text, originals, random_words
from tests.browser_lab import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lm():
    return load("toy:gemma3")


@pytest.fixture
def cli(tmp_path, monkeypatch):
    monkeypatch.setenv("MEMLAB_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    return lambda *args: CliRunner().invoke(app, ["capacity", "--model", "toy:gemma3", *map(str, args)])


QUICK = ["--grid", "2:6:2", "--first", 4, "--attempts", 1, "--budget", 60, "--count", 2]


def test_capacity_from_the_command_line(cli, tmp_path, lm):
    out = tmp_path / "runs.parquet"
    asked = [
        *QUICK, "--texts", "originals", "--texts", "random", "--k", "2,4",
        "--protocol", "exact,paper2025", "--lengths", "3", "--out", out,
    ]  # fmt: skip
    result = cli(*asked)
    assert result.exit_code == 0, result.output
    assert "exact horizon" in result.stdout
    assert "do kinds of text differ less in bits than in tokens" in result.stdout
    assert "twice the vectors" in result.stdout
    assert "paper2025: largest length" in result.stdout
    runs = pd.read_parquet(out)
    assert set(runs.protocol) == {"exact", "paper2025"}
    assert set(runs.texts) == {"originals", "random"}
    exact = runs[runs.protocol == "exact"]
    assert set(exact[exact.k == 4].length) <= {8, 16, 24}
    assert set(exact[exact.k == 2].length) <= {4, 8, 12}
    # A horizon of the table is decoded from the stored bytes, here once more.
    store = Store()
    for row in capacity.horizons(exact).itertuples():
        attempts = exact[(exact.text_id == row.text_id) & (exact.k == row.k)]
        best = store.get(attempts.loc[attempts.exact_prefix.idxmax(), "key"])
        got = decode(lm, [best], batch=1)[0]
        np.testing.assert_array_equal(got[: row.horizon], best.token_ids[: row.horizon])
    # Again, from the store: the same table.
    before = sorted(store.keys())
    again = cli(*asked[:-1], tmp_path / "again.parquet")
    assert again.stdout == result.stdout
    assert sorted(store.keys()) == before
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "again.parquet"), runs)


def test_json_holds_the_same_tables(cli):
    result = cli(*QUICK, "--texts", "random", "--k", 4, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    (horizon,) = next(rows for title, rows in told.items() if title.startswith("exact horizon"))
    assert (horizon["texts"], horizon["k"], horizon["passages"]) == ("random", 4, 2)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (["--protocol", "guess"], "guess"),
        (["--k", "0"], "above 0"),
        (["--k", "1,2", "--count", "1,2,3"], "one per k"),
        (["--first", "5"], "not one of the lengths"),
        (["--grid", "2-6"], "first:last:stride"),
        (["--start", "middle"], "or paper"),
    ],
)
def test_what_cannot_be_asked(cli, asked, told):
    result = cli(*QUICK, *asked)
    assert result.exit_code == 2
    assert told in " ".join(re.sub("[│╭╮╰╯─]", " ", result.output).split())


def test_a_text_that_is_too_short_is_said_and_the_grid_ends_with_the_text(lm, tmp_path):
    texts = {"here": [Text("short", "ab"), Text("middle", "a bc d"), Text("long", "a bc def ghi jkl mno pqr")]}
    told = []
    runs = capacity_experiment.exact(
        Session(lm, Store(tmp_path), log=told.append, progress=False), texts, ks=(4,), lengths=(1, 4), first=1,
        attempts=1, recipe=Recipe.default(budget=80),
    )  # fmt: skip
    assert "2 of 3 texts have 4 tokens" in told[0]
    assert set(runs.text_id) == {"middle", "long"}
    assert runs[runs.text_id == "middle"].length.max() == 4
    assert runs[runs.text_id == "long"].length.max() == 16


def test_equal_information_is_equal_in_bits_and_not_in_tokens(lm, tmp_path):
    texts = {"originals": originals()[:2], "random": random_words(2, seed=1), "short": [Text("short", "ab")]}
    told = []
    runs = capacity_experiment.equal_information(
        Session(lm, Store(tmp_path), log=told.append, progress=False),
        texts,
        bits=[30, 60],
        recipe=Recipe.default(budget=3),
    )
    assert runs.groupby(["texts", "bits_asked"]).size().to_dict() == {
        (kind, bits): 2 for kind in ("originals", "random") for bits in (30, 60)
    }
    for row in runs.itertuples():
        text = next(t for t in texts[row.texts] if t.id == row.text_id)
        costs = np.nan_to_num(lm.token_bits(lm.passage(text, 30).ids))
        whole, before = costs[: row.length].sum(), costs[: row.length - 1].sum()
        assert before < row.bits_asked
        assert abs(whole - row.bits_asked) <= costs[: row.length + 1].max()
    assert "short has" in "".join(told)


def test_a_table_is_gone_on_from(lm, tmp_path, monkeypatch):
    texts = {"originals": originals()[:2]}
    asked = dict(lengths=(3, 5), recipe=Recipe.default(budget=3), protocol="fixed")
    kept = []
    whole = capacity_experiment.fixed_lengths(
        Session(lm, Store(tmp_path / "one"), on_rows=kept.append, progress=False), texts, **asked
    )
    pd.testing.assert_frame_equal(kept[-1], whole)
    assert set(map(len, kept)) >= {1, 4}  # not only when all are done
    elsewhere = Store(tmp_path / "other")
    again = capacity_experiment.fixed_lengths(Session(lm, elsewhere, whole, progress=False), texts, **asked)
    assert list(elsewhere.keys()) == []
    assert list(again.key) == list(whole.key)
    pd.testing.assert_frame_equal(again[whole.columns], whole, check_like=True)


def test_growing_and_predicting_from_the_command_line(cli, tmp_path, lm):
    out = tmp_path / "runs.parquet"
    asked = [
        "--texts", "originals", "--count", "4", "--recipe", '{"grow": 1, "margin": 0.1, "patience": 8, "budget": 500}',
        "--grid", "2:10:2", "--first", "2", "--out", out,
    ]  # fmt: skip
    result = cli(*asked)
    assert result.exit_code == 0, result.output
    assert "exact horizon" in result.stdout
    runs = pd.read_parquet(out)
    assert len(runs) == 4
    assert set(runs.ended) <= {"patience", "exact"}
    (tmp_path / "store").rename(tmp_path / "gone")  # the table alone is enough to go on from
    assert cli(*asked).stdout == result.stdout
    told = CliRunner().invoke(app, ["predict", "--model", "toy:gemma3", "--text", "It was late.", "--runs", str(out)])
    measured = prediction.measured(runs)
    if len(measured) < 3:
        assert told.exit_code == 2
        assert "and 3 are needed" in told.output
    else:
        assert told.exit_code == 0, told.output
        left_out = f"k = 1: median error of {len(measured)} passages, each predicted from the others:"
        assert (left_out if len(measured) > 3 else "error unknown") in told.stdout
    nowhere = cli(*asked[:-1], out / "in-a-file.parquet")
    assert nowhere.exit_code == 1
    assert "could not be written" in nowhere.output
    out.write_bytes(b"no table")
    broken = cli(*asked)
    assert broken.exit_code == 2
    assert "is not a Parquet table" in " ".join(re.sub("[│╭╮╰╯─]", " ", broken.output).split())


def test_k_vectors_grow_by_k_times_as_much(lm, store):
    recipe = Recipe.growing(grow=2, margin=0.1, patience=5, budget=40)
    texts = {"originals": originals()[:1]}
    runs = capacity_experiment.exact(
        Session(lm, store, progress=False), texts, ks=(1, 4), lengths=range(2, 11, 2), first=2, recipe=recipe
    )
    assert {row.k: store.get(row.key).recipe.grow for row in runs.itertuples()} == {1: 2, 4: 8}
    # As far, too, and with a budget as large.
    recipe = recipe.replace(token_budget=50)
    runs = capacity_experiment.exact(
        Session(lm, store, progress=False), texts, ks=(1, 4), lengths=range(2, 11, 2), first=2, recipe=recipe
    )
    assert runs.groupby("k").length.max().to_dict() == {1: 10, 4: 40}
    assert {row.k: store.get(row.key).recipe.token_budget for row in runs.itertuples()} == {1: 50, 4: 200}


def test_the_tables_of_a_run_made_by_hand():
    """d = 160 and 2^16 words: one vector names 160 tokens at most. Two passages, two k, four cuts of equal bits."""
    exact = [
        dict(protocol="exact", model="m", texts="x", text_id=name, start=0, k=k, tokens=100, tried=60.0 * k,
             exact=False, exact_prefix=n, token_passes=1, bits=0.1, recipe="growing", token_bits_without=[4.0] * 100,
             token_bits_with=[1.0] * 100, token_right_without=[False] * 100, token_right_with=[True] * 100)
        for name, k, n in (("a", 1, 20), ("b", 1, 40), ("a", 2, 50), ("b", 2, 80))
    ]  # fmt: skip
    equal = [
        dict(protocol="equal", model="m", texts="x", text_id=name, k=1, length=n, tokens=n, exact=came, tried=float(n),
             bits_asked=asked, recipe="default", bits_without=asked, bits_with=0.0)
        for name, n, came, asked in (("a", 30, True, 200), ("b", 34, False, 200), ("a", 60, False, 400))
    ]  # fmt: skip
    told = summaries(pd.DataFrame(exact + equal), 160, 2**16)
    horizon, n50, twice, _, came = told.values()
    assert horizon.k.tolist() == [1, 2]
    assert horizon["token gain"].tolist() == [30, 65]
    assert horizon.utilisation.tolist() == pytest.approx([30 / 160, 65 / 320], abs=1e-3)
    assert horizon["token gain per vector"].tolist() == [30, 32.5]
    assert horizon["bits gained per dimension"].tolist() == pytest.approx([90 / 160, 195 / 320], abs=1e-3)
    assert n50["n50, tokens"].str.contains("–, –").all()  # of two passages no interval
    assert (twice.passages[0], twice.tokens[0], twice.least[0], twice.most[0]) == (2, 2.25, 2.0, 2.5)
    assert came.exact.str[:3].tolist() == ["1/2", "0/1"]
    assert came["tokens, median"].tolist() == ["32", "60"]


def test_where_half_of_the_passages_come_back():
    """All at 50 tokens, none at 200: half of them at 100, half-way in logarithms."""
    rows = [
        dict(texts=kind, text_id=f"{kind}{i}", k=1, recipe="default", length=n, bits_without=bits * n, exact=n == 50)
        for kind, bits in (("prose", 4), ("random", 8)) for i in range(6) for n in (50, 200)
    ]  # fmt: skip
    told = n50_of_fixed_lengths(pd.DataFrame(rows)).set_index("texts")
    assert told["n50, tokens"].str.split().str[0].tolist() == ["100", "100", "100"]
    assert told["n50, bits"].str.split().str[0].tolist()[:2] == ["400", "800"]
    assert told.passages.tolist() == [6, 6, 12]


def test_fixed_and_equal_from_the_command_line_and_what_others_wrote_stays(cli, tmp_path):
    out = tmp_path / "runs.parquet"
    asked = ["--count", "1", "--budget", "2", "--lengths", "3", "--bits", "30", "--out", out]
    first = cli(*asked, "--texts", "originals", "--protocol", "fixed,equal")
    assert first.exit_code == 0, first.output
    assert "passages of equal bits" in first.stdout
    assert "half of the passages come back" in first.stdout
    second = cli(*asked, "--texts", "random", "--protocol", "exact,fixed")  # none has the tokens that exact begins with
    assert second.exit_code == 0, second.output
    runs = pd.read_parquet(out)
    assert set(zip(runs.texts, runs.protocol, strict=True)) >= {
        ("originals", "fixed"), ("originals", "equal"), ("random", "fixed"),
    }  # fmt: skip


def test_predict_reads_as_much_of_a_long_text_as_the_model_does(cli, tmp_path, lm):
    (tmp_path / "novel.txt").write_text("the cat sat on the mat and then it was late " * 200)
    rows = [
        dict(model="toy:gemma3", protocol="exact", texts="x", text_id=str(i), start=0, k=1, tokens=90, tried=60.0,
             exact=False, exact_prefix=40 + i, token_passes=1, bits=0.1, recipe="growing",
             token_bits_without=[4.0] * 90)
        for i in range(4)
    ]  # fmt: skip
    pd.DataFrame(rows).to_parquet(tmp_path / "runs.parquet")
    asked = ["predict", "novel.txt", "--model", "toy:gemma3", "--runs", "runs.parquet", "--json"]
    told = CliRunner().invoke(app, asked)
    assert told.exit_code == 0, told.output
    assert f"first {lm.context - 16} tokens" in told.stderr
    said = json.loads(told.stdout)["predictions"]
    assert [row["tokens"] for row in said] == [lm.context - 16] * 4
    assert [row["extrapolated"] for row in said] == [False, True, True, True]


def test_many_vectors_grow_as_far_as_the_context_goes(lm, tmp_path):
    text = Text("long", "the cat sat on the mat and then it was late " * 200)
    recipe = Recipe.growing(k=8, grow=64, budget=1)
    runs = growing(Session(lm, Store(tmp_path), progress=False), [text], recipe=recipe, token_passes=0, longest=8 * 256)
    most = context_room(lm, recipe)
    assert runs.tokens.tolist() == [most]
    assert len(lm.prefix_ids(recipe.prefix)) + 8 + most - 1 == lm.context


def test_another_commands_table_is_not_gone_on_from(cli, tmp_path):
    pd.DataFrame({"x": [1]}).to_parquet(tmp_path / "other.parquet")
    for asked in (
        ["capacity", "--count", "1", "--out", "other.parquet"],
        ["predict", "-t", "Hi.", "--runs", "other.parquet"],
    ):
        told = CliRunner().invoke(app, [*asked, "--model", "toy:gemma3"])
        assert told.exit_code == 2, told.output
        assert "has no column" in told.output


def test_a_second_bench_of_horizons_keeps_the_first_ones_rows(tmp_path, monkeypatch):
    monkeypatch.setenv("MEMLAB_STORE", str(tmp_path / "store"))
    out = str(tmp_path / "horizon.parquet")
    asked = ["bench", "horizon", "--model", "toy:gemma3", "--count", "1", "--lengths", "2:4:2", "--first", "2",
             "--attempts", "1", "--budget", "3", "--out", out]  # fmt: skip
    for texts in ("originals", "random"):
        made = CliRunner().invoke(app, [*asked, "--texts", texts])
        assert made.exit_code == 0, made.output
    assert pd.read_parquet(out).source.nunique() == 2


def test_a_bench_of_horizons_knows_rows_of_memlab_capacity_and_keeps_its_own_as_they_come(tmp_path, monkeypatch):
    monkeypatch.setenv("MEMLAB_STORE", str(tmp_path / "store"))
    recipe = Recipe.growing(grow=2, margin=0.1, patience=6, budget=60).canonical()
    common = ["--model", "toy:gemma3", "--recipe", recipe]
    runs, out = tmp_path / "runs.parquet", tmp_path / "horizon.parquet"
    asked = ["capacity", "--texts", "originals", "--count", "2", "--grid", "8:16:8", "--first", "8", "--out", runs]
    made = CliRunner().invoke(app, [str(part) for part in [*asked, *common]])
    assert made.exit_code == 0, made.output
    monkeypatch.setenv("MEMLAB_STORE", str(tmp_path / "another"))
    theirs = "progressive2026"
    asked = ["bench", "horizon", "--texts", "originals", "--count", "2", "--lengths", "8:16:8", "--first", "8",
             "--resume-from", runs, "--compare-with", theirs, "--out", out]  # fmt: skip
    kept = []
    usual = cli_common.write_table
    monkeypatch.setattr(cli_common, "write_table", lambda table, file: (kept.append(len(table)), usual(table, file)))
    made = CliRunner().invoke(app, [str(part) for part in [*asked, *common]])
    assert made.exit_code == 0, made.output
    table, before = pd.read_parquet(out), pd.read_parquet(runs)
    assert set(table.way) == {"growing", theirs}
    # Nothing of what the first command had found was trained again, and what was trained was kept one by one.
    assert set(table.key[table.way == "growing"]) == set(before.key)
    assert set(Store(tmp_path / "another").keys()) == set(table.key[table.way == theirs])
    assert {2, 3, 4} <= set(kept)
    assert "median horizon" in made.output
    first, second = (table[table.way == way].set_index("text_id").exact_prefix for way in ("growing", theirs))
    with np.errstate(divide="ignore"):
        times = np.median(first / second.astype(float))
    assert f"horizon over that of {theirs}, per passage: median {times:.1f} times, 95 %" in made.output


def test_more_vectors_are_tried_on_passages_that_fewer_were_tried_on(lm, store):
    """The longest text is the third: four vectors need it, so two and one are tried on it as well."""
    words = "the cat sat on the mat and then it was late "
    texts = {"here": [Text("a", words), Text("b", words * 2), Text("c", words * 4), Text("d", words)]}
    sizes = [len(lm.passage(text, None)) for text in texts["here"]]
    recipe = Recipe.growing(grow=1, margin=0.1, patience=1, budget=2)
    runs = capacity_experiment.exact(
        Session(lm, store, progress=False), texts, ks=(1, 2, 4), counts=(2, 1, 1), first=sizes[2] // 4,
        lengths=(sizes[2] // 4,), recipe=recipe,
    )  # fmt: skip
    assert runs.groupby("k").text_id.agg(set).to_dict() == {1: {"a", "c"}, 2: {"c"}, 4: {"c"}}
    assert set(runs["dtype"]) == {"float32"}


def test_fixed_lengths_count_as_the_paper_counts(lm, tmp_path):
    texts = {"originals": originals()[:2]}
    recipe = Recipe.paper2025(budget=2)
    runs = capacity_experiment.fixed_lengths(
        Session(lm, Store(tmp_path), progress=False),
        texts,
        recipe=recipe,
        protocol="paper2025",
        ks=(1,),
        lengths=(4, 6),
    )
    assert runs.groupby("length").size().to_dict() == {4: 2, 6: 2}
    assert (runs.scored == runs.length - 1).all()  # the first token is never scored
    (row,) = capacity.paper_estimates(runs).to_dict("records")
    assert (row["texts"], row["k"], row["runs"]) == ("originals", 1, 4)
    failing = runs[runs.accuracy <= 0.99]
    assert len(failing) == row["failing"] > 0
    assert row["token_gain"] == pytest.approx((failing.hits_with - failing.hits_without).mean())


def test_nothing_long_enough_gives_an_empty_table(lm, tmp_path):
    runs = capacity_experiment.exact(
        Session(lm, Store(tmp_path), progress=False), {"here": [Text("a", "ab")]}, first=128
    )
    assert not len(runs)


def test_more_random_words_leave_the_first_ones():
    assert random_words(2, words=800)[1].string.startswith(random_words(2, words=400)[1].string)


def test_each_row_of_the_published_table_is_a_command_up_to_the_download(monkeypatch):
    import huggingface_hub

    asked = []

    def refuse(repo, **_):
        asked.append(repo)
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    monkeypatch.setattr("memlab.cli.capacity.load_texts", lambda *_, **__: originals()[:2])
    readme = (ROOT / "data" / "reference" / "README.md").read_text()
    commands = [line.split()[1:] for line in readme.splitlines() if line.startswith("memlab capacity --model ")]
    for command in commands:
        said = CliRunner().invoke(app, command)
        assert said.exit_code == 2
        assert "no network" in said.output
        dtype = command[command.index("--dtype") + 1] if "--dtype" in command else ""
        assert PRESETS[command[2]].dtype == dtype
        printed = reference("paper2025-capacity").query("model == @command[2] and texts == 'pg19' and k == 1")
        (held,) = printed.max_tokens
        lengths = [int(n) for n in command[command.index("--lengths") + 1].split(",")]
        assert held in lengths
        assert max(lengths) > held
    assert asked == [p.repo for p in PRESETS.values() if p.repo]


def test_a_strange_dtype_is_refused(cli):
    said = cli("--dtype", "float8")
    assert said.exit_code == 2
    assert "'float8'. Give float32 or bfloat16" in said.output


def test_published_figures_and_ours_in_one_table():
    horizons = pd.DataFrame({
        "model": "toy", "texts": "originals", "k": [1] * 9 + [2] * 9, "text_id": [*"abcdefghi"] * 2,
        "horizon": [*range(10, 19), *range(20, 38, 2)], "horizon_bits": 1.0, "failed_at": 40,
    })  # fmt: skip
    table = published.capacity_by_model(horizons, {"toy": (16, 256)})
    (ours,) = table[table.method == published.OURS].to_dict("records")
    assert (ours["tokens"], ours["theoretical"]) == (14, 16 * 16 / 8)
    assert 10 <= ours["low"] < 14 < ours["high"] <= 18
    llama = table[table.model == "llama-3.1-8b"].set_index("method").tokens
    assert llama[published.PAPER] == 1568
    assert llama[published.PROGRESSIVE] == pytest.approx(1437.6)
    assert not table[table.method == published.PROGRESSIVE].model.duplicated().any()
    # One passage was tried with a single vector only, and another's second search just ended: neither tells of k.
    several = horizons[(horizons.text_id != "i") | (horizons.k == 1)].copy()
    several.loc[(several.text_id == "h") & (several.k == 2), "failed_at"] = np.nan
    more = published.more_vectors(several).set_index(["series", "text_id", "k"]).tokens
    assert dict(more["toy, originals"].groupby("k").size()) == {1: 7, 2: 7}
    assert more["toy, originals", "a", 2] == 20
    assert more["llama-3.2-1b, published", "llama-3.2-1b", 16] == 7168
    few = published.capacity_by_model(horizons[horizons.text_id < "d"], {"toy": (16, 256)})
    assert few[few.method == published.OURS].low.isna().all()  # three passages bound nothing
