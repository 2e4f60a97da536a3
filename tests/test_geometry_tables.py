"""The tables behind the notebooks on geometry, on a toy's shelf, through the command line."""

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from memlab import Plan, Recipe, Store, StoreError, cram, load, run
from memlab.cli import app
from memlab.experiments import geometry
from memlab.texts import originals
from tests.conftest import random_passages

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    lm = load("toy:llama")
    store = Store(tmp_path_factory.mktemp("shelf"))
    passages = random_passages(lm, 3, 4)
    recipes = [Recipe.default(budget=80, k=2, seed=seed) for seed in range(4)]
    cram(lm, [p for p in passages for _ in recipes], recipes * 3, store, progress=False)
    return lm, store


def test_every_table_is_made_and_says_what_the_vectors_say(shelf, tmp_path):
    lm, store = shelf
    asked = ["bench", "geometry", "--model", "toy:llama", "--tokens", "4", "--store", str(store.path)]
    result = CliRunner().invoke(app, [*asked, *geometry.TABLES, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    tables = {name: pd.read_parquet(tmp_path / f"geometry-{name}.parquet") for name in geometry.TABLES}
    mems = geometry.solutions(store, lm, tokens=4)
    paths = tables["paths"]
    assert set(paths.way) == {"line", "curve"}
    ends = paths[paths.t.isin([0.0, 1.0])]
    assert ends.exact.all()  # both ends are exact solutions
    assert (paths.barrier >= 0).all()
    between = tables["between"]
    assert (between[between.t == 0].of_a == 4).all()
    assert (between[between.t == 1].of_b == 4).all()
    noise = tables["noise"]
    assert set(noise.what) == {"noise", "dropout"}
    still = noise[(noise.what == "noise") & (noise.amount == 0.01)].exact.mean()
    assert still > noise[(noise.what == "noise") & (noise.amount == 1.0)].exact.mean()
    assert (tables["radii"].radius < tables["radii"].fails).all()
    ways = {"random", "gradient", "outwards", "first principal", "last principal"}
    assert set(tables["radii"].direction) == ways
    assert set(tables["planes"].plane) == {"through a third solution", "random"}
    assert tables["attention"].layer.nunique() == lm.model.config.num_hidden_layers
    assert (tables["knockouts"].query("mode == 'none'").accuracy == 1).all()
    snapped = tables["snapped"]
    assert (snapped.right == 4).all()
    assert len(snapped) == len({mem.text.id for mem in mems})


@pytest.fixture(scope="module")
def texts_shelf(tmp_path_factory):
    """Real texts, so that another model can have the same ones."""
    lm = load("toy:llama")
    store = Store(tmp_path_factory.mktemp("texts"))
    recipe = Recipe.default(budget=120, k=4)
    report = run(Plan.grid(lm, originals()[:6], tokens=[3, 5], recipes=recipe), store, progress=False)
    assert all(mem.exact for mem in report.results)
    return lm, store


def test_radii_by_length_and_by_margin(texts_shelf, store):
    lm, shelf = texts_shelf
    table = geometry.length_table(lm, shelf, store, count=3)
    assert (table.groupby("text_id").tokens.value_counts() == 2).all()  # two draws of each length
    assert table.text_id.nunique() == 3
    assert set(table.direction) == {"random"}
    assert list(store.keys()) == []
    table = geometry.margin_table(lm, shelf, store, tokens=3, count=2, margins=(0.5, 3.0))
    assert table.text_id.nunique() == 2
    assert (table.margin >= table.asked).all()
    assert set(table.asked) == {0.5, 3.0}
    with pytest.raises(StoreError, match="memlab bench shelf"):
        geometry.margin_table(lm, shelf, store, tokens=77)


def test_the_same_texts_in_three_spaces(texts_shelf, store):
    lm, shelf = texts_shelf
    table = geometry.space_table(lm, shelf, store, other="toy:gemma3", tokens=3)
    assert table.space.nunique() == 3
    n = table.text_id.nunique()
    assert n >= 4
    assert len(table) == 3 * n * n
    own = table[table.text_id == table.other_id]
    assert own.cosine.to_numpy() == pytest.approx(np.ones(3 * n))
    for _, group in table.groupby("space"):
        square = group.pivot(index="text_id", columns="other_id", values="cosine")
        np.testing.assert_allclose(square, square.T)


def test_what_cannot_be_asked(shelf, tmp_path):
    _, store = shelf
    asked = ["bench", "geometry", "--model", "toy:llama", "--store", str(store.path), "--out", str(tmp_path)]
    result = CliRunner().invoke(app, [*asked, "tunnels"])
    assert result.exit_code == 2
    assert "tunnels" in result.output
    result = CliRunner().invoke(app, [*asked, "--tokens", "77"])
    assert result.exit_code == 1
    assert "memlab bench shelf" in result.output


def test_solutions_and_one_of_each(shelf):
    lm, store = shelf
    mems = geometry.solutions(store, lm, tokens=4)
    assert [m.text.id for m in mems] == sorted(m.text.id for m in mems)
    assert all(m.exact for m in mems)
    each = geometry.one_each(mems, 2)
    assert [m.text.id for m in each] == sorted({m.text.id for m in mems})[:2]
    assert all(m.recipe.seed == min(o.recipe.seed for o in mems if o.text.id == m.text.id) for m in each)
    assert geometry.solutions(store, lm, tokens=5) == []
