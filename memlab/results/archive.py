"""Exports results of a store to one tar file, and imports them. Each imported result is verified first."""

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
"""Largest size of one result in bytes: enough for a thousand vectors of the widest models."""
_MEMBER = re.compile(r"objects/([0-9a-f]{2})/(\1[0-9a-f]{62})\.safetensors")


@dataclass
class ImportReport:
    """What happened to the members of a tar."""

    added: list[str] = field(default_factory=list)
    """Keys that the store did not have."""
    present: list[str] = field(default_factory=list)
    """Keys that the store had already."""
    refused: dict[str, str] = field(default_factory=dict)
    """{member: reason}."""


def export_tar(store: Store, file: Path, keys: Iterable[str] | None = None) -> int:
    """Write results (default: all) to a tar, and return their number. Never leaves an incomplete tar."""
    wanted = sorted(keys if keys is not None else store.keys())
    missing = [key for key in wanted if key not in store]
    if missing:
        others = f" and {len(missing) - 1} others" * (len(missing) > 1)
        raise StoreError(f"{store.path} has no result {missing[0]}{others}. `memlab store ls` lists the results.")
    try:
        with temporary_sibling(file) as temporary:
            # dereference=True stores the files behind links: the cache of the Hugging Face hub consists of links.
            with tarfile.open(temporary, "w", dereference=True) as tar:
                for key in wanted:
                    tar.add(store.file(key), f"objects/{key[:2]}/{key}.safetensors", recursive=False)
            os.replace(temporary, file)
    except OSError as error:
        raise StoreError(
            f"{file} cannot be written: {error.strerror or error}. Free some space, or choose another path."
        ) from error
    return len(wanted)


def import_tar(store: Store, file: Path) -> ImportReport:
    """Import the results of a tar. Each result is loaded, its hash verified, and its key compared with its name.

    Nothing else is unpacked. A member that is damaged, not a result or under a wrong name is refused with a reason.
    The other members are imported.
    """
    report = ImportReport()
    store.check_writable()
    try:
        with tarfile.open(file, "r:*") as tar:
            for member in tar:
                if member.size < 0:  # Python would loop for ever
                    raise tarfile.ReadError("a member of negative size")
                match = _MEMBER.fullmatch(member.name)
                if member.isdir():
                    continue
                if not match or not member.isreg():
                    report.refused[member.name] = "expected a file objects/ab/<key>.safetensors"
                elif member.size > LARGEST:
                    report.refused[member.name] = f"it has {member.size} bytes; a result has at most {LARGEST}"
                else:
                    _import_member(store, tar, member, match.group(2), report)
    except StoreError:  # the store failed, not the tar
        raise
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, MemoryError, OverflowError, ValueError) as error:
        why = str(error).partition("\n")[0].rstrip(":")  # tarfile lists each compression that it tried in a line
        raise StoreError(
            f"{file} is not a complete tar file: {why}. {len(report.added)} results were imported. "
            "Get the file again and repeat the import: results that the store has are skipped."
        ) from error
    except OSError as error:
        raise StoreError(f"{file} cannot be read: {error.strerror or error}. Check the path.") from error
    return report


def _import_member(store: Store, tar: tarfile.TarFile, member: tarfile.TarInfo, key: str, report: ImportReport) -> None:
    try:
        present = store.fetch(key) is not None  # moves a damaged result away, so that a backup can replace it
    except VectorError:  # not damaged, but this memlab cannot read it
        present = True
    if present:
        report.present.append(key)
        return
    source: Any = tar.extractfile(member)
    final = store.file(key)
    temporary = final.with_name(f".{key}.{uuid.uuid4().hex}.tmp")
    try:
        _write(store, source, temporary)
        vector = MemVector.load(temporary)
        if vector.key != key:
            report.refused[member.name] = f"it holds the result {vector.key}"
            return
        if not vector.is_original:
            report.refused[member.name] = "it was changed or interrupted, so it is not what its key names"
            return
        link_if_absent(temporary, final)
        report.added.append(key)
    except VectorError as error:
        report.refused[member.name] = str(error).replace(str(temporary), member.name)
    finally:
        temporary.unlink(missing_ok=True)


def _write(store: Store, source: Any, temporary: Path) -> None:
    """Copy a member to a file. Only a write error becomes a ``StoreError``: a read error is an error of the tar."""
    with store.writing():
        temporary.parent.mkdir(parents=True, exist_ok=True)
        target = temporary.open("wb")
    with target:
        while data := source.read(1 << 20):
            with store.writing():
                target.write(data)
        with store.writing():
            target.flush()
            os.fsync(target.fileno())
