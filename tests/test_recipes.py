import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memlab.recipes import NAMED, RETIRED, Recipe, RecipeError


def test_a_recipe_is_a_frozen_hashable_value():
    assert Recipe.default() == Recipe.default(k=1)
    assert hash(Recipe.paper2025()) == hash(Recipe.paper2025())
    with pytest.raises(dataclasses.FrozenInstanceError):
        Recipe.default().k = 2


@pytest.mark.parametrize(
    "recipe", [Recipe.default(), Recipe.paper2025(k=4, seed=3), Recipe(prefix=(1, 2), suffix=(5,))]
)
def test_a_recipe_survives_json(recipe):
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert Recipe.from_json(recipe.canonical()) == recipe


def test_canonical_leaves_out_defaults_and_treats_2_as_2_0():
    assert Recipe().canonical() == "{}"
    assert Recipe(seed=3, k=2).canonical() == '{"k":2,"seed":3}'
    assert Recipe(margin=2).canonical() == Recipe(margin=2.0).canonical() == '{"margin":2.0}'


PINNED = {
    "k": 1, "prefix": "sink", "suffix": (), "first_scored": 1, "stop": "exact", "margin": 1.0, "budget": 400,
    "patience": 0, "rule": "fullmatrix", "lr": 2.0, "betas": (0.9, 0.99), "damping": 1e-4, "history": 200,
    "weight_decay": 0.0, "schedule": "cosine", "seed": 0,
}  # fmt: skip


def test_defaults_never_change():
    """Keys leave out fields at their default. Another default would change the meaning of old keys."""
    assert {name: getattr(Recipe(), name) for name in PINNED} == PINNED


def test_a_retired_field_is_accepted_at_its_neutral_value():
    """Files hold all fields of their version. The bundled vectors have fields that were removed later."""
    whole = json.loads(Recipe.default(seed=3).to_json())
    assert Recipe.from_json(json.dumps(whole | {"temperature": 1.0, "warmup": 0})) == Recipe.default(seed=3)
    with pytest.raises(RecipeError, match="no field temperature"):
        Recipe.from_json(json.dumps(whole | {"temperature": 0.5}))
    assert not set(RETIRED) & {f.name for f in dataclasses.fields(Recipe)}


def test_named_recipes_never_change():
    """Published figures name a recipe only as "growing" or "default". Another recipe needs another name."""
    default = {"damping": 0.01, "lr": 0.4, "norm": 400.0, "rule": "rotation", "schedule": "inverse", "whiten": 0.25}
    growing = default | {"grow": 8, "margin": 0.3, "budget": 1_000_000, "patience": 150}
    progressive = {
        "betas": [0.9, 0.9], "budget": 1_000_000, "grow": 1, "lr": 0.1, "patience": 10_000, "prefix": "none",
        "rule": "adamw", "schedule": "constant", "stop": "teacher_forced", "weight_decay": 0.01,
    }  # fmt: skip
    assert json.loads(Recipe.default().canonical()) == default
    assert json.loads(Recipe.growing().canonical()) == growing
    assert json.loads(Recipe.progressive2026().canonical()) == progressive


def test_the_name_of_a_recipe_does_not_depend_on_k():
    assert Recipe.growing(k=4, grow=32, seed=2).name == "growing k=4 grow=32 seed=2"
    mine = Recipe.default(grow=8, patience=300, margin=0.3)
    assert {mine.replace(k=k, grow=8 * k).name.split()[0] for k in (1, 2, 8)} == {mine.name.split()[0]}


def test_paper2025_is_the_published_protocol():
    """arXiv 2502.13063: AdamW, lr 0.01, betas (0.9, 0.9), weight decay 0.01, 5,000 steps, vector at position 0;
    its code gives up after 2,000 steps without a better accuracy."""
    r = Recipe.paper2025()
    assert r.patience == 2000
    assert (r.rule, r.lr, r.betas, r.weight_decay, r.budget) == ("adamw", 0.01, (0.9, 0.9), 0.01, 5000)
    assert (r.prefix, r.suffix, r.first_scored, r.stop, r.schedule) == ("none", (), 2, "teacher_forced", "constant")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("k", 0), ("k", 1.5), ("k", True), ("budget", -1), ("lr", 0), ("lr", float("nan")), ("lr", "fast"),
        ("betas", (0.9, 1.0)), ("betas", (0.9,)), ("rule", "sgd"), ("prefix", "eos"), ("prefix", (-1,)),
        ("margin", 0), ("betas", 0.9), ("lr", 10**400), ("schedule", None), ("suffix", ("a",)), ("rule", ["adamw"]),
        ("stop", {}),
    ],
)  # fmt: skip
def test_bad_fields_are_named(field, value):
    with pytest.raises(RecipeError, match=rf"The recipe's {field} is .*\. Give .*\.$"):
        Recipe(**{field: value})


def test_recipes_are_found_by_name():
    assert [Recipe.named(n).name for n in NAMED] == list(NAMED)
    assert Recipe.paper2025(seed=7).name == "paper2025 seed=7"
    with pytest.raises(RecipeError, match="default, growing, fullmatrix, paper2025"):
        Recipe.named("fastest")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
fields = st.sampled_from([f.name for f in dataclasses.fields(Recipe)])


@given(
    st.one_of(st.text(), json_values.map(json.dumps), st.dictionaries(fields, json_values, max_size=4).map(json.dumps))
)
def test_any_file_gives_a_recipe_or_a_recipe_error(text):
    try:
        recipe = Recipe.from_json(text)
    except RecipeError:
        return
    assert Recipe.from_json(recipe.to_json()) == recipe


def test_equal_recipes_have_equal_keys():
    assert Recipe(betas=(0, 0.9)) == Recipe(betas=(0.0, 0.9))
    assert Recipe(betas=(0, 0.9)).canonical() == Recipe(betas=(0.0, 0.9)).canonical()


def test_json_can_change_fields_of_a_base_recipe():
    assert Recipe.from_json('{"rule": "rotation", "lr": 0.3}', Recipe.default()) == Recipe.default(lr=0.3)
    assert Recipe.from_json('{"temperature": 1.0, "betas": [0, 0.9]}', Recipe.default()) == Recipe.default(
        betas=(0, 0.9)
    )
    with pytest.raises(RecipeError, match="no field speed"):
        Recipe.from_json('{"speed": 9}', Recipe.default())
