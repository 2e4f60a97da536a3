"""Runs in workers: same keys and same number of exact results as in one process; workers that die; chunks that fail."""

import concurrent.futures
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress

import psutil
import pytest
import torch

from memlab import MemlabError, ModelError, Plan, Recipe, Store, StoreError, load, run
from memlab.models import FrozenLM
from memlab.results.file_format import SCHEMA
from memlab.sweeps import dispatch as d
from memlab.sweeps import executors as w
from memlab.sweeps.retry import after_failure
from tests.browser_lab import ROOT
from tests.conftest import random_passages
from tests.helpers import forged_file

pytestmark = pytest.mark.slow

RECIPE = Recipe.default(k=2, budget=60)


def live_workers(*, recursive=False):
    """This process's worker processes, without zombies."""
    workers = []
    for process in psutil.Process().children(recursive=recursive):
        with suppress(psutil.NoSuchProcess):  # raised for zombies, too
            if "spawn_main" in " ".join(process.cmdline()):
                workers.append(process)
    return workers


@pytest.fixture
def sigint_interrupts():
    """SIGINT raises KeyboardInterrupt, even if pytest was started with SIGINT ignored, as background jobs are."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def lm():
    return load("toy:llama")


@pytest.fixture(scope="module")
def plan(lm):
    return Plan.of(lm, random_passages(lm, 12, 4), RECIPE)


@pytest.fixture(scope="module")
def local_report(plan, tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("local"))
    return run(plan, store, progress=False)


def assert_same(report, expected):
    assert [m.key for m in report.results] == [m.key for m in expected.results]
    assert sum(m.exact for m in report.results) == sum(m.exact for m in expected.results)


def test_two_processes_give_the_same_results_as_one(plan, local_report, tmp_path):
    seen = []
    with w.processes(2, threads=1) as executor:
        report = run(plan, Store(tmp_path), executor=executor, chunk=4, on_progress=seen.append)
        assert_same(report, local_report)
        assert report.trained == 12
        again = run(plan, Store(tmp_path), executor=executor, chunk=4)
        assert again.trained == 0
    assert seen[-1].finished == seen[-1].total == 12
    assert {m.provenance["threads"] for m in report.results} == {1}


def test_a_killed_process_loses_only_its_own_chunk(plan, local_report, tmp_path, monkeypatch):
    store = Store(tmp_path)
    killed = []

    def kill_one(progress):
        children = live_workers()
        if not killed and progress.given_out and len(list(store.keys())) >= 1 and children:
            killed.append(children[0].pid)
            os.kill(children[0].pid, signal.SIGKILL)
        return False

    begun = chunks_begun(monkeypatch)
    with w.processes(2, threads=1) as executor:
        report = run(plan, store, executor=executor, chunk=2, on_progress=kill_one)
    assert killed
    assert_same(report, local_report)
    assert report.failed == {}
    assert store.verify() == {}
    assert sum(map(len, begun)) <= 12 + 2  # only the chunk of the killed worker was trained again


def chunks_begun(monkeypatch):
    begun, usual = [], d.Dispatcher.submit

    def recording(dispatcher):
        before = set(dispatcher.running)
        unfinished = usual(dispatcher)
        begun.extend(dispatcher.running[future][0].keys for future in set(dispatcher.running) - before)
        return unfinished

    monkeypatch.setattr(d.Dispatcher, "submit", recording)
    return begun


@pytest.mark.usefixtures("sigint_interrupts")
def test_a_second_interrupt_kills_the_workers(lm, plan, tmp_path, capsys):
    """The first interrupt waits for them, with a message."""
    signals = []

    def interrupt_twice(progress):
        if progress.given_out and not signals:
            signals.append(threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)))
            signals[0].start()
            raise KeyboardInterrupt

    began = time.monotonic()
    slow = Plan.of(lm, [job.passage for job in plan], Recipe.default(budget=10**6, margin=1000))
    with pytest.raises(KeyboardInterrupt), w.processes(1, threads=1) as executor:
        run(slow, Store(tmp_path), executor=executor, progress=False, on_progress=interrupt_twice)
    assert time.monotonic() - began < 60
    assert "workers finish the" in capsys.readouterr().err


def test_dask_gives_the_same_results_as_one_process(plan, local_report, tmp_path):
    with w.dask_workers("local:2") as executor:
        assert executor.count == 2
        assert_same(run(plan, Store(tmp_path), executor=executor, chunk=4), local_report)
        with urllib.request.urlopen(executor.dashboard, timeout=10) as page:
            assert page.status == 200
    with pytest.raises(w.WorkerError, match="Give local, local:NUMBER, or an address"), w.dask_workers("local:many"):
        pass
    with pytest.raises(w.WorkerError, match="no Dask scheduler"), w.dask_workers("tcp://127.0.0.1:9"):
        pass


def test_a_killed_dask_worker_loses_only_its_own_chunk(plan, local_report, tmp_path):
    store, killed, seen = Store(tmp_path), [], []

    def kill_one(progress):
        seen.append((set(store.keys()), progress))
        workers = live_workers(recursive=True)
        if not killed and progress.given_out and seen[-1][0] and workers:
            killed.append(workers[0].pid)
            os.kill(workers[0].pid, signal.SIGKILL)
        return False

    with w.dask_workers("local:2") as executor:
        report = run(plan, store, executor=executor, chunk=2, on_progress=kill_one)
    assert killed
    assert_same(report, local_report)
    assert report.failed == {}
    assert store.verify() == {}


def test_dask_trains_one_chunk_per_gpu(monkeypatch):
    """With invented GPUs: each worker sees one of them, and each chunk requests one."""
    monkeypatch.setattr(w, "visible_gpus", lambda: ["4", "GPU-7"])
    with w.dask_workers("local") as executor:
        pool = executor()
        seen = {pool.submit(_visible, i).result(timeout=60) for i in range(8)}
        assert pool._kwargs["resources"] == {"GPU": 1}
    assert seen <= {("4",), ("GPU-7",)}
    with w.dask_workers("local:1") as executor:
        assert executor().submit(_visible, 0).result(timeout=60) == ("4",)


def _visible(_):
    return (os.environ.get("CUDA_VISIBLE_DEVICES"),)


def test_submitit_as_in_the_readme_gives_the_same_results(plan, local_report, tmp_path):
    submitit = pytest.importorskip("submitit")

    def local():
        executor = submitit.AutoExecutor(tmp_path / "logs", cluster="local")
        executor.update_parameters(timeout_min=5)
        return executor

    assert_same(run(plan, Store(tmp_path / "store"), executor=local, chunk=8), local_report)


def test_a_model_that_is_only_in_memory_cannot_be_sent_to_workers(lm, tmp_path):
    from memlab.models import toys

    model, tokenizer = toys.toy("llama")
    for parameter in model.parameters():
        parameter.data.mul_(1.01)
    other = FrozenLM.from_model(model, tokenizer, name="toy:llama")
    plan = Plan.of(other, random_passages(other, 1, 3), RECIPE)
    with w.processes(1, threads=1) as executor:
        report = run(plan, Store(tmp_path), executor=executor)
    assert report.results == []
    (why,) = report.failed.values()
    assert "only in memory cannot be sent" in why
    assert Store(tmp_path).failures() == report.failed
    with pytest.raises(ModelError):
        d.work(_chunk(other, plan, tmp_path))


def _chunk(lm, plan, path):
    jobs = list(plan)
    return d.Chunk(
        lm.name, lm.revision, lm.fingerprint, str(path), tuple(j.key for j in jobs), tuple(j.passage for j in jobs),
        tuple(j.recipe.canonical() for j in jobs), (None,) * len(jobs),
    )  # fmt: skip


# The dispatcher, with workers that fail on purpose ----------------------------------------------------------------


class FailingExecutor(Executor):
    """Runs a chunk at once. An error that ``fault(keys)`` raises becomes the chunk's error."""

    def __init__(self, fault, at_once=2):
        self.fault, self._max_workers, self.broken = fault, at_once, False

    def submit(self, fn, chunk):
        if self.broken:
            raise BrokenProcessPool("a worker died before")
        future = Future()
        try:
            self.fault(chunk.keys)
            future.set_result(fn(chunk))
        except BrokenProcessPool as error:
            self.broken = True
            future.set_exception(error)
        except Exception as error:
            future.set_exception(error)
        return future

    def shutdown(self, wait=True, cancel_futures=False):
        pass


def dispatched(lm, plan, store, fault, size=4):
    parts = d.split_by_length(_chunk(lm, plan, store.path), size)
    return d.dispatch(parts, store, lambda: FailingExecutor(fault))


def test_the_retry_policy():
    assert after_failure([5], 1) == [([5], 1)]
    assert after_failure([5], 2) == []
    assert after_failure([1, 2, 3], 1) == [([1], 0), ([2, 3], 0)]
    assert after_failure([1, 2, 3], 1, worker_failed=True) == [([1, 2, 3], 1)]
    assert after_failure([1, 2, 3], 2, worker_failed=True) == [([1], 2), ([2], 2), ([3], 2)]
    assert after_failure([1], 3, worker_failed=True) == []


def test_a_job_that_failed_twice_runs_alone(lm, plan, tmp_path):
    """In an executor that breaks as a whole, another job's crash must not count as its own."""
    dispatcher = d.Dispatcher(d.split_by_length(_chunk(lm, plan, tmp_path), 6), Store(tmp_path), Silent)
    assert dispatcher.submit()
    assert len(dispatcher.running) == 2
    for future, (chunk, failures) in list(dispatcher.running.items()):
        del dispatcher.running[future]
        dispatcher.retry(chunk, failures + 2, BrokenProcessPool("killed"))
    assert dispatcher.submit()
    assert [len(chunk.keys) for chunk, _ in dispatcher.running.values()] == [1]
    assert dispatcher.submit()
    assert len(dispatcher.running) == 1
    assert len(dispatcher.waiting) == 11


class Silent(Executor):
    """Takes work and never returns it."""

    _max_workers = 2

    def submit(self, fn, chunk):
        return Future()


def test_a_chunk_that_raises_once_is_retried_as_a_whole(lm, plan, local_report, tmp_path):
    seen = []

    def fault(keys):
        seen.append(keys)
        if len(seen) == 1:
            raise RuntimeError("only this once")

    store = Store(tmp_path)
    assert dispatched(lm, plan, store, fault) == {}
    assert set(store.keys()) == {m.key for m in local_report.results}
    assert len(seen) == 4  # three chunks, one of them twice


def test_a_job_that_kills_its_worker_fails_alone(lm, plan, tmp_path):
    poison = next(iter(plan)).key

    def fault(keys):
        if poison in keys:
            raise BrokenProcessPool("killed")

    store = Store(tmp_path)
    failed = dispatched(lm, plan, store, fault)
    assert list(failed) == [poison]
    assert "BrokenProcessPool" in failed[poison]
    assert set(store.keys()) == {job.key for job in plan} - {poison}
    assert store.failures() == failed


def test_a_job_that_always_fails_is_recorded_and_the_others_finish(lm, plan, tmp_path):
    poison = next(iter(plan)).key

    def fault(keys):
        if poison in keys:
            raise MemoryError("too large")

    store = Store(tmp_path)
    assert dispatched(lm, plan, store, fault) == {poison: "MemoryError: too large"}
    assert len(list(store.keys())) == 11


def test_a_reported_result_that_is_not_in_the_store_is_a_failure(lm, plan, tmp_path, monkeypatch):
    """As with workers that write to a folder of the same name on another machine."""
    monkeypatch.setattr(d, "STORE_DELAY", 0.2)
    monkeypatch.setattr(d, "work", lambda chunk: d.Outcome(list(chunk.keys)))
    store = Store(tmp_path)
    failed = dispatched(lm, plan, store, lambda keys: None)
    assert set(failed) == {job.key for job in plan}
    assert all("Use a store folder that the workers and the main process share" in why for why in failed.values())
    assert store.failures() == failed


def test_a_stop_waits_for_begun_chunks_and_gives_out_no_more(lm, plan, tmp_path):
    seen = []
    parts = d.split_by_length(_chunk(lm, plan, tmp_path), 2)

    def slow(keys):
        time.sleep(0.3)

    class Threads(concurrent.futures.ThreadPoolExecutor):
        def submit(self, fn, chunk):
            return super().submit(lambda: (slow(chunk.keys), fn(chunk))[1])

    store = Store(tmp_path)
    d.dispatch(parts, store, lambda: Threads(2), on_progress=lambda progress: seen.append(progress) or len(seen) >= 2)
    assert seen[-1].given_out == 0
    assert len(list(store.keys())) == seen[-1].finished <= 6


def test_workers_load_the_model_as_the_plan_did(tmp_path):
    lm = load("toy:llama", dtype=torch.bfloat16)
    plan = Plan.of(lm, random_passages(lm, 1, 3), RECIPE)
    with w.processes(1, threads=1) as executor:
        (mem,) = run(plan, Store(tmp_path), executor=executor).results
    assert mem.provenance["dtype"] == "bfloat16"


def test_a_result_file_of_a_newer_version_is_one_failed_job(lm, plan, local_report, tmp_path):
    store = Store(tmp_path)
    bad = next(iter(plan)).key
    file = store.file(bad)
    file.parent.mkdir(parents=True)
    file.write_bytes(forged_file(schema=SCHEMA + 1))
    report = run(plan, store, executor=lambda: FailingExecutor(lambda keys: None), chunk=4)
    assert "newer memlab" in report.failed[bad]
    assert len(report.results) == 11


def test_a_store_that_cannot_be_written_ends_the_run(lm, plan, tmp_path):
    def fault(keys):
        raise StoreError("disk full")

    with pytest.raises(StoreError, match="disk full"):
        dispatched(lm, plan, Store(tmp_path), fault)


def test_on_progress_stops_a_dispatch(lm, plan, tmp_path):
    parts = d.split_by_length(_chunk(lm, plan, tmp_path), 1)
    store = Store(tmp_path)
    d.dispatch(
        parts,
        store,
        lambda: FailingExecutor(lambda keys: None, at_once=1),
        on_progress=lambda progress: progress.finished >= 3,
    )
    assert len(list(store.keys())) == 3


def test_chunks_hold_each_job_once_and_similar_lengths_together(lm):
    passages = [p for n in (3, 9, 4, 8) for p in random_passages(lm, 2, n, seed=n)]
    whole = _chunk(lm, Plan.of(lm, passages, RECIPE), "nowhere")
    parts = d.split_by_length(whole, 3)
    assert [len(p.keys) for p in parts] == [3, 3, 2]
    assert sorted(k for p in parts for k in p.keys) == sorted(whole.keys)
    lengths = [sorted(len(p) for p in part.passages) for part in parts]
    assert min(lengths[0]) >= max(lengths[1]) >= max(lengths[2])
    for part in parts:
        for key, passage in zip(part.keys, part.passages, strict=True):
            assert passage is whole.passages[whole.keys.index(key)]


def test_no_chunks_means_no_failures(tmp_path):
    assert d.dispatch([], Store(tmp_path), lambda: FailingExecutor(lambda keys: None)) == {}


SCRIPT = """
import sys
from memlab import Plan, Recipe, Store, Text, load, run
from memlab.sweeps.executors import processes

def main():
    plan = Plan.grid("toy:llama", Text("a", "Go on."), tokens=[2, 3], recipes=Recipe.default(budget=9))
    with processes(2, threads=1) as executor:
        print("trained", run(plan, Store(sys.argv[1]), executor=executor).trained)

"""


def run_script(source, store, file, *, how="file"):
    """(exit code, output) of a script, run from a file, from standard input or with -c."""
    file.write_text(source)
    done = subprocess.run(
        [sys.executable, *{"file": [file], "stdin": ["-"], "-c": ["-c", source]}[how], store],
        check=False, input=source if how == "stdin" else None, capture_output=True, text=True, timeout=200,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_a_script_without_a_main_guard_is_refused_before_any_process_starts(tmp_path):
    code, output = run_script(SCRIPT + "print('once')\nmain()\n", tmp_path / "store", tmp_path / "bare.py")
    assert code == 1
    assert output.strip().splitlines()[-1] == f"memlab.sweeps.executors.WorkerError: {w.GUARD}"
    assert output.count("once") == 1
    assert not (tmp_path / "store").exists()


def test_a_script_whose_guard_leaves_out_the_run_ends_with_its_first_process(tmp_path):
    """Only a process can know this: it finds itself in ``processes`` while it starts."""
    code, output = run_script(SCRIPT + "print(__name__)\nmain()\n", tmp_path / "store", tmp_path / "odd.py")
    assert code == 1
    assert output.count("__mp_main__") <= 2  # one start of each process
    assert output.count("Traceback") == 1
    assert w.GUARD in output.strip().splitlines()[-1]


def test_a_script_that_fails_when_it_is_run_again_ends_with_its_first_process(tmp_path):
    source = SCRIPT + f"open({str(tmp_path / 'new')!r}, 'x')\nif __name__ == '__main__':\n    main()\n"
    code, output = run_script(source, tmp_path / "store", tmp_path / "again.py")
    assert code == 1
    assert "FileExistsError" in output
    assert "A worker process ended while it started" in output.strip().splitlines()[-1]


@pytest.mark.parametrize("how", ["file", "-c", "stdin"])
def test_a_script_with_a_guard_works_or_says_why_not(tmp_path, how):
    guarded = SCRIPT + ("main()" if how == "-c" else 'if __name__ == "__main__":\n    main()\n')
    code, output = run_script(guarded, tmp_path / "store", tmp_path / "guarded.py", how=how)
    if how == "stdin":
        assert code == 1
        assert "Worker processes cannot run <stdin>. Save the script in a file" in output
    else:
        assert (code, output.strip().splitlines()[-1]) == (0, "trained 2")


@pytest.mark.parametrize("count", [0, -1, 1.5, "2"])
def test_a_wrong_number_of_processes_is_refused(count):
    with pytest.raises(MemlabError, match="Give a whole number above 0"), w.processes(count):
        pass
