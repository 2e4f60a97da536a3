"""Careless input: one clear error, the documented exit code, and nothing trained, written or read by mistake."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

import memlab
from memlab import (
    MemlabError,
    Plan,
    Recipe,
    Store,
    StoreError,
    Text,
    cram,
    decode,
    load,
)
from memlab.cli import app
from memlab.cli.outputs import file_parser
from memlab.errors import ArgumentError, as_list
from memlab.results.store import NoResultError, NotAStoreError
from tests.browser_lab import ROOT
from tests.conftest import restore_sigint
from tests.helpers import make_vector, unwritable
from tests.test_cli_docs import COMMANDS

TOY = ["--model", "toy:llama"]


@pytest.fixture
def cli(tmp_path, monkeypatch):
    monkeypatch.setenv("MEMLAB_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    return lambda *args: CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.fixture
def no_model(monkeypatch):
    """Bad input is refused before a model is loaded."""

    def loads(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("memlab.models.load", loads)


def assert_refused(result, hint, code=2):
    assert result.exit_code == code, result.output
    assert hint in " ".join(result.stderr.split()), result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)


# The command line -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("command", "hint"),
    [
        (["store", "ls", "--store", ""], "--store is empty"),
        (["store", "ls", "--store="], "--store is empty"),
        (["cram", ""], "an argument is empty"),
        (["cram", "--text", "Hello", "-m", ""], "-m is empty"),
        (["cram", "--text", ""], "--text is empty"),
        (["store", "export", ""], "an argument is empty"),
        (["store", "add", ""], "an argument is empty"),
        (["decode", "abcd", "--model", ""], "--model is empty"),
        (["run", "plan.toml", "--dask="], "--dask is empty"),
        (["bench", "step-profile", "--like", ""], "--like is empty"),
        (["bench", "horizon", "--compare-with", ""], "--compare-with is empty"),
        (["models", "--get", ""], "--get is empty"),
    ],
)
def test_an_empty_argument_is_refused_and_does_not_mean_the_current_folder(cli, tmp_path, command, hint):
    assert_refused(cli(*command), hint)
    assert not list(tmp_path.iterdir())


def test_an_empty_environment_variable_is_the_same_as_none(cli, monkeypatch, tmp_path):
    monkeypatch.setattr("memlab.results.store.user_cache_path", lambda name: tmp_path / name)
    monkeypatch.setenv("MEMLAB_STORE", "")
    assert Store().path == tmp_path / "memlab" / "store"
    assert cli("store", "ls").exit_code == 0


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("command", "hint"),
    [
        (["store", "ls", "--store", "absent"], "There is no store at absent"),
        (["store", "verify", "--store", "absent"], "There is no store at absent"),
        (["store", "gc", "--store", "absent"], "There is no store at absent"),
        (["store", "index", "--store", "absent"], "There is no store at absent"),
        (["store", "show", "abcd", "--store", "absent"], "There is no store at absent"),
        (["store", "export", "all.tar", "--store", "absent"], "There is no store at absent"),
        (["decode", "abcd", "--store", "absent"], "There is no store at absent"),
        (["bench", "codecs", "--store", "absent"], "There is no store at absent"),
        (["bench", "precision", "--store", "absent"], "There is no store at absent"),
        (["bench", "geometry", "--store", "absent"], "There is no store at absent"),
        (["bench", "travel", "--store", "absent"], "There is no store at absent"),
        (["store", "ls", "--store", "file.txt"], "file.txt is not a folder"),
        (["store", "ls", "--store", "foreign"], "foreign is not a store"),
        (["store", "add", "file.txt", "--store", "foreign"], "foreign is not a store"),
        (["store", "import", "file.txt", "--store", "foreign"], "foreign is not a store"),
        (["store", "import", "nofile"], "There is no file nofile"),
        (["decode", "zz"], "Key 'zz' is too short"),
        (["decode", "abcd"], "No result starts with 'abcd'"),
        (["decode", "a" * 5000], "No result starts with"),
        (["decode", "none/abcd.safetensors"], "There is no file none/abcd.safetensors"),
        (["store", "show", "abcd"], "No result starts with 'abcd'"),
        (["store", "export", "all.tar", "abcd"], "No result starts with 'abcd'"),
        (["store", "export", "foreign"], "foreign is a folder"),
        (["store", "gc", "--older", "-1"], "--older"),
        (["store", "gc", "--older", "nan"], "--older"),
        (["store", "gc", "--older", "inf"], "--older"),
        (["bench", "sink", "-n", "0"], "--tokens"),
        (["bench", "recovery", "-n", "0"], "--tokens"),
        (["bench", "speed", "-n", "0"], "--tokens"),
        (["bench", "codecs", "-n", "-1"], "--tokens"),
        (["bench", "geometry", "--tokens", "0"], "--tokens"),
        (["bench", "geometry", "--tokens", "-1"], "--tokens"),
        (["bench", "horizon", "--target", "-1"], "--target"),
        (["bench", "store-scale", "--folder", "file.txt"], "--folder"),
        (["bench", "store-crash", "--folder", "file.txt"], "--folder"),
        (["bench", "bundled", "--out", "file.txt"], "--out"),
        (["bench", "bundled", "--out", "foreign"], "foreign is not a store"),
        (["bench", "speed", "--picture", "a.gif"], ".png or .svg"),
        (["capacity", "--out", "x.csv"], ".parquet"),
        (["capacity", "--out", "foreign"], ".parquet"),
        (["bench", "precision", "--out", "x.txt"], ".parquet or .csv"),
        (["run", "absent.toml"], "absent.toml cannot be read"),
        (["run", "foreign"], "foreign cannot be read"),
    ],
)
def test_wrong_values_are_refused_before_any_work(cli, tmp_path, command, hint):
    (tmp_path / "file.txt").write_text("not a store")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").write_text("years of work")
    assert_refused(cli(*command), hint)
    assert {p.name for p in tmp_path.rglob("*")} - {"store", "objects"} == {"file.txt", "foreign", "thesis.tex"}


WRITTEN = [
    (name, parameter)
    for name, command in COMMANDS.items()
    for parameter in command.params
    if parameter.metavar in ("FILE", "FOLDER") and parameter.param_type_name == "option"
]


def test_every_option_that_names_something_to_write_is_known():
    outs = {name for name, command in COMMANDS.items() for p in command.params if "--out" in p.opts}
    assert outs == {name for name, parameter in WRITTEN if parameter.name == "out"}
    assert len(outs) > 8


@pytest.mark.parametrize(("name", "parameter"), WRITTEN, ids=lambda value: str(getattr(value, "name", value)))
def test_every_file_to_write_is_checked_when_it_is_read(cli, name, parameter, tmp_path):
    (tmp_path / "file").write_text("")
    option = parameter.opts[0]
    for folder in (tmp_path / "file" / "deep", unwritable(tmp_path)):
        for ending in (".parquet", ".svg"):
            assert_refused(cli(*name.split()[1:], option, f"{folder}/x{ending}"), option)


def test_a_file_to_write_may_be_in_a_new_folder_and_nothing_is_left(tmp_path):
    file = tmp_path / "new" / "folder with spaces" / "x.parquet"
    assert file_parser(".parquet")(str(file)) == file
    assert list(tmp_path.iterdir()) == []


def test_a_shape_beyond_context_or_memory_is_refused(cli):
    assert_refused(cli("bench", "step-profile", "1x100000", *TOY), "context of 512")
    assert_refused(cli("bench", "step-profile", "1x4", "99999999x4", *TOY), "99999999x4 needs")


def test_an_import_or_addition_of_nothing_is_refused_in_one_line(cli, tmp_path):
    (tmp_path / "a.txt").write_text("no tar")
    (tmp_path / "empty").mkdir()
    result = cli("store", "import", "a.txt")
    assert_refused(result, "a.txt is not a complete tar file", code=1)
    assert len(result.stderr.splitlines()) == 1
    assert_refused(cli("store", "add", "empty"), "There is no .safetensors file in empty")


def test_a_toy_has_no_revision(cli):
    assert_refused(cli("cram", "--text", "Hello", *TOY, "--revision", "main"), "has no revision 'main'")


def test_a_plan_or_a_capacity_without_any_run_says_so(cli, tmp_path):
    (tmp_path / "t.txt").write_text("Go on.")
    (tmp_path / "plan.toml").write_text('texts = ["t.txt"]\ntokens = [500]\nmodels = ["toy:llama"]\n')
    for options in ([], ["--dry-run"], ["--dry-run", "--json"]):
        result = cli("run", "plan.toml", *options)
        assert_refused(result, "Every run of the plan was left out")
        assert "has 6 tokens" in result.stderr
    assert json.loads(result.stdout)["left out"] == 1
    arguments = ["--texts", "t.txt", "--count", "1", "--protocol", "fixed", "--lengths", "3", "--start", "99999"]
    assert_refused(cli("capacity", *arguments, *TOY, "--out", "x.parquet"), "Every run was left out")
    assert not (tmp_path / "x.parquet").exists()


# Interrupts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("where", ["import half", "interrupt()"])
def test_an_interrupt_at_any_moment_is_one_line_and_130(tmp_path, sent, where):
    """During an import too: half a module would be left, and an error about it would hide the interrupt."""
    kill = f"import os, signal\ndef interrupt():\n    os.kill(os.getpid(), signal.{sent})\n    open('survived', 'w')\n"
    (tmp_path / "half.py").write_text(f"{kill}try:\n    interrupt()\nexcept BaseException:\n    raise AttributeError\n")
    (tmp_path / "script.py").write_text(
        f"import typer\nfrom memlab.cli.common import reports_errors\n{kill}app = typer.Typer()\n"
        f"@app.command()\n@reports_errors\ndef command():\n    {where}\napp()\n"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=env, capture_output=True, text=True, check=False,
        preexec_fn=restore_sigint,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "memlab: interrupted\n")
    assert not (tmp_path / "survived").exists()


# The store --------------------------------------------------------------------------------------------------------


def test_a_new_or_empty_folder_is_a_new_store_and_a_store_may_have_other_files(tmp_path):
    mem = make_vector()
    (tmp_path / "empty").mkdir()
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / ".DS_Store").write_text("")
    (tmp_path / "begun" / "unfinished").mkdir(parents=True)
    for name in ("absent", "empty", "hidden", "begun", "a folder with spaces"):
        Store(tmp_path / name).put(mem)
        (tmp_path / name / "notes.txt").write_text("mine")
        assert list(Store(tmp_path / name).keys()) == [mem.key]


def test_a_file_or_a_folder_of_other_files_is_no_store(tmp_path):
    (tmp_path / "file.txt").write_text("")
    for path in (tmp_path / "file.txt", tmp_path / "file.txt" / "below", tmp_path):
        with pytest.raises(NotAStoreError, match=r"is not a (folder|store).*Give a"):
            Store(path)
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]
    with pytest.raises(NotAStoreError, match="There is no store at"):
        Store.existing(tmp_path / "absent")


def test_a_store_whose_folder_vanishes_is_a_store_error_or_empty(tmp_path):
    store = Store(tmp_path / "store")
    key = store.put(make_vector())
    (tmp_path / "store").rename(tmp_path / "moved")
    (tmp_path / "store").write_text("a file now")
    with pytest.raises(StoreError, match="cannot be written"):
        store.put(make_vector())
    assert list(store.keys()) == []
    assert key not in store
    assert len(store.table()) == 0


# Python -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def things(tmp_path_factory):
    lm = load("toy:llama")
    p = lm.passage_of_ids([5, 9, 2])
    (mem,) = cram(lm, p, Recipe.default(k=4), progress=False)
    folder = tmp_path_factory.mktemp("things")
    store, text = Store(folder / "store"), Text("a", "Go on, now. It rains.")
    plan = Plan.grid(lm, text, tokens=2, recipes=Recipe.default(budget=9))
    return dict(lm=lm, p=p, mem=mem, s=store, t=text, plan=plan, folder=folder)


@pytest.mark.parametrize(
    "call",
    [
        "load(3)", "load(None)", "load('')", "load(['toy:llama'])", "load('toy:llama', device='gpu')",
        "load('toy:llama', dtype=3)", "cram(lm, ['text'])", "cram(lm, 'text')", "cram(lm, t)", "cram('toy:llama', [p])",
        "cram(lm, None)", "cram(lm, [p], 3)", "cram(lm, [p], [Recipe.default(), 3])", "cram(lm, [p], [])",
        "cram(lm, [p], store='x')", "cram(lm, [p], start='abc')", "cram(lm, [p], start=[3])",
        "cram(lm, [p], on_step=3)",
        "decode('toy:llama', [mem])", "decode(lm, [mem.mem])", "decode(lm, [mem], tokens='3')",
        "decode(lm, [mem], tokens=0)", "decode(lm, [mem], tokens=-1)", "decode(lm, [mem], batch=0)",
        "decode(lm, [mem], dtype='int8')", "decode(lm, 3)", "check(lm, [mem])", "check(mem, lm)",
        "check(lm, mem, batch=0)", "export_peft(mem, 3, lm)", "export_peft(mem, '', lm)", "export_peft('x', mem)",
        "export_peft(lm, 'x', mem)", "run('plan', s)", "run(plan, 'x')", "run(plan, None)", "run([p], s)",
        "run(plan, s, executor=3)", "run(plan, s, chunk=0)", "run(plan, s, on_progress=3)",
        "Plan.of(lm, [t], Recipe.default())", "Plan.of('toy:llama', [p], 'default')", "Plan.of(lm, [p], 3)",
        "Plan.of(lm, [p], 'default', start=[])", "Plan.grid(3, [t], tokens=2)", "Plan.grid(lm, 'originals', tokens=2)",
        "Plan.grid(lm, ['a'], tokens=2)", "Plan.grid(lm, [t], tokens='2')", "Plan.grid(lm, [t], tokens=2.5)",
        "Plan.grid(lm, [t], tokens=2, seeds=['a'])", "Plan.grid(lm, [t], tokens=2, recipes=[3])", "Store(3)",
        "Store('')", "Store('a\\0b')", "Store('x' * 5000)", "s.get('')", "s.get(3)", "s.get('abcd')",
        "s.get('../../x')",
        "s.find(3)", "s.find('')", "s.put(3)", "s.put(mem.mem)", "Recipe.from_json(3)", "MemVector.load(3)",
        "MemVector.load('')", "MemVector.load('.')", "mem.save(3)", "mem.save('')", "FrozenLM.from_model(3)",
    ],
)  # fmt: skip
def test_an_argument_of_a_wrong_type_is_one_clear_error(things, call, monkeypatch):
    monkeypatch.chdir(things["folder"])
    with pytest.raises(MemlabError, match=r"(Give|Choose|Cut|Check|Use|choose|expected|`store.find`)") as error:
        eval(call, {name: getattr(memlab, name) for name in memlab.__all__} | things)
    assert error.value.exit_code == (1 if "5000" in call or "MemVector.load('.')" in call else 2)
    assert not list(things["folder"].glob("*.json"))


def test_one_item_is_as_good_as_a_list_of_one(things):
    lm, mem, passage, text = (things[name] for name in ("lm", "mem", "p", "t"))
    assert [ids.tolist() for ids in decode(lm, mem)] == [[5, 9, 2]]
    assert [ids.tolist() for ids in decode(lm, iter([mem]))] == [[5, 9, 2]]
    assert [job.key for job in Plan.of(lm, passage, "default")] == [
        job.key for job in Plan.of(lm, [passage], "default")
    ]
    grids = [
        Plan.grid(lm, [text], tokens=[2, 3], seeds=[1]),
        Plan.grid(lm, iter([text]), tokens=np.array([2, 3]), seeds=1),
    ]
    assert len({tuple(job.key for job in grid) for grid in grids}) == 1


def test_errors_of_arguments_and_keys_are_also_the_built_in_errors(tmp_path):
    with pytest.raises(KeyError) as missing:
        Store(tmp_path).get("0" * 64)
    assert isinstance(missing.value, NoResultError)
    assert str(missing.value).startswith("There is no result 0000")  # a KeyError alone would print quotes
    for kind in (TypeError, ValueError, ArgumentError):
        with pytest.raises(kind, match="an item of numbers is 'a', which has the type str"):
            as_list("numbers", [1, "a"], int, "numbers")
