import dataclasses
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
import tqdm.notebook

from memlab import (
    CramInterrupted,
    ModelError,
    PassageError,
    Plan,
    Recipe,
    Store,
    StoreError,
    VectorError,
    check,
    cram,
    load,
    run,
)
from memlab.training.cram import key_of
from memlab.training.job import TrainingJob
from memlab.training.starts import initial_mem
from tests.conftest import random_passages, restore_sigint
from tests.helpers import generated, unwritable


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 2, 4])
def test_eight_random_passages_of_eight_tokens_come_back(any_toy, k):
    """Independent of memlab's decode: transformers' own generate writes them from the vectors."""
    passages = random_passages(any_toy)
    mems = cram(any_toy, passages, Recipe.default(k=k), progress=False)
    assert [m.exact for m in mems] == [True] * 8
    for mem, passage in zip(mems, passages, strict=True):
        assert mem.k == k
        assert mem.margin >= mem.recipe.margin
        np.testing.assert_array_equal(generated(any_toy, mem, 8), passage.ids)


def test_the_returned_vector_is_the_one_that_was_checked(toy, store):
    (mem,) = cram(toy, random_passages(toy, 1), Recipe.default(k=2), store, progress=False)
    again = check(toy, store.get(mem.key))
    assert again == mem.checks[0]
    (paper,) = cram(toy, random_passages(toy, 1), Recipe.paper2025(k=4, lr=0.1, budget=400), store, progress=False)
    assert paper.provenance["ended"] == "teacher_forced"
    # One optimizer step later the loss would differ: that is the slip in the published code.
    last = paper.trace["loss"][-1]
    row, _ = _scores(toy, paper)
    assert row == pytest.approx(last, rel=1e-4)


def _scores(lm, mem):
    from memlab.scoring.objective import Batch, Row

    r = Row(mem.token_ids, mem.prefix_ids.tolist(), mem.suffix_ids.tolist(), mem.k, mem.recipe.first_scored)
    scores, _ = Batch(lm, [r]).scores([torch.tensor(mem.mem)], torch.float32)
    return float(scores.loss[0] / np.log(2)), float(scores.right[0])


def test_a_check_with_the_first_token_given_is_stored_apart(toy, store):
    """Trained from token 2 on, the first token is left to chance. Teacher-forced 1.0 on the rest is not exact."""
    mems = cram(toy, random_passages(toy, 4), Recipe.paper2025(k=4, lr=0.1, budget=600), store, progress=False)
    done = [m for m in mems if m.provenance["ended"] == "teacher_forced"]
    assert done
    for mem in done:
        given = next(c for c in mem.checks if c.first_given)
        assert given.passed
        assert mem.exact == (mem.teacher_forced == 1.0)
    assert not all(m.exact for m in done)
    assert "first_given" in store.table().columns


def test_the_initial_vector_depends_only_on_seed_and_passage(toy):
    a, b = random_passages(toy, 2)
    recipe = Recipe.default(k=2)
    assert torch.equal(initial_mem(toy, a, recipe), initial_mem(toy, a, recipe.replace(lr=1, budget=7)))
    assert not torch.equal(initial_mem(toy, a, recipe), initial_mem(toy, b, recipe))
    assert not torch.equal(initial_mem(toy, a, recipe), initial_mem(toy, a, recipe.replace(seed=1)))
    many = initial_mem(toy, a, Recipe.default(k=300))
    assert float(many.std()) == pytest.approx(toy.embedding_stats["std"], rel=0.02)


def test_reruns_give_the_same_bytes(toy):
    """The vectors' own, and what is checked. How it is proven may differ: the second run knows more of the model."""
    passages = random_passages(toy, 3)
    recipes = [Recipe.default(k=k) for k in (1, 2, 4)]
    first, second = (cram(toy, passages, recipes, progress=False) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert a.mem.tobytes() == b.mem.tobytes()
        assert [dataclasses.replace(c, proof="", margin=0.0) for c in a.checks] == [
            dataclasses.replace(c, proof="", margin=0.0) for c in b.checks
        ]
        assert a.margin == pytest.approx(b.margin, abs=1e-3)
        assert a.key == b.key


def test_mixed_lengths_and_k_come_back_in_order(toy, store):
    lengths = [3, 12, 5, 1, 7]
    passages = [random_passages(toy, 1, n, seed=n)[0] for n in lengths]
    recipes = [
        Recipe.default(k=k, prefix=p) for k, p in [(1, "none"), (4, (5,)), (2, "none"), (1, (9, 9)), (4, "none")]
    ]
    mems = cram(toy, passages, recipes, store, progress=False)
    assert [m.n for m in mems] == lengths
    assert [m.k for m in mems] == [1, 4, 2, 1, 4]
    assert all(m.exact for m in mems)
    assert [m.key for m in mems] == [key_of(toy, p, r) for p, r in zip(passages, recipes, strict=True)]


def test_on_step_receives_what_the_trace_keeps(toy):
    seen = []
    (mem,) = cram(toy, random_passages(toy, 1), Recipe.default(k=2), progress=False, on_step=seen.append)
    points = [(p.steps[0], p.loss_bits[0], p.accuracy[0]) for p in seen]
    assert points == list(zip(*(mem.trace[c] for c in ("step", "loss", "accuracy")), strict=True))
    assert [point[0] for point in points] == list(range(mem.steps + 1))


def test_more_passages_than_fit_into_one_batch(toy, store, monkeypatch):
    monkeypatch.setattr("memlab.scoring.memory.MAX_POSITIONS", {"cpu": 40})
    seen = []
    mems = cram(
        toy,
        random_passages(toy, 20, 6),
        Recipe.default(k=4),
        store,
        progress=False,
        on_step=lambda p: seen.append(p) or False,
    )
    assert len({m.key for m in mems}) == 20
    assert all(m.exact for m in mems)
    assert max(len(p.passages) for p in seen) == 4  # 4 x (4 + 6 - 1) positions fit into 40
    assert sorted({i for p in seen for i in p.passages}) == list(range(20))


def test_results_in_the_store_are_not_trained_again(toy, store):
    passages = random_passages(toy, 3)
    first = cram(toy, passages[:2], Recipe.default(k=4), store, progress=False)
    steps = []
    both = cram(
        toy,
        [*passages, passages[0]],
        Recipe.default(k=4),
        store,
        progress=False,
        on_step=lambda p: steps.append(p.passages),
    )
    assert {i for s in steps for i in s} == {2}
    assert [m.to_bytes() for m in both[:2]] == [m.to_bytes() for m in first]
    assert both[3].key == both[0].key


def test_a_damaged_result_is_trained_again(toy, store):
    passages = random_passages(toy, 1)
    (mem,) = cram(toy, passages, Recipe.default(k=4), store, progress=False)
    file = store.file(mem.key)
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.warns(UserWarning, match="damaged"):
        (again,) = cram(toy, passages, Recipe.default(k=4), store, progress=False)
    assert again.mem.tobytes() == mem.mem.tobytes()
    assert store.verify() == {}


def test_stopping_keeps_finished_results(toy, store):
    passages = random_passages(toy, 8)
    with pytest.raises(CramInterrupted) as stopped:
        cram(toy, passages, Recipe.default(k=4), store, progress=False, on_step=lambda p: p.finished >= 3)
    finished, unfinished = stopped.value.finished, stopped.value.unfinished
    assert len(finished) >= 3
    assert len(finished) + len(unfinished) == 8
    assert {m.key for m in finished} == set(store.keys())
    with pytest.raises(StoreError):
        store.put(unfinished[0])
    steps = []
    assert all(
        m.exact
        for m in cram(
            toy, passages, Recipe.default(k=4), store, progress=False, on_step=lambda p: steps.append(p.total)
        )
    )
    assert len(set(store.keys())) == 8


@pytest.mark.slow
def test_a_keyboard_interrupt_keeps_finished_results(tmp_path):
    """A real SIGINT, in a process of its own, while the second passage trains."""
    code = f"""
import os, signal
from memlab import *
lm = load("toy:llama")
easy, hard = lm.passage_of_ids([1, 2]), lm.passage_of_ids(list(range(90)) * 3)
def watch(p):
    if p.finished and p.steps[0] > 5: os.kill(os.getpid(), signal.SIGINT)
try:
    cram(lm, [easy, hard], store=Store({str(tmp_path)!r}), progress=False, on_step=watch)
except KeyboardInterrupt as stop:
    print(type(stop).__name__, len(stop.finished), len(stop.unfinished))
"""
    command = [sys.executable, "-c", code]
    out = subprocess.run(command, capture_output=True, text=True, check=True, preexec_fn=restore_sigint).stdout
    assert out.split() == ["CramInterrupted", "1", "1"]
    assert len(list(Store(tmp_path).keys())) == 1
    assert not list(tmp_path.rglob("*.tmp"))


def test_starting_from_a_vector(toy, store):
    (passage,) = random_passages(toy, 1)
    short = Recipe.default(k=2, budget=2)
    (begun,) = cram(toy, passage, short, store, progress=False)
    assert not begun.exact
    (on,) = cram(toy, passage, Recipe.default(k=2), store, start=begun, progress=False)
    assert on.exact
    assert on.parent == begun.key
    assert on.key != key_of(toy, passage, Recipe.default(k=2))
    assert on.trace["loss"][0] == pytest.approx(_scores(toy, begun)[0], rel=1e-3)
    (at_once,) = cram(toy, passage, Recipe.default(k=2, seed=5), start=on, progress=False)
    assert at_once.steps == 0
    with pytest.raises(VectorError, match="k=2, the recipe k=1"):
        cram(toy, passage, Recipe.default(), start=on, progress=False)


def test_a_budget_of_zero_gives_a_checked_result(toy):
    (mem,) = cram(toy, random_passages(toy, 1), Recipe.default(budget=0), progress=False)
    assert (mem.steps, mem.exact, mem.provenance["ended"]) == (0, False, "budget")
    assert len(mem.checks) == 1


def test_the_best_vector_is_kept_when_none_is_exact(toy):
    (passage,) = random_passages(toy, 1, 200)
    (mem,) = cram(toy, passage, Recipe.default(budget=40), progress=False)
    loss, right = _scores(toy, mem)
    assert not mem.exact
    assert right / 200 == pytest.approx(max(mem.trace["accuracy"]), abs=0.01)
    assert mem.teacher_forced == pytest.approx(right / 200)
    assert mem.loss_bits == pytest.approx(loss, rel=1e-5)


def test_patience_ends_training_without_progress(toy):
    (mem,) = cram(toy, random_passages(toy, 1, 200), Recipe.paper2025(lr=1e-9, patience=7), progress=False)
    assert (mem.provenance["ended"], mem.steps) == ("patience", 7)


def test_a_loss_that_is_not_finite_ends_only_its_passage(toy):
    wild = Recipe.paper2025(lr=1e30)
    mems = cram(toy, random_passages(toy, 2), [wild, Recipe.default(k=4)], progress=False)
    assert mems[0].provenance["ended"] == "diverged"
    assert not mems[0].exact
    assert np.isfinite(mems[0].mem).all()
    assert mems[0].to_bytes()
    assert mems[1].exact


@pytest.mark.slow
def test_a_trace_has_at_most_100_points(toy):
    (mem,) = cram(toy, random_passages(toy, 1, 100), Recipe.default(budget=330), progress=False)
    assert 50 <= len(mem.trace["step"]) <= 100
    assert mem.trace["step"][0] == 0


def test_bad_arguments_are_refused_before_training(toy, store):
    other = load("toy:qwen2")
    (passage,) = random_passages(toy, 1)
    with pytest.raises(PassageError, match="another model's tokenizer"):
        cram(toy, dataclasses.replace(passage, tokenizer_hash="x"), progress=False)
    with pytest.raises(PassageError, match="context of 512"):
        cram(toy, toy.passage_of_ids([1] * 512), Recipe.default(k=2), progress=False)
    with pytest.raises(PassageError, match="fewer vectors"):
        cram(toy, passage, Recipe.default(k=600), progress=False)
    with pytest.raises(PassageError, match="from 0 to 95"):
        cram(toy, passage, Recipe.default(suffix=(9999,)), progress=False)
    with pytest.raises(PassageError, match="scores from token 2"):
        cram(toy, toy.passage_of_ids([1]), Recipe.paper2025(), progress=False)
    (mem,) = cram(toy, passage, Recipe.default(k=4, budget=1), progress=False)
    with pytest.raises(ModelError, match="trained for toy:llama"):
        cram(other, passage, Recipe.default(k=4), start=mem, progress=False)
    with pytest.raises(ValueError, match="one each"):
        cram(toy, [passage], [Recipe.default()] * 2, progress=False)
    assert cram(toy, [], store=store, progress=False) == []


def test_an_unwritable_store_is_refused_before_training(toy, tmp_path):
    steps = []
    with pytest.raises(StoreError, match="cannot be written"):
        cram(toy, random_passages(toy, 1), store=Store(unwritable(tmp_path)), progress=False, on_step=steps.append)
    assert not steps


def test_a_store_that_fails_midway_loses_no_result(toy, store, monkeypatch):
    put = store.put
    calls = []

    def full(mem):
        calls.append(mem)
        if len(calls) == 3:
            with store.writing():
                raise OSError(28, "No space left on device")
        return put(mem)

    monkeypatch.setattr(store, "put", full)
    with pytest.raises(StoreError, match="No space left") as caught:
        cram(toy, random_passages(toy, 8), Recipe.default(k=4), store, progress=False)
    assert len(list(store.keys())) == 2
    assert [m.key for m in caught.value.unsaved] == [calls[2].key]


def test_different_starts_have_different_keys(toy, store):
    (passage,) = random_passages(toy, 1)
    recipe = Recipe.default(k=4)
    (mem,) = cram(toy, passage, recipe, progress=False)
    far = mem.perturb(300.0)
    keys = [m.key for start in (mem, far) for m in cram(toy, passage, recipe, store, start=start, progress=False)]
    assert len(set(keys)) == 2
    assert all(store.get(key).key == key for key in keys)


def test_portable_checks_are_added_to_stored_results(toy, store):
    (passage,) = random_passages(toy, 1)
    (plain,) = cram(toy, passage, Recipe.default(k=4), store, progress=False)
    (checked,) = cram(toy, passage, Recipe.default(k=4), store, portable=True, progress=False)
    assert (len(plain.checks), len(checked.checks)) == (1, 4)


def test_redacted_results_get_their_ids_back(toy, store):
    (passage,) = random_passages(toy, 1)
    (mem,) = cram(toy, passage, Recipe.default(k=4), progress=False)
    store.put(mem.redacted())
    (back,) = cram(toy, passage, Recipe.default(k=4), store, progress=False)
    assert back.to_bytes() == mem.to_bytes()


def test_an_interrupt_while_a_result_is_stored(toy, store, monkeypatch):
    put, calls = store.put, []

    def slow(mem):
        calls.append(mem)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return put(mem)

    monkeypatch.setattr(store, "put", slow)
    with pytest.raises(CramInterrupted) as stopped:
        cram(toy, random_passages(toy, 4), Recipe.default(k=4), store, progress=False)
    assert {m.key for m in stopped.value.finished} == set(store.keys())
    assert calls[0].key in store


def test_any_other_error_carries_the_finished_results(toy, monkeypatch):
    from memlab.training.job import TrainingJob

    result, calls = TrainingJob.result, []

    def failing(job):
        calls.append(job.key)
        if len(calls) == 3:
            raise MemoryError
        return result(job)

    monkeypatch.setattr(TrainingJob, "result", failing)
    with pytest.raises(MemoryError) as caught:
        cram(toy, random_passages(toy, 4), Recipe.default(k=4), progress=False)
    assert [m.key for m in caught.value.finished] == calls[:2]


def test_a_passage_may_fill_the_context(toy):
    """The last token is scored and never fed: 511 tokens after two vectors take 512 positions."""
    recipe = Recipe.default(k=2, budget=1)
    with pytest.raises(PassageError, match="Cut the passage to 511 tokens"):
        cram(toy, toy.passage_of_ids([1] * 512), recipe, progress=False)
    (mem,) = cram(toy, toy.passage_of_ids([1] * 511), recipe, progress=False)
    assert mem.checks[0].first_wrong is not None or mem.exact


def test_a_passage_that_ends_in_the_interrupted_step_is_not_lost(toy, store):
    recipe = Recipe.default(budget=5, margin=50)
    with pytest.raises(CramInterrupted) as stopped:
        cram(toy, random_passages(toy, 4), recipe, store, progress=False, on_step=lambda p: p.steps[0] == 4)
    assert len(stopped.value.finished) == 0  # one step before the end
    with pytest.raises(CramInterrupted) as stopped:
        cram(toy, random_passages(toy, 4), recipe, store, progress=False, on_step=lambda p: p.steps[0] == 5)
    assert len(stopped.value.finished) == len(list(store.keys())) == 4
    assert stopped.value.unfinished == []


def test_an_exact_vector_is_stored_even_if_its_portable_checks_fail(toy, store, monkeypatch):
    def too_much(lm, mem):
        raise MemoryError

    monkeypatch.setattr("memlab.decoding.decode.check_portable", too_much)
    with pytest.raises(MemoryError):
        cram(toy, random_passages(toy, 1), Recipe.default(k=4), store, portable=True, progress=False)
    assert [store.get(key).exact for key in store.keys()] == [True]


@pytest.mark.slow
def test_time_left_is_shown_for_a_single_passage(toy, capsys, monkeypatch):
    monkeypatch.setattr("memlab.training.cram.REDRAW_EVERY", 0.0)
    cram(toy, random_passages(toy, 1, 150), Recipe.default(budget=60))
    shown = capsys.readouterr().err
    assert re.search(r"crammed 0 of 1:  50%.*\d\d:\d\d<\d\d:\d\d.*step=30/60", shown)
    assert "crammed 1 of 1: 100%" in shown


@pytest.fixture
def bars(monkeypatch):
    """Progress bars as a notebook has them, with every (n, total) that was drawn."""

    class Recorded(tqdm.notebook.tqdm):
        def refresh(self, *args, **settings):
            self.drawn.append((self.n, self.total))
            return super().refresh(*args, **settings)

        def __init__(self, *args, **settings):
            self.drawn = []
            drawn.append(self)
            super().__init__(*args, **settings)

    drawn = []
    monkeypatch.setattr("memlab.training.cram.tqdm", Recorded)
    monkeypatch.setattr("memlab.training.cram.REDRAW_EVERY", 0.0)
    return drawn


def assert_full(bar, total):
    """The notebook's widget is full and green, its total never changed, and it never moved back."""
    _, widget, _ = bar.container.children
    assert {of for _, of in bar.drawn} == {total} == {widget.max}
    assert bar.n == widget.value == total
    assert widget.bar_style == "success"
    assert [n for n, _ in bar.drawn] == sorted(n for n, _ in bar.drawn)


def test_the_notebooks_progress_bar_ends_full(toy, store, bars):
    """Passages that end long before their budget, some of which the store had."""
    passages = random_passages(toy, 7)
    cram(toy, passages[:2], Recipe.default(k=4), store)
    cram(toy, passages, Recipe.default(k=4), store)
    assert_full(bars[0], 2)
    assert_full(bars[1], 7)
    assert bars[1].drawn[0][0] >= 2
    assert len(bars[1].drawn) > 4


def test_the_progress_bar_of_growing_passages_ends_full(toy, bars, monkeypatch):
    """Preempted passages keep their share: the bar does not move back."""
    monkeypatch.setattr("memlab.scoring.memory.MAX_POSITIONS", {"cpu": 64})
    recipe = Recipe.growing(k=4, grow=2, margin=0.1, patience=40, token_budget=800)
    cram(toy, random_passages(toy, 4, 60), recipe)
    assert_full(bars[0], 4)


def test_the_progress_bar_of_an_interrupted_and_resumed_run(toy, store, bars, monkeypatch):
    monkeypatch.setattr("memlab.training.cram.CHECKPOINT_AFTER", 0.0)
    passages, recipe = random_passages(toy, 3), Recipe.default(budget=40, margin=50)
    with pytest.raises(CramInterrupted):
        cram(toy, passages, recipe, store, on_step=lambda now: now.steps[0] == 20)
    assert {of for _, of in bars[0].drawn} == {3}
    assert 0 < bars[0].n < 3
    assert bars[0].container.children[1].bar_style == "danger"  # red: it did not finish
    cram(toy, passages, recipe, store)
    assert_full(bars[1], 3)
    assert bars[1].drawn[-1][0] == 3
    assert bars[1].drawn[1][0] > 1.4  # three passages, half done


@pytest.mark.parametrize("lie", [{"token_sha256": "0" * 64}, {}])
def test_a_redacted_file_of_another_result_is_replaced(toy, store, lie):
    """Another text, or other weights: the key of a redacted file cannot be recomputed from its content."""
    passage, recipe = random_passages(toy, 1, 4)[0], Recipe.default(k=4, budget=60)
    (mem,) = cram(toy, passage, recipe, store, progress=False)
    red = mem.redacted()
    forged = dataclasses.replace(
        red, redaction={**red.redaction, **lie}, fingerprint=mem.fingerprint if lie else "f" * 64
    )
    store.file(mem.key).unlink()
    forged.save(store.file(mem.key))
    with pytest.warns(UserWarning, match="redacted, and its hash names another"):
        (again,) = cram(toy, passage, recipe, store, progress=False)
    assert again.exact
    assert store.get(mem.key).token_ids.tolist() == passage.ids.tolist()


def test_a_diverged_passage_and_one_out_of_memory_do_not_affect_others(toy, store, monkeypatch):
    """Through the runner. The first is stored and says that it diverged. The second is recorded as failed."""
    passages, recipe = random_passages(toy, 5, 4), Recipe.default(k=4, budget=60)
    plan = Plan.of(toy, passages, recipe)
    lost, large = plan.jobs[1].key, plan.jobs[3].key
    record_scores, start = TrainingJob.record_scores, TrainingJob.start

    def diverging(job, loss, right, min_margin):
        return record_scores(job, float("nan") if job.key == lost and job.state.steps == 3 else loss, right, min_margin)

    def too_large(job, *rest):
        if job.key == large:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return start(job, *rest)

    monkeypatch.setattr(TrainingJob, "record_scores", diverging)
    monkeypatch.setattr(TrainingJob, "start", too_large)
    report = run(plan, store, progress=False)
    assert list(report.failed) == [large]
    assert "OutOfMemoryError" in store.failures()[large]
    results = {mem.key: mem for mem in report.results}
    assert results[lost].provenance["ended"] == "diverged"
    assert not results[lost].exact
    assert sum(mem.exact for mem in report.results) == 3
