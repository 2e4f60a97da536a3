"""The index, compared with its files; stores exported to tar files and imported, hostile tar files too."""

import io
import os
import pickle
import resource
import tarfile
import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from memlab.cli import app
from memlab.results import index
from memlab.results.archive import export_tar, import_tar
from memlab.results.store import Store, StoreError
from tests.helpers import make_check, make_vector


@pytest.fixture
def eager(monkeypatch):
    """The index is written after every change."""
    monkeypatch.setattr(index, "WORTHWHILE", 1)


def fill(store, count=5, first=0):
    return [store.put(make_vector(token_ids=[i, 3], checks=(make_check(),))) for i in range(first, first + count)]


def test_the_index_agrees_with_the_files(store, eager, monkeypatch):
    keys = fill(store)
    plain = store.table()
    assert (store.path / "index.parquet").exists()
    read = []
    original = index.read_metadata
    monkeypatch.setattr(index, "read_metadata", lambda file: read.append(file) or original(file))
    pd.testing.assert_frame_equal(store.table(), plain, check_dtype=False)
    assert read == []  # all rows come from the index
    new = fill(store, 2, first=5)
    store.file(keys[0]).unlink()
    table = store.table()
    assert len(read) == 2  # only the new files are read
    assert set(table.key) == {*keys[1:], *new}
    pd.testing.assert_frame_equal(Store(store.path).table(), table, check_dtype=False)


def test_a_file_that_was_replaced_is_read_again(store, eager):
    key = fill(store, 1)[0]
    assert store.table().steps.tolist() == [make_vector().steps]
    store.quarantine(key)
    store.put(make_vector(token_ids=[0, 3], checks=(make_check(),), steps=77))
    assert store.table().steps.tolist() == [77]


@pytest.mark.slow
def test_every_flipped_bit_of_an_index_is_detected(store, eager):
    fill(store, 60)
    plain = store.table()
    file = store.path / "index.parquet"
    sound, rng = file.read_bytes(), np.random.default_rng(0)
    for at in rng.integers(0, len(sound), 120):
        damaged = bytearray(sound)
        damaged[at] ^= 1 << int(rng.integers(8))
        file.write_bytes(damaged)
        pd.testing.assert_frame_equal(store.table(), plain, check_dtype=False)


def test_a_row_from_a_newer_memlab_does_not_hide_other_rows(store, eager):
    fill(store, 3)
    store.table()
    file = store.path / "index.parquet"
    table = pq.read_table(file)
    newer = table.to_pandas()
    newer.loc[0, "recipe"] = '{"of_tomorrow":1}'
    pq.write_table(
        pa.Table.from_pandas(newer, preserve_index=False).replace_schema_metadata(table.schema.metadata), file
    )
    assert sorted(store.table().recipe) == sorted([*plain_recipes(store)[:2], "unknown here"])


def plain_recipes(store):
    return [store.get(key).recipe.name for key in store.keys()]


def test_if_the_index_cannot_be_written_the_old_one_stays(store, eager, monkeypatch):
    keys = fill(store)
    store.reindex()
    before = (store.path / "index.parquet").read_bytes()
    monkeypatch.setattr(index.os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(StoreError, match="No space left"):
        store.reindex()
    assert (store.path / "index.parquet").read_bytes() == before
    monkeypatch.undo()
    store.file(keys[0]).write_bytes(b"rubbish")
    number, damaged = store.reindex()
    assert number == 4
    assert keys[0] in damaged[0]


@pytest.mark.parametrize("damage", [b"", b"PAR1 but not really", b"\x80\x04}q\x00."])
def test_a_damaged_index_is_rebuilt(store, eager, damage):
    fill(store)
    plain = store.table()
    (store.path / "index.parquet").write_bytes(damage)
    pd.testing.assert_frame_equal(store.table(), plain, check_dtype=False)
    assert len(pq.read_table(store.path / "index.parquet")) == 5


def test_an_index_of_another_version_is_rebuilt(store, eager, monkeypatch):
    fill(store)
    monkeypatch.setattr(index, "VERSION", 99)
    store.table()
    monkeypatch.undo()
    assert len(store.table()) == 5


def test_other_programs_can_read_the_index(store):
    fill(store)
    assert store.reindex() == (5, [])
    file = store.path / "index.parquet"
    table = pd.read_parquet(file)
    assert {"key", "model", "exact", "tokens"} <= set(table.columns)
    assert table.exact.all()


def test_small_and_bundled_stores_write_no_index(store):
    fill(store)
    store.table()
    assert not (store.path / "index.parquet").exists()
    folder = Store.bundled().path
    Store.bundled().table()
    assert not (folder / "index.parquet").exists()


def test_a_read_only_store_can_be_listed(store, eager, monkeypatch):
    fill(store)
    monkeypatch.setattr(index.os, "replace", lambda *_: (_ for _ in ()).throw(OSError(30, "read-only")))
    assert len(store.table()) == 5
    assert not [p for p in store.path.iterdir() if p.suffix == ".tmp"]


def test_gc_removes_only_files_of_killed_writers_and_old_failures(store):
    (key,) = fill(store, 1)
    store.record_failure(key, "once")
    store.record_failure("f" * 64, "for good")
    old = store.file(key).with_name(f".{key}.dead.tmp")
    (store.path / "notes").mkdir()
    foreign = store.path / "notes" / ".draft.tmp"
    foreign.write_bytes(b"somebody's")
    os.utime(foreign, (1, 1))
    young = store.file(key).with_name(f".{key}.busy.tmp")
    probe = store.path / "objects" / ".probe-1"
    for file in (old, young, probe):
        file.write_bytes(b"half")
    past = time.time() - 7200
    os.utime(old, (past, past))
    os.utime(probe, (past, past))
    gone = {old, probe, store.path / "failures" / f"{key}.json"}
    assert set(store.gc(dry=True)) == gone
    assert old.exists()
    assert set(store.gc()) == gone
    assert young.exists()
    assert foreign.exists()
    assert store.failures() == {"f" * 64: "for good"}
    assert list(store.keys()) == [key]
    assert store.gc() == []


# Tar files ---------------------------------------------------------------------------------------------------------


def test_a_tar_round_trip_keeps_every_byte(store, tmp_path):
    keys = fill(store)
    assert export_tar(store, tmp_path / "all.tar") == 5
    other = Store(tmp_path / "other")
    report = import_tar(other, tmp_path / "all.tar")
    assert sorted(report.added) == sorted(keys)
    assert {k: other.file(k).read_bytes() for k in keys} == {k: store.file(k).read_bytes() for k in keys}
    again = import_tar(other, tmp_path / "all.tar")
    assert (again.added, len(again.present), again.refused) == ([], 5, {})
    assert export_tar(store, tmp_path / "one.tar", keys[:1]) == 1
    with pytest.raises(StoreError, match="has no result"):
        export_tar(store, tmp_path / "none.tar", ["0" * 64])
    assert not (tmp_path / "none.tar").exists()


def hostile(tmp_path, store):
    """A tar with one intact result and with members that must be refused."""
    (key,) = fill(store, 1)
    sound = store.file(key).read_bytes()
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (os.system, (f"touch {ran}",))

    def name(k):
        return f"objects/{k[:2]}/{k}.safetensors"

    a, b, c, d, e = (str(i) * 64 for i in range(5))
    members = {
        name(key): sound,
        "../escaped.safetensors": sound,
        "/etc/memlab.safetensors": sound,
        f"objects/00/{'1' * 64}.safetensors": sound,  # in the wrong folder
        name(a): sound,  # under the wrong name
        name(b): sound[:-7],
        name(c): bytes([sound[0] ^ 0xFF]) + sound[1:],
        name(d): (2**62).to_bytes(8, "little") + b"{}",  # a header of absurd size
        name(e): pickle.dumps(Evil()),
        "readme.txt": b"hello",
    }
    file = tmp_path / "hostile.tar"
    with tarfile.open(file, "w") as tar:
        for path, data in members.items():
            info = tarfile.TarInfo(path)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo(name("5" * 64))
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return key, file, ran, len(members)


def test_hostile_members_are_refused_and_never_run(store, tmp_path):
    key, file, ran, count = hostile(tmp_path, store)
    other = Store(tmp_path / "in" / "other")
    report = import_tar(other, file)
    assert report.added == [key]
    assert len(report.refused) == count  # all members except the intact one, plus the link
    assert all(report.refused.values())
    assert any("damaged" in reason for reason in report.refused.values())
    assert list(other.keys()) == [key]
    assert not ran.exists()
    assert not (tmp_path / "in" / "escaped.safetensors").exists()
    assert not list(other.path.rglob("*.tmp"))
    assert other.verify() == {}


def test_a_backup_repairs_a_damaged_store(store, tmp_path):
    keys = fill(store)
    export_tar(store, tmp_path / "all.tar")
    file = store.file(keys[0])
    sound = file.read_bytes()
    file.write_bytes(sound[:-3])
    with pytest.warns(UserWarning, match="damaged"):
        report = import_tar(store, tmp_path / "all.tar")
    assert report.added == keys[:1]
    assert file.read_bytes() == sound


def test_export_stores_the_files_behind_links(store, tmp_path):
    (key,) = fill(store, 1)
    blob = tmp_path / "blob"
    store.file(key).rename(blob)
    store.file(key).symlink_to(blob)
    export_tar(store, tmp_path / "all.tar")
    assert import_tar(Store(tmp_path / "other"), tmp_path / "all.tar").added == [key]


def test_a_full_disk_is_reported_as_the_stores_error(store, tmp_path):
    mem = make_vector(k=4, d=5000, checks=(make_check(),))
    store.put(mem)
    export_tar(store, tmp_path / "all.tar")
    other = Store(tmp_path / "other")
    other.check_writable()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(StoreError, match=rf"The store {other.path} cannot be written"):
            import_tar(other, tmp_path / "all.tar")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not [p for p in other.path.rglob("*") if p.is_file()]


@pytest.mark.parametrize("size", [-1024, 2**62, 2**70])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_tar_headers_with_absurd_sizes_are_refused(tmp_path, kind, size):
    info = tarfile.TarInfo(f"objects/00/{'0' * 64}.safetensors")
    info.type = kind
    raw = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    raw[124:136] = (b"\xff" if size < 0 else b"\x80") + (size % 256**11).to_bytes(11, "big")
    raw[148:156] = b" " * 8
    raw[148:156] = f"{sum(raw):06o}\0 ".encode()
    (tmp_path / "absurd.tar").write_bytes(bytes(raw) + bytes(2048))
    other = Store(tmp_path / "other")
    try:
        assert import_tar(other, tmp_path / "absurd.tar").refused
    except StoreError as error:
        assert "absurd.tar" in str(error)  # noqa: PT017 (both outcomes are correct)
    assert list(other.keys()) == []


@pytest.mark.parametrize("compression", ["gz", "xz", "bz2"])
def test_compressed_tars_are_read_and_damaged_ones_refused(store, tmp_path, compression):
    keys = fill(store)
    with tarfile.open(tmp_path / "all.tar", f"w:{compression}") as tar:
        tar.add(store.path / "objects", "objects")
    assert sorted(import_tar(Store(tmp_path / "one"), tmp_path / "all.tar").added) == sorted(keys)
    raw = bytearray((tmp_path / "all.tar").read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    (tmp_path / "all.tar").write_bytes(raw)
    other = Store(tmp_path / "two")
    try:
        assert import_tar(other, tmp_path / "all.tar").refused
    except StoreError as error:
        assert "all.tar" in str(error)  # noqa: PT017 (both outcomes are correct)
    assert other.verify() == {}


def test_foreign_and_truncated_tars_are_refused(store, tmp_path):
    fill(store)
    export_tar(store, tmp_path / "all.tar")
    (tmp_path / "text.tar").write_text("not a tar")
    (tmp_path / "cut.tar").write_bytes((tmp_path / "all.tar").read_bytes()[:7000])
    other = Store(tmp_path / "other")
    for name in ("text.tar", "cut.tar"):
        with pytest.raises(StoreError, match="not a complete tar"):
            import_tar(other, tmp_path / name)
    with pytest.raises(StoreError, match="cannot be read"):
        import_tar(other, tmp_path / "absent.tar")
    assert other.verify() == {}
    assert not list(other.path.rglob("*.tmp"))


def test_a_derived_vector_is_not_imported_under_its_old_key(store, tmp_path):
    (key,) = fill(store, 1)
    store.get(key).perturb(0.1).save(tmp_path / "moved.safetensors")
    with tarfile.open(tmp_path / "moved.tar", "w") as tar:
        tar.add(tmp_path / "moved.safetensors", f"objects/{key[:2]}/{key}.safetensors")
    report = import_tar(Store(tmp_path / "other"), tmp_path / "moved.tar")
    assert "not what its key names" in next(iter(report.refused.values()))


def test_export_and_import_on_the_command_line(store, tmp_path):
    keys = fill(store)
    run = lambda *a: CliRunner().invoke(app, ["store", *map(str, a)])  # noqa: E731
    here = ["--store", store.path]
    assert "5 results" in run("index", *here).stdout
    assert "1 results" in run("export", tmp_path / "a.tar", keys[0][:10], *here).stdout
    there = ["--store", tmp_path / "other"]
    assert "1 results added" in run("import", tmp_path / "a.tar", *there).stdout
    assert "0 files removed" in run("gc", *here).stdout
    _, file, _, _ = hostile(tmp_path, store)
    result = run("import", file, *there)
    assert result.exit_code == 1
    assert "refused: ../escaped" in result.stderr
