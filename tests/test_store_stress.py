"""Killed writers, a short round of what ``memlab bench store-crash`` does at length."""

import subprocess
import sys

import pytest

from memlab.experiments.store_stress import crash_writers, large, random_result
from memlab.results.store import Store

pytestmark = pytest.mark.slow


def test_twenty_kills_lose_nothing(tmp_path):
    found = crash_writers(tmp_path / "store", 20)
    assert found.kills == 20
    assert found.lost == []
    assert found.unreadable == []
    assert found.wrong == {}
    # Nothing is made twice but what was lost with its writer.
    assert found.writes <= found.begun <= found.writes + found.kills
    assert not list((tmp_path / "store").rglob("*.tmp"))


def test_writers_need_no_torch():
    code = "import memlab.experiments.store_stress, sys; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_made_up_vectors_are_one_a_number(tmp_path):
    store = Store(tmp_path)
    assert len({store.put(random_result(n)) for n in range(50)}) == 50
    assert random_result(3).to_bytes() == random_result(3).to_bytes()


def test_a_large_store_is_timed(tmp_path):
    told = large(tmp_path / "large", 500)
    assert told["entries"] == "500"
    assert told["index"].endswith("MB")
    assert large(tmp_path / "large", 500)["entries"] == "500"
