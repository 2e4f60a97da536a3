"""The file of a vector: safetensors, with one metadata entry ``memlab`` (JSON) that includes a hash of the contents.

Files can come from anybody. Reading a file gives what memlab writes, or one error with the file's name and the reason.
Nothing in a file is ever run.
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
"""Largest nesting depth of metadata."""
SCHEMA = 2
"""Version of the file format. It is not part of a result's key."""
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {
    # All checks were decodes.
    1: lambda metadata: metadata | {"checks": [{**check, "proof": "decode"} for check in metadata["checks"]]},
}
"""{version: function from the metadata of that version to the metadata of the next one}. They run when an older file
is read; the file does not change.

A migration may rename and regroup metadata. It may not change a key, because a key names the inputs of a training: a
file whose key comes out differently is refused.
"""
SUFFIX = ".safetensors"
_TENSORS = {"mem": "F32", "token_ids": "I64", "prefix_ids": "I64", "suffix_ids": "I64"}


class VectorError(MemlabError, ValueError):
    """A vector, or the file of a vector, that cannot be used. The message names the file and the reason.

    >>> from memlab import MemVector
    >>> MemVector.load("absent.safetensors")
    Traceback (most recent call last):
    memlab.results.file_format.VectorError: There is no file absent.safetensors. Check the path.
    """


class DamagedError(VectorError):
    """A file whose contents are not what memlab wrote: it is truncated, altered, or not a vector."""

    hint = "Run `memlab store verify` to move a store's damaged files into quarantine; they can then be trained again."


def tensor_bytes(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """The bytes of a safetensors file.

    Arrays are made C-contiguous first: safetensors 0.8.0 stores a transposed array with its numbers in another order,
    without an error (``findings/safetensors-numpy-scrambles-transposed-arrays.sh``).
    """
    return safetensors.numpy.save({name: np.asarray(a, order="C") for name, a in arrays.items()}, dict(metadata))


def pack(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> bytes:
    """The bytes of a file. ``schema`` and ``payload_sha256`` are added to the metadata here."""
    complete = {"schema": SCHEMA, **metadata}
    complete["payload_sha256"] = payload_hash(tensors, complete)
    # allow_nan=False: NaN is not JSON, and other programs could not read it.
    return tensor_bytes(tensors, {"memlab": json.dumps(complete, sort_keys=True, allow_nan=False)})


def unpack(
    path: str | os.PathLike[str], validate: Callable[[dict[str, Any]], Any]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(tensors, metadata of the current version) of a file. Verifies the hash; ``validate``: see ``read_metadata``."""
    metadata = _read_raw_metadata(path)
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            for name in file.keys():
                dtype = file.get_slice(name).get_dtype()
                if dtype != _TENSORS.get(name):  # checked before reading: numpy does not know all dtypes
                    raise DamagedError(
                        f"{path} is not a vector: it has a tensor {name!r} of type {dtype}. A vector has "
                        f"{', '.join(f'{n} ({t})' for n, t in _TENSORS.items())}."
                    )
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except safetensors.SafetensorError as error:
        raise DamagedError(f"{path} is damaged: {error}") from None
    stored_hash = metadata.pop("payload_sha256", None)
    if payload_hash(tensors, metadata) != stored_hash:
        raise DamagedError(f"{path} is damaged: its contents do not match the hash in its metadata")
    return tensors, _migrate_and_validate(path, metadata, validate)


def read_metadata(path: str | os.PathLike[str], validate: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """The ``memlab`` metadata of a file. Does not read or verify the tensors.

    ``validate`` raises ``JsonSchemaValueException`` if the metadata of the current version is not valid.
    """
    return _migrate_and_validate(path, _read_raw_metadata(path), validate)


def _read_raw_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The metadata as stored, of the current version or of a version that migrations can read."""
    if not Path(path).exists():
        raise VectorError(f"There is no file {path}. Check the path.")
    if not Path(path).is_file():  # reading from a pipe would wait for ever
        raise VectorError(f"{path} cannot be read: it is not a regular file. Give a file that memlab wrote.")
    if Path(path).stat().st_size == 0:
        raise DamagedError(f"{path} is damaged: it is empty")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            entries = file.metadata() or {}
    except safetensors.SafetensorError as error:
        raise DamagedError(f"{path} is damaged or not a safetensors file: {error}") from None
    except OSError as error:
        raise VectorError(f"{path} cannot be read: {error}. Check its permissions.") from None
    if "memlab" not in entries:
        raise DamagedError(f"{path} is a safetensors file, but memlab did not write it: it has no 'memlab' metadata")
    try:
        metadata = json.loads(entries["memlab"])
        if not isinstance(metadata, dict) or "schema" not in metadata:
            raise ValueError("it is not an object with a schema")
        if _deeper_than(metadata, DEEPEST):
            raise ValueError(f"it is nested more than {DEEPEST} levels deep")
        # Python's parser accepts values that are not JSON (NaN, infinity, a lone surrogate) and fails on them later.
        json.dumps(metadata, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise DamagedError(
            f"{path}: its 'memlab' metadata is not the JSON object that memlab writes: {error}"
        ) from None
    version = metadata["schema"]
    if not isinstance(version, int) or (version != SCHEMA and version not in MIGRATIONS):
        raise VectorError(f"{path} has schema {version!r}, but this memlab reads {SCHEMA}. Install a newer memlab.")
    return metadata


def _migrate_and_validate(
    path: str | os.PathLike[str], metadata: dict[str, Any], validate: Callable[[dict[str, Any]], Any]
) -> dict[str, Any]:
    while (version := metadata["schema"]) != SCHEMA:
        try:
            metadata = MIGRATIONS[version](dict(metadata)) | {"schema": version + 1}
        except Exception as error:  # the hash can be right, and the contents still not what that version wrote
            raise DamagedError(
                f"{path}: its 'memlab' metadata is not what schema {version} wrote: {type(error).__name__}: {error}"
            ) from None
    try:
        validate(metadata)
    except fastjsonschema.JsonSchemaValueException as error:
        reason = error.message.replace("data.", "").replace("data ", "it ")
        raise DamagedError(f"{path}: its 'memlab' metadata is not what memlab writes: {reason}") from None
    return metadata


def _deeper_than(value: Any, limit: int) -> bool:
    """Whether objects and lists are nested deeper than ``limit``. Not recursive: it protects against deep recursion."""
    level = [value]
    for _ in range(limit):
        level = [inner for v in level for inner in (v.values() if isinstance(v, dict) else v) if _is_nest(inner)]
        if not level:
            return False
    return True


def _is_nest(value: Any) -> bool:
    return isinstance(value, (dict, list))


def payload_hash(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> str:
    """SHA-256 of the metadata and of the tensors' names, dtypes, shapes and values. It is the same on every machine."""
    digest = hashlib.sha256(canonical_json(metadata))
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        digest.update(canonical_json([name, str(array.dtype), list(array.shape)]))
        digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and without spaces: one form per value, so that it can be hashed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def file_of(folder: Path, key: str) -> Path:
    """Path of the result of a key in the folder of a store. The file may not exist."""
    return folder / "objects" / key[:2] / f"{key}{SUFFIX}"
