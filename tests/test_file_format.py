"""Bad files in a store, one by one and at random: each is refused by name and reason, and hides no other."""

import json
import math
import os
import pickle
import struct
import warnings

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memlab.recipes import Recipe
from memlab.results import file_format
from memlab.results.file_format import METADATA_SCHEMA
from memlab.results.mem_vector import DamagedError, MemVector, VectorError
from memlab.results.store import Store, StoreError
from tests.helpers import MEM, SOUND, TENSORS, forged_file, make_vector, meta_of


def header(entries, size=0):
    told = json.dumps(entries).encode()
    return struct.pack("<Q", len(told)) + told + bytes(size)


def nested(depth):
    return {"deep": nested(depth - 1)} if depth else {}


class Evil:
    """Pickled, it would leave a file where it was unpickled."""

    def __init__(self, where):
        self.where = where

    def __reduce__(self):
        return os.system, (f"touch {self.where}",)


def bfloat16():
    meta = {"__metadata__": {"memlab": json.dumps(meta_of(SOUND))}}
    return header(meta | {"mem": {"dtype": "BF16", "shape": [1, 2], "data_offsets": [0, 4]}}, 4)


BAD = {
    "empty": (b"", "it is empty"),
    "cut short": (SOUND[:-1], "damaged"),
    "cut in its header": (SOUND[:100], "damaged"),
    "a flipped bit": (SOUND[:-2] + bytes([SOUND[-2] ^ 4]) + SOUND[-1:], "do not match the hash"),
    "text": (b"Meet me under the second arch at nine.", "no safetensors file"),
    "noise": (np.random.default_rng(0).bytes(5000), "no safetensors file"),
    "a header of 4 EiB": (struct.pack("<Q", 2**62) + SOUND[8:], "no safetensors file"),
    "a header of 90 MB that is not there": (struct.pack("<Q", 90_000_000) + SOUND[8:], "no safetensors file"),
    "a tensor of 8 EiB": (
        header({"mem": {"dtype": "F32", "shape": [2**61], "data_offsets": [0, 2**63]}}), "no safetensors file"
    ),
    "a shape that overflows": (
        header({"mem": {"dtype": "F32", "shape": [2**33, 2**33], "data_offsets": [0, 4]}}, 4), "no safetensors file"
    ),
    "tensors that overlap": (
        header({n: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for n in "ab"}, 4), "no safetensors file"
    ),
    "a pickle": (pickle.dumps(MEM.mem), "no safetensors file"),
    "somebody else's safetensors": (safetensors.numpy.save({"mem": MEM.mem}), "not memlab's"),
    "metadata that is not JSON": (forged_file(metadata="{'schema': 1}"), "not the JSON object"),
    "metadata nested too deep": (forged_file(metadata='{"schema": 1, "text": ' + "[" * 90_000), "not the JSON object"),
    "a number that JSON has not": (forged_file(loss_bits=math.nan), "not the JSON object"),
    "half a character": (forged_file(model="\ud800"), "not the JSON object"),
    "metadata of a list": (forged_file(metadata="[1]"), "not the JSON object"),
    "a field left out": (forged_file(steps=...), "must contain"),
    "a field of another type": (forged_file(steps="many"), "steps must be integer"),
    "a number that no table holds": (forged_file(steps=10**30), "steps must be smaller"),
    "a check that is none": (forged_file(checks=[{"exact": True}]), "checks"),
    "a check of more": (forged_file(checks=[{**meta_of(SOUND)["checks"][0], "passed": True}]), "checks"),
    "exact by its own word": (forged_file(checks=[]), "claims exact True"),
    "another length than it says": (forged_file(tokens=99), "claims tokens 99"),
    "a key that is not its own": (forged_file(key="0" * 64), "claims key 000000000000"),
    "a check of no tokens": (
        forged_file(checks=[{**meta_of(SOUND)["checks"][0], "tokens": 0}]),
        "tokens must be bigger",
    ),
    "more tokens than there are": (
        forged_file(redaction={"token_sha256": "", "tokens": 2**50, "key": MEM.key}),
        "smaller",
    ),
    "nested just so that Python can": (forged_file(provenance=nested(900)), "nested more than"),
    "a trace of words": (forged_file(trace={"loss": ["low"]}), "trace"),
    "no vector": (forged_file({n: t for n, t in TENSORS.items() if n != "mem"}), "holds no 'mem'"),
    "a vector more": (forged_file(TENSORS | {"more": MEM.mem}), "holds a tensor 'more'"),
    "in float64": (forged_file(TENSORS | {"mem": MEM.mem.astype(np.float64)}), "'mem' of F64"),
    "in a dtype that numpy has not": (bfloat16(), "'mem' of BF16"),
    "of three dimensions": (forged_file(TENSORS | {"mem": MEM.mem[None]}), r"expected \(k, d\)"),
    "of no numbers": (forged_file(TENSORS | {"mem": MEM.mem * np.nan}), "not finite"),
}  # fmt: skip


@pytest.fixture
def among(store):
    """A store of one sound result, the path of another's file, and that one's key."""
    good = store.put(make_vector(token_ids=[4, 4]))
    file = store.file(MEM.key)
    file.parent.mkdir(parents=True, exist_ok=True)
    return store, file, good


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_named_with_its_reason_and_gives_way(among, kind):
    store, file, good = among
    data, reason = BAD[kind]
    file.write_bytes(data)
    with pytest.raises(DamagedError, match=reason) as caught:
        store.get(MEM.key)
    assert str(file) in str(caught.value)
    wrong = store.verify()
    assert list(wrong) == [MEM.key]
    assert isinstance(wrong[MEM.key], DamagedError)
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        assert good in set(store.table().key)
    with pytest.warns(UserWarning, match="trained again"):
        store.put(MEM)  # as after a training
    assert store.get(MEM.key).to_bytes() == SOUND
    (moved,) = (store.path / "quarantine").iterdir()
    assert moved.read_bytes() == data


def test_no_code_in_a_file_is_run(among, tmp_path):
    store, file, _ = among
    file.write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    assert isinstance(store.verify()[MEM.key], DamagedError)
    with pytest.warns(UserWarning, match="1 files left out"):
        store.table()
    assert not (tmp_path / "ran").exists()
    pickle.loads(file.read_bytes())  # it would have
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["folder", "pipe", "link to nothing", "link to itself", "device"])
def test_what_is_no_file_is_named_and_not_waited_for(among, kind):
    store, file, good = among
    make_it = {
        "folder": file.mkdir,
        "pipe": lambda: os.mkfifo(file),
        "link to nothing": lambda: file.symlink_to("nowhere"),
        "link to itself": lambda: file.symlink_to(file.name),
        "device": lambda: file.symlink_to("/dev/zero"),
    }
    make_it[kind]()
    assert list(store.verify()) == [MEM.key]
    with pytest.raises((VectorError, KeyError)):
        store.get(MEM.key)
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        assert set(store.table().key) == {good}
    if "link to" in kind:  # no result is there, so one can be put there
        store.put(MEM)
        assert store.verify() == {}


def test_files_that_are_named_otherwise_are_told_and_left_alone(among):
    store, file, good = among
    for name in ("notes.txt", "result.safetensors", "A" * 64 + ".safetensors"):
        file.with_name(name).write_bytes(SOUND)
    misplaced = store.path / "objects" / "zz" / file.name
    misplaced.parent.mkdir()
    misplaced.write_bytes(SOUND)
    assert set(store.keys()) == {good} == set(store.table().key)
    wrong = store.verify()
    assert len(wrong) == 4
    assert all("its name is no key" in str(error) for error in wrong.values())


def test_a_key_that_was_another_programs_first_is_no_error(among, monkeypatch):
    """Two programs find the same damage: the second one to move it away finds it gone."""
    store, file, _ = among
    file.write_bytes(b"rubbish")
    usual = Store.quarantine
    monkeypatch.setattr(Store, "quarantine", lambda self, key: (file.unlink(missing_ok=True), usual(self, key))[1])
    assert store.fetch(MEM.key) is None


def test_damage_that_cannot_be_moved_away_is_named_all_the_same(among, monkeypatch):
    store, file, _ = among
    file.write_bytes(b"rubbish")
    monkeypatch.setattr(
        "memlab.results.store.os.replace", lambda *_: (_ for _ in ()).throw(OSError(30, "Read-only file system"))
    )
    with pytest.raises(StoreError, match=rf"{file.name} is damaged.*Read-only file system"):
        store.fetch(MEM.key)


def test_a_migration_that_fails_is_damage_not_silence(among, monkeypatch):
    store, file, _ = among
    file.write_bytes(SOUND)
    monkeypatch.setattr(file_format, "SCHEMA", 2)
    monkeypatch.setattr(file_format, "MIGRATIONS", {1: lambda meta: meta | {"more": meta["less"]}})
    assert "not what schema 1 wrote" in str(store.verify()[MEM.key])
    with pytest.warns(UserWarning, match="KeyError"):
        assert store.fetch(MEM.key) is None


def test_records_of_failures_that_cannot_be_read_hide_no_other(store):
    store.record_failure("1" * 64, "out of luck")
    (store.path / "failures" / f"{'2' * 64}.json").write_text("")
    found = store.failures()
    assert found["1" * 64] == "out of luck"
    assert "cannot be read" in found["2" * 64]


def test_a_newer_format_is_no_damage(among):
    store, file, _ = among
    file.write_bytes(forged_file(schema=2))
    for ask in (store.get, store.fetch):
        with pytest.raises(VectorError, match=r"schema 2; this memlab reads 1: install a newer memlab") as caught:
            ask(MEM.key)
        assert not isinstance(caught.value, DamagedError)
    assert not isinstance(store.verify()[MEM.key], DamagedError)
    file.write_bytes(forged_file(recipe={"k": 2, "rule": "of tomorrow"}))
    with pytest.raises(VectorError, match="does not know") as caught:
        store.fetch(MEM.key)
    assert not isinstance(caught.value, DamagedError)


def test_an_older_format_is_read_through_its_migrations_and_keeps_its_key(among, monkeypatch):
    """Two versions on, "text" is called "span", and steps are counted from one."""
    store, file, _ = among
    file.write_bytes(SOUND)

    def rename(meta):
        return {("span" if name == "text" else name): value for name, value in meta.items()}

    def count(meta):
        return meta | {"steps": meta["steps"] + 1}

    monkeypatch.setattr(file_format, "SCHEMA", 3)
    with pytest.raises(VectorError, match="schema 1"):
        store.get(MEM.key)
    monkeypatch.setattr(file_format, "MIGRATIONS", {1: rename, 2: count})
    told = file_format.METADATA_SCHEMA | {
        "properties": {("span" if n == "text" else n): v for n, v in METADATA_SCHEMA["properties"].items()},
        "required": [("span" if n == "text" else n) for n in METADATA_SCHEMA["required"]],
    }
    monkeypatch.setattr(file_format, "_check_form", file_format.fastjsonschema.compile(told))
    meta = file_format.read_metadata(file)
    assert (meta["schema"], meta["steps"], meta["span"]["id"]) == (3, 2, "tale")
    assert meta["key"] == MEM.key
    assert file.read_bytes() == SOUND  # read, not rewritten
    monkeypatch.setattr(file_format, "MIGRATIONS", {1: lambda m: m | {"fingerprint": "new"}, 2: count})
    monkeypatch.setattr(file_format, "_check_form", file_format.fastjsonschema.compile(METADATA_SCHEMA))
    with pytest.raises(DamagedError, match="claims key"):
        store.get(MEM.key)


# At random -----------------------------------------------------------------------------------------------------------

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
_array = st.sampled_from(
    [np.zeros((0, 3), np.float32), np.zeros(4, np.float32), np.ones((2, 6), np.float32), np.arange(3),
     np.ones((2, 6), np.int64), np.array([-1]), np.zeros((1, 1, 1), np.float32), np.array(7)]
)  # fmt: skip


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(st.sampled_from([*METADATA_SCHEMA["properties"], "schema"]), _json, max_size=3),
    st.dictionaries(st.sampled_from([*TENSORS, "more"]), _array, max_size=2),
)
def test_any_forged_file_is_a_vector_or_one_clear_error(tmp_path_factory, changes, tensors):
    file = tmp_path_factory.getbasetemp() / f"forged-{os.getpid()}.safetensors"
    file.write_bytes(forged_file(TENSORS | tensors, **changes))
    try:
        mem = MemVector.load(file)
    except VectorError as error:
        assert str(file) in str(error)  # noqa: PT017 (a few are harmless)
        return
    again = MemVector.load(mem.save(file))
    assert again.to_bytes() == mem.to_bytes()
    assert Recipe.from_json(mem.recipe.to_json()) == mem.recipe


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300), st.integers(0, len(SOUND)), st.integers(0, 300))
def test_any_bytes_are_a_vector_or_one_clear_error(tmp_path_factory, data, at, over):
    """Bytes put into a sound file, over some of it."""
    file = tmp_path_factory.getbasetemp() / f"bytes-{os.getpid()}.safetensors"
    file.write_bytes(SOUND[:at] + data + SOUND[at + over :])
    try:
        mem = MemVector.load(file)
    except VectorError as error:
        assert str(file) in str(error)  # noqa: PT017
    else:
        assert mem.to_bytes() == SOUND
