"""The panel of a plan: its forecast, its rows, and the vector of a finished run."""

import time
from concurrent.futures import Future

import pytest

from memlab import Plan, Recipe, Store, Text, load
from memlab.panels import picker, run_panel
from memlab.sweeps import runner
from memlab.sweeps.dispatch import RunProgress
from memlab.texts import originals
from memlab.training import cram as cram_module


@pytest.fixture
def plan():
    texts = [*originals()[:2], Text("short", "ab")]
    return Plan.grid(load("toy:gemma3"), texts, tokens=5, recipes=Recipe.default(k=4, budget=60))


def states(panel):
    return [row.state.value for row in panel.rows.values()]


@pytest.mark.slow
def test_the_forecast_is_there_before_anything_runs(plan, store):
    panel = run_panel(plan, store)
    panel._forecasts.wait(30)
    assert "2 to train: likely " in panel.forecast.value
    assert "at most" in panel.forecast.value
    assert all("waiting" in state for state in states(panel))
    assert "left out" in panel.failures.value
    panel.start.click()
    panel.wait(60)
    assert panel.forecast.value == ""
    again = run_panel(plan, store)
    again._forecasts.wait(30)
    assert "All are done" in again.forecast.value
    assert all("done after" in state for state in states(again))


def test_a_forecast_that_fails_does_not_matter(plan, store, monkeypatch):
    monkeypatch.setattr("memlab.panels.runs.estimate", lambda *args: 1 / 0)
    panel = run_panel(plan, store)
    panel._forecasts.wait(30)
    assert panel.forecast.value == ""
    panel.start.click()
    panel.wait(60)
    assert "Done: 2 trained now" in panel.status.value


def test_rows_follow_their_runs(plan, store, monkeypatch):
    panel, seen = run_panel(plan, store), []
    monkeypatch.setattr("memlab.panels.runs.REDRAW_EVERY", 0.0)
    usual = panel._on_progress

    def watch(now):
        stop = usual(now)
        seen.append((dict(now.training), states(panel)))
        return stop

    monkeypatch.setattr(panel, "_on_progress", watch)
    panel.start.click()
    panel.wait(60)
    training, shown = seen[-1]
    assert training
    for key, (step, right) in training.items():
        if key not in store:
            assert f"step {step}, {right:.0%} of tokens right" in shown[list(panel.rows).index(key)]
    for row in panel.rows.values():
        mem = store.get(row.key)
        assert mem.exact == ("memlab-badge-exact" in row.state.value)
        assert f"{mem.steps} steps" in row.state.value
        assert row.open.layout.visibility == "visible"


def test_progress_names_the_passages_also_after_a_retry(store, monkeypatch):
    """After an error each half of the jobs is tried alone; a place in the half is not a place in the plan."""
    plan = Plan.grid(load("toy:gemma3"), originals()[:4], tokens=5, recipes=Recipe.default(k=4, budget=40))
    jobs, real, seen = plan.jobs, cram_module.TrainingJob.result, {}

    def failing(self):
        if self.passage.span.id == jobs[0].passage.span.id:
            raise RuntimeError("no")
        return real(self)

    monkeypatch.setattr(cram_module.TrainingJob, "result", failing)
    steps = {}

    def watch(now: RunProgress):
        assert len(now.training) == now.given_out
        for key, (step, _) in now.training.items():
            steps.setdefault(key, []).append(step)
        seen.update(now.training)

    report = runner.run(plan, store, progress=False, on_progress=watch)
    assert set(seen) == {job.key for job in jobs}
    assert len(report.failed) == 1
    for mem in report.results:
        assert max(steps[mem.key]) == mem.steps


def test_a_row_with_a_worker_says_so(plan, store):
    panel = run_panel(plan, store)
    panel._show({job.key: None for job in plan}, failed={})
    assert all("with a worker" in state for state in states(panel))
    assert "2 running" in panel.counts.value


def test_workers_name_the_runs_that_they_have(plan, store):
    class Late:
        """An executor that works when it is told to."""

        def submit(self, work, chunk):
            self.future, self.work = Future(), lambda: work(chunk)
            return self.future

    late, seen = Late(), {}

    def watch(now: RunProgress):
        seen.update(now.training)
        if not late.future.done():
            late.future.set_result(late.work())

    report = runner.run(plan, store, executor=lambda: late, progress=False, on_progress=watch)
    assert seen == {job.key: None for job in plan}
    assert report.trained == 2


def test_a_finished_run_opens_and_becomes_the_last_made(plan, store):
    panel = run_panel(plan, store)
    panel.start.click()
    panel.wait(60)
    row = list(panel.rows.values())[1]
    row.open.click()
    mem = panel.wait(60)
    assert mem.key == row.key
    assert picker._LAST[0].key == row.key
    assert len(panel.decoded.pieces) == 5
    assert "Opened" in panel.status.value
    assert not panel.start.disabled


def test_a_stop_before_the_first_result_does_not_count_nothing_of_nothing(plan, store):
    panel = run_panel(plan, store)
    panel.stopping.set()
    panel._on_progress = lambda now: True
    panel.work()
    assert "0 of 0" not in panel.status.value
    assert "Stopped: 0 trained now." in panel.status.value
    assert panel.links.value == ""


def test_a_plan_of_many_runs_has_some_rows_and_opens_at_once(tmp_path):
    lm = load("toy:gemma3")
    plan = Plan.grid(lm, originals()[:3], tokens=4, recipes=Recipe.default(k=4), seeds=range(100))
    began = time.perf_counter()
    panel = run_panel(plan, Store(tmp_path / "new"))
    assert time.perf_counter() - began < 2
    assert len(panel.rows) == 50
    panel._show({}, failed={plan.jobs[-1].key: "no luck"})  # a failure without a row
    assert "no luck" in panel.failures.value
    assert panel.bar.bar_style == "danger"
