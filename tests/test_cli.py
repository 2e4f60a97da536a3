import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from memlab import MemlabError, RecipeError, __version__
from memlab.cli import app, bench
from memlab.cli.common import reports_errors
from memlab.experiments.registry import EXPERIMENTS, Experiment
from memlab.results.mem_vector import DamagedError, MemVector
from memlab.results.store import Store, StoreError
from tests.conftest import restore_sigint
from tests.helpers import make_vector, unwritable

TOY = ["--model", "toy:gemma3"]


@pytest.fixture
def cli(tmp_path, monkeypatch):
    monkeypatch.setenv("MEMLAB_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    return lambda *args, **kw: runner.invoke(app, [str(a) for a in args], **kw)


@pytest.fixture
def crammed(cli):
    result = cli("cram", "--text", "Hello, world.", "-k", 4, *TOY, "--json")
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)
    return row


def test_cram_json_reports_key_check_and_decoded_text(crammed):
    assert crammed["exact"] is True
    assert crammed["decoded"] == "Hello, world."
    assert (crammed["tokens"], crammed["k"], crammed["first_wrong"]) == (13, 4, None)
    assert crammed["margin"] >= 1


def test_decode_prints_the_text_and_nothing_else(cli, crammed, tmp_path):
    for what in (crammed["key"], crammed["key"][:8], crammed["file"]):
        result = cli("decode", what)
        assert (result.exit_code, result.stdout, result.stderr) == (0, "Hello, world.", "")
    assert cli("decode", crammed["key"][:8], "--store", tmp_path / "elsewhere").exit_code == 2


def test_decode_refuses_other_weights_and_names_both(cli, crammed):
    result = cli("decode", crammed["key"], "--model", "toy:llama")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "toy:gemma3" in result.stderr
    assert "toy:llama" in result.stderr


def test_cram_files_and_standard_input(cli, tmp_path):
    (tmp_path / "a.txt").write_text("It rained. Then it did not.")
    result = cli("cram", "a.txt", "-", "-n", 6, "-k", 4, *TOY, "--json", input="From a pipe.")
    assert result.exit_code == 0, result.output
    assert [r["decoded"] for r in json.loads(result.stdout)] == ["It rai", "From a"]
    result = cli("cram", "a.txt", "-n", 6, "--start", 3, "-k", 4, *TOY)
    assert result.exit_code == 0
    assert "exact" in result.stdout
    assert "'Then i'" in result.stdout


def test_a_result_that_is_not_exact_exits_with_3(cli):
    result = cli("cram", "--text", "The quick brown fox jumps.", "--budget", 1, *TOY)
    assert result.exit_code == 3
    assert "NOT exact" in result.stdout


def test_store_lists_shows_and_quarantines(cli, crammed, tmp_path):
    listed = cli("store", "ls")
    assert crammed["key"][:12] in listed.stdout
    assert json.loads(cli("store", "ls", "--json").stdout)[0]["key"] == crammed["key"]
    shown = json.loads(cli("store", "show", crammed["key"][:6]).stdout)
    assert shown["recipe"]["k"] == 4
    assert cli("store", "verify").stdout == "1 of 1 results are sound\n"
    file = tmp_path / "store" / "objects" / crammed["key"][:2] / f"{crammed['key']}.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    broken = cli("store", "verify", "--dry-run")
    assert broken.exit_code == 1
    assert f"damaged: {file}" in broken.stdout
    assert cli("store", "show", crammed["key"]).exit_code == 1
    assert cli("decode", crammed["key"]).exit_code == 1
    moved = cli("store", "verify")
    assert moved.exit_code == 1
    assert "moved to" in moved.stdout
    assert "0 of 1 results are sound" in moved.stdout
    assert cli("store", "verify").exit_code == 0
    assert "is empty" in cli("store", "ls").stdout


def test_verify_can_decode_a_sample(cli, crammed, tmp_path):
    assert "1 of 1 vectors decode exactly again" in cli("store", "verify", "--decode", 5).stdout
    store = Store(tmp_path / "store")
    mem = store.get(crammed["key"])
    # The file is intact, but its checks are false. Only decoding shows that.
    (file := store.file(mem.key)).unlink()
    forged = dataclasses.replace(mem, mem=-mem.mem)
    forged.save(file)
    result = cli("store", "verify", "--decode", 5)
    assert result.exit_code == 1
    assert "1 of 1 results are sound" in result.stdout
    assert f"no longer exact: {mem.key[:12]}: token " in result.stdout
    assert "0 of 1 vectors decode exactly again" in result.stdout
    forged.redacted().save(file)
    assert "another text than its hash names" in cli("store", "verify", "--decode", 5).stdout
    mem.redacted().save(file)
    assert "1 of 1 vectors decode exactly again" in cli("store", "verify", "--decode", 5).stdout
    # A model that cannot be loaded is reported, and is not the vector's fault.
    file.unlink()
    gone = dataclasses.replace(mem, model="toy:gone")
    store.put(gone)
    result = cli("store", "verify", "--decode", 5)
    assert result.exit_code == 0
    assert "not decoded" in result.stdout


def test_models_are_listed_and_fetched(cli):
    assert "smollm2-135m" in cli("models").stdout
    assert len(json.loads(cli("models", "--json").stdout)) == 16
    assert "weights" in cli("models", "--get", "toy:opt").stdout
    assert cli("--version").stdout == f"memlab {__version__}\n"


def bad_inputs(tmp_path):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "binary.txt").write_bytes(bytes(range(200, 256)))
    (tmp_path / "long.txt").write_text("It rained for ten million characters. " * 270_000)
    (tmp_path / "short.txt").write_text("Hm.")
    return [
        (["empty.txt"], "is empty"),
        (["--text", ""], "is empty"),
        (["binary.txt"], "not UTF-8"),
        (["absent.txt"], "no file or folder"),
        (["long.txt"], "--tokens N"),
        (["long.txt", "-n", "600"], "context of 512"),
        (["short.txt", "-n", "9"], "has 3 tokens"),
        (["short.txt", "-n", "0"], "at least 1 token"),
        (["short.txt", "-k", "0"], "recipe's k is 0"),
        (["short.txt", "--recipe", "best"], "No recipe is called 'best'"),
        (["short.txt", "--recipe", '{"speed": 9}'], "no field speed"),
        (["short.txt", "--model", "toy:nothing"], "toy:llama"),
        (["short.txt", "--model", "./none"], "no file or folder ./none"),
        ([], "nothing to cram"),
    ]


def test_bad_input_is_one_line_and_exit_code_2(cli, tmp_path):
    for arguments, reason in bad_inputs(tmp_path):
        model = [] if "--model" in arguments else TOY
        result = cli("cram", *arguments, *model)
        assert result.exit_code == 2, (arguments, result.output)
        assert reason in result.stderr, arguments
        assert result.stdout == ""
        assert len(result.stderr.strip().splitlines()) == 1
    assert cli("cram", "--tokens", "many").exit_code == 2


class OldMachineError(MemlabError):
    exit_code = 5
    hint = "Buy a new one"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (MemlabError("It broke."), 1, "memlab: error: It broke."),
        (OldMachineError("It broke."), 5, "memlab: error: It broke. Buy a new one"),
        (RecipeError("no such field"), 2, "memlab: error: no such field"),
        (
            DamagedError("a.safetensors is damaged"),
            1,
            "memlab: error: a.safetensors is damaged. Run `memlab store verify`",
        ),
    ],
)
def test_the_exit_code_and_the_hint_are_the_errors_own(error, code, line, capsys):
    @reports_errors
    def command():
        raise error

    with pytest.raises(typer.Exit) as exit:
        command()
    assert exit.value.exit_code == code
    printed = capsys.readouterr().err
    assert printed.startswith(line)
    assert len(printed.splitlines()) == 1


def test_an_unexpected_error_keeps_its_traceback():
    @reports_errors
    def command():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        command()


def test_vectors_that_the_store_could_not_take_are_saved_elsewhere(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    vector = make_vector()

    @reports_errors
    def command():
        raise StoreError("the disk is full", [vector])

    with pytest.raises(typer.Exit) as exit:
        command()
    assert exit.value.exit_code == 1
    (file,) = tmp_path.glob("*.safetensors")
    assert MemVector.load(file).to_bytes() == vector.to_bytes()
    assert capsys.readouterr().err == (f"memlab: saved the trained vector to {file}\nmemlab: error: the disk is full\n")


def test_a_long_file_can_be_cut_to_a_length(cli, tmp_path):
    bad_inputs(tmp_path)
    began = time.perf_counter()
    assert cli("cram", "long.txt", "-n", 5, "-k", 4, *TOY).exit_code == 0
    assert time.perf_counter() - began < 30


def test_an_unwritable_store_is_one_line_and_exit_code_1(cli, tmp_path):
    result = cli("cram", "--text", "Hello", "-k", 4, *TOY, "--store", unwritable(tmp_path))
    assert result.exit_code == 1
    assert "cannot be written" in result.stderr
    assert "--store" in result.stderr


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.slow
def test_an_interrupt_exits_with_130_and_keeps_what_is_finished(tmp_path, sent):
    """Ctrl-C, or a scheduler's SIGTERM: one line, and the finished passage is in the store."""
    (tmp_path / "easy.txt").write_text("Yes.")
    (tmp_path / "hard.txt").write_text("All of this is far too much for a toy to remember. " * 8)
    command = [
        sys.executable,
        "-m",
        "memlab.cli",
        "cram",
        "easy.txt",
        "hard.txt",
        "-k",
        "4",
        *TOY,
        "--budget",
        "100000",
    ]
    env = os.environ | {"MEMLAB_STORE": str(tmp_path / "store")}
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=env,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=restore_sigint,
    )
    for _ in range(600):
        if list((tmp_path / "store").rglob("*.safetensors")):
            break
        time.sleep(0.1)
    process.send_signal(sent)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "1 passages finished and 1 begun" in err.splitlines()[-1]
    assert "Traceback" not in err


def test_bench_recovery_writes_a_row_per_passage(cli, tmp_path):
    (tmp_path / "t.jsonl").write_text('{"text": "It rained."}\n{"text": "Go on then."}\n')
    recipe = '{"k": 4, "budget": 50}'
    result = cli("bench", "recovery", "--texts", "t.jsonl", "-n", 5, "--recipe", recipe, *TOY, "--out", "d/out.csv")
    assert result.exit_code == 0, result.output
    assert "exact: decoded from the vector alone" in result.stdout
    assert len((tmp_path / "d" / "out.csv").read_text().splitlines()) == 3


def test_a_recipe_can_be_given_as_json(cli):
    row = json.loads(cli("cram", "--text", "Hello", "--recipe", '{"k": 4, "seed": 3}', *TOY, "--json").stdout)[0]
    assert row["k"] == 4
    assert row["recipe"] == "default k=4 seed=3"
    assert row["portable"] is None
    row = json.loads(cli("cram", "--text", "Hello", "--recipe", '{"k": 4}', "-k", 2, *TOY, "--json").stdout)[0]
    assert row["k"] == 2


def test_standard_input_must_be_utf_8(cli):
    result = cli("cram", "-", *TOY, input=b"\xff\xfe\x00")
    assert result.exit_code == 2
    assert "standard input is not UTF-8" in result.stderr


def test_a_mistyped_store_is_an_error(cli):
    for command in ("ls", "verify"):
        result = cli("store", command, "--store", "typo")
        assert result.exit_code == 2
        assert "There is no store at typo" in result.stderr


def test_listing_a_store_does_not_import_torch(tmp_path):
    code = "import sys; from memlab.cli import app; app(['store', 'ls'], standalone_mode=False)"
    code += "; print('torch' in sys.modules)"
    env = os.environ | {"MEMLAB_STORE": str(tmp_path)}
    out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "False"


def test_store_add_takes_files_folders_and_stores(cli, tmp_path):
    mems = [make_vector(seed, token_ids=np.array([seed, 1, 2])) for seed in range(4)]
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    mems[0].save(tmp_path / "one.safetensors")
    mems[1].save(tmp_path / "folder" / "deep" / "two.safetensors")
    source = Store(tmp_path / "source")
    source.put(mems[2])
    source.put(mems[3])
    source.quarantine(mems[3].key)
    result = cli("store", "add", "one.safetensors", "folder", "source", "--store", "target")
    assert result.exit_code == 0, result.output
    assert result.stdout == "3 results added to target, 0 already present, 0 refused\n"
    target = Store(tmp_path / "target")
    assert set(target.keys()) == {mem.key for mem in mems[:3]}
    assert target.get(mems[1].key).to_bytes() == mems[1].to_bytes()
    assert "0 results added to target, 1 already present" in cli("store", "add", "source", "--store", "target").stdout


def test_store_add_refuses_what_is_not_what_its_key_names(cli, tmp_path):
    mem = make_vector()
    mem.save(tmp_path / "good.safetensors")
    data = (tmp_path / "good.safetensors").read_bytes()
    (tmp_path / "short.safetensors").write_bytes(data[:-1])
    mem.perturb(1.0).save(tmp_path / "moved.safetensors")
    result = cli("store", "add", *(f"{name}.safetensors" for name in ("short", "moved", "absent", "good")))
    assert result.exit_code == 1
    assert "1 results added" in result.stdout
    assert "3 refused" in result.stdout
    for name, line in zip(("short", "moved", "absent"), result.stderr.splitlines(), strict=True):
        assert line.startswith("refused: ")
        assert f"{name}.safetensors" in line


def test_store_add_replaces_a_damaged_result(cli, tmp_path):
    mem = make_vector()
    mem.save(tmp_path / "good.safetensors")
    store = Store(tmp_path / "store")
    store.put(mem)
    store.file(mem.key).write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="moved to"):
        assert "1 results added" in cli("store", "add", "good.safetensors").stdout
    assert store.get(mem.key).to_bytes() == mem.to_bytes()


def test_bench_precision_and_codecs(cli, crammed, tmp_path):
    result = cli("bench", "precision", *TOY, "--out", tmp_path / "precision.parquet")
    assert result.exit_code == 0, result.output
    assert "1 exact vectors" in result.stdout
    assert "float16" in result.stdout
    assert (tmp_path / "precision.parquet").exists()
    (tmp_path / "nothing").mkdir()
    empty = cli("bench", "precision", "--store", tmp_path / "nothing", *TOY)
    assert empty.exit_code == 1
    assert "has no exact vectors of toy:gemma3" in empty.stderr
    result = cli("bench", "codecs", *TOY, "--count", 2, "-n", 20, "--out", tmp_path / "codecs.parquet")
    assert result.exit_code == 0, result.output
    assert "4 of 4 decoded" in result.stdout


def test_every_bench_command_is_an_experiment_and_the_other_way_round():
    assert set(bench.COMMANDS) <= set(EXPERIMENTS)
    shown = typer.main.get_command(bench.bench_app).commands
    assert set(shown) == {*EXPERIMENTS, "report"}
    for name, experiment in EXPERIMENTS.items():
        assert shown[name].help.startswith(experiment.summary)


def test_a_new_experiment_needs_only_its_registry_entry(cli, tmp_path, monkeypatch):
    """Its command has options for model, store and table, and resumes from the table."""

    def count_tokens(session):
        session.log("counting")
        earlier = 0 if session.resume_from is None else session.resume_from.tokens.sum()
        return pd.DataFrame({"model": [session.lm.name], "tokens": [earlier + 7]})

    module = types.ModuleType("memlab.experiments.counting")
    module.count = count_tokens
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(bench.bench_app, "registered_commands", [*bench.bench_app.registered_commands])
    bench.register(Experiment("counting", "counting:count", "How many tokens there are."))
    for tokens in (7, 14):
        result = cli("bench", "counting", *TOY, "--store", tmp_path / "store", "--out", "table.parquet")
        assert result.exit_code == 0, result.output
        assert "counting\n<FrozenLM toy:gemma3" in result.stdout
        assert pd.read_parquet(tmp_path / "table.parquet").tokens.item() == tokens


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        (("store", "verify", "--decode", "-1"), "--decode"),
        (("bench", "report", "--check", "--file", "absent.md"), "absent.md"),
        (("bench", "optimizer", "screen", "--only", "nope", *TOY), "incumbent"),
        (("bench", "step-profile", "0x4", *TOY), "0x4"),
        (("bench", "store-scale", "--entries", "0"), "--entries"),
        (("bench", "speed", "--against", "nope", "--count", "1", "-n", "4", *TOY), "paper2025, progressive2026"),
        (("bench", "horizon", "--resume-from", "absent.parquet", *TOY), "absent.parquet"),
        (("bench", "horizon", "--compare-with", "nope", *TOY), "progressive2026"),
    ],
)
def test_bad_values_are_refused_before_any_work(cli, command, hint):
    result = cli(*command)
    assert result.exit_code == 2, result.output
    assert hint in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
