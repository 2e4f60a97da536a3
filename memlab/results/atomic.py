"""Writes files completely or not at all, also if the program is killed or the disk is full."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic_file(final: Path, data: bytes) -> Iterator[Path]:
    """A complete temporary file of ``data`` next to ``final``. The caller renames it; otherwise it is deleted."""
    with temporary_sibling(final) as temporary:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary


def atomic_write(final: Path, data: bytes) -> None:
    """Write a file, or replace an older one, completely or not at all. Raises ``OSError``."""
    with atomic_file(final, data) as temporary:
        os.replace(temporary, final)


@contextmanager
def temporary_sibling(final: Path) -> Iterator[Path]:
    """A temporary file name next to ``final``. The caller writes and renames the file; otherwise it is deleted."""
    if not final.name:  # "" and "." are the current folder
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(final))
    temporary = final.with_name(f".{final.stem}.{uuid.uuid4().hex}.tmp")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
    finally:
        with suppress(OSError):  # this fails too on a full or read-only disk; the first error matters more
            temporary.unlink(missing_ok=True)
