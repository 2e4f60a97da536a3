"""Plan files: valid ones, invalid ones, and time estimates."""

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from memlab import Plan, Recipe, Store
from memlab.cli import app
from memlab.recipes import RecipeError
from memlab.sweeps.plan_file import PlanError, PlanFile, estimate

SMALL = """
models = ["toy:gemma3"]
texts = ["originals"]
count = 2
tokens = [3, 4]
k = [2, 4]
recipes = [{ budget = 40 }]
seeds = [0, 1]
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text(SMALL)
    return path


def test_a_plan_file_gives_its_grid(file):
    plan = PlanFile.read(file).plan()
    assert len(plan) == 2 * 2 * 2 * 2
    assert {(len(j.passage), j.recipe.k, j.recipe.seed) for j in plan} == {
        (n, k, s) for n in (3, 4) for k in (2, 4) for s in (0, 1)
    }
    assert all(j.recipe.budget == 40 and j.recipe.rule == Recipe.default().rule for j in plan)


def test_defaults_of_a_plan_file(tmp_path):
    file = tmp_path / "p.toml"
    file.write_text('texts = "originals"\ntokens = 8\n')
    plan_file = PlanFile.read(file)
    assert plan_file.models == ("smollm2-135m",)
    assert plan_file.recipes == (Recipe.default(),)
    assert (plan_file.tokens, plan_file.k, plan_file.seeds) == ((8,), (), ())


def test_texts_of_a_plan_are_read_from_a_column_and_have_unique_ids(tmp_path):
    for name in ("one.csv", "two.csv"):
        (tmp_path / name).write_text(f"id;Review\n1;Review {name}\n")
    file, names = tmp_path / "p.toml", [str(tmp_path / name) for name in ("one.csv", "two.csv")]
    file.write_text(f'models = "toy:gemma3"\ntexts = {names}\ncolumn = "Review"\ntokens = 8\nrecipes = "growing"\n')
    plan = PlanFile.read(file).plan()
    assert [(j.passage.span.id, j.recipe.name) for j in plan] == [("1", "growing"), ("1-2", "growing")]


def test_k_and_seed_of_a_recipe_are_kept(tmp_path):
    file = tmp_path / "p.toml"
    contents = 'models = "toy:gemma3"\ntexts = "originals"\ncount = 1\ntokens = 4\nrecipes = [{ k = 4, seed = 7 }]\n'
    file.write_text(contents)
    (job,) = PlanFile.read(file).plan()
    assert (job.recipe.k, job.recipe.seed) == (4, 7)
    file.write_text(contents + "k = [1, 2]")
    with pytest.raises(PlanError, match="Set only one of the two"):
        PlanFile.read(file)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ("tokens = [8]", "does not set texts"),
        ('texts = ["originals"]', "does not set tokens"),
        ('texts = ["originals"]\ntokens = [0]', "tokens is"),
        ('texts = "random"\ntokens = 4611686018427387904', "tokens is"),
        ('texts = "random"\ntokens = 8\ncount = 4611686018427387904', "count is"),
        ('texts = "random"\ntokens = 8\ncount = [2, 9]', "count is"),
        ("texts = []\ntokens = [8]", "texts is"),
        ('texts = ["originals"]\ntokens = [8]\nlength = 3', "unknown fields: length"),
        ('texts = ["originals"]\ntokens = [8]\nk = ["one"]', "k is"),
        ('texts = ["originals"]\ntokens = [8]\nseeds = [true]', "seeds is"),
        ('texts = ["originals"]\ntokens = [8]\ncolumn = 3', "column is 3. Give the name of a column"),
        ('texts = ["originals"]\ntokens = [8]\nstart = "middle"', "start is"),
        ('texts = ["originals"]\ntokens = [8]\nrecipes = [3]', "a recipe is 3. Give"),
        ('texts = ["originals"]\ntokens = [8]\nrecipes = []', "recipes is empty"),
        ('texts = ["originals"', "is not a TOML file"),
    ],
)
def test_invalid_plan_files_raise_plan_error(tmp_path, contents, message):
    file = tmp_path / "p.toml"
    file.write_text(contents)
    with pytest.raises(PlanError, match=message):
        PlanFile.read(file)
    with pytest.raises(PlanError, match="cannot be read"):
        PlanFile.read(tmp_path / "absent.toml")


def test_an_invalid_recipe_raises_recipe_error(tmp_path):
    file = tmp_path / "p.toml"
    file.write_text('texts = ["originals"]\ntokens = [8]\nrecipes = [{ lr = -1 }]')
    with pytest.raises(RecipeError, match="lr"):
        PlanFile.read(file)
    file.write_text('texts = ["originals"]\ntokens = [8]\nrecipes = ["guess"]')
    with pytest.raises(RecipeError, match="No recipe is called"):
        PlanFile.read(file)


_toml = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_fields = st.sampled_from([*PlanFile.__dataclass_fields__, "lr", "texts"])


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(_fields, _toml, max_size=8))
def test_any_table_is_a_plan_or_a_plan_error(table):
    with contextlib.suppress(PlanError, RecipeError):  # and nothing else
        plan_file = PlanFile.of({"texts": ["originals"], "tokens": [4]} | table)
        assert plan_file.texts
        assert all(n >= 1 for n in plan_file.tokens)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_file_is_a_plan_or_a_plan_error(tmp_path_factory, data):
    file = tmp_path_factory.mktemp("plan") / "p.toml"
    file.write_bytes(data)
    with pytest.raises((PlanError, RecipeError)):
        PlanFile.read(file)


def test_the_estimate_is_zero_after_the_run(file, tmp_path):
    store, plan = Store(tmp_path / "store"), PlanFile.read(file).plan()
    before = estimate(plan, store)
    assert before.runs == 16
    assert 0 < before.likely <= before.at_most
    from memlab import run

    run(plan, store, progress=False)
    after = estimate(plan, store)
    assert (after.runs, after.likely, after.at_most) == (0, 0, 0)


def test_the_estimate_for_a_growing_text_counts_its_stages(toy, tmp_path, monkeypatch):
    monkeypatch.setattr("memlab.scoring.timing.seconds_a_token", lambda *_, **__: 1.0)
    recipe = Recipe.growing(grow=4, patience=10)
    plan = Plan.of(toy, [toy.passage_of_ids(range(1, 11))], recipe)
    # Ten steps each with 4, 8 and 10 tokens, and not a million steps.
    assert estimate(plan, Store(tmp_path)).at_most == 10 * (4 + 8 + 10)


def test_memlab_run_trains_a_plan_file(file, tmp_path):
    memlab = lambda *a: CliRunner().invoke(app, ["run", str(file), "--store", str(tmp_path / "s"), *a])  # noqa: E731
    dry = memlab("--dry-run", "--json")
    assert json.loads(dry.stdout)["runs"] == 16
    assert not list(Store(tmp_path / "s").keys())
    done = memlab("--json")
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert (summary["results"], summary["trained now"], summary["failed"]) == (16, 16, 0)
    assert json.loads(memlab("--json").stdout)["trained now"] == 0
    file.write_text("nonsense")
    bad = memlab()
    assert bad.exit_code == 2
    assert "is not a TOML file" in bad.stderr
