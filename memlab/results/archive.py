"""A store as one tar file, out and in. What comes in is read and re-hashed before it is let in."""

from __future__ import annotations

import lzma
import os
import re
import tarfile
import uuid
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memlab.results.atomic import temporary_sibling
from memlab.results.mem_vector import MemVector, VectorError
from memlab.results.store import Store, StoreError, link_if_absent

LARGEST = 1 << 30
"""Bytes that one result may have: a thousand vectors of a model as wide as there are."""
_MEMBER = re.compile(r"objects/([0-9a-f]{2})/(\1[0-9a-f]{62})\.safetensors")


@dataclass
class ImportReport:
    """What became of a tar's members."""

    added: list[str] = field(default_factory=list)
    """Keys that were new here."""
    present: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    """{member: why}."""


def export_tar(store: Store, file: Path, keys: Iterable[str] | None = None) -> int:
    """Write results (default: all) to a tar, which appears under its name only when it is complete; how many."""
    wanted = sorted(keys if keys is not None else store.keys())
    missing = [key for key in wanted if key not in store]
    if missing:
        others = f" and {len(missing) - 1} others" * (len(missing) > 1)
        raise StoreError(f"{store.path} has no result {missing[0]}{others}")
    try:
        with temporary_sibling(file) as temporary:
            # Links are followed: the hub's cache is made of them, and what they lead to would not travel.
            with tarfile.open(temporary, "w", dereference=True) as tar:
                for key in wanted:
                    tar.add(store.file(key), f"objects/{key[:2]}/{key}.safetensors", recursive=False)
            os.replace(temporary, file)
    except OSError as error:
        raise StoreError(f"{file} cannot be written: {error.strerror or error}") from error
    return len(wanted)


def import_tar(store: Store, file: Path) -> ImportReport:
    """Take in the results of a tar. Each is loaded, re-hashed and matched with its name first.

    Nothing else is unpacked. A member that is damaged, foreign or oddly named is refused, with its reason; the others
    come in.
    """
    made = ImportReport()
    store.check_writable()
    try:
        with tarfile.open(file, "r:*") as tar:
            for member in tar:
                if member.size < 0:  # Python would go round in circles
                    raise tarfile.ReadError("a member of negative size")
                found = _MEMBER.fullmatch(member.name)
                if member.isdir():
                    continue
                if not found or not member.isreg():
                    made.refused[member.name] = "expected a file objects/ab/<key>.safetensors"
                elif member.size > LARGEST:
                    made.refused[member.name] = f"{member.size} bytes; a result has at most {LARGEST}"
                else:
                    _take(store, tar, member, found.group(2), made)
    except StoreError:  # the store's fault, not the tar's
        raise
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, MemoryError, OverflowError, ValueError) as error:
        raise StoreError(
            f"{file} is no complete tar file: {error}; {len(made.added)} results were taken in. "
            "Fetch it again: what was taken in stays, and is not taken twice"
        ) from error
    except OSError as error:
        raise StoreError(f"{file} cannot be read: {error.strerror or error}") from error
    return made


def _take(store: Store, tar: tarfile.TarFile, member: tarfile.TarInfo, key: str, made: ImportReport) -> None:
    try:
        there = store.fetch(key) is not None  # a damaged one gives way: a backup should be able to mend it
    except VectorError:  # sound, and not to be read here
        there = True
    if there:
        made.present.append(key)
        return
    source: Any = tar.extractfile(member)
    final = store.file(key)
    temporary = final.with_name(f".{key}.{uuid.uuid4().hex}.tmp")
    try:
        _write(store, source, temporary)
        vector = MemVector.load(temporary)
        if vector.key != key:
            made.refused[member.name] = f"it holds the result {vector.key}"
            return
        if not vector.is_original:
            made.refused[member.name] = "it was changed or interrupted, and is not what its key names"
            return
        link_if_absent(temporary, final)
        made.added.append(key)
    except VectorError as error:
        made.refused[member.name] = str(error).replace(str(temporary), member.name)
    finally:
        temporary.unlink(missing_ok=True)


def _write(store: Store, source: Any, temporary: Path) -> None:
    """Copy a member out; an error in reading it is the tar's, one in writing the store's."""
    try:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        target = temporary.open("wb")
    except OSError as error:
        raise store.cannot_write(error) from error
    with target:
        while data := source.read(1 << 20):
            try:
                target.write(data)
            except OSError as error:
                raise store.cannot_write(error) from error
        try:
            target.flush()
            os.fsync(target.fileno())
        except OSError as error:
            raise store.cannot_write(error) from error
