import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch

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
from memlab.training.job import TrainingJob, initial_mem
from tests.conftest import hears_sigint, random_passages
from tests.helpers import generated, unwritable


@pytest.mark.parametrize("k", [1, 2, 4])
def test_eight_random_passages_of_eight_tokens_come_back(any_toy, k):
    """And not by our word: transformers' own generate writes them from the vectors."""
    passages = random_passages(any_toy)
    mems = cram(any_toy, passages, Recipe.default(k=k), progress=False)
    assert [m.exact for m in mems] == [True] * 8
    for mem, passage in zip(mems, passages, strict=True):
        assert mem.k == k
        assert mem.margin >= mem.recipe.margin
        np.testing.assert_array_equal(generated(any_toy, mem, 8), passage.ids)


def test_the_vector_kept_is_the_one_that_was_checked(toy, store):
    (mem,) = cram(toy, random_passages(toy, 1), Recipe.default(k=2), store, progress=False)
    again = check(toy, store.get(mem.key))
    assert again == mem.checks[0]
    (paper,) = cram(toy, random_passages(toy, 1), Recipe.paper2025(k=4, lr=0.1, budget=400), store, progress=False)
    assert paper.provenance["ended"] == "teacher_forced"
    # One optimiser step later the smallest loss would be another: that is the published slip.
    last = paper.trace["loss"][-1]
    row, _ = _scores(toy, paper)
    assert row == pytest.approx(last, rel=1e-4)


def _scores(lm, mem):
    from memlab.scoring.objective import Batch, Row

    r = Row(mem.token_ids, mem.prefix_ids.tolist(), mem.suffix_ids.tolist(), mem.k, mem.recipe.first_scored)
    scores, _ = Batch(lm, [r]).scores([torch.tensor(mem.mem)], torch.float32)
    return float(scores.loss[0] / np.log(2)), float(scores.right[0])


def test_the_papers_reading_stands_in_a_column_of_its_own(toy, store):
    """Trained from token 2 on, the first token is left to chance: teacher-forced 1.0 on the rest is not exact."""
    mems = cram(toy, random_passages(toy, 4), Recipe.paper2025(k=4, lr=0.1, budget=600), store, progress=False)
    done = [m for m in mems if m.provenance["ended"] == "teacher_forced"]
    assert done
    for mem in done:
        given = next(c for c in mem.checks if c.first_given)
        assert given.passed
        assert mem.exact == (mem.teacher_forced == 1.0)
    assert not all(m.exact for m in done)
    assert "first_given" in store.table().columns


def test_the_first_vector_depends_on_seed_and_passage_alone(toy):
    a, b = random_passages(toy, 2)
    recipe = Recipe.default(k=2)
    assert torch.equal(initial_mem(toy, a, recipe), initial_mem(toy, a, recipe.replace(lr=1, budget=7)))
    assert not torch.equal(initial_mem(toy, a, recipe), initial_mem(toy, b, recipe))
    assert not torch.equal(initial_mem(toy, a, recipe), initial_mem(toy, a, recipe.replace(seed=1)))
    many = initial_mem(toy, a, Recipe.default(k=300))
    assert float(many.std()) == pytest.approx(toy.embedding_stats["std"], rel=0.02)


def test_reruns_give_the_same_bytes(toy):
    passages = random_passages(toy, 3)
    recipes = [Recipe.default(k=k) for k in (1, 2, 4)]
    first, second = (cram(toy, passages, recipes, progress=False) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert a.mem.tobytes() == b.mem.tobytes()
        assert a.checks == b.checks
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


def test_a_watcher_sees_what_the_trace_keeps(toy):
    seen = []
    (mem,) = cram(toy, random_passages(toy, 1), Recipe.default(k=2), progress=False, on_step=seen.append)
    told = [(p.steps[0], p.loss_bits[0], p.accuracy[0]) for p in seen]
    assert told == list(zip(*(mem.trace[c] for c in ("step", "loss", "accuracy")), strict=True))
    assert [t[0] for t in told] == list(range(mem.steps + 1))


def test_more_passages_than_places_on_the_bench(toy, store, monkeypatch):
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


def test_what_is_in_the_store_is_not_trained_again(toy, store):
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


def test_stopping_keeps_what_is_finished(toy, store):
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
        for m in cram(toy, passages, Recipe.default(k=4), store, progress=False, on_step=lambda p: steps.append(p.total))
    )
    assert len(set(store.keys())) == 8


def test_an_interrupt_from_the_keyboard(tmp_path):
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
    out = subprocess.run(command, capture_output=True, text=True, check=True, preexec_fn=hears_sigint).stdout
    assert out.split() == ["CramInterrupted", "1", "1"]
    assert len(list(Store(tmp_path).keys())) == 1
    assert not list(tmp_path.rglob("*.tmp"))


def test_going_on_from_a_vector(toy, store):
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


def test_a_budget_of_nothing_still_gives_an_honest_result(toy):
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


def test_patience(toy):
    (mem,) = cram(toy, random_passages(toy, 1, 200), Recipe.paper2025(lr=1e-9, patience=7), progress=False)
    assert (mem.provenance["ended"], mem.steps) == ("patience", 7)


def test_a_loss_that_is_no_number_ends_the_passage_and_no_other(toy):
    wild = Recipe.paper2025(lr=1e30)
    mems = cram(toy, random_passages(toy, 2), [wild, Recipe.default(k=4)], progress=False)
    assert mems[0].provenance["ended"] == "diverged"
    assert not mems[0].exact
    assert np.isfinite(mems[0].mem).all()
    assert mems[0].to_bytes()
    assert mems[1].exact


def test_traces_are_short(toy):
    (mem,) = cram(toy, random_passages(toy, 1, 100), Recipe.default(budget=330), progress=False)
    assert 50 <= len(mem.trace["step"]) <= 100
    assert mem.trace["step"][0] == 0


def test_bad_requests(toy, store):
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


def test_a_store_that_cannot_be_written_fails_before_the_work(toy, tmp_path):
    steps = []
    with pytest.raises(StoreError, match="cannot be written"):
        cram(toy, random_passages(toy, 1), store=Store(unwritable(tmp_path)), progress=False, on_step=steps.append)
    assert not steps


def test_a_store_that_breaks_midway_loses_nothing(toy, store, monkeypatch):
    kept = store.put
    calls = []

    def full(mem):
        calls.append(mem)
        if len(calls) == 3:
            raise store.cannot_write(OSError(28, "No space left on device"))
        return kept(mem)

    monkeypatch.setattr(store, "put", full)
    with pytest.raises(StoreError, match="No space left") as caught:
        cram(toy, random_passages(toy, 8), Recipe.default(k=4), store, progress=False)
    assert len(list(store.keys())) == 2
    assert [m.key for m in caught.value.unsaved] == [calls[2].key]


def test_starts_that_differ_have_keys_that_differ(toy, store):
    (passage,) = random_passages(toy, 1)
    recipe = Recipe.default(k=4)
    (mem,) = cram(toy, passage, recipe, progress=False)
    far = mem.perturb(300.0)
    keys = [m.key for start in (mem, far) for m in cram(toy, passage, recipe, store, start=start, progress=False)]
    assert len(set(keys)) == 2
    assert all(store.get(key).key == key for key in keys)


def test_portable_is_also_asked_of_what_was_stored(toy, store):
    (passage,) = random_passages(toy, 1)
    (plain,) = cram(toy, passage, Recipe.default(k=4), store, progress=False)
    (asked,) = cram(toy, passage, Recipe.default(k=4), store, portable=True, progress=False)
    assert (len(plain.checks), len(asked.checks)) == (1, 4)


def test_redacted_results_get_their_ids_back(toy, store):
    (passage,) = random_passages(toy, 1)
    (mem,) = cram(toy, passage, Recipe.default(k=4), progress=False)
    store.put(mem.redacted())
    (back,) = cram(toy, passage, Recipe.default(k=4), store, progress=False)
    assert back.to_bytes() == mem.to_bytes()


def test_an_interrupt_between_a_result_and_the_store(toy, store, monkeypatch):
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


def test_any_other_failure_hands_over_what_was_done(toy, monkeypatch):
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


def test_as_many_tokens_as_the_context_has_room_for(toy):
    """The last token is said, and never fed: 511 of them behind two vectors take 512 positions."""
    recipe = Recipe.default(k=2, budget=1)
    with pytest.raises(PassageError, match="Cut the passage to 511 tokens"):
        cram(toy, toy.passage_of_ids([1] * 512), recipe, progress=False)
    (mem,) = cram(toy, toy.passage_of_ids([1] * 511), recipe, progress=False)
    assert mem.checks[0].first_wrong is not None or mem.exact


def test_what_ended_in_the_step_it_was_stopped_in_is_not_lost(toy, store):
    recipe = Recipe.default(budget=5, margin=50)
    with pytest.raises(CramInterrupted) as stopped:
        cram(toy, random_passages(toy, 4), recipe, store, progress=False, on_step=lambda p: p.steps[0] == 4)
    assert len(stopped.value.finished) == 0  # and before it, nothing is finished
    with pytest.raises(CramInterrupted) as stopped:
        cram(toy, random_passages(toy, 4), recipe, store, progress=False, on_step=lambda p: p.steps[0] == 5)
    assert len(stopped.value.finished) == len(list(store.keys())) == 4
    assert stopped.value.unfinished == []


def test_an_exact_vector_outlives_its_portable_checks(toy, store, monkeypatch):
    def too_much(lm, mem):
        raise MemoryError

    monkeypatch.setattr("memlab.decoding.decode.check_portable", too_much)
    with pytest.raises(MemoryError):
        cram(toy, random_passages(toy, 1), Recipe.default(k=4), store, portable=True, progress=False)
    assert [store.get(key).exact for key in store.keys()] == [True]


def test_time_left_is_shown_for_a_single_passage(toy, capsys):
    cram(toy, random_passages(toy, 1, 150), Recipe.default(budget=60))
    shown = capsys.readouterr().err
    assert "60/60" in shown.replace(" ", "")
    assert "crammed 1 of 1" in shown


@pytest.mark.parametrize("lie", [{"token_sha256": "0" * 64}, {}])
def test_a_redacted_file_of_something_else_gives_way(toy, store, lie):
    """Of another text, or of other weights: what it holds cannot be checked by its key, as other files can."""
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


def test_a_run_with_a_loss_that_is_no_number_and_one_that_fills_the_memory(toy, store, monkeypatch):
    """Through the runner: the first is kept, and says that it diverged; the second is recorded; no other suffers."""
    passages, recipe = random_passages(toy, 5, 4), Recipe.default(k=4, budget=60)
    plan = Plan.of(toy, passages, recipe)
    lost, large = plan.jobs[1].key, plan.jobs[3].key
    usual, enter = TrainingJob.record_scores, TrainingJob.start

    def measured(job, loss, right, margin):
        return usual(job, float("nan") if job.key == lost and job.steps == 3 else loss, right, margin)

    def entered(job, *rest):
        if job.key == large:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return enter(job, *rest)

    monkeypatch.setattr(TrainingJob, "record_scores", measured)
    monkeypatch.setattr(TrainingJob, "start", entered)
    report = run(plan, store, progress=False)
    assert list(report.failed) == [large]
    assert "OutOfMemoryError" in store.failures()[large]
    told = {mem.key: mem for mem in report.results}
    assert told[lost].provenance["ended"] == "diverged"
    assert not told[lost].exact
    assert sum(mem.exact for mem in report.results) == 3
