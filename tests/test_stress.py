"""Killed writers, a short round of what ``memlab bench kills`` does at length."""

import subprocess
import sys

import pytest

from memlab.experiments.stress import endure, large, made_up
from memlab.store import Store

pytestmark = pytest.mark.slow


def test_twenty_kills_lose_nothing(tmp_path):
    found = endure(tmp_path / "store", 20)
    assert found.kills == 20
    assert found.lost == []
    assert found.unreadable == []
    assert found.wrong == {}
    # Nothing is made twice but what was lost with its writer.
    assert found.writes <= found.begun <= found.writes + found.kills
    assert not list((tmp_path / "store").rglob("*.tmp"))


def test_writers_need_no_torch():
    code = "import memlab.experiments.stress, sys; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_made_up_vectors_are_one_a_number(tmp_path):
    store = Store(tmp_path)
    assert len({store.put(made_up(n)) for n in range(50)}) == 50
    assert made_up(3).to_bytes() == made_up(3).to_bytes()


def test_a_large_store_is_timed(tmp_path):
    told = large(tmp_path / "large", 500)
    assert told["entries"] == "500"
    assert told["index"].endswith("MB")
    assert large(tmp_path / "large", 500)["entries"] == "500"
