"""The batch scheduler: which passages train together, how much padding that needs, and what a memory error costs."""

import time

import numpy as np
import pytest
import torch

from memlab import CramInterrupted, Recipe, cram, load
from memlab.decoding import one_pass
from memlab.scoring import memory
from memlab.scoring.objective import Batch
from memlab.training.job import TrainingJob
from tests.conftest import random_passages


def mixed_passages(lm, count=200, seed=0):
    rng = np.random.default_rng(seed)
    return [
        lm.passage_of_ids(rng.integers(0, lm.vocabulary, n), name=f"mixed-{i}")
        for i, n in enumerate(rng.integers(8, 129, count))
    ]


@pytest.mark.slow
def test_200_mixed_passages_need_little_padding_and_none_is_lost(toy, store):
    """Lengths 8 to 128, with an interrupt and a resume."""
    passages = mixed_passages(toy)
    recipe = Recipe.default(budget=6, k=2)
    positions = padding = 0
    trained = []

    def on_step(progress):
        nonlocal positions, padding
        positions, padding = positions + progress.positions, padding + progress.padding
        return progress.finished > 70 and len(trained) == 0

    with pytest.raises(CramInterrupted) as stopped:
        cram(toy, passages, recipe, store, progress=False, on_step=on_step)
    trained += [m.key for m in stopped.value.finished]
    assert 70 < len(trained) < 200
    assert set(trained) == set(store.keys())
    before = {key: store.get(key).provenance["trained"] for key in trained}
    mems = cram(toy, passages, recipe, store, progress=False, on_step=on_step)
    assert [m.token_ids.tolist() for m in mems] == [p.ids.tolist() for p in passages]
    assert len({m.key for m in mems}) == 200 == len(list(store.keys()))
    assert {key: store.get(key).provenance["trained"] for key in trained} == before
    assert padding / positions < 0.15


def test_out_of_memory_shrinks_the_batch_and_nothing_else(toy, store, monkeypatch):
    """Passes of more than 30 positions fail. All passages are still trained, each step once."""
    passages = random_passages(toy, 10, 6)
    expected = {m.key: m for m in cram(toy, passages, Recipe.default(k=4), progress=False)}
    real, refused = Batch.scores, []

    def scores(self, mems, dtype, *, gradient=False, **options):
        if gradient and self.positions > 30:
            refused.append(self.positions)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, mems, dtype, gradient=gradient, **options)

    monkeypatch.setattr(Batch, "scores", scores)
    mems = cram(toy, passages, Recipe.default(k=4), store, progress=False)
    assert refused == sorted(refused, reverse=True)
    assert 1 <= len(refused) < 5
    assert all(m.exact for m in mems)
    assert {m.key for m in mems} == set(expected)
    for mem in mems:
        assert mem.trace["step"] == tuple(range(mem.steps + 1))
        assert mem.trace["loss"][0] == pytest.approx(expected[mem.key].trace["loss"][0], rel=1e-4)
    assert mems[-1].provenance["slots"]["positions"] <= 30


def test_captured_passes_are_freed_before_a_passage_is_given_up(toy, monkeypatch):
    """Even a single passage continues: the memory of captured passes is freed first."""
    real, full = Batch.scores, [True]
    monkeypatch.setattr("memlab.training.scheduler.release_graphs", lambda lm: full.pop() if full else False)

    def scores(self, mems, dtype, *, gradient=False, **options):
        if gradient and full:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, mems, dtype, gradient=gradient, **options)

    monkeypatch.setattr(Batch, "scores", scores)
    (mem,) = cram(toy, random_passages(toy, 1, 6), Recipe.default(k=4, whiten=0.0), progress=False)
    assert mem.exact
    assert not full


def test_preempted_passage_resumes_at_its_step(toy, monkeypatch):
    """Memory runs out in the middle of training. Each passage's loss continues from its step, not from noise."""
    passages = random_passages(toy, 6, 6)
    recipe = Recipe.default(k=4)
    expected = {m.key: m for m in cram(toy, passages, recipe, progress=False)}
    real, calls = Batch.scores, []

    def scores(self, mems, dtype, *, gradient=False, **options):
        calls.append(gradient)
        if gradient and sum(calls) == 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, mems, dtype, gradient=gradient, **options)

    monkeypatch.setattr(Batch, "scores", scores)
    for mem in cram(toy, passages, recipe, progress=False):
        assert mem.exact
        assert mem.trace["step"] == tuple(range(mem.steps + 1))
        # The fifth loss belongs to the fifth vector; after a fresh start it would be the first loss again.
        assert mem.trace["loss"][:6] == pytest.approx(expected[mem.key].trace["loss"][:6], rel=0.02)


def test_a_single_passage_that_does_not_fit_raises(toy, monkeypatch):
    def scores(self, *_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Batch, "scores", scores)
    with pytest.raises(torch.OutOfMemoryError):
        cram(toy, random_passages(toy, 3), progress=False)


@pytest.fixture
def bfloat16_toy():
    """A model that trains in bfloat16, so that candidates are scored again in float32."""
    return load("toy:llama", dtype=torch.bfloat16)


def test_candidates_that_do_not_fit_together_are_scored_one_by_one(bfloat16_toy, monkeypatch):
    real, refused = Batch.scores, []

    def scores(self, mems, dtype, *, gradient=False, **options):
        if not gradient and len(mems) > 1:
            refused.append(len(mems))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, mems, dtype, gradient=gradient, **options)

    only_decodes_prove(monkeypatch)
    monkeypatch.setattr(Batch, "scores", scores)
    mems = cram(bfloat16_toy, random_passages(bfloat16_toy, 8, 3), Recipe.default(k=8), progress=False)
    assert refused
    assert all(m.exact for m in mems)


def only_decodes_prove(monkeypatch):
    monkeypatch.setattr(one_pass, "possible", lambda *args: False)


def scored_at_once(lm, monkeypatch):
    """Number of passages in each pass without a gradient, while eight similar passages are trained.

    Where one pass may be the proof of a decode, that is the only pass: see test_one_pass.
    """
    only_decodes_prove(monkeypatch)
    sizes, real = [], Batch.scores

    def scores(self, mems, dtype, *, gradient=False, **options):
        if not gradient:
            assert dtype == torch.float32
            sizes.append(len(mems))
        return real(self, mems, dtype, gradient=gradient, **options)

    monkeypatch.setattr(Batch, "scores", scores)
    # With eight vectors each, many of these passages are right at the same step.
    mems = cram(lm, random_passages(lm, 8, 3), Recipe.default(k=8), progress=False)
    assert all(m.exact for m in mems)
    return sizes


def test_candidates_are_scored_together(bfloat16_toy, monkeypatch):
    assert max(scored_at_once(bfloat16_toy, monkeypatch)) > 1


def test_candidates_measured_in_float32_are_not_scored_again(toy, monkeypatch):
    assert scored_at_once(toy, monkeypatch) == [1] * 8  # only the final accuracy of each result


def test_provenance_records_the_memory_budget(toy):
    (mem,) = cram(toy, random_passages(toy, 1), Recipe.default(k=4), progress=False)
    assert set(mem.provenance["slots"]) == {
        "positions", "bytes_per_position", "bytes_per_position_and_length", "free_gib",
    }  # fmt: skip
    assert mem.provenance["token_passes"] == 8 * (mem.steps + 1)


@pytest.mark.slow
def test_growing_texts_share_the_batch_by_their_current_length(toy, store, monkeypatch):
    """There is room for one row of 60 tokens. Eight texts of 60 tokens begin with two tokens each, all at once."""
    monkeypatch.setitem(memory.MAX_POSITIONS, "cpu", 64)
    passages = random_passages(toy, 8, 60)
    recipe = Recipe.growing(k=4, grow=2, margin=0.1, budget=120, patience=40)
    alone = {m.key: m for p in passages for m in cram(toy, p, recipe, progress=False)}
    running, positions = [], []

    def on_step(progress):
        running.append(progress.passages)
        positions.append(progress.positions)

    mems = cram(toy, passages, recipe, store, progress=False, on_step=on_step)
    assert len(running[0]) == 8
    sizes = [len(passages) for passages in running]
    assert 1 < min(sizes[:60]) < 8  # the newest passages were preempted as the others grew
    # Each passage may have grown once since memory was last counted.
    assert max(positions) <= 64 + 2 * 8
    for mem in mems:
        assert mem.trace["loss"][0] == pytest.approx(alone[mem.key].trace["loss"][0], rel=1e-4)
    # A preempted passage is among the unfinished ones after an interrupt.
    with pytest.raises(CramInterrupted) as stopped:
        cram(toy, passages, recipe, progress=False, on_step=lambda progress: len(progress.passages) < 5)
    assert len(stopped.value.unfinished) == 8
    stages = [[m.provenance["stage"] for m in some] for some in (mems, [alone[m.key] for m in mems])]
    assert np.mean(stages[0]) == pytest.approx(np.mean(stages[1]), rel=0.25)


def test_waiting_does_not_count_as_training_time(toy):
    job = TrainingJob(toy, 0, random_passages(toy, 1)[0], Recipe.default(), None)
    assert job.age == 0
    job.start()
    job.suspend()
    trained = job.age
    time.sleep(0.3)
    assert job.age == trained
    job.start()
    assert trained < job.age < trained + 0.2
