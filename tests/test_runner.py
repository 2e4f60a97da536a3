import time

import pytest

from memlab import PassageError, Plan, Recipe, Store, StoreError, cram, run
from memlab.experiments.recovery import recovery, shares, summary
from memlab.sweeps import retry
from memlab.texts import Text, originals
from memlab.training.job import TrainingJob
from tests.conftest import random_passages

TEXTS = [Text("a", "Hello there, world."), Text("b", "Go on."), Text("c", "It rained all of the day long.")]


def test_a_grid_has_every_combination_once():
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


def test_a_failing_job_is_recorded_and_stops_no_other(toy, store, monkeypatch):
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


def test_a_failure_in_company_leaves_the_company_together(toy, store, monkeypatch):
    """Of 16, one brings down whatever bench it is on: the others are trained in halves, not one by one."""
    plan = Plan.of(toy, random_passages(toy, 16, 3), Recipe.default(k=4, budget=60))
    bad, benches = plan.jobs[11].key, []
    enter, usual = TrainingJob.start, retry.cram
    monkeypatch.setattr(TrainingJob, "start", lambda job, *_: 1 / 0 if job.key == bad else enter(job))
    monkeypatch.setattr(
        retry, "cram", lambda lm, passages, *a, **k: benches.append(len(passages)) or usual(lm, passages, *a, **k)
    )
    report = run(plan, store, progress=False)
    assert list(report.failed) == [bad]
    assert len(report.results) == 15
    assert benches == [16, 8, 8, 4, 4, 2, 1, 1, 1, 1] or sum(n == 1 for n in benches) <= 3


def test_a_grid_keeps_the_recipes_that_can_be(toy):
    """At one token the published protocol has nothing to score; ours has."""
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


def test_recovery_reads_each_vector_in_three_ways(toy, store):
    recipes = [Recipe.default(k=4), Recipe.paper2025(k=4, lr=0.1, budget=300)]
    table = recovery(toy, TEXTS, recipes, store, tokens=6)
    assert len(table) == 6
    exact = table[table.exact]
    assert (exact.alone_right == 1).all()
    assert (exact.teacher_forced == 1).all()
    told = shares(table).set_index(["recipe", "reading"])
    ours = told.loc[("default k=4", "exact: decoded from the vector alone")]
    assert (ours.share, ours.high) == (1, 1)
    assert ours.low == pytest.approx(0.4385, abs=1e-3)  # Wilson's interval of 3 in 3, by his formula
    assert "steps, median" in summary(table).index


def test_a_grid_takes_any_iterable_of_texts():
    plan = Plan.grid(["toy:llama", "toy:opt"], (t for t in TEXTS), tokens=4)
    assert len(plan) == 6


def test_recovery_says_what_it_left_out_and_trains_only_when_told(toy, store):
    with pytest.raises(StoreError, match="3 of 3 results are missing"):
        recovery(toy, TEXTS, [Recipe.default(k=4)], store, tokens=4, train=False)
    assert list(store.keys()) == []
    table = recovery(toy, TEXTS, [Recipe.default(k=4)], store, tokens=10)
    assert table.text_id.tolist() == ["a", "c"]
    assert list(table.attrs["lost"]) == ["toy:llama, b, 10 tokens"]
    again = recovery(toy, TEXTS, [Recipe.default(k=4)], store, tokens=10, train=False)
    assert again.attrs["trained"] == 0
    with pytest.raises(PassageError, match="no text gives a passage of 400 tokens"):
        recovery(toy, TEXTS, [Recipe.default(k=4)], store, tokens=400)
    one = recovery(toy, TEXTS[:1], [Recipe.default(k=4)], store, tokens=1)
    assert one.given_passed.isna().all()
    assert len(summary(one)) == 5


def test_the_shelf_holds_what_the_first_notebook_shows():
    """By name and recipe, so that it can be seen without the real model."""
    table = Store.bundled().table()
    shown = table[table.tokens == 32].groupby("recipe").text_id.agg(set)
    first_six = {t.id for t in originals()[:6]}
    assert shown["default"] >= first_six
    assert shown["paper2025"] >= first_six


def test_watch_is_told_and_stops_a_run_in_process(toy, store, monkeypatch):
    usual = Store.__contains__

    def slow(self, key):  # a busy machine: what the store has is told all the same
        time.sleep(0.02)
        return usual(self, key)

    monkeypatch.setattr(Store, "__contains__", slow)
    plan = Plan.of(toy, random_passages(toy, 6, 4), Recipe.default(k=2, budget=60))
    seen = []
    report = run(plan, store, progress=False, watch=lambda going: seen.append(going) or going.finished >= 2)
    assert {going.total for going in seen} == {6}
    assert seen[-1].finished >= 2
    assert 2 <= len(report.results) < 6
    assert {mem.key for mem in report.results} == set(store.keys())
    rest = run(plan, store, progress=False)
    assert len(rest.results) == 6
    assert rest.trained == 6 - len(report.results)
