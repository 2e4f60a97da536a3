"""Plans and runs: the grid of jobs, what is missing, failures, stops; and recovery, which is built on them."""

import doctest
import time

import pytest

from memlab import PassageError, Plan, Recipe, Store, StoreError, cram, run
from memlab.experiments.recovery import recovery, shares, summary
from memlab.experiments.session import Session
from memlab.sweeps import retry, runner
from memlab.texts import Text, originals
from memlab.training.job import TrainingJob
from tests.conftest import random_passages

TEXTS = [Text("a", "Hello there, world."), Text("b", "Go on."), Text("c", "It rained all of the day long.")]


def test_a_grid_holds_each_combination_once():
    plan = Plan.grid(
        ["toy:llama", "toy:opt"], TEXTS, tokens=[4, 8], recipes=[Recipe.default(k=2), Recipe.default(k=4)], seeds=[0, 1]
    )
    # 2 models x (3 texts of 4 tokens + 2 of 8) x 2 recipes x 2 seeds; "Go on." has 6 tokens
    assert len(plan) == 2 * 5 * 2 * 2
    assert len({job.key for job in plan}) == len(plan)
    assert [what for what, _ in plan.rejected] == ["toy:llama, b, 8 tokens", "toy:opt, b, 8 tokens"]


def test_run_trains_what_is_missing_and_resumes(toy, store):
    plan = Plan.grid(toy, TEXTS, tokens=6, recipes=Recipe.default(k=4))
    cram(toy, plan.jobs[1].passage, plan.jobs[1].recipe, store, progress=False)
    assert len(plan.missing(store)) == 2
    report = run(plan, store, progress=False)
    assert (report.trained, report.failed) == (2, {})
    assert [m.key for m in report.results] == [j.key for j in plan]
    assert len(plan.missing(store)) == 0
    assert run(plan, store, progress=False).trained == 0


def test_a_failing_job_is_recorded_and_the_others_finish(toy, store, monkeypatch):
    plan = Plan.of(toy, random_passages(toy, 3), Recipe.default(k=4))
    bad = plan.jobs[1].key
    enter = TrainingJob.start
    monkeypatch.setattr(TrainingJob, "start", lambda job, *_: 1 / 0 if job.key == bad else enter(job))
    report = run(plan, store, progress=False)
    assert report.failed == {bad: "ZeroDivisionError: division by zero"}
    assert report.trained == len(report.results) == 2
    assert store.failures() == report.failed
    monkeypatch.undo()
    assert run(plan, store, progress=False).trained == 1
    assert store.failures() == {}


def test_jobs_that_fail_together_are_retried_in_halves(toy, store, monkeypatch):
    """One of 16 jobs fails each batch that it is in. The others are trained in halves, not one by one."""
    plan = Plan.of(toy, random_passages(toy, 16, 3), Recipe.default(k=4, budget=60))
    bad, batches = plan.jobs[11].key, []
    enter, usual = TrainingJob.start, retry.cram
    monkeypatch.setattr(TrainingJob, "start", lambda job, *_: 1 / 0 if job.key == bad else enter(job))
    monkeypatch.setattr(
        retry, "cram", lambda lm, passages, *a, **k: batches.append(len(passages)) or usual(lm, passages, *a, **k)
    )
    report = run(plan, store, progress=False)
    assert list(report.failed) == [bad]
    assert len(report.results) == 15
    assert batches == [16, 8, 8, 4, 2, 2, 1, 1, 1, 4]


def test_a_grid_rejects_only_impossible_recipes(toy):
    """With one token the published protocol has nothing to score; the default recipe has."""
    plan = Plan.grid(toy, TEXTS, tokens=[1, 4], recipes=[Recipe.default(k=2), Recipe.paper2025(k=2)])
    assert len(plan) == 3 * (1 + 2)
    assert len(plan.rejected) == 3
    assert all("1 tokens, paper2025 k=2" in what for what, _ in plan.rejected)


def test_a_broken_store_ends_the_run(toy, store, monkeypatch):
    def broken(_):
        raise StoreError("full")

    monkeypatch.setattr(store, "put", broken)
    with pytest.raises(StoreError):
        run(Plan.of(toy, random_passages(toy, 2), Recipe.default(k=4)), store, progress=False)


def test_recovery_gives_three_readings_of_each_vector(toy, store):
    recipes = [Recipe.default(k=4), Recipe.paper2025(k=4, lr=0.1, budget=300)]
    table = recovery(Session(toy, store), TEXTS, recipes, tokens=6).table
    assert len(table) == 6
    exact = table[table.exact]
    assert (exact.alone_right == 1).all()
    assert (exact.teacher_forced == 1).all()
    by_reading = shares(table).set_index(["recipe", "reading"])
    ours = by_reading.loc[("default k=4", "exact: decoded from the vector alone")]
    assert (ours.share, ours.high) == (1, 1)
    assert ours.low == pytest.approx(0.4385, abs=1e-3)  # Wilson's interval of 3 in 3, by the formula
    assert "steps, median" in summary(table).index


def test_a_grid_takes_any_iterable_of_texts():
    plan = Plan.grid(["toy:llama", "toy:opt"], (t for t in TEXTS), tokens=4)
    assert len(plan) == 6


def test_recovery_lists_rejected_texts_and_trains_only_if_allowed(toy, store):
    session, recipes = Session(toy, store), [Recipe.default(k=4)]
    with pytest.raises(StoreError, match="3 of 3 results are missing"):
        recovery(session, TEXTS, recipes, tokens=4, train=False)
    assert list(store.keys()) == []
    result = recovery(session, TEXTS, recipes, tokens=10)
    assert result.table.text_id.tolist() == ["a", "c"]
    assert list(result.lost) == ["toy:llama, b, 10 tokens"]
    assert recovery(session, TEXTS, recipes, tokens=10, train=False).trained == 0
    with pytest.raises(PassageError, match="No text has a passage of 400 tokens"):
        recovery(session, TEXTS, recipes, tokens=400)
    one = recovery(session, TEXTS[:1], recipes, tokens=1).table
    assert one.given_passed.isna().all()
    assert len(summary(one)) == 5


def test_bundled_vectors_include_those_of_the_first_notebook():
    """Compared by name and recipe, which needs no real model."""
    table = Store.bundled().table()
    shown = table[table.tokens == 32].groupby("recipe").text_id.agg(set)
    first_six = {t.id for t in originals()[:6]}
    assert shown["default"] >= first_six
    assert shown["paper2025"] >= first_six


def test_on_progress_sees_and_stops_a_local_run(toy, store, monkeypatch):
    usual = Store.__contains__

    def slow(self, key):  # a busy machine; the store is searched all the same
        time.sleep(0.02)
        return usual(self, key)

    monkeypatch.setattr(Store, "__contains__", slow)
    plan = Plan.of(toy, random_passages(toy, 6, 4), Recipe.default(k=2, budget=60))
    seen = []
    report = run(plan, store, progress=False, on_progress=lambda now: seen.append(now) or now.finished >= 2)
    assert {now.total for now in seen} == {6}
    assert seen[-1].finished >= 2
    assert 2 <= len(report.results) < 6
    assert {mem.key for mem in report.results} == set(store.keys())
    rest = run(plan, store, progress=False)
    assert len(rest.results) == 6
    assert rest.trained == 6 - len(report.results)


def test_examples_in_docstrings_run():
    results = doctest.testmod(runner)
    assert results.attempted >= 8
    assert results.failed == 0
