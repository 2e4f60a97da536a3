import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from memlab import __version__
from memlab.cli import app
from memlab.results.store import Store
from tests.conftest import hears_sigint
from tests.helpers import unwritable

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


def test_cram_json_says_all(crammed):
    assert crammed["exact"] is True
    assert crammed["decoded"] == "Hello, world."
    assert (crammed["tokens"], crammed["k"], crammed["first_wrong"]) == (13, 4, None)
    assert crammed["margin"] >= 1


def test_decode_prints_the_text_and_nothing_else(cli, crammed, tmp_path):
    for what in (crammed["key"], crammed["key"][:8], crammed["file"]):
        result = cli("decode", what)
        assert (result.exit_code, result.stdout, result.stderr) == (0, "Hello, world.", "")
    assert cli("decode", crammed["key"][:8], "--store", tmp_path / "elsewhere").exit_code == 1


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


def test_not_exact_has_an_exit_code_of_its_own(cli):
    result = cli("cram", "--text", "The quick brown fox jumps.", "--budget", 1, *TOY)
    assert result.exit_code == 3
    assert "NOT exact" in result.stdout


def test_store_commands(cli, crammed, tmp_path):
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


def test_verify_decodes_a_sample_again(cli, crammed, tmp_path):
    assert "1 of 1 vectors decode exactly again" in cli("store", "verify", "--decode", 5).stdout
    store = Store(tmp_path / "store")
    mem = store.get(crammed["key"])
    # A sound file of a vector that its checks lie about: only decoding it shows that.
    (elsewhere := store.file(mem.key)).unlink()
    lying = dataclasses.replace(mem, mem=-mem.mem)
    lying.save(elsewhere)
    told = cli("store", "verify", "--decode", 5)
    assert told.exit_code == 1
    assert "1 of 1 results are sound" in told.stdout
    assert f"no longer exact: {mem.key[:12]}: token " in told.stdout
    assert "0 of 1 vectors decode exactly again" in told.stdout
    lying.redacted().save(elsewhere)
    assert "another text than its hash names" in cli("store", "verify", "--decode", 5).stdout
    mem.redacted().save(elsewhere)
    assert "1 of 1 vectors decode exactly again" in cli("store", "verify", "--decode", 5).stdout
    # A model that cannot be had is said, and is no fault of the vector.
    elsewhere.unlink()
    gone = dataclasses.replace(mem, model="toy:gone")
    store.put(gone)
    told = cli("store", "verify", "--decode", 5)
    assert told.exit_code == 0
    assert "not decoded" in told.stdout


def test_models(cli):
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
        (["short.txt", "-k", "0"], "recipe.k is 0"),
        (["short.txt", "--recipe", "best"], "no recipe is called 'best'"),
        (["short.txt", "--recipe", '{"speed": 9}'], "no field speed"),
        (["short.txt", "--model", "toy:nothing"], "toy:llama"),
        (["short.txt", "--model", "./none"], "no file or folder ./none"),
        ([], "nothing to cram"),
    ]


def test_bad_input_is_one_line_that_says_what_to_do(cli, tmp_path):
    for arguments, reason in bad_inputs(tmp_path):
        model = [] if "--model" in arguments else TOY
        result = cli("cram", *arguments, *model)
        assert result.exit_code == 2, (arguments, result.output)
        assert reason in result.stderr, arguments
        assert result.stdout == ""
        assert len(result.stderr.strip().splitlines()) == 1
    assert cli("cram", "--tokens", "many").exit_code == 2


def test_a_long_file_is_fine_with_a_length(cli, tmp_path):
    bad_inputs(tmp_path)
    began = time.perf_counter()
    assert cli("cram", "long.txt", "-n", 5, "-k", 4, *TOY).exit_code == 0
    assert time.perf_counter() - began < 30


def test_a_store_that_cannot_be_written(cli, tmp_path):
    result = cli("cram", "--text", "Hello", "-k", 4, *TOY, "--store", unwritable(tmp_path))
    assert result.exit_code == 1
    assert "cannot be written" in result.stderr
    assert "--store" in result.stderr


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_on_the_command_line(tmp_path, sent):
    """Control-C, or a queue's polite kill: 130, one line, and the passage that was finished is in the store."""
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
        preexec_fn=hears_sigint,
    )
    for _ in range(600):
        if list((tmp_path / "store").rglob("*.safetensors")):
            break
        time.sleep(0.1)
    process.send_signal(sent)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "1 passages finished and 1 begun" in err.splitlines()[-1]
    assert "Traceback" not in err


def test_recovery_bench(cli, tmp_path):
    (tmp_path / "t.jsonl").write_text('{"text": "It rained."}\n{"text": "Go on then."}\n')
    recipe = '{"k": 4, "budget": 50}'
    result = cli("bench", "recovery", "--texts", "t.jsonl", "-n", 5, "--recipe", recipe, *TOY, "--out", "d/out.csv")
    assert result.exit_code == 0, result.output
    assert "exact: decoded from the vector alone" in result.stdout
    assert len((tmp_path / "d" / "out.csv").read_text().splitlines()) == 3


def test_a_recipe_in_json_is_taken_at_its_word(cli):
    row = json.loads(cli("cram", "--text", "Hello", "--recipe", '{"k": 4, "seed": 3}', *TOY, "--json").stdout)[0]
    assert row["k"] == 4
    assert row["recipe"] == "default k=4 seed=3"
    assert row["portable"] is None
    row = json.loads(cli("cram", "--text", "Hello", "--recipe", '{"k": 4}', "-k", 2, *TOY, "--json").stdout)[0]
    assert row["k"] == 2


def test_binary_standard_input(cli):
    result = cli("cram", "-", *TOY, input=b"\xff\xfe\x00")
    assert result.exit_code == 2
    assert "standard input is not UTF-8" in result.stderr


def test_a_store_that_is_not_there(cli):
    for command in ("ls", "verify"):
        result = cli("store", command, "--store", "typo")
        assert result.exit_code == 1
        assert "there is no store at typo" in result.stderr


def test_a_store_is_listed_without_torch(tmp_path):
    code = "import sys; from memlab.cli import app; app(['store', 'ls'], standalone_mode=False)"
    code += "; print('torch' in sys.modules)"
    env = os.environ | {"MEMLAB_STORE": str(tmp_path)}
    out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "False"


def test_bench_precision_and_codecs(cli, crammed, tmp_path):
    result = cli("bench", "precision", *TOY, "--out", tmp_path / "precision.parquet")
    assert result.exit_code == 0, result.output
    assert "1 exact vectors" in result.stdout
    assert "float16" in result.stdout
    assert (tmp_path / "precision.parquet").exists()
    empty = cli("bench", "precision", "--store", tmp_path / "nothing", *TOY)
    assert empty.exit_code == 1
    assert "has no exact vectors of toy:gemma3" in empty.stderr
    result = cli("bench", "codecs", *TOY, "--count", 2, "-n", 20, "--out", tmp_path / "codecs.parquet")
    assert result.exit_code == 0, result.output
    assert "4 of 4 came back" in result.stdout
