"""Files written whole or not at all, whatever happens to the program or the disk."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic_file(final: Path, data: bytes) -> Iterator[Path]:
    """A complete file of ``data`` beside ``final``, to be given that name; gone afterwards if it was not."""
    with temporary_sibling(final) as temporary:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary


def atomic_write(final: Path, data: bytes) -> None:
    """Write a file, in place of an older one, whole or not at all. Raises ``OSError``."""
    with atomic_file(final, data) as temporary:
        os.replace(temporary, final)


@contextmanager
def temporary_sibling(final: Path) -> Iterator[Path]:
    """The name of a file beside ``final``, to be written and given its name; gone afterwards if it was not."""
    temporary = final.with_name(f".{final.stem}.{uuid.uuid4().hex}.tmp")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
    finally:
        with suppress(OSError):  # on a full or read-only disk this can fail too; the error that matters is on its way
            temporary.unlink(missing_ok=True)
