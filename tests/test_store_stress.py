"""A short version of ``memlab bench store-crash`` and ``store-scale``."""

import subprocess
import sys

import pytest

from memlab.experiments.store_stress import crash_writers, random_result, time_large_store
from memlab.results.store import Store

pytestmark = pytest.mark.slow


def test_killing_writers_twenty_times_loses_nothing(tmp_path):
    report = crash_writers(tmp_path / "store", 20)
    assert report.kills == 20
    assert report.lost == []
    assert report.unreadable == []
    assert report.damaged == {}
    # A key is written twice only if it was lost with its writer.
    assert report.writes <= report.begun <= report.writes + report.kills
    assert not list((tmp_path / "store").rglob("*.tmp"))


def test_writers_need_no_torch():
    code = "import memlab.experiments.store_stress, sys; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_each_number_gives_one_made_up_vector(tmp_path):
    store = Store(tmp_path)
    assert len({store.put(random_result(n)) for n in range(50)}) == 50
    assert random_result(3).to_bytes() == random_result(3).to_bytes()


def test_a_large_store_is_timed(tmp_path):
    report = time_large_store(tmp_path / "large", 500)
    assert report["entries"] == "500"
    assert report["index"].endswith("MB")
    assert time_large_store(tmp_path / "large", 500)["entries"] == "500"
