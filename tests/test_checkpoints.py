"""Long trainings that are killed or stopped go on where they were, and end as if nothing had been."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from memlab import CramInterrupted, Recipe, Store, StoreError, cram
from memlab.results.checkpoints import CheckpointStore
from memlab.training import cram as cram_module
from memlab.training.cram import key_of
from memlab.training.scheduler import BatchScheduler
from tests.conftest import random_passages

RECIPES = {
    "rotation": Recipe.default(budget=40, margin=50),
    "growing": Recipe.growing(grow=2, margin=0.5, patience=30, budget=60),
    "fullmatrix": Recipe.fullmatrix(budget=40, margin=50),
    "two vectors, adamw": Recipe.paper2025(k=2, budget=40, stop="exact", margin=50),
}


@pytest.fixture
def often(monkeypatch):
    """States are kept after every step, and whatever has been trained is worth it."""
    monkeypatch.setattr(cram_module, "CHECKPOINT_EVERY", 0.0)
    monkeypatch.setattr(cram_module, "CHECKPOINT_AFTER", 0.0)


def stop_after(steps):
    seen = []

    def watch(progress):
        seen.append(progress)
        return len(seen) == steps

    return watch


def stopped(toy, passages, recipe, store, steps=15):
    with pytest.raises(CramInterrupted):
        cram(toy, passages, recipe, store, progress=False, on_step=stop_after(steps))


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_stopped_and_gone_on_from_ends_in_the_same_vector(toy, store, tmp_path, often, recipe):
    passages = random_passages(toy, count=2, tokens=12)
    through = cram(toy, passages, recipe, Store(tmp_path / "through"), progress=False)
    stopped(toy, passages, recipe, store)
    states = list(store.unfinished.folder.iterdir())
    assert 1 <= len(states) <= 2
    later = cram(toy, passages, recipe, Store(store.path), progress=False)
    for one, other in zip(through, later, strict=True):
        np.testing.assert_array_equal(one.mem, other.mem)
        assert (one.steps, one.trace, one.key) == (other.steps, other.trace, other.key)
        assert one.provenance["token_passes"] == other.provenance["token_passes"]
    assert [15] in [mem.provenance.get("resumed") for mem in later]
    assert "resumed" not in through[0].provenance
    assert not list(store.unfinished.folder.iterdir())


def test_stopped_twice(toy, store, often):
    (passage,) = random_passages(toy, count=1, tokens=12)
    recipe = RECIPES["rotation"]
    stopped(toy, passage, recipe, store, steps=10)
    stopped(toy, passage, recipe, store, steps=10)
    (mem,) = cram(toy, passage, recipe, store, progress=False)
    assert mem.provenance["resumed"] == [10, 20]
    assert mem.steps == 40


def test_a_killed_process_loses_no_more_than_was_not_kept(tmp_path):
    """A real one, with SIGKILL, in the middle of its work."""
    program = """
import os, signal, sys
from memlab import Recipe, Store, cram, load
from memlab.training import cram as cram_module
from tests.conftest import random_passages

cram_module.CHECKPOINT_EVERY = cram_module.CHECKPOINT_AFTER = 0.0
toy = load("toy:llama")
watch = lambda p: os.kill(os.getpid(), signal.SIGKILL) if len(sys.argv) > 2 and p.steps[0] == 20 else False
recipe = Recipe.default(budget=30, margin=50)
(mem,) = cram(toy, random_passages(toy, count=1), recipe, Store(sys.argv[1]), progress=False, on_step=watch)
print(mem.provenance.get("resumed"), mem.steps)
"""
    asked = [sys.executable, "-c", program, str(tmp_path / "store")]
    assert subprocess.run([*asked, "die"], check=False, capture_output=True).returncode == -9
    again = subprocess.run(asked, check=False, capture_output=True, text=True)
    assert again.stdout.split() == ["[20]", "30"], again.stderr


def test_short_trainings_leave_nothing(toy, store):
    (passage,) = random_passages(toy, count=1)
    stopped(toy, passage, RECIPES["rotation"], store)
    assert not store.unfinished.folder.exists()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda file: file.write_bytes(b"no state"), "cannot be read"),
        (lambda file: file.write_bytes(file.read_bytes()[:-40]), "cannot be read"),
        (
            lambda file: file.write_bytes(file.read_bytes()[:-3] + b"?" + file.read_bytes()[-2:]),
            "do not match the hash",
        ),
        (
            lambda file: CheckpointStore(file.parent).save(file.stem, {"mem": np.zeros(3)}, {"dtype": "float16"}),
            "made by",
        ),
    ],
)
def test_a_state_that_cannot_be_used_is_said_and_the_training_begins_anew(toy, store, often, spoil, said):
    (passage,) = random_passages(toy, count=1)
    recipe = RECIPES["rotation"]
    stopped(toy, passage, recipe, store)
    spoil(store.unfinished.file(key_of(toy, passage, recipe)))
    with pytest.warns(UserWarning, match=said):
        (mem,) = cram(toy, passage, recipe, store, progress=False)
    assert "resumed" not in mem.provenance
    assert mem.steps == 40


@pytest.mark.parametrize(
    "content",
    [
        {"mem": np.zeros((1, 3), np.float32)},
        {
            "numbers": np.zeros(10), "mem": np.zeros((1, 3), np.float32), "best": np.zeros((1, 3), np.float32),
            "trace": np.zeros((0, 3)), "resumed": np.zeros(0, np.int64),
        },
    ],
)  # fmt: skip
def test_a_state_of_another_form_is_no_reason_to_fail(toy, store, often, content):
    (passage,) = random_passages(toy, count=1)
    recipe = RECIPES["rotation"]
    stopped(toy, passage, recipe, store)
    key = key_of(toy, passage, recipe)
    made = cram_module.TrainingJob(toy, 0, passage, recipe, None)
    made.start()
    store.unfinished.save(key, content, made._compatibility())
    with pytest.warns(UserWarning, match="begins anew"):
        (mem,) = cram(toy, passage, recipe, store, progress=False)
    assert mem.steps == 40


def test_no_room_for_a_state_stops_nothing(toy, store, often):
    (passage,) = random_passages(toy, count=1)
    store.path.mkdir(parents=True, exist_ok=True)
    (store.path / "unfinished").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="could not be kept"):
        (mem,) = cram(toy, passage, RECIPES["rotation"], store, progress=False)
    assert mem.key in store


def test_gc_takes_states_whose_training_is_over(toy, store, often):
    one, other = random_passages(toy, count=2)
    recipe = RECIPES["rotation"]
    for passage in (one, other):
        stopped(toy, passage, recipe, store)
    state = store.unfinished.file(key_of(toy, one, recipe))
    held = state.read_bytes()
    cram(toy, one, recipe, store, progress=False)
    state.write_bytes(held)  # another program was at it as well
    assert store.gc() == [state]
    assert store.unfinished.file(key_of(toy, other, recipe)).exists()
    assert not store.verify()


def test_who_left_the_bench_for_want_of_memory_is_kept_as_well(toy, store, often, monkeypatch):
    """Two are on the bench, memory runs out, one waits again with all it has learnt, and then all is stopped."""
    passages = random_passages(toy, count=2, tokens=12)
    recipe = RECIPES["rotation"]
    measure, calls = BatchScheduler._measure, []

    def short_of_memory(bench):
        calls.append(len(bench.running))
        if len(calls) == 11:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return measure(bench)

    monkeypatch.setattr(BatchScheduler, "_measure", short_of_memory)
    monkeypatch.setattr(cram_module, "CHECKPOINT_EVERY", 1e9)
    stopped(toy, passages, recipe, store)
    assert calls[:11] == [2] * 11
    assert calls[11:] == [1] * 5
    mems = cram(toy, passages, recipe, store, progress=False)
    assert sorted(mem.provenance["resumed"] for mem in mems) == [[10], [15]]


def test_a_result_goes_before_states_where_there_is_little_room(toy, store, often, monkeypatch):
    passages = random_passages(toy, count=2, tokens=12)
    short = RECIPES["rotation"].replace(budget=20)
    put = Store.put

    def full(self, vector):
        if list(self.unfinished.folder.glob("*")):
            raise self.cannot_write(OSError(28, "No space left on device"))
        return put(self, vector)

    monkeypatch.setattr(Store, "put", full)
    mems = cram(toy, passages, [short, RECIPES["rotation"]], store, progress=False)
    assert all(mem.key in store for mem in mems)


def test_states_stay_where_it_is_not_room_that_is_missing(toy, store, often, monkeypatch):
    passages = random_passages(toy, count=2, tokens=12)
    short = RECIPES["rotation"].replace(budget=20)

    def forbidden(self, vector):
        raise self.cannot_write(OSError(13, "Permission denied"))

    monkeypatch.setattr(Store, "put", forbidden)
    with pytest.raises(StoreError, match="Permission denied"):
        cram(toy, passages, [short, RECIPES["rotation"]], store, progress=False)
    assert store.unfinished.file(key_of(toy, passages[1], RECIPES["rotation"])).exists()
