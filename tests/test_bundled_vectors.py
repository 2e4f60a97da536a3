"""Bundled vectors of a toy: all exact, the promised number of solutions, trajectories that end at the vector."""

import numpy as np
import pytest

from memlab import Recipe, Store, cram, decode, load
from memlab.experiments.bundled_vectors import read_trajectories, train_bundled, write_trajectories
from memlab.experiments.session import Session
from memlab.texts import originals

pytestmark = pytest.mark.slow

RECIPE = Recipe.default(budget=60, k=4)


@pytest.fixture(scope="module")
def lm():
    return load("toy:gemma3")


def test_bundled_vectors_are_exact_and_training_resumes(lm, tmp_path):
    work, out = Store(tmp_path / "work"), Store(tmp_path / "out")
    lines = []
    settings = dict(count=3, lengths=(4, 8), passages=1, solutions=3, length=6, recipe=RECIPE)
    session = Session(lm, work, log=lines.append, progress=False)
    mems = train_bundled(session, out, **settings)
    assert all(mem.exact for mem in mems)
    assert {out.get(key).exact for key in out.keys()} == {True}
    assert {mem.key for mem in mems} == set(out.keys())
    many = [mem for mem in mems if mem.n == 6]
    assert sorted({mem.text.id for mem in many}) == ["court-a-boundary-hedge", "random-0-000"]
    assert all(len({m.key for m in many if m.text.id == name}) == 3 for name in {m.text.id for m in many})
    assert any("over lengths 4, 8 are exact" in line for line in lines)
    # Texts are evenly spaced in the list, the last one included.
    assert originals()[-1].id in {mem.text.id for mem in mems}
    before = {key: out.file(key).stat().st_mtime_ns for key in out.keys()}
    train_bundled(session, out, **settings)
    assert {key: out.file(key).stat().st_mtime_ns for key in out.keys()} == before


def test_trajectories_start_at_step_0_and_end_at_the_vector(lm, tmp_path):
    passages = [lm.passage(text, 8) for text in originals()[:3]]
    file = tmp_path / "trajectories.safetensors"
    write_trajectories(lm, passages, RECIPE, file, every=3, progress=False)
    stored = read_trajectories(file)
    mems = cram(lm, passages, RECIPE, progress=False)
    assert set(stored) == {mem.key for mem in mems}
    for mem in mems:
        steps, path = stored[mem.key]
        assert path.shape == (len(steps), 4, lm.d)
        assert steps[0] == 0
        assert steps[-1] == mem.steps
        assert (np.diff(steps) > 0).all()
        assert (np.diff(steps)[:-1] == 3).all()
        np.testing.assert_allclose(path[-1], mem.mem, rtol=1e-3, atol=1e-3)
        # The stored end decodes too: float16 is precise enough here.
        rounded = mem.with_mem(path[-1], "float16")
        assert decode(lm, [rounded], batch=1)[0].shape == (8,)
    before = file.stat().st_mtime_ns
    write_trajectories(lm, passages, RECIPE, file, every=3, progress=False)
    assert file.stat().st_mtime_ns == before
    # A passage that does not end exact has no trajectory in the file.
    short = RECIPE.replace(budget=1)
    exact = {mem.key for mem in cram(lm, passages, short, progress=False) if mem.exact}
    assert len(exact) < 3
    write_trajectories(lm, passages, short, tmp_path / "short", progress=False)
    assert set(read_trajectories(tmp_path / "short")) == exact
