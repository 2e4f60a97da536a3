"""The tables behind the notebooks on geometry, made of a toy's vectors, also through the command line."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from memlab import Plan, Recipe, Store, StoreError, cram, load, run
from memlab.cli import app
from memlab.experiments import geometry_tables
from memlab.experiments.solutions import one_each, solutions
from memlab.texts import TextSpan, originals
from tests.conftest import random_passages

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    lm = load("toy:llama")
    store = Store(tmp_path_factory.mktemp("trained"))
    passages = random_passages(lm, 3, 4)
    recipes = [Recipe.default(budget=80, k=2, seed=seed) for seed in range(4)]
    cram(lm, [p for p in passages for _ in recipes], recipes * 3, store, progress=False)
    return lm, store


def test_every_table_of_solutions_agrees_with_the_vectors(trained, tmp_path):
    lm, store = trained
    arguments = ["bench", "geometry", "--model", "toy:llama", "--tokens", "4", "--store", str(store.path)]
    result = CliRunner().invoke(app, [*arguments, *geometry_tables.TABLES, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    tables = {name: pd.read_parquet(tmp_path / f"geometry-{name}.parquet") for name in geometry_tables.TABLES}
    mems = solutions(store, lm, tokens=4)
    paths = tables["paths"]
    assert set(paths.way) == {"line", "curve", "nowhere"}
    ends = paths[paths.t.isin([0.0, 1.0]) & (paths.way != "nowhere")]
    assert ends.exact.all()  # both ends are exact solutions
    assert (paths[paths.way != "nowhere"].barrier >= 0).all()
    for _, way in paths[paths.way == "nowhere"].groupby("pair"):
        near = way[way.t <= 0.5].bits
        assert set(way.barrier) == {near.max() - near.iloc[0]}
    between = tables["between"]
    assert (between[between.t == 0].of_a == 4).all()
    assert (between[between.t == 1].of_b == 4).all()
    noise = tables["noise"]
    assert set(noise.what) == {"noise", "dropout", "gradient", "first principal", "rounding"}
    still = noise[(noise.what == "noise") & (noise.amount == 0.01)].exact.mean()
    assert still > noise[(noise.what == "noise") & (noise.amount == 1.0)].exact.mean()
    assert (tables["radii"].radius < tables["radii"].fails).all()
    ways = {"random", "gradient", "outwards", "first principal", "last principal"}
    assert set(tables["radii"].direction) == ways
    planes = tables["planes"]
    assert set(planes.plane) == {"through a third solution", "random"}
    corners = planes[planes.x.isin([0, 1]) & (planes.y == 0)]
    assert len(corners) == 4
    assert corners.exact.all()
    assert planes.third_x.notna().sum() == (planes.plane != "random").sum()
    assert tables["attention"].layer.nunique() == lm.model.config.num_hidden_layers
    assert (tables["knockouts"].query("mode == 'none'").accuracy == 1).all()
    assert set(tables["knockouts"].what) == ({"mem", "prefix"} if len(mems[0].prefix_ids) else {"mem"})
    snapped = tables["snapped"]
    assert (snapped.right == 4).all()
    assert len(snapped) == len({mem.text.id for mem in mems})


@pytest.fixture(scope="module")
def texts_store(tmp_path_factory):
    """Real texts, so that another model can be trained on the same texts."""
    lm = load("toy:llama")
    store = Store(tmp_path_factory.mktemp("texts"))
    recipe = Recipe.default(budget=120, k=4)
    report = run(Plan.grid(lm, originals()[:6], tokens=[3, 5], recipes=recipe), store, progress=False)
    assert all(mem.exact for mem in report.results)
    return lm, store


def test_radii_by_length_and_by_margin(texts_store, store):
    lm, vectors = texts_store
    table = geometry_tables.length_table(lm, vectors, store, count=3)
    assert (table.groupby("text_id").tokens.value_counts() == 2).all()  # two draws of each length
    assert table.text_id.nunique() == 3
    assert set(table.direction) == {"random"}
    assert list(store.keys()) == []
    table = geometry_tables.margin_table(lm, vectors, store, tokens=3, count=2, margins=(0.5, 3.0))
    assert table.text_id.nunique() == 2
    assert (table.margin >= table.asked).all()
    assert set(table.asked) == {0.5, 3.0}
    # If no passage reaches a margin, the table is empty.
    assert len(geometry_tables.margin_table(lm, vectors, store, tokens=3, count=2, margins=(0.5, 1e6))) == 0
    with pytest.raises(StoreError, match="memlab bench bundled"):
        geometry_tables.margin_table(lm, vectors, store, tokens=77)


def test_the_same_texts_in_three_spaces(texts_store, store):
    lm, vectors = texts_store
    table = geometry_tables.space_table(lm, vectors, store, other="toy:gemma3", tokens=3)
    assert table.space.nunique() == 3
    n = table.text_id.nunique()
    assert n >= 4
    assert len(table) == 3 * n * n
    own = table[table.text_id == table.other_id]
    assert own.cosine.to_numpy() == pytest.approx(np.ones(3 * n))
    for _, group in table.groupby("space"):
        square = group.pivot(index="text_id", columns="other_id", values="cosine")
        np.testing.assert_allclose(square, square.T)


def test_norm_table_has_each_step_and_the_exact_vector(texts_store, store):
    lm, vectors = texts_store
    table = geometry_tables.norm_table(lm, vectors, store, count=2)
    assert table.text_id.nunique() == 2
    ends = table[table["last"]]
    assert len(ends) == ends.groupby(["text_id", "tokens"]).ngroups
    for (name, n), way in table.groupby(["text_id", "tokens"]):
        assert way[~way["last"]].step.tolist() == list(range(len(way) - way["last"].sum()))
        assert way.bits.nunique() == 1
        end = way[way["last"]]
        if len(end):
            assert end.norm.iloc[0] == pytest.approx(way[way.step == end.step.iloc[0]].norm.iloc[0]), (name, n)


def test_tables_of_a_store_through_the_command_line(texts_store, tmp_path, monkeypatch):
    _, vectors = texts_store
    monkeypatch.setenv("MEMLAB_STORE", str(tmp_path / "own"))
    arguments = ["bench", "geometry", "lengths", "margins", "--model", "toy:llama", "--tokens", "3"]
    result = CliRunner().invoke(app, [*arguments, "--store", str(vectors.path), "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    for name in ("lengths", "margins"):
        assert set(pd.read_parquet(tmp_path / f"geometry-{name}.parquet").tokens) == {3}


def test_a_vector_trained_longer_does_not_count_as_another_solution(texts_store, store):
    lm, vectors = texts_store
    mem = next(iter(solutions(vectors, lm, tokens=3, least=1)))
    passage = lm.passage_of_ids(mem.token_ids, name=mem.text.id)
    recipes = [mem.recipe.replace(margin=margin) for margin in (0.5, 1.5, 2.5)]
    cram(lm, [passage] * 3, recipes, store, progress=False)
    assert solutions(store, lm, tokens=3, least=2) == []


def test_unknown_tables_and_missing_vectors_are_errors(trained, tmp_path):
    _, store = trained
    arguments = ["bench", "geometry", "--model", "toy:llama", "--store", str(store.path), "--out", str(tmp_path)]
    result = CliRunner().invoke(app, [*arguments, "tunnels"])
    assert result.exit_code == 2
    assert "tunnels" in result.output
    result = CliRunner().invoke(app, [*arguments, "--tokens", "77"])
    assert result.exit_code == 1
    assert "memlab bench bundled" in result.output


def test_solutions_are_in_order_and_one_each_alternates_between_kinds(trained):
    lm, store = trained
    mems = solutions(store, lm, tokens=4)
    assert [m.text.id for m in mems] == sorted(m.text.id for m in mems)
    assert all(m.exact for m in mems)
    each = one_each(mems, 2)
    assert [m.text.id for m in each] == sorted({m.text.id for m in mems})[:2]
    named = [
        dataclasses.replace(m, text=TextSpan(n)) for m, n in zip(mems, ("b", "random-1", "a", "random-0"), strict=False)
    ]
    assert [m.text.id for m in one_each(named, 3)] == ["a", "random-0", "b"]
    assert all(m.recipe.seed == min(o.recipe.seed for o in mems if o.text.id == m.text.id) for m in each)
    assert solutions(store, lm, tokens=5) == []
