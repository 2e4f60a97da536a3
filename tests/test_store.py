import resource
import subprocess
import sys
import threading

import pytest

from memlab.results.mem_vector import VectorError
from memlab.results.store import Store, StoreError
from tests.helpers import make_check, make_vector, unwritable


def test_put_and_get(store):
    mem = make_vector(checks=(make_check(),))
    assert mem.key not in store
    key = store.put(mem)
    assert key in store
    assert list(store.keys()) == [key]
    assert store.get(key).to_bytes() == mem.to_bytes()
    assert store.file(key).parts[-3:] == ("objects", key[:2], f"{key}.safetensors")
    with pytest.raises(KeyError):
        store.get("0" * 64)


def test_the_first_file_of_a_key_wins(store):
    first, second = make_vector(seed=1), make_vector(seed=2)
    assert store.put(first) == store.put(second)
    assert store.get(first.key).mem.tobytes() == first.mem.tobytes()


def test_an_empty_store_works(store):
    assert bool(store)
    assert store.table().empty
    assert "exact" in store.table().columns
    assert store.verify() == {}


def test_many_writers_leave_one_intact_file(store):
    mem = make_vector()
    threads = [threading.Thread(target=store.put, args=(mem,)) for _ in range(16)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert store.verify() == {}
    assert [p.name for p in store.file(mem.key).parent.iterdir()] == [f"{mem.key}.safetensors"]


def test_derived_and_interrupted_vectors_are_refused(store):
    for mem in (make_vector().perturb(0.1), make_vector(provenance={"interrupted": "at step 3"})):
        with pytest.raises(StoreError, match=r"vector\.save"):
            store.put(mem)


def test_find_by_prefix(store):
    key = store.put(make_vector())
    assert store.find(key[:8]) == key
    for prefix, reason in [("ab", "too short"), ("zzzz", "No result starts")]:
        with pytest.raises(StoreError, match=reason):
            store.find(prefix)


def test_table_has_one_row_per_result(store):
    store.put(make_vector(checks=(make_check(), make_check(given=True, wrong=2)), teacher_forced=1.0))
    store.put(make_vector(token_ids=[4, 4], checks=(make_check(wrong=0),)))
    table = store.table().set_index("tokens")
    assert table.loc[3, "exact"]
    assert not table.loc[2, "exact"]
    assert table.loc[3, "first_given"] == pytest.approx(2 / 3)
    assert table.loc[3, "recipe"] == "fullmatrix k=2"
    assert table["portable"].isna().all()


def test_damage_is_found_named_and_quarantined(store):
    good, bad = store.put(make_vector()), store.put(make_vector(token_ids=[4, 4]))
    raw = bytearray(store.file(bad).read_bytes())
    raw[-3] ^= 16
    store.file(bad).write_bytes(raw)
    assert list(store.verify()) == [bad]
    with pytest.raises(VectorError, match="damaged"):
        store.get(bad)
    with pytest.warns(UserWarning, match="trained again"):
        assert store.fetch(bad) is None
    assert bad not in store
    assert store.verify() == {}
    assert good in store
    assert len(list((store.path / "quarantine").iterdir())) == 1


def test_a_file_under_a_wrong_name_is_refused(store):
    key = store.put(make_vector())
    other = store.file("0" * 64)
    other.parent.mkdir()
    other.write_bytes(store.file(key).read_bytes())
    with pytest.raises(VectorError, match="not the result of its name"):
        store.get("0" * 64)


def test_a_read_only_store_is_reported(tmp_path):
    store = Store(unwritable(tmp_path))
    mem = make_vector()
    with pytest.raises(StoreError, match=r"cannot be written.*--store"):
        store.check_writable()
    with pytest.raises(StoreError) as caught:
        store.put(mem)
    assert caught.value.unsaved == [mem]


def test_a_full_disk_leaves_no_half_file(store):
    """A file size limit simulates the full disk: the write fails half way."""
    store.check_writable()
    big = make_vector(k=4, d=5000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(StoreError, match="cannot be written") as caught:
            store.put(big)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.unsaved == [big]
    assert not [p for p in store.path.rglob("*") if p.is_file()]
    store.put(big)
    assert store.verify() == {}


def test_failures_are_recorded_until_there_is_a_result(store):
    mem = make_vector()
    store.record_failure(mem.key, "out of luck")
    assert store.failures() == {mem.key: "out of luck"}
    store.put(mem)
    assert store.failures() == {}


def test_path_of_the_store(tmp_path, monkeypatch):
    monkeypatch.setenv("MEMLAB_STORE", str(tmp_path / "env"))
    assert Store().path == tmp_path / "env"
    assert Store(tmp_path / "arg").path == tmp_path / "arg"


@pytest.mark.parametrize(
    "module",
    [
        "recipes",
        "texts",
        "errors",
        "charts",
        "results.mem_vector",
        "results.store",
        "results.archive",
        "results.checkpoints",
        "measures.capacity",
        "measures.capacity_fits",
        "measures.geometry",
        "measures.similarity",
        "measures.codecs",
        "measures.prediction",
        "measures.statistics",
    ],
)
def test_modules_that_do_not_import_torch(module):
    code = f"import memlab.{module}, sys; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_intact_files_are_never_quarantined(store, monkeypatch):
    """A file that cannot be opened now is not damaged. Files of a newer memlab: see test_file_format."""
    key = store.put(make_vector())
    monkeypatch.setattr(
        "safetensors.safe_open", lambda *_, **__: (_ for _ in ()).throw(OSError(24, "Too many open files"))
    )
    with pytest.raises(VectorError, match="Too many open files"):
        store.fetch(key)
    assert key in store


def test_one_damaged_file_does_not_hide_the_others(store):
    store.put(make_vector())
    bad = store.file(store.put(make_vector(token_ids=[4, 4])))
    bad.write_bytes(bad.read_bytes().replace(b"fullmatrix", b"gullmatrix"))
    with pytest.warns(UserWarning, match=bad.name):
        assert len(store.table()) == 1


def test_an_intact_file_replaces_a_damaged_one(store):
    mem = make_vector()
    file = store.file(store.put(mem))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="damaged"):
        store.put(mem)
    assert store.verify() == {}
    assert mem.key in store
