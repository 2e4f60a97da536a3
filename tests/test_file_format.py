"""Bad files in a store, chosen and random: each is refused with its name and reason, and does not hide other files."""

import dataclasses
import hashlib
import json
import math
import os
import pickle
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memlab.recipes import Recipe
from memlab.results import file_format, mem_vector, metadata
from memlab.results.checks import Check
from memlab.results.mem_vector import METADATA_SCHEMA, DamagedError, MemVector, VectorError
from memlab.results.store import Store, StoreError
from memlab.texts import TextSpan
from tests.helpers import MEM, SOUND, TENSORS, forged_file, make_vector, meta_of

GOLDEN = Path(__file__).parent / "data" / "schema-1.safetensors"


def header(entries, size=0):
    raw = json.dumps(entries).encode()
    return struct.pack("<Q", len(raw)) + raw + bytes(size)


def nested(depth):
    return {"deep": nested(depth - 1)} if depth else {}


class Evil:
    """If it is unpickled, it creates the file ``where``."""

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
    "text": (b"Meet me under the second arch at nine.", "not a safetensors file"),
    "noise": (np.random.default_rng(0).bytes(5000), "not a safetensors file"),
    "a header of 4 EiB": (struct.pack("<Q", 2**62) + SOUND[8:], "not a safetensors file"),
    "a missing header of 90 MB": (struct.pack("<Q", 90_000_000) + SOUND[8:], "not a safetensors file"),
    "a tensor of 8 EiB": (
        header({"mem": {"dtype": "F32", "shape": [2**61], "data_offsets": [0, 2**63]}}), "not a safetensors file"
    ),
    "a shape that overflows": (
        header({"mem": {"dtype": "F32", "shape": [2**33, 2**33], "data_offsets": [0, 4]}}, 4), "not a safetensors file"
    ),
    "tensors that overlap": (
        header({n: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for n in "ab"}, 4), "not a safetensors file"
    ),
    "a pickle": (pickle.dumps(MEM.mem), "not a safetensors file"),
    "a foreign safetensors file": (safetensors.numpy.save({"mem": MEM.mem}), "memlab did not write it"),
    "metadata that is not JSON": (forged_file(metadata="{'schema': 1}"), "not the JSON object"),
    "too deep for Python": (forged_file(metadata='{"schema": 1, "text": ' + "[" * 90_000), "not the JSON object"),
    "a number that is not JSON": (forged_file(loss_bits=math.nan), "not the JSON object"),
    "half a character": (forged_file(model="\ud800"), "not the JSON object"),
    "metadata that is a list": (forged_file(metadata="[1]"), "not the JSON object"),
    "a missing field": (forged_file(steps=...), "must contain"),
    "a field of another type": (forged_file(steps="many"), "steps must be integer"),
    "a number too large for tables": (forged_file(steps=10**30), "steps must be smaller"),
    "a check with the wrong fields": (forged_file(checks=[{"exact": True}]), "checks"),
    "a check with one more field": (forged_file(checks=[{**meta_of(SOUND)["checks"][0], "passed": True}]), "checks"),
    "a false claim to be exact": (forged_file(checks=[]), "claims exact True"),
    "a false length": (forged_file(tokens=99), "claims tokens 99"),
    "a false key": (forged_file(key="0" * 64), "claims key 000000000000"),
    "a check of no tokens": (
        forged_file(checks=[{**meta_of(SOUND)["checks"][0], "tokens": 0}]),
        "tokens must be bigger",
    ),
    "too many tokens": (
        forged_file(redaction={"token_sha256": "", "tokens": 2**50, "key": MEM.key}),
        "smaller",
    ),
    "too deep for memlab": (forged_file(provenance=nested(900)), "nested more than 32 levels"),
    "a trace of words": (forged_file(trace={"loss": ["low"]}), "trace"),
    "a missing vector": (forged_file({n: t for n, t in TENSORS.items() if n != "mem"}), "has no tensor 'mem'"),
    "one more tensor": (forged_file(TENSORS | {"more": MEM.mem}), "has a tensor 'more'"),
    "a vector in float64": (forged_file(TENSORS | {"mem": MEM.mem.astype(np.float64)}), "'mem' of type F64"),
    "a vector in a dtype unknown to numpy": (bfloat16(), "'mem' of type BF16"),
    "a vector with three dimensions": (forged_file(TENSORS | {"mem": MEM.mem[None]}), r"expected \(k, d\)"),
    "a vector of NaN": (forged_file(TENSORS | {"mem": MEM.mem * np.nan}), "not finite"),
}  # fmt: skip


@pytest.fixture
def among(store):
    """(store with one intact result, path for the file of ``MEM`` in it, key of the intact result)."""
    good = store.put(make_vector(token_ids=[4, 4]))
    file = store.file(MEM.key)
    file.parent.mkdir(parents=True, exist_ok=True)
    return store, file, good


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_named_with_its_reason_and_can_be_replaced(among, kind):
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
    with pytest.warns(UserWarning, match="1 files are left out"):
        store.table()
    assert not (tmp_path / "ran").exists()
    pickle.loads(file.read_bytes())  # the pickle works: without protection it would run
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["folder", "pipe", "broken link", "link to itself", "device"])
def test_a_path_that_is_not_a_file_is_named_and_never_blocks(among, kind):
    store, file, good = among
    make_it = {
        "folder": file.mkdir,
        "pipe": lambda: os.mkfifo(file),
        "broken link": lambda: file.symlink_to("nowhere"),
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
    if "link" in kind:  # the link leads to no file, so a result can replace it
        store.put(MEM)
        assert store.verify() == {}


def test_files_whose_name_is_not_a_key_are_reported_and_stay(among):
    store, file, good = among
    for name in ("notes.txt", "result.safetensors", "A" * 64 + ".safetensors"):
        file.with_name(name).write_bytes(SOUND)
    misplaced = store.path / "objects" / "zz" / file.name
    misplaced.parent.mkdir()
    misplaced.write_bytes(SOUND)
    assert set(store.keys()) == {good} == set(store.table().key)
    wrong = store.verify()
    assert len(wrong) == 4
    assert all("its name is not a key" in str(error) for error in wrong.values())


def test_two_programs_may_quarantine_the_same_file(among, monkeypatch):
    """The file is gone when the second program tries to move it."""
    store, file, _ = among
    file.write_bytes(b"rubbish")
    usual = Store.quarantine
    monkeypatch.setattr(Store, "quarantine", lambda self, key: (file.unlink(missing_ok=True), usual(self, key))[1])
    assert store.fetch(MEM.key) is None


def test_damage_is_named_also_if_the_file_cannot_be_moved(among, monkeypatch):
    store, file, _ = among
    file.write_bytes(b"rubbish")
    monkeypatch.setattr(
        "memlab.results.store.os.replace", lambda *_: (_ for _ in ()).throw(OSError(30, "Read-only file system"))
    )
    with pytest.raises(StoreError, match=rf"{file.name} is damaged.*Read-only file system"):
        store.fetch(MEM.key)


def test_a_migration_that_fails_is_reported_as_damage(among, monkeypatch):
    store, file, _ = among
    file.write_bytes(SOUND)
    monkeypatch.setattr(file_format, "SCHEMA", 3)
    monkeypatch.setattr(file_format, "MIGRATIONS", {2: lambda meta: meta | {"more": meta["less"]}})
    assert "not what schema 2 wrote" in str(store.verify()[MEM.key])
    with pytest.warns(UserWarning, match="KeyError"):
        assert store.fetch(MEM.key) is None


def test_an_unreadable_failure_record_does_not_hide_others(store):
    store.record_failure("1" * 64, "out of luck")
    (store.path / "failures" / f"{'2' * 64}.json").write_text("")
    errors = store.failures()
    assert errors["1" * 64] == "out of luck"
    assert "cannot be read" in errors["2" * 64]


def test_a_newer_format_is_not_damage(among):
    store, file, _ = among
    file.write_bytes(forged_file(schema=3))
    for read in (store.get, store.fetch):
        with pytest.raises(VectorError, match=r"schema 3, but this memlab reads 2\. Install a newer memlab") as caught:
            read(MEM.key)
        assert not isinstance(caught.value, DamagedError)
    assert not isinstance(store.verify()[MEM.key], DamagedError)
    file.write_bytes(forged_file(recipe={"k": 2, "rule": "of tomorrow"}))
    with pytest.raises(VectorError, match="does not know") as caught:
        store.fetch(MEM.key)
    assert not isinstance(caught.value, DamagedError)


def test_an_older_format_is_read_through_its_migrations_and_keeps_its_key(among, monkeypatch):
    """Version 3 renames "text" to "span", and version 4 counts steps from 1."""
    store, file, _ = among
    file.write_bytes(SOUND)

    def rename(meta):
        return {("span" if name == "text" else name): value for name, value in meta.items()}

    def count(meta):
        return meta | {"steps": meta["steps"] + 1}

    monkeypatch.setattr(file_format, "SCHEMA", 4)
    with pytest.raises(VectorError, match="schema 2"):
        store.get(MEM.key)
    monkeypatch.setattr(file_format, "MIGRATIONS", {2: rename, 3: count})
    newer = METADATA_SCHEMA | {
        "properties": {("span" if n == "text" else n): v for n, v in METADATA_SCHEMA["properties"].items()},
        "required": [("span" if n == "text" else n) for n in METADATA_SCHEMA["required"]],
    }
    monkeypatch.setattr(mem_vector, "_validate", mem_vector.fastjsonschema.compile(newer))
    meta = mem_vector.read_metadata(file)
    assert (meta["schema"], meta["steps"], meta["span"]["id"]) == (4, 2, "tale")
    assert meta["key"] == MEM.key
    assert file.read_bytes() == SOUND  # read, not rewritten
    monkeypatch.setattr(file_format, "MIGRATIONS", {2: lambda m: m | {"fingerprint": "new"}, 3: count})
    monkeypatch.setattr(mem_vector, "_validate", mem_vector.fastjsonschema.compile(METADATA_SCHEMA))
    with pytest.raises(DamagedError, match="claims key"):
        store.get(MEM.key)


# The format for ever -------------------------------------------------------------------------------------------------


@pytest.fixture
def golden():
    """The vector of ``GOLDEN``."""
    return MemVector(
        mem=np.arange(-6, 6, dtype=np.float32).reshape(2, 6) / 8,
        token_ids=np.array([5, 1, 9]),
        prefix_ids=np.array([0]),
        suffix_ids=np.array([7, 7]),
        model="toy:llama",
        revision="main",
        fingerprint="f" * 64,
        recipe=Recipe(k=2, seed=3),
        parent="a" * 64,
        checks=(
            Check("float32", "cpu", 1, True, False, 3, 3, None, 1.5),
            Check("bfloat16", "cpu", 8, False, True, 2, 1, 2, -0.25),
        ),
        teacher_forced=1.0,
        loss_bits=0.25,
        text=TextSpan("tale", "somewhere", 3, 17),
        steps=40,
        seconds=1.5,
        trace={"step": [0, 40], "loss": [9.5, 0.25], "accuracy": [0.0, 1.0]},
        provenance={"torch": "2.6", "token_passes": 120},
    )


def test_a_file_of_schema_1_loads_with_its_key_for_ever(golden):
    """The committed file never changes. A later schema reads it through a migration, and its key stays."""
    loaded = MemVector.load(GOLDEN)
    assert loaded.key == golden.key == "51cb69ab53f26d4a7af473b53029bf4b22090e5f395b63630b269eea4eec5c37"
    assert loaded.exact
    assert loaded.mem.tobytes() == golden.mem.tobytes()
    assert loaded.matches(golden.token_ids)


def test_a_file_of_schema_1_is_read_and_its_checks_were_decodes(golden):
    loaded = MemVector.load(GOLDEN)
    assert [check.proof for check in loaded.checks] == ["decode"] * len(golden.checks)
    assert loaded.checks == golden.checks
    assert loaded.key == golden.key


@pytest.mark.skipif(file_format.SCHEMA != 2, reason="a later schema writes other bytes")
def test_schema_2_writes_the_same_bytes_for_ever(golden):
    assert hashlib.sha256(golden.to_bytes()).hexdigest().startswith("89266c2700ae4f34")
    assert hashlib.sha256(golden.redacted().to_bytes()).hexdigest().startswith("27dc86ff3549bffa")
    schema = json.dumps(METADATA_SCHEMA, sort_keys=True).encode()
    assert hashlib.sha256(schema).hexdigest().startswith("06f4ac3731f654a3")


def test_every_metadata_field_is_declared_once_in_the_dataclass(golden):
    """A field of a subclass is written and read without any other list."""

    @dataclasses.dataclass(frozen=True, eq=False)
    class Noted(MemVector):
        note: str | None = None

    written = metadata.write_fields(Noted(**vars(golden), note="by hand"))
    assert written == metadata.write_fields(golden) | {"note": "by hand"}
    assert metadata.read_fields(Noted, written)["note"] == "by hand"
    assert metadata.properties_of(Noted)["note"] == metadata.nullable(metadata.TEXT)


# Random files --------------------------------------------------------------------------------------------------------

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
def test_a_random_forged_file_gives_a_vector_or_one_clear_error(tmp_path_factory, changes, tensors):
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
def test_random_bytes_give_a_vector_or_one_clear_error(tmp_path_factory, data, at, over):
    """Random bytes replace ``over`` bytes of an intact file."""
    file = tmp_path_factory.getbasetemp() / f"bytes-{os.getpid()}.safetensors"
    file.write_bytes(SOUND[:at] + data + SOUND[at + over :])
    try:
        mem = MemVector.load(file)
    except VectorError as error:
        assert str(file) in str(error)  # noqa: PT017
    else:
        assert mem.to_bytes() == SOUND
