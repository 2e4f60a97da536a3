"""Runs elsewhere: the same keys, as many exact ones; workers that die; chunks that cannot be done."""

import concurrent.futures
import os
import signal
import threading
import time
import urllib.request
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress

import psutil
import pytest
import torch

from memlab import ModelError, Plan, Recipe, Store, StoreError, load, run
from memlab.models import FrozenLM
from memlab.sweeps import executors as w
from tests.conftest import random_passages
from tests.helpers import forged_file

pytestmark = pytest.mark.slow

RECIPE = Recipe.default(k=2, budget=60)


def spawned(*, recursive=False):
    """This process's worker processes, those that have ended and are not waited for yet left out."""
    found = []
    for process in psutil.Process().children(recursive=recursive):
        with suppress(psutil.NoSuchProcess):  # zombies too
            if "spawn_main" in " ".join(process.cmdline()):
                found.append(process)
    return found


@pytest.fixture(scope="module")
def lm():
    return load("toy:llama")


@pytest.fixture(scope="module")
def plan(lm):
    return Plan.of(lm, random_passages(lm, 12, 4), RECIPE)


@pytest.fixture(scope="module")
def here(plan, tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("here"))
    return run(plan, store, progress=False)


def same(report, here):
    assert [m.key for m in report.results] == [m.key for m in here.results]
    assert sum(m.exact for m in report.results) == sum(m.exact for m in here.results)


def test_two_processes_do_what_one_does(plan, here, tmp_path):
    seen = []
    with w.processes(2, threads=1) as executor:
        report = run(plan, Store(tmp_path), executor=executor, chunk=4, watch=seen.append)
        same(report, here)
        assert report.trained == 12
        again = run(plan, Store(tmp_path), executor=executor, chunk=4)
        assert again.trained == 0
    assert seen[-1].finished == seen[-1].total == 12
    assert {m.provenance["threads"] for m in report.results} == {1}


def test_a_killed_worker_costs_its_batch_only(plan, here, tmp_path, monkeypatch):
    store = Store(tmp_path)
    killed = []

    def kill_one(going):
        children = spawned()
        if not killed and going.given_out and len(list(store.keys())) >= 1 and children:
            killed.append(children[0].pid)
            os.kill(children[0].pid, signal.SIGKILL)
        return False

    begun = chunks_begun(monkeypatch)
    with w.processes(2, threads=1) as executor:
        report = run(plan, store, executor=executor, chunk=2, watch=kill_one)
    assert killed
    same(report, here)
    assert report.failed == {}
    assert store.verify() == {}
    assert sum(map(len, begun)) <= 12 + 2  # what was on that one bench, and nobody else's


def chunks_begun(monkeypatch):
    begun, usual = [], w.Dispatcher.submit

    def noted(desk):
        before = set(desk.running)
        going_on = usual(desk)
        begun.extend(desk.running[future][0].keys for future in set(desk.running) - before)
        return going_on

    monkeypatch.setattr(w.Dispatcher, "submit", noted)
    return begun


def test_a_second_interrupt_leaves_what_workers_have_begun(lm, plan, tmp_path, capsys):
    """The first one waits for it, and says so."""
    signals = []

    def watch(going):
        if going.given_out and not signals:
            signals.append(threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)))
            signals[0].start()
            raise KeyboardInterrupt

    began = time.monotonic()
    slow = Plan.of(lm, [job.passage for job in plan], Recipe.default(budget=10**6, margin=1000))
    with pytest.raises(KeyboardInterrupt), w.processes(1, threads=1) as executor:
        run(slow, Store(tmp_path), executor=executor, progress=False, watch=watch)
    assert time.monotonic() - began < 60
    assert "passages with workers are finished first" in capsys.readouterr().err


def test_dask_does_what_one_does(plan, here, tmp_path):
    with w.dask_workers("local:2") as executor:
        assert executor.count == 2
        same(run(plan, Store(tmp_path), executor=executor, chunk=4), here)
        with urllib.request.urlopen(executor.dashboard, timeout=10) as page:
            assert page.status == 200
    with pytest.raises(w.WorkerError, match="local or local:NUMBER"), w.dask_workers("local:many"):
        pass
    with pytest.raises(w.WorkerError, match="no Dask scheduler"), w.dask_workers("tcp://127.0.0.1:9"):
        pass


def test_a_killed_dask_worker_costs_its_batch_only(plan, here, tmp_path):
    store, killed, seen = Store(tmp_path), [], []

    def kill_one(going):
        seen.append((set(store.keys()), going))
        workers = spawned(recursive=True)
        if not killed and going.given_out and seen[-1][0] and workers:
            killed.append(workers[0].pid)
            os.kill(workers[0].pid, signal.SIGKILL)
        return False

    with w.dask_workers("local:2") as executor:
        report = run(plan, store, executor=executor, chunk=2, watch=kill_one)
    assert killed
    same(report, here)
    assert report.failed == {}
    assert store.verify() == {}


def test_dask_gives_one_chunk_to_a_gpu(monkeypatch):
    """Cards that are made up: each worker sees one, and work asks for one."""
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


def test_the_readmes_slurm_recipe_on_this_machine(plan, here, tmp_path):
    submitit = pytest.importorskip("submitit")

    def local():
        executor = submitit.AutoExecutor(tmp_path / "logs", cluster="local")
        executor.update_parameters(timeout_min=5)
        return executor

    same(run(plan, Store(tmp_path / "store"), executor=local, chunk=8), here)


def test_a_model_that_is_only_in_memory_cannot_be_sent(lm, tmp_path):
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
        w.work(_chunk(other, plan, tmp_path))


def _chunk(lm, plan, path):
    jobs = list(plan)
    return w.Chunk(
        lm.name, lm.revision, lm.fingerprint, str(path), tuple(j.key for j in jobs), tuple(j.passage for j in jobs),
        tuple(j.recipe.canonical() for j in jobs), (None,) * len(jobs),
    )  # fmt: skip


# The desk, with workers whose fate is known --------------------------------------------------------------------------


class Fated(Executor):
    """Runs a chunk at once; ``fate(keys)`` may raise what then becomes of it."""

    def __init__(self, fate, at_once=2):
        self.fate, self._max_workers, self.broken = fate, at_once, False

    def submit(self, fn, chunk):
        if self.broken:
            raise BrokenProcessPool("a worker died before")
        future = Future()
        try:
            self.fate(chunk.keys)
            future.set_result(fn(chunk))
        except BrokenProcessPool as error:
            self.broken = True
            future.set_exception(error)
        except Exception as error:
            future.set_exception(error)
        return future

    def shutdown(self, wait=True, cancel_futures=False):
        pass


def dispatched(lm, plan, store, fate, size=4):
    parts = w.split_by_length(_chunk(lm, plan, store.path), size)
    return w.dispatch(parts, store, lambda: Fated(fate))


def test_a_chunk_that_raises_once_is_done_the_second_time(lm, plan, here, tmp_path):
    seen = []

    def fate(keys):
        seen.append(keys)
        if len(seen) == 1:
            raise RuntimeError("a bad day")

    store = Store(tmp_path)
    assert dispatched(lm, plan, store, fate) == {}
    assert set(store.keys()) == {m.key for m in here.results}
    assert len(seen) == 4  # three chunks, one of them twice


def test_a_job_that_kills_its_worker_is_found_and_costs_no_other(lm, plan, tmp_path):
    poison = next(iter(plan)).key

    def fate(keys):
        if poison in keys:
            raise BrokenProcessPool("killed")

    store = Store(tmp_path)
    failed = dispatched(lm, plan, store, fate)
    assert list(failed) == [poison]
    assert "BrokenProcessPool" in failed[poison]
    assert set(store.keys()) == {job.key for job in plan} - {poison}
    assert store.failures() == failed


def test_what_fails_for_good_is_recorded_and_stops_no_other(lm, plan, tmp_path):
    poison = next(iter(plan)).key

    def fate(keys):
        if poison in keys:
            raise MemoryError("too large")

    store = Store(tmp_path)
    assert dispatched(lm, plan, store, fate) == {poison: "MemoryError: too large"}
    assert len(list(store.keys())) == 11


def test_done_is_only_what_is_in_the_store(lm, plan, tmp_path, monkeypatch):
    """Workers that write to a folder of the same name on another machine."""
    monkeypatch.setattr(w, "PATIENCE", 0.2)
    monkeypatch.setattr(w, "work", lambda chunk: w.Outcome(list(chunk.keys)))
    store = Store(tmp_path)
    failed = dispatched(lm, plan, store, lambda keys: None)
    assert set(failed) == {job.key for job in plan}
    assert all("one folder for all" in why for why in failed.values())
    assert store.failures() == failed


def test_a_stop_waits_for_what_is_with_workers_and_gives_out_no_more(lm, plan, tmp_path):
    seen = []
    parts = w.split_by_length(_chunk(lm, plan, tmp_path), 2)

    def slow(keys):
        time.sleep(0.3)

    class Threads(concurrent.futures.ThreadPoolExecutor):
        def submit(self, fn, chunk):
            return super().submit(lambda: (slow(chunk.keys), fn(chunk))[1])

    store = Store(tmp_path)
    w.dispatch(parts, store, lambda: Threads(2), watch=lambda going: seen.append(going) or len(seen) >= 2)
    assert seen[-1].given_out == 0
    assert len(list(store.keys())) == seen[-1].finished <= 6


def test_workers_load_the_model_as_the_plan_did(tmp_path):
    lm = load("toy:llama", dtype=torch.bfloat16)
    plan = Plan.of(lm, random_passages(lm, 1, 3), RECIPE)
    with w.processes(1, threads=1) as executor:
        (mem,) = run(plan, Store(tmp_path), executor=executor).results
    assert mem.provenance["dtype"] == "bfloat16"


def test_an_unreadable_file_is_one_failed_job(lm, plan, here, tmp_path):
    store = Store(tmp_path)
    bad = next(iter(plan)).key
    file = store.file(bad)
    file.parent.mkdir(parents=True)
    file.write_bytes(forged_file(schema=2))
    report = run(plan, store, executor=lambda: Fated(lambda keys: None), chunk=4)
    assert "newer memlab" in report.failed[bad]
    assert len(report.results) == 11


def test_a_store_that_cannot_be_written_ends_the_run(lm, plan, tmp_path):
    def fate(keys):
        raise StoreError("disk full")

    with pytest.raises(StoreError, match="disk full"):
        dispatched(lm, plan, Store(tmp_path), fate)


def test_watch_stops_a_run(lm, plan, tmp_path):
    parts = w.split_by_length(_chunk(lm, plan, tmp_path), 1)
    store = Store(tmp_path)
    w.dispatch(parts, store, lambda: Fated(lambda keys: None, at_once=1), watch=lambda going: going.finished >= 3)
    assert len(list(store.keys())) == 3


def test_chunks_hold_each_job_once_and_like_with_like(lm):
    passages = [p for n in (3, 9, 4, 8) for p in random_passages(lm, 2, n, seed=n)]
    whole = _chunk(lm, Plan.of(lm, passages, RECIPE), "nowhere")
    parts = w.split_by_length(whole, 3)
    assert [len(p.keys) for p in parts] == [3, 3, 2]
    assert sorted(k for p in parts for k in p.keys) == sorted(whole.keys)
    lengths = [sorted(len(p) for p in part.passages) for part in parts]
    assert min(lengths[0]) >= max(lengths[1]) >= max(lengths[2])
    for part in parts:
        for key, passage in zip(part.keys, part.passages, strict=True):
            assert passage is whole.passages[whole.keys.index(key)]


def test_nothing_to_do_is_done_at_once(tmp_path):
    assert w.dispatch([], Store(tmp_path), lambda: Fated(lambda keys: None)) == {}
