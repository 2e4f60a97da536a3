"""The file of a vector: safetensors, with one metadata entry ``memlab``, JSON, and a hash over all of it.

Files are other people's: whatever is in one, reading it ends in what memlab writes or in one error that names the
file and the reason. Nothing in a file is ever run.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import fastjsonschema
import numpy as np
import safetensors
import safetensors.numpy

from memlab.errors import MemlabError

DEEPEST = 32
"""Levels that metadata may be nested."""
SCHEMA = 1
"""Version of the file format. Not part of a result's key."""
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""{version: what makes its metadata that of the next}. Older files are read through them, and stay as they are.

A key names the inputs of a training. A migration may rename and regroup; a key that comes out otherwise is refused.
"""


class VectorError(MemlabError, ValueError):
    """A vector or a file of one that cannot be used; the message names the file and the reason."""


class DamagedError(VectorError):
    """A file whose contents are not what was written: truncated, altered, or no vector at all."""

    hint = "Run `memlab store verify` to move a store's damaged files into quarantine; they can then be trained again"


def pack(tensors: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> bytes:
    """The bytes of a file; ``meta`` without the two fields that are added here, ``schema`` and ``payload_sha256``."""
    whole = {"schema": SCHEMA, **meta}
    whole["payload_sha256"] = payload_hash(tensors, whole)
    # No NaN: the file must be JSON for everybody.
    return safetensors.numpy.save(dict(tensors), {"memlab": json.dumps(whole, sort_keys=True, allow_nan=False)})


def unpack(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(tensors, metadata of this version) of a file, its hash verified."""
    told = _read_raw_metadata(path)
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            for name in file.keys():
                kind = file.get_slice(name).get_dtype()
                if kind != _TENSORS.get(name):  # before it is read: there are dtypes that numpy does not know
                    raise DamagedError(
                        f"{path} holds a tensor {name!r} of {kind}; a vector's are "
                        f"{', '.join(f'{n} ({k})' for n, k in _TENSORS.items())}"
                    )
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except safetensors.SafetensorError as error:
        raise DamagedError(f"{path} is damaged: {error}") from None
    claimed = told.pop("payload_sha256", None)
    if payload_hash(tensors, told) != claimed:
        raise DamagedError(f"{path} is damaged: its contents do not match the hash stored in it")
    return tensors, _migrate_and_validate(path, told)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The ``memlab`` metadata of a vector file, without reading its tensors and without verifying them."""
    return _migrate_and_validate(path, _read_raw_metadata(path))


def _read_raw_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The metadata as it stands in the file, of this version or one that leads to it."""
    if not Path(path).exists():
        raise VectorError(f"no file {path}")
    if not Path(path).is_file():  # reading from a pipe would wait for ever
        raise VectorError(f"{path} cannot be read: it is no regular file")
    if Path(path).stat().st_size == 0:
        raise DamagedError(f"{path} is damaged: it is empty")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            entries = file.metadata() or {}
    except safetensors.SafetensorError as error:
        raise DamagedError(f"{path} is damaged or no safetensors file: {error}") from None
    except OSError as error:
        raise VectorError(f"{path} cannot be read: {error}") from None
    if "memlab" not in entries:
        raise DamagedError(f"{path} is a safetensors file, but not memlab's: it has no 'memlab' metadata")
    try:
        told = json.loads(entries["memlab"])
        if not isinstance(told, dict) or "schema" not in told:
            raise ValueError("it is no object with a schema")
        if _deeper_than(told, DEEPEST):
            raise ValueError(f"it is nested more than {DEEPEST} deep")
        # Python reads what JSON does not have (NaN, infinity, half a character) and chokes on it later.
        json.dumps(told, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path}: its 'memlab' metadata is not the JSON object memlab writes: {error}") from None
    version = told["schema"]
    if not isinstance(version, int) or (version != SCHEMA and version not in MIGRATIONS):
        raise VectorError(f"{path} has schema {version!r}; this memlab reads {SCHEMA}: install a newer memlab")
    return told


def _migrate_and_validate(path: str | os.PathLike[str], told: dict[str, Any]) -> dict[str, Any]:
    """Metadata of this version, of the form that memlab writes."""
    while (version := told["schema"]) != SCHEMA:
        try:
            told = MIGRATIONS[version](dict(told)) | {"schema": version + 1}
        except Exception as error:  # the hash may be right, and the file still not what that version wrote
            raise DamagedError(
                f"{path}: its 'memlab' metadata is not what schema {version} wrote: {type(error).__name__}: {error}"
            ) from None
    try:
        _check_form(told)
    except fastjsonschema.JsonSchemaValueException as error:
        said = error.message.replace("data.", "").replace("data ", "it ")
        raise DamagedError(f"{path}: its 'memlab' metadata is not what memlab writes: {said}") from None
    return told


def _deeper_than(value: Any, limit: int) -> bool:
    """Whether objects and lists are nested deeper than that; without recursion, which is what it guards."""
    level = [value]
    for _ in range(limit):
        level = [inner for v in level for inner in (v.values() if isinstance(v, dict) else v) if _is_nest(inner)]
        if not level:
            return False
    return True


def _is_nest(value: Any) -> bool:
    return isinstance(value, (dict, list))


def payload_hash(tensors: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> str:
    """SHA-256 of metadata and tensors, their names, dtypes and shapes, whatever the machine's byte order."""
    digest = hashlib.sha256(canonical_json(meta))
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        digest.update(canonical_json([name, str(array.dtype), list(array.shape)]))
        digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()


def canonical_json(value: Any) -> bytes:
    """JSON with one way to write a value: what is hashed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


_TENSORS = {"mem": "F32", "token_ids": "I64", "prefix_ids": "I64", "suffix_ids": "I64"}
_TEXT: dict[str, Any] = {"type": "string"}
_MAYBE_TEXT: dict[str, Any] = {"type": ["string", "null"]}
_COUNT: dict[str, Any] = {"type": "integer", "minimum": 0, "maximum": 2**53}
_TOKENS: dict[str, Any] = {"type": "integer", "minimum": 1, "maximum": 2**24}
_NUMBER: dict[str, Any] = {"type": "number", "minimum": -1e300, "maximum": 1e300}
_MAYBE_NUMBER: dict[str, Any] = {**_NUMBER, "type": ["number", "null"]}


def _object(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": sorted(properties), **more}


METADATA_SCHEMA = _object(
    {
        "key": _TEXT,
        "model": _TEXT,
        "revision": _MAYBE_TEXT,
        "fingerprint": _TEXT,
        "parent": _MAYBE_TEXT,
        "recipe": {"type": "object"},  # Recipe knows its own fields
        "checks": {
            "type": "array",
            "items": _object(
                {
                    "dtype": _TEXT,
                    "device": _TEXT,
                    "batch": _COUNT,
                    "cache": {"type": "boolean"},
                    "first_given": {"type": "boolean"},
                    "tokens": _TOKENS,
                    "right": _COUNT,
                    "first_wrong": {**_COUNT, "type": ["integer", "null"]},
                    "margin": _NUMBER,
                },
                additionalProperties=False,
            ),
        },
        "exact": {"type": "boolean"},
        "teacher_forced": _MAYBE_NUMBER,
        "loss_bits": _MAYBE_NUMBER,
        "text": _object({"id": _TEXT, "source": _TEXT, "start": _COUNT, "end": _COUNT}, additionalProperties=False),
        "tokens": _TOKENS,
        "k": _COUNT,
        "d": _COUNT,
        "steps": _COUNT,
        "seconds": _NUMBER,
        "trace": {"type": "object", "additionalProperties": {"type": "array", "items": _NUMBER}},
        "provenance": {"type": "object"},
        "redaction": _object({"token_sha256": _TEXT, "tokens": _TOKENS, "key": _TEXT})
        | {"type": ["object", "null"], "additionalProperties": False},
    }
)
"""The metadata of this version, as a JSON schema."""
_check_form = fastjsonschema.compile(METADATA_SCHEMA, use_default=False)
