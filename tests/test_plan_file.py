"""Plan files: what they say, and what they may not."""

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


def test_a_plan_is_the_grid_it_says(file):
    study = PlanFile.read(file)
    plan = study.plan()
    assert len(plan) == 2 * 2 * 2 * 2
    assert {(len(j.passage), j.recipe.k, j.recipe.seed) for j in plan} == {
        (n, k, s) for n in (3, 4) for k in (2, 4) for s in (0, 1)
    }
    assert all(j.recipe.budget == 40 and j.recipe.rule == Recipe.default().rule for j in plan)


def test_what_need_not_be_said(tmp_path):
    file = tmp_path / "p.toml"
    file.write_text('texts = "originals"\ntokens = 8\n')
    study = PlanFile.read(file)
    assert study.models == ("smollm2-135m",)
    assert study.recipes == (Recipe.default(),)
    assert (study.tokens, study.k, study.seeds) == ((8,), (), ())


def test_a_recipes_own_k_and_seed_stand(tmp_path):
    file = tmp_path / "p.toml"
    said = 'models = "toy:gemma3"\ntexts = "originals"\ncount = 1\ntokens = 4\nrecipes = [{ k = 4, seed = 7 }]\n'
    file.write_text(said)
    (job,) = PlanFile.read(file).plan()
    assert (job.recipe.k, job.recipe.seed) == (4, 7)
    file.write_text(said + "k = [1, 2]")
    with pytest.raises(PlanError, match="one of the two"):
        PlanFile.read(file)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("tokens = [8]", "does not say texts"),
        ('texts = ["originals"]', "does not say tokens"),
        ('texts = ["originals"]\ntokens = [0]', "tokens is"),
        ('texts = "random"\ntokens = 4611686018427387904', "tokens is"),
        ('texts = "random"\ntokens = 8\ncount = 4611686018427387904', "count is"),
        ('texts = "random"\ntokens = 8\ncount = [2, 9]', "count is"),
        ("texts = []\ntokens = [8]", "texts is"),
        ('texts = ["originals"]\ntokens = [8]\nlength = 3', "no field is called length"),
        ('texts = ["originals"]\ntokens = [8]\nk = ["one"]', "k is"),
        ('texts = ["originals"]\ntokens = [8]\nseeds = [true]', "seeds is"),
        ('texts = ["originals"]\ntokens = [8]\nstart = "middle"', "start is"),
        ('texts = ["originals"]\ntokens = [8]\nrecipes = [3]', "a recipe is 3"),
        ('texts = ["originals"]\ntokens = [8]\nrecipes = []', "recipes is empty"),
        ('texts = ["originals"', "no TOML"),
    ],
)
def test_what_a_plan_may_not_say(tmp_path, said, why):
    file = tmp_path / "p.toml"
    file.write_text(said)
    with pytest.raises(PlanError, match=why):
        PlanFile.read(file)
    with pytest.raises(PlanError, match="cannot be read"):
        PlanFile.read(tmp_path / "absent.toml")


def test_a_recipe_that_cannot_be_is_refused_by_name(tmp_path):
    file = tmp_path / "p.toml"
    file.write_text('texts = ["originals"]\ntokens = [8]\nrecipes = [{ lr = -1 }]')
    with pytest.raises(RecipeError, match="lr"):
        PlanFile.read(file)
    file.write_text('texts = ["originals"]\ntokens = [8]\nrecipes = ["guess"]')
    with pytest.raises(RecipeError, match="no recipe is called"):
        PlanFile.read(file)


_toml = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_fields = st.sampled_from([*PlanFile.__dataclass_fields__, "lr", "texts"])


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(_fields, _toml, max_size=8))
def test_any_table_is_a_study_or_one_clear_error(said):
    with contextlib.suppress(PlanError, RecipeError):  # and nothing else
        study = PlanFile.of({"texts": ["originals"], "tokens": [4]} | said)
        assert study.texts
        assert all(n >= 1 for n in study.tokens)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_file_is_a_study_or_one_clear_error(tmp_path_factory, data):
    file = tmp_path_factory.mktemp("plan") / "p.toml"
    file.write_bytes(data)
    with pytest.raises((PlanError, RecipeError)):
        PlanFile.read(file)


def test_an_estimate_falls_to_nothing(file, tmp_path):
    store, plan = Store(tmp_path / "store"), PlanFile.read(file).plan()
    before = estimate(plan, store)
    assert before.runs == 16
    assert 0 < before.likely <= before.at_most
    from memlab import run

    run(plan, store, progress=False)
    after = estimate(plan, store)
    assert (after.runs, after.likely, after.at_most) == (0, 0, 0)


def test_an_estimate_of_a_text_that_grows_counts_its_stages(toy, tmp_path, monkeypatch):
    monkeypatch.setattr("memlab.scoring.timing.seconds_a_token", lambda *_, **__: 1.0)
    recipe = Recipe.growing(grow=4, patience=10)
    plan = Plan.of(toy, [toy.passage_of_ids(range(1, 11))], recipe)
    # Ten steps each at 4, at 8 and at 10 tokens, and not a million steps.
    assert estimate(plan, Store(tmp_path)).at_most == 10 * (4 + 8 + 10)


def test_from_the_command_line(file, tmp_path):
    ask = lambda *a: CliRunner().invoke(app, ["run", str(file), "--store", str(tmp_path / "s"), *a])  # noqa: E731
    dry = ask("--dry-run", "--json")
    assert json.loads(dry.stdout)["runs"] == 16
    assert not list(Store(tmp_path / "s").keys())
    done = ask("--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["results"], told["trained now"], told["failed"]) == (16, 16, 0)
    assert json.loads(ask("--json").stdout)["trained now"] == 0
    file.write_text("nonsense")
    bad = ask()
    assert bad.exit_code == 2
    assert "no TOML" in bad.stderr
