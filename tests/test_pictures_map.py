"""The pictures of notebooks 5 and A2: their cells run, and each title is compared with the stored vectors."""

import ast
import json
import re

import numpy as np
import pytest

from memlab import Store, panels
from memlab.experiments.bundled_vectors import read_trajectories
from memlab.experiments.tables import stored
from memlab.measures import geometry, similarity
from memlab.texts import data_folder
from tests.browser_lab import ROOT

pytestmark = [pytest.mark.real, pytest.mark.slow]


def run_cells(name, lm):
    """{name of a chart's function: title and subtitle as one text} of a notebook's cells, and its last variables."""
    titles, names = {}, {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(panels, "setup", lambda: (lm, None))
        patch.setattr(panels, "map_panel", lambda *args: None)
        for cell in json.loads((ROOT / "notebooks" / name).read_text())["cells"]:
            if cell["cell_type"] == "code":
                *body, last = ast.parse("".join(cell["source"])).body
                exec(compile(ast.Module(body, []), name, "exec"), names)
                if not isinstance(last, ast.Expr):
                    exec(compile(ast.Module([last], []), name, "exec"), names)
                elif (shown := eval(compile(ast.Expression(last.value), name, "eval"), names)) is not None:
                    called = re.match(r"charts\.(\w+)", ast.unparse(last))[1]
                    titles.setdefault(called, []).append(shown.caption if called == "show" else said(shown.title))
    return titles


def prose_of(name):
    """The text of a notebook's Markdown cells, in one line."""
    cells = json.loads((ROOT / "notebooks" / name).read_text())["cells"]
    return " ".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown").replace("\n", " ")


def said(title):
    return title if isinstance(title, str) else f"{title['text']} | {title['subtitle']}"


@pytest.fixture(scope="module")
def five(real):
    return run_cells("05_where_vectors_lie.ipynb", real)


@pytest.fixture(scope="module")
def appendix(real):
    return run_cells("A2_geometry_in_detail.ipynb", real)


@pytest.fixture(scope="module")
def held():
    """Vectors of 32 tokens of passages with 16 seeds, scaled to length 1, their passages, and their first tokens."""
    store = Store.bundled()
    rows = store.table()
    rows = rows[rows.exact & rows.recipe.str.startswith("default") & (rows.tokens == 32)]
    rows = rows[rows.groupby("text_id").key.transform("size") >= 16].sort_values(["text_id", "seed"])
    mems = [store.get(key) for key in rows.key]
    x = np.stack([mem.mem[0] for mem in mems]).astype(float)
    return x / np.linalg.norm(x, axis=1, keepdims=True), rows.text_id.to_numpy(), [int(m.token_ids[0]) for m in mems]


def figures(title, pattern):
    found = re.fullmatch(pattern, title)
    assert found, title
    return [float(number.replace(",", "")) for number in found.groups()]


def test_the_nearest_word_is_the_first_word_of_the_text(five, held, real):
    (title,) = five["nearest_words"]
    percent, vectors, passages, exchanged = figures(
        title,
        r"The nearest word is the first word of the text, for (\d+)% of the vectors \| "
        r"(\d+) vectors of (\d+) passages\. With passages exchanged: (\d+)%\.",
    )
    x, names, first = held
    words = real.embed(np.arange(real.vocabulary)).numpy().astype(float)
    nearest = (x @ (words / np.linalg.norm(words, axis=1, keepdims=True)).T).argmax(1)
    assert (vectors, passages) == (len(x), len(set(names)))
    assert percent == round(100 * np.mean(nearest == first))
    words_of = dict(zip(names, first, strict=True))
    hits = [[np.mean(nearest[names == name] == word) for word in words_of.values()] for name in words_of]
    assert exchanged == pytest.approx(100 * np.mean(hits), abs=1.5)  # the mean over all exchanges of passages


def test_the_nearest_word_does_not_write_the_text(five):
    (title,) = five["words_instead"]
    most, tokens = figures(title, r"With the nearest word in its place, at most (\d+) of (\d+) tokens are right")
    table = stored("geometry-snapped")
    assert set(table.tokens) == {tokens}
    assert (table.right == tokens).all()
    assert max(table.right_snapped.max(), table.right_scaled.max()) == most


def test_seeds_and_texts(five, held):
    (title,) = five["densities"]
    within, between, *_ = figures(
        title,
        r"Seeds of one text are nearer to each other \(mean cosine ([\d.]+)\) than different texts are \(([\d.]+)\) \| "
        r"All pairs of (\d+) vectors of 32 tokens, (\d+) passages",
    )
    x, names, _ = held
    cosines, same = x @ x.T, names[:, None] == names[None]
    apart = ~np.eye(len(x), dtype=bool)
    assert (within, between) == (
        pytest.approx(cosines[same & apart].mean(), abs=0.005),
        pytest.approx(cosines[~same].mean(), abs=0.005),
    )


def test_trainings_turn_at_full_length_after_five_steps(five):
    assert five["training_paths"] == ["Eight trainings: at full length by step 5, then only turning"]
    paths = read_trajectories(data_folder() / "trajectories.safetensors")
    assert len(paths) == 8
    for steps, path in paths.values():
        norms = np.linalg.norm(path[:, 0], axis=1)
        assert (steps[0], steps[1]) == (0, 5)
        assert norms[0] < 5
        np.testing.assert_allclose(norms[1:], 9600, rtol=1e-3)
        directions = path[1:, 0] / norms[1:, None]
        assert (directions[1:] * directions[:-1]).sum(1).max() < 0.9999  # it does turn


def test_norms_in_words(appendix, real, held):
    (title,) = appendix["densities"]
    ours, published = figures(
        title,
        r"memlab's vectors are ([\d,]+) times as long as the median word, those of the published recipe ([\d.]+) times",
    )
    word = np.median(np.linalg.norm(real.embed(np.arange(real.vocabulary)).numpy(), axis=1))
    store = Store.bundled()
    rows = store.table()
    paper = rows[(rows.recipe == "paper2025") & (rows.tokens == 32)]
    assert published == round(np.median([np.linalg.norm(store.get(key).mem) for key in paper.key]) / word, 1)
    assert ours == pytest.approx(400 * np.sqrt(576) / word, abs=1)


def test_a_free_norm_grows_at_every_step(appendix):
    (title,) = appendix["norm_trajectories"]
    assert title == "In the first 120 steps a free norm never stops growing; longer texts end farther out"
    table = stored("geometry-norms")
    for _, run in table[~table["last"] & (table.step <= 120)].groupby(["text_id", "tokens"]):
        assert (np.diff(run.sort_values("step").norm) > 0).all()
    ends = table[table["last"]].groupby("tokens").norm.median()
    assert ends.is_monotonic_increasing
    assert ends.index.is_monotonic_increasing


def test_each_square_is_nearer_to_itself_than_to_the_rest(appendix, held):
    (title,) = appendix["distance_matrix"]
    assert title.startswith("Each square on the diagonal is one passage: on average, its seeds are nearest to each")
    x, names, _ = held
    cosines = (x @ x.T)[::4, ::4]
    names = names[::4]
    for name in set(names):
        inside = cosines[np.ix_(names == name, names == name)]
        own = inside[~np.eye(len(inside), dtype=bool)].mean()
        assert own > max(cosines[np.ix_(names == name, names == other)].mean() for other in set(names) - {name})


def test_probes_against_shuffled_labels(appendix):
    (title,) = appendix["probes"]
    kind, length = figures(
        title, r"The kind of text is read off a vector in (\d+)%, its length in (\d+)%, little above luck"
    )
    assert kind >= 75
    assert 31 < length < 38  # 95 % of the probes of shuffled labels are below 31 %; a quarter of the lengths are equal


def test_tables_state_what_they_show(appendix):
    distances, dimensions, paths, models = appendix["show"]
    assert "about a sixth nearer" in distances
    assert "p = 0.001" in distances
    assert dimensions.startswith("The vectors fill somewhat fewer directions than random ones")
    assert paths.startswith("The paths need at most one component fewer than random walks")
    read = read_trajectories(data_folder() / "trajectories.safetensors").values()
    rows = [geometry.trajectory(steps, path[:, 0]) for steps, path in read]
    assert all(row["components for 99 %"] >= row["of random walks"] - 1 for row in rows)
    assert models == "Two seeds agree faintly; two models show no agreement. By chance, 3% find themselves"
    spaces = [group.pivot(index="text_id", columns="other_id", values="cosine") for _, group in cosines()]
    kinds = stored("geometry-spaces").groupby("text_id").kind.first()[spaces[0].index]
    seeds, other_model = (similarity.agreement(spaces[0], space, kinds) for space in spaces[1:])
    assert 0 < seeds.correlation.low < seeds.correlation.high < 0.2
    assert seeds.p < 0.05
    assert other_model.correlation.low < 0 < other_model.correlation.high


def cosines():
    return stored("geometry-spaces").groupby("space", sort=False)
