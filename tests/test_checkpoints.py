"""A training that is killed or stopped resumes from its checkpoint, and gives the same vector."""

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
    """Checkpoints are written after every step, however short the training was."""
    monkeypatch.setattr(cram_module, "CHECKPOINT_EVERY", 0.0)
    monkeypatch.setattr(cram_module, "CHECKPOINT_AFTER", 0.0)


def stop_after(steps):
    reports = []

    def on_step(progress):
        reports.append(progress)
        return len(reports) == steps

    return on_step


def stopped(toy, passages, recipe, store, steps=15):
    """Train, and stop after ``steps`` steps."""
    with pytest.raises(CramInterrupted):
        cram(toy, passages, recipe, store, progress=False, on_step=stop_after(steps))


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_resumed_training_gives_the_same_vector(toy, store, tmp_path, often, recipe):
    passages = random_passages(toy, count=2, tokens=12)
    uninterrupted = cram(toy, passages, recipe, Store(tmp_path / "uninterrupted"), progress=False)
    stopped(toy, passages, recipe, store)
    checkpoints = list(store.unfinished.folder.iterdir())
    assert 1 <= len(checkpoints) <= 2
    resumed = cram(toy, passages, recipe, Store(store.path), progress=False)
    for one, other in zip(uninterrupted, resumed, strict=True):
        np.testing.assert_array_equal(one.mem, other.mem)
        assert (one.steps, one.trace, one.key) == (other.steps, other.trace, other.key)
        assert one.provenance["token_passes"] == other.provenance["token_passes"]
    assert [15] in [mem.provenance.get("resumed") for mem in resumed]
    assert "resumed" not in uninterrupted[0].provenance
    assert not list(store.unfinished.folder.iterdir())


def test_a_training_can_be_resumed_twice(toy, store, often):
    (passage,) = random_passages(toy, count=1, tokens=12)
    recipe = RECIPES["rotation"]
    stopped(toy, passage, recipe, store, steps=10)
    stopped(toy, passage, recipe, store, steps=10)
    (mem,) = cram(toy, passage, recipe, store, progress=False)
    assert mem.provenance["resumed"] == [10, 20]
    assert mem.steps == 40


@pytest.mark.slow
def test_a_killed_process_loses_only_the_steps_after_its_checkpoint(tmp_path):
    """A real process, killed with SIGKILL while it trains."""
    program = """
import os, signal, sys
from memlab import Recipe, Store, cram, load
from memlab.training import cram as cram_module
from tests.conftest import random_passages

cram_module.CHECKPOINT_EVERY = cram_module.CHECKPOINT_AFTER = 0.0
toy = load("toy:llama")
on_step = lambda p: os.kill(os.getpid(), signal.SIGKILL) if len(sys.argv) > 2 and p.steps[0] == 20 else False
recipe = Recipe.default(budget=30, margin=50)
(mem,) = cram(toy, random_passages(toy, count=1), recipe, Store(sys.argv[1]), progress=False, on_step=on_step)
print(mem.provenance.get("resumed"), mem.steps)
"""
    command = [sys.executable, "-c", program, str(tmp_path / "store")]
    assert subprocess.run([*command, "die"], check=False, capture_output=True).returncode == -9
    again = subprocess.run(command, check=False, capture_output=True, text=True)
    assert again.stdout.split() == ["[20]", "30"], again.stderr


def test_short_trainings_write_no_checkpoint(toy, store):
    (passage,) = random_passages(toy, count=1)
    stopped(toy, passage, RECIPES["rotation"], store)
    assert not store.unfinished.folder.exists()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda file: file.write_bytes(b"not a checkpoint"), "cannot be read"),
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
def test_a_bad_checkpoint_is_reported_and_the_training_starts_again(toy, store, often, spoil, reason):
    (passage,) = random_passages(toy, count=1)
    recipe = RECIPES["rotation"]
    stopped(toy, passage, recipe, store)
    spoil(store.unfinished.file(key_of(toy, passage, recipe)))
    with pytest.warns(UserWarning, match=reason):
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
def test_a_checkpoint_with_other_contents_is_reported_and_the_training_starts_again(toy, store, often, content):
    (passage,) = random_passages(toy, count=1)
    recipe = RECIPES["rotation"]
    stopped(toy, passage, recipe, store)
    key = key_of(toy, passage, recipe)
    job = cram_module.TrainingJob(toy, 0, passage, recipe, None)
    job.start()
    store.unfinished.save(key, content, job._compatibility())
    with pytest.warns(UserWarning, match="does not fit this training"):
        (mem,) = cram(toy, passage, recipe, store, progress=False)
    assert mem.steps == 40


def test_a_checkpoint_that_cannot_be_written_does_not_stop_training(toy, store, often):
    (passage,) = random_passages(toy, count=1)
    store.path.mkdir(parents=True, exist_ok=True)
    (store.path / "unfinished").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="could not be written"):
        (mem,) = cram(toy, passage, RECIPES["rotation"], store, progress=False)
    assert mem.key in store


def test_gc_removes_checkpoints_of_finished_trainings(toy, store, often):
    one, other = random_passages(toy, count=2)
    recipe = RECIPES["rotation"]
    for passage in (one, other):
        stopped(toy, passage, recipe, store)
    checkpoint = store.unfinished.file(key_of(toy, one, recipe))
    contents = checkpoint.read_bytes()
    cram(toy, one, recipe, store, progress=False)
    checkpoint.write_bytes(contents)  # as if another program had trained the same passage
    assert store.gc() == [checkpoint]
    assert store.unfinished.file(key_of(toy, other, recipe)).exists()
    assert not store.verify()


def test_a_passage_preempted_for_memory_gets_a_checkpoint_too(toy, store, often, monkeypatch):
    """Two passages train, memory runs out, the scheduler preempts one of them, and then the run is stopped."""
    passages = random_passages(toy, count=2, tokens=12)
    recipe = RECIPES["rotation"]
    measure, calls = BatchScheduler._measure, []

    def short_of_memory(scheduler):
        calls.append(len(scheduler.running))
        if len(calls) == 11:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return measure(scheduler)

    monkeypatch.setattr(BatchScheduler, "_measure", short_of_memory)
    monkeypatch.setattr(cram_module, "CHECKPOINT_EVERY", 1e9)
    stopped(toy, passages, recipe, store)
    assert calls[:11] == [2] * 11
    assert calls[11:] == [1] * 5
    mems = cram(toy, passages, recipe, store, progress=False)
    assert sorted(mem.provenance["resumed"] for mem in mems) == [[10], [15]]


def test_on_a_full_disk_checkpoints_are_deleted_for_a_result(toy, store, often, monkeypatch):
    passages = random_passages(toy, count=2, tokens=12)
    short = RECIPES["rotation"].replace(budget=20)
    put = Store.put

    def full(self, vector):
        if list(self.unfinished.folder.glob("*")):
            with self.writing():
                raise OSError(28, "No space left on device")
        return put(self, vector)

    monkeypatch.setattr(Store, "put", full)
    mems = cram(toy, passages, [short, RECIPES["rotation"]], store, progress=False)
    assert all(mem.key in store for mem in mems)


def test_checkpoints_stay_if_the_store_fails_for_another_reason(toy, store, often, monkeypatch):
    passages = random_passages(toy, count=2, tokens=12)
    short = RECIPES["rotation"].replace(budget=20)

    def forbidden(self, vector):
        with self.writing():
            raise OSError(13, "Permission denied")

    monkeypatch.setattr(Store, "put", forbidden)
    with pytest.raises(StoreError, match="Permission denied"):
        cram(toy, passages, [short, RECIPES["rotation"]], store, progress=False)
    assert store.unfinished.file(key_of(toy, passages[1], RECIPES["rotation"])).exists()


def test_transposed_arrays_keep_their_numbers(tmp_path):
    """safetensors 0.8.0 by itself stores them in another order."""
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    arrays = {"transposed": rows.T, "fortran": np.asfortranarray(rows), "number": np.array(2.5)}
    checkpoints = CheckpointStore(tmp_path)
    assert checkpoints.save("k", arrays, {"dtype": "float32"})
    loaded = checkpoints.load("k", {"dtype": "float32"})
    assert all(np.array_equal(loaded[name], array) for name, array in arrays.items())
