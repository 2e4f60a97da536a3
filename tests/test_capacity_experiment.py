"""The capacity protocols on a toy, from texts to tables, also through the command line."""

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
    arguments = [
        *QUICK, "--texts", "originals", "--texts", "random", "--k", "2,4",
        "--protocol", "exact,paper2025", "--lengths", "3", "--out", out,
    ]  # fmt: skip
    result = cli(*arguments)
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
    # Decode every horizon of the table again from the stored bytes.
    store = Store()
    for row in capacity.horizons(exact).itertuples():
        attempts = exact[(exact.text_id == row.text_id) & (exact.k == row.k)]
        best = store.get(attempts.loc[attempts.exact_prefix.idxmax(), "key"])
        got = decode(lm, [best], batch=1)[0]
        np.testing.assert_array_equal(got[: row.horizon], best.token_ids[: row.horizon])
    # Again, from the store: the same table.
    before = sorted(store.keys())
    again = cli(*arguments[:-1], tmp_path / "again.parquet")
    assert again.stdout == result.stdout
    assert sorted(store.keys()) == before
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "again.parquet"), runs)


def test_json_output_has_the_tables(cli):
    result = cli(*QUICK, "--texts", "random", "--k", 4, "--json")
    assert result.exit_code == 0, result.output
    tables = json.loads(result.stdout)
    (horizon,) = next(rows for title, rows in tables.items() if title.startswith("exact horizon"))
    assert (horizon["texts"], horizon["k"], horizon["passages"]) == ("random", 4, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--protocol", "guess"], "guess"),
        (["--k", "0"], "above 0"),
        (["--k", "1,2", "--count", "1,2,3"], "one per k"),
        (["--first", "5"], "not one of the lengths"),
        (["--grid", "2-6"], "first:last:stride"),
        (["--start", "middle"], "or paper"),
    ],
)
def test_wrong_options_are_errors(cli, options, message):
    result = cli(*QUICK, *options)
    assert result.exit_code == 2
    assert message in " ".join(re.sub("[│╭╮╰╯─]", " ", result.output).split())


def test_short_texts_are_logged_and_a_grid_ends_with_its_text(lm, tmp_path):
    texts = {"here": [Text("short", "ab"), Text("middle", "a bc d"), Text("long", "a bc def ghi jkl mno pqr")]}
    lines = []
    runs = capacity_experiment.exact(
        Session(lm, Store(tmp_path), log=lines.append, progress=False), texts, ks=(4,), lengths=(1, 4), first=1,
        attempts=1, recipe=Recipe.default(budget=80),
    )  # fmt: skip
    assert "2 of 3 texts have 4 tokens" in lines[0]
    assert set(runs.text_id) == {"middle", "long"}
    assert runs[runs.text_id == "middle"].length.max() == 4
    assert runs[runs.text_id == "long"].length.max() == 16


def test_equal_information_cuts_each_text_at_its_number_of_bits(lm, tmp_path):
    texts = {"originals": originals()[:2], "random": random_words(2, seed=1), "short": [Text("short", "ab")]}
    lines = []
    runs = capacity_experiment.equal_information(
        Session(lm, Store(tmp_path), log=lines.append, progress=False),
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
    assert "short has" in "".join(lines)


def test_fixed_lengths_resume_from_a_table(lm, tmp_path, monkeypatch):
    texts = {"originals": originals()[:2]}
    arguments = dict(lengths=(3, 5), recipe=Recipe.default(budget=3), protocol="fixed")
    reported = []
    whole = capacity_experiment.fixed_lengths(
        Session(lm, Store(tmp_path / "one"), on_rows=reported.append, progress=False), texts, **arguments
    )
    pd.testing.assert_frame_equal(reported[-1], whole)
    assert set(map(len, reported)) >= {1, 4}  # also before all runs are done
    elsewhere = Store(tmp_path / "other")
    again = capacity_experiment.fixed_lengths(Session(lm, elsewhere, whole, progress=False), texts, **arguments)
    assert list(elsewhere.keys()) == []
    assert list(again.key) == list(whole.key)
    pd.testing.assert_frame_equal(again[whole.columns], whole, check_like=True)


def test_growing_and_predicting_from_the_command_line(cli, tmp_path, lm):
    out = tmp_path / "runs.parquet"
    arguments = [
        "--texts", "originals", "--count", "4", "--recipe", '{"grow": 1, "margin": 0.1, "patience": 8, "budget": 500}',
        "--grid", "2:10:2", "--first", "2", "--out", out,
    ]  # fmt: skip
    result = cli(*arguments)
    assert result.exit_code == 0, result.output
    assert "exact horizon" in result.stdout
    runs = pd.read_parquet(out)
    assert len(runs) == 4
    assert set(runs.ended) <= {"patience", "exact"}
    (tmp_path / "store").rename(tmp_path / "gone")  # the table alone is enough to resume from
    assert cli(*arguments).stdout == result.stdout
    result = CliRunner().invoke(app, ["predict", "--model", "toy:gemma3", "--text", "It was late.", "--runs", str(out)])
    measured = prediction.measured(runs)
    if len(measured) < 3:
        assert result.exit_code == 2
        assert "and 3 are needed" in result.output
    else:
        assert result.exit_code == 0, result.output
        left_out = f"k = 1: median error of {len(measured)} passages, each predicted from the others:"
        assert (left_out if len(measured) > 3 else "error unknown") in result.stdout
    nowhere = cli(*arguments[:-1], out / "in-a-file.parquet")
    assert nowhere.exit_code == 2
    assert "cannot be written to" in nowhere.output
    out.write_bytes(b"no table")
    broken = cli(*arguments)
    assert broken.exit_code == 2
    assert "is not a Parquet table" in " ".join(re.sub("[│╭╮╰╯─]", " ", broken.output).split())


def test_k_vectors_grow_k_times_as_fast_and_as_far(lm, store):
    recipe = Recipe.growing(grow=2, margin=0.1, patience=5, budget=40)
    texts = {"originals": originals()[:1]}
    runs = capacity_experiment.exact(
        Session(lm, store, progress=False), texts, ks=(1, 4), lengths=range(2, 11, 2), first=2, recipe=recipe
    )
    assert {row.k: store.get(row.key).recipe.grow for row in runs.itertuples()} == {1: 2, 4: 8}
    # The longest length and the token budget are multiplied by k, too.
    recipe = recipe.replace(token_budget=50)
    runs = capacity_experiment.exact(
        Session(lm, store, progress=False), texts, ks=(1, 4), lengths=range(2, 11, 2), first=2, recipe=recipe
    )
    assert runs.groupby("k").length.max().to_dict() == {1: 10, 4: 40}
    assert {row.k: store.get(row.key).recipe.token_budget for row in runs.itertuples()} == {1: 50, 4: 200}


def test_summaries_of_a_made_up_table():
    """d = 160 and a vocabulary of 2^16: one vector can name at most 160 tokens. Two passages, two k, equal bits."""
    exact = [
        dict(protocol="exact", model="m", texts="x", text_id=name, start=0, k=k, tokens=100, tried=60.0 * k,
             exact=False, exact_prefix=n, token_passes=1, bits=0.1, recipe="growing", token_bits_without=[4.0] * 100,
             token_bits_with=[1.0] * 100, token_right_without=[False] * 100, token_right_with=[True] * 100)
        for name, k, n in (("a", 1, 20), ("b", 1, 40), ("a", 2, 50), ("b", 2, 80))
    ]  # fmt: skip
    equal = [
        dict(protocol="equal", model="m", texts="x", text_id=name, k=1, length=n, tokens=n, exact=exactly,
             tried=float(n),
             bits_asked=bits, recipe="default", bits_without=bits, bits_with=0.0)
        for name, n, exactly, bits in (("a", 30, True, 200), ("b", 34, False, 200), ("a", 60, False, 400))
    ]  # fmt: skip
    tables = summaries(pd.DataFrame(exact + equal), 160, 2**16)
    horizon, n50, twice, _, equal_bits = tables.values()
    assert horizon.k.tolist() == [1, 2]
    assert horizon["token gain"].tolist() == [30, 65]
    assert horizon.utilisation.tolist() == pytest.approx([30 / 160, 65 / 320], abs=1e-3)
    assert horizon["token gain per vector"].tolist() == [30, 32.5]
    assert horizon["bits gained per dimension"].tolist() == pytest.approx([90 / 160, 195 / 320], abs=1e-3)
    assert n50["n50, tokens"].str.contains("–, –").all()  # two passages give no interval
    assert (twice.passages[0], twice.tokens[0], twice.least[0], twice.most[0]) == (2, 2.25, 2.0, 2.5)
    assert equal_bits.exact.str[:3].tolist() == ["1/2", "0/1"]
    assert equal_bits["tokens, median"].tolist() == ["32", "60"]


def test_n50_of_fixed_lengths():
    """All passages come back at 50 tokens, none at 200: half of them at 100, the middle on a log scale."""
    rows = [
        dict(texts=kind, text_id=f"{kind}{i}", k=1, recipe="default", length=n, bits_without=bits * n, exact=n == 50)
        for kind, bits in (("prose", 4), ("random", 8)) for i in range(6) for n in (50, 200)
    ]  # fmt: skip
    n50 = n50_of_fixed_lengths(pd.DataFrame(rows)).set_index("texts")
    assert n50["n50, tokens"].str.split().str[0].tolist() == ["100", "100", "100"]
    assert n50["n50, bits"].str.split().str[0].tolist()[:2] == ["400", "800"]
    assert n50.passages.tolist() == [6, 6, 12]


def test_fixed_and_equal_from_the_command_line_keep_earlier_rows(cli, tmp_path):
    out = tmp_path / "runs.parquet"
    arguments = ["--count", "1", "--budget", "2", "--lengths", "3", "--bits", "30", "--out", out]
    first = cli(*arguments, "--texts", "originals", "--protocol", "fixed,equal")
    assert first.exit_code == 0, first.output
    assert "passages of equal bits" in first.stdout
    assert "half of the passages come back" in first.stdout
    second = cli(*arguments, "--texts", "random", "--protocol", "exact,fixed")  # no text has the first length of exact
    assert second.exit_code == 0, second.output
    runs = pd.read_parquet(out)
    assert set(zip(runs.texts, runs.protocol, strict=True)) >= {
        ("originals", "fixed"), ("originals", "equal"), ("random", "fixed"),
    }  # fmt: skip


def test_predict_reads_a_long_text_up_to_the_context(cli, tmp_path, lm):
    (tmp_path / "novel.txt").write_text("the cat sat on the mat and then it was late " * 200)
    rows = [
        dict(model="toy:gemma3", protocol="exact", texts="x", text_id=str(i), start=0, k=1, tokens=90, tried=60.0,
             exact=False, exact_prefix=40 + i, token_passes=1, bits=0.1, recipe="growing",
             token_bits_without=[4.0] * 90)
        for i in range(4)
    ]  # fmt: skip
    pd.DataFrame(rows).to_parquet(tmp_path / "runs.parquet")
    arguments = ["predict", "novel.txt", "--model", "toy:gemma3", "--runs", "runs.parquet", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert f"first {lm.context - 16} tokens" in result.stderr
    rows = json.loads(result.stdout)["predictions"]
    assert [row["tokens"] for row in rows] == [lm.context - 16] * 4
    assert [row["extrapolated"] for row in rows] == [False, True, True, True]


def test_growing_ends_at_the_models_context(lm, tmp_path):
    text = Text("long", "the cat sat on the mat and then it was late " * 200)
    recipe = Recipe.growing(k=8, grow=64, budget=1)
    runs = growing(Session(lm, Store(tmp_path), progress=False), [text], recipe=recipe, token_passes=0, longest=8 * 256)
    room = context_room(lm, recipe)
    assert runs.tokens.tolist() == [room]
    assert len(lm.prefix_ids(recipe.prefix)) + 8 + room - 1 == lm.context


def test_a_table_of_another_command_is_not_resumed_from(cli, tmp_path):
    pd.DataFrame({"x": [1]}).to_parquet(tmp_path / "other.parquet")
    for arguments in (
        ["capacity", "--count", "1", "--out", "other.parquet"],
        ["predict", "-t", "Hi.", "--runs", "other.parquet"],
    ):
        result = CliRunner().invoke(app, [*arguments, "--model", "toy:gemma3"])
        assert result.exit_code == 2, result.output
        assert "has no column" in result.output


def test_bench_horizon_keeps_rows_of_other_texts(tmp_path, monkeypatch):
    monkeypatch.setenv("MEMLAB_STORE", str(tmp_path / "store"))
    out = str(tmp_path / "horizon.parquet")
    arguments = ["bench", "horizon", "--model", "toy:gemma3", "--count", "1", "--lengths", "2:4:2", "--first", "2",
             "--attempts", "1", "--budget", "3", "--out", out]  # fmt: skip
    for texts in ("originals", "random"):
        result = CliRunner().invoke(app, [*arguments, "--texts", texts])
        assert result.exit_code == 0, result.output
    assert pd.read_parquet(out).source.nunique() == 2


def test_bench_horizon_resumes_from_memlab_capacity_and_writes_rows_as_they_come(tmp_path, monkeypatch):
    monkeypatch.setenv("MEMLAB_STORE", str(tmp_path / "store"))
    recipe = Recipe.growing(grow=2, margin=0.1, patience=6, budget=60).canonical()
    common = ["--model", "toy:gemma3", "--recipe", recipe]
    runs, out = tmp_path / "runs.parquet", tmp_path / "horizon.parquet"
    arguments = ["capacity", "--texts", "originals", "--count", "2", "--grid", "8:16:8", "--first", "8", "--out", runs]
    result = CliRunner().invoke(app, [str(part) for part in [*arguments, *common]])
    assert result.exit_code == 0, result.output
    monkeypatch.setenv("MEMLAB_STORE", str(tmp_path / "another"))
    other = "progressive2026"
    arguments = ["bench", "horizon", "--texts", "originals", "--count", "2", "--lengths", "8:16:8", "--first", "8",
             "--resume-from", runs, "--compare-with", other, "--out", out]  # fmt: skip
    written = []
    write_table = cli_common.write_table
    monkeypatch.setattr(
        cli_common, "write_table", lambda table, file: (written.append(len(table)), write_table(table, file))
    )
    result = CliRunner().invoke(app, [str(part) for part in [*arguments, *common]])
    assert result.exit_code == 0, result.output
    table, before = pd.read_parquet(out), pd.read_parquet(runs)
    assert set(table.way) == {"growing", other}
    # No run of the first command is trained again, and new rows are written one by one.
    assert set(table.key[table.way == "growing"]) == set(before.key)
    assert set(Store(tmp_path / "another").keys()) == set(table.key[table.way == other])
    assert {2, 3, 4} <= set(written)
    assert "median horizon" in result.output
    first, second = (table[table.way == way].set_index("text_id").exact_prefix for way in ("growing", other))
    with np.errstate(divide="ignore"):
        times = np.median(first / second.astype(float))
    assert f"horizon over that of {other}, per passage: median {times:.1f} times, 95 %" in result.output


def test_different_k_are_tried_on_the_same_passages(lm, store):
    """Four vectors need the third text, the longest, so one and two vectors are tried on it as well."""
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


def test_fixed_lengths_with_paper2025_give_the_papers_estimates(lm, tmp_path):
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


def test_exact_without_long_enough_texts_gives_an_empty_table(lm, tmp_path):
    runs = capacity_experiment.exact(
        Session(lm, Store(tmp_path), progress=False), {"here": [Text("a", "ab")]}, first=128
    )
    assert not len(runs)


def test_longer_random_texts_begin_with_the_shorter_ones():
    assert random_words(2, words=800)[1].string.startswith(random_words(2, words=400)[1].string)


def test_each_published_command_runs_up_to_the_download(monkeypatch):
    import huggingface_hub

    requested = []

    def refuse(repo, **_):
        requested.append(repo)
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    monkeypatch.setattr("memlab.cli.capacity.load_texts", lambda *_, **__: originals()[:2])
    readme = (ROOT / "data" / "reference" / "README.md").read_text()
    commands = [line.split()[1:] for line in readme.splitlines() if line.startswith("memlab capacity --model ")]
    for command in commands:
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 2
        assert "no network" in result.output
        dtype = command[command.index("--dtype") + 1] if "--dtype" in command else ""
        assert PRESETS[command[2]].dtype == dtype
        printed = reference("paper2025-capacity").query("model == @command[2] and texts == 'pg19' and k == 1")
        (max_tokens,) = printed.max_tokens
        lengths = [int(n) for n in command[command.index("--lengths") + 1].split(",")]
        assert max_tokens in lengths
        assert max(lengths) > max_tokens
    assert requested == [p.repo for p in PRESETS.values() if p.repo]


def test_an_unknown_dtype_is_an_error(cli):
    result = cli("--dtype", "float8")
    assert result.exit_code == 2
    assert "'float8'. Give float32 or bfloat16" in result.output


def test_published_and_measured_figures_in_one_table():
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
    # The best setting of each way of counting. What is counted freely is less than half.
    assert llama[published.PROGRESSIVE] == pytest.approx(1858.9)
    assert llama[published.FREE] == 843
    assert not table.duplicated(["method", "model", "texts"]).any()
    # One passage has only k = 1, and another's search at k = 2 ended without a failure: both are left out.
    several = horizons[(horizons.text_id != "i") | (horizons.k == 1)].copy()
    several.loc[(several.text_id == "h") & (several.k == 2), "failed_at"] = np.nan
    more = published.more_vectors(several).set_index(["series", "text_id", "k"]).tokens
    assert dict(more["toy, originals"].groupby("k").size()) == {1: 7, 2: 7}
    assert more["toy, originals", "a", 2] == 20
    assert more["llama-3.2-1b, published", "llama-3.2-1b", 16] == 7168
    few = published.capacity_by_model(horizons[horizons.text_id < "d"], {"toy": (16, 256)})
    assert few[few.method == published.OURS].low.isna().all()  # three passages give no interval
