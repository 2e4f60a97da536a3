"""A folder of finished results. Each result is a file named by its key: ``objects/ab/<key>.safetensors``.

The first complete file of a key stays and is never written again, so many programs can write to one store.
"""

from __future__ import annotations

import errno
import json
import os
import re
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from platformdirs import user_cache_path

from memlab.errors import MemlabError, require_path, require_type
from memlab.results.atomic import atomic_file, atomic_write
from memlab.results.checkpoints import CheckpointStore
from memlab.results.file_format import SUFFIX as _SUFFIX
from memlab.results.file_format import file_of
from memlab.results.mem_vector import DamagedError, MemVector, VectorError
from memlab.texts import data_folder

if TYPE_CHECKING:
    import pandas as pd

_KEY = re.compile("[0-9a-f]{64}")
_NAMES = {"objects", "failures", "quarantine", "unfinished", "index.parquet", "lost+found"}
"""What a store keeps in its folder."""


class StoreError(MemlabError, OSError):
    """A store that cannot be read or written. ``unsaved``: trained vectors that could not be stored.

    >>> import tempfile
    >>> from memlab import Store
    >>> Store(tempfile.mkdtemp()).find("ab")
    Traceback (most recent call last):
    memlab.results.store.NoResultError: Key 'ab' is too short. Give at least 4 of its 64 characters.
    """

    def __init__(self, message: str, unsaved: list[MemVector] | None = None, *, full: bool = False) -> None:
        super().__init__(message)
        self.unsaved = unsaved or []
        self.full = full
        """True if the disk or a quota is full."""


class NotAStoreError(StoreError):
    """A path that is not a store: a file, a folder of other files, or nothing."""

    exit_code = 2


class NoResultError(StoreError, KeyError):
    """A key that the store does not have, or the start of a key that does not name exactly one result."""

    exit_code = 2


class Store:
    """Finished mem vectors on disk. ``Store()`` is in ``MEMLAB_STORE``, or else in the user's cache folder.

    A folder that is empty or does not exist yet is a new store. Raises ``NotAStoreError`` for a file, and for a folder
    of other files without ``objects/``.

    >>> import tempfile
    >>> from memlab import Store
    >>> store, bundled = Store(tempfile.mkdtemp()), Store.bundled()
    >>> key = store.put(bundled.get(next(bundled.keys())))
    >>> key in store, len(store.table()), store.verify()
    (True, 1, {})
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, *, indexed: bool = True) -> None:
        if path is None:
            path = os.environ.get("MEMLAB_STORE") or user_cache_path("memlab") / "store"
        require_path("The store's path", path, "the path of a folder")
        if "\0" in str(path):
            raise NotAStoreError(f"The store's path is {str(path)!r}. Give the path of a folder.")
        self._indexed = indexed
        try:
            self.path = Path(path).expanduser()
        except RuntimeError as error:  # "~nobody"
            raise NotAStoreError(f"The store's path {path} cannot be found: {error} Give another folder.") from None
        self._check_folder()

    def _check_folder(self) -> None:
        """Raise ``NotAStoreError`` for a file or a folder of something else: results must not be strewn into it."""
        try:
            names = [] if (self.path / "objects").is_dir() else os.listdir(self.path)
        except FileNotFoundError:
            return
        except NotADirectoryError:
            raise NotAStoreError(f"{self.path} is not a folder, so it cannot be a store. Give a folder.") from None
        except OSError as error:
            raise StoreError(
                f"The store {self.path} cannot be read: {error.strerror or error}. "
                "Fix the permissions, or choose another folder (--store, MEMLAB_STORE)."
            ) from error
        if others := [name for name in names if name[0] != "." and name not in _NAMES]:
            raise NotAStoreError(
                f"The folder {self.path} is not a store: it has no objects/, but it has {min(others)}. "
                "Give a store, or an empty or new folder."
            )

    @classmethod
    def existing(cls, path: str | os.PathLike[str] | None = None) -> Store:
        """The store at this path, to read. Raises ``NotAStoreError`` if a given path is absent: it may be mistyped."""
        store = cls(path)
        if path is not None and not store.path.is_dir():
            raise NotAStoreError(
                f"There is no store at {path}. Give the folder that holds objects/ (--store, MEMLAB_STORE)."
            )
        return store

    @classmethod
    def bundled(cls) -> Store:
        """The vectors that come with memlab and that the notebooks use. Do not write to it."""
        return cls(data_folder() / "store", indexed=False)

    def __repr__(self) -> str:
        return f"<Store {self.path}>"

    def file(self, key: str) -> Path:
        """Path of the result of a key. The file may not exist."""
        return file_of(self.path, key)

    def __contains__(self, key: str) -> bool:
        return isinstance(key, str) and self.file(key).exists()

    def keys(self) -> Iterator[str]:
        """The keys of all files, in no order. A file can still be damaged: ``get`` verifies it."""
        return (p.stem for p in self._files() if _is_key(p))

    def _files(self) -> Iterator[Path]:
        """All files and folders in ``objects/``, except incomplete files of running writers."""
        objects = self.path / "objects"
        for folder in sorted(objects.iterdir()) if objects.is_dir() else ():
            if folder.name[0] != ".":
                yield from (p for p in folder.iterdir() if p.name[0] != ".") if folder.is_dir() else [folder]

    def find(self, prefix: str) -> str:
        """The one key that starts with ``prefix``, 4 characters or more. Raises ``NoResultError`` if none or many."""
        require_type("prefix", prefix, str, "the first characters of a key")
        if len(prefix) < 4:
            raise NoResultError(f"Key {prefix!r} is too short. Give at least 4 of its 64 characters.")
        keys = [k for k in self.keys() if k.startswith(prefix)]
        if len(keys) != 1:
            count = f"{len(keys)} results start" if keys else "No result starts"
            raise NoResultError(f"{count} with {prefix!r} in {self.path}. `memlab store ls` lists all keys.")
        return keys[0]

    def get(self, key: str) -> MemVector:
        """The result of a key, its hash verified. Raises ``NoResultError``, or ``VectorError`` for a bad file."""
        require_type("key", key, str, "a key: 64 characters, 0 to 9 and a to f")
        if not _KEY.fullmatch(key):
            raise NoResultError(f"{key!r} is not a key of 64 characters. `store.find` completes the start of a key.")
        file = self.file(key)
        if not file.exists():
            raise NoResultError(f"There is no result {key} in {self.path}. `memlab store ls` lists all keys.")
        vector = MemVector.load(file)
        if vector.key != key:
            raise DamagedError(f"{file} holds the result {vector.key}, not the result of its name")
        return vector

    @property
    def unfinished(self) -> CheckpointStore:
        """The checkpoints of trainings that are not finished."""
        return CheckpointStore(self.path / "unfinished")

    def check_writable(self) -> None:
        """Raise ``StoreError`` if the store cannot be written. Call it before a long training."""
        probe = self.path / "objects" / f".probe-{uuid.uuid4().hex}"
        with self.writing():
            probe.parent.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"memlab")
            probe.unlink()

    def put(self, vector: MemVector) -> str:
        """Store a result and return its key. If the store has the key, the first file stays."""
        require_type("vector", vector, MemVector, "a MemVector")
        if not vector.is_original:
            reason = vector.provenance.get("derived") or vector.provenance.get("interrupted")
            raise StoreError(f"{vector!r} is not what its key names ({reason}). Save it with vector.save(path).")
        key, data = vector.key, vector.to_bytes()
        if key in self:
            self.fetch(key)  # moves a damaged file away
        with self.writing([vector]), atomic_file(self.file(key), data) as temporary:
            link_if_absent(temporary, self.file(key))
        return key

    def quarantine(self, key: str) -> Path | None:
        """Move a file to ``quarantine/``, so that its key can be trained again. None: the file is gone."""
        target = self.path / "quarantine" / f"{key}.{uuid.uuid4().hex[:8]}{_SUFFIX}"
        with self.writing():
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.replace(self.file(key), target)
            except FileNotFoundError:  # another program moved it first
                return None
        return target

    def fetch(self, key: str) -> MemVector | None:
        """The result of a key, or None if it must be trained: it is absent, or damaged and now in quarantine.

        An intact file that cannot be read now (from a newer memlab, say) raises ``VectorError`` and stays in place.
        """
        if key not in self:
            return None
        try:
            return self.get(key)
        except NoResultError:  # another program removed it
            return None
        except DamagedError as error:
            self.set_aside(key, str(error))
            return None

    def set_aside(self, key: str, reason: str) -> None:
        """Move a bad file to quarantine, with a warning."""
        try:
            moved = self.quarantine(key)
        except StoreError as error:
            raise StoreError(f"{reason}. It cannot be moved to quarantine: {error}") from None
        if moved:
            warnings.warn(f"{reason}. It was moved to {moved} and will be trained again.", stacklevel=3)

    def verify(self) -> dict[str, Exception]:
        """Read every file and verify its hash. Returns {key: what is wrong}, empty if all files are intact.

        A ``DamagedError`` means that the file can be moved to quarantine. Other errors mean that it cannot be read
        now. A file whose name is not a key appears with its path. ``memlab.decoding.verify`` decodes vectors again.
        """
        wrong: dict[str, Exception] = {}
        for path in self._files():
            if not _is_key(path):
                wrong[str(path.relative_to(self.path))] = StoreError(
                    f"{path} is not a result: its name is not a key. Move it away."
                )
                continue
            try:
                self.get(path.stem)
            except NoResultError as error:  # a broken link, or another program removed it
                if path.is_symlink() or path.exists():
                    wrong[path.stem] = StoreError(f"{path} is a broken link" if path.is_symlink() else str(error))
            except (VectorError, OSError) as error:
                wrong[path.stem] = error
        return wrong

    def table(self) -> pd.DataFrame:
        """One row per result, from the metadata of the files. A warning counts damaged files.

        A large store keeps an ``index.parquet`` and reads only new files; see ``memlab.results.index``.
        """
        from memlab.results import index

        return index.table(self.path, _SUFFIX, write=self._indexed)

    def reindex(self) -> tuple[int, list[str]]:
        """Write ``index.parquet`` again. Returns the number of results, and what is wrong with other files."""
        from memlab.results import index

        with self.writing():
            return index.rebuild(self.path, _SUFFIX)

    def gc(self, *, older: float = 3600, dry: bool = False) -> list[Path]:
        """Remove temporary files of killed writers, and failures and checkpoints of finished keys. Returns the files.

        Temporary files younger than ``older`` seconds stay, because a writer may still use them. Results and quarantine
        stay. ``dry``: remove nothing.
        """
        # Only names that memlab gives: the folder may hold other files.
        patterns = (
            "objects/[0-9a-f][0-9a-f]/.*.tmp", "objects/.probe-*", "failures/*.tmp", "unfinished/.*.tmp",
            ".index.parquet.*.tmp",
        )  # fmt: skip
        temporary = [p for pattern in patterns for p in self.path.glob(pattern) if p.is_file()]
        now = time.time()
        files = [p for p in temporary if now - _mtime(p) >= older]
        files += [p for p in (self.path / "failures").glob("*.json") if p.stem in self]
        files += [p for p in (self.path / "unfinished").glob(f"*{_SUFFIX}") if p.stem in self]
        if not dry:
            for file in files:
                with suppress(OSError):  # on a read-only disk the file stays
                    file.unlink(missing_ok=True)
        return sorted(files)

    def record_failure(self, key: str, error: str) -> None:
        """Record why the run of a key failed. A later result replaces the record."""
        file = self.path / "failures" / f"{key}.json"
        with self.writing():
            atomic_write(file, json.dumps({"key": key, "error": error}).encode())

    def failures(self) -> dict[str, str]:
        """{key: error} of the runs that failed and have no result."""
        errors = {}
        for file in sorted((self.path / "failures").glob("*.json")):
            try:
                error = str(json.loads(file.read_text())["error"])
            except (OSError, ValueError, KeyError, TypeError):
                error = f"not known: {file} cannot be read"
            if file.stem not in self:
                errors[file.stem] = error
        return errors

    @contextmanager
    def writing(self, unsaved: list[MemVector] | None = None) -> Iterator[None]:
        """Raise ``StoreError`` for any ``OSError`` inside this context. ``unsaved`` goes into that error."""
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"The store {self.path} cannot be written: {error.strerror or error}. "
                "Free some space, fix the permissions, or choose another folder (--store, MEMLAB_STORE).",
                unsaved,
                full=error.errno in (errno.ENOSPC, errno.EDQUOT),
            ) from error


def link_if_absent(temporary: Path, final: Path) -> None:
    """Give a complete file its final name, unless another program has written that file."""
    try:
        os.link(temporary, final)
    except FileExistsError:
        if not final.exists():  # a broken link
            os.replace(temporary, final)
        # else another program finished first, with the same inputs
    except OSError:
        # The file system has no hard links. A rename is atomic too, but a file written since the check is replaced.
        if not final.exists():
            os.replace(temporary, final)


def _is_key(path: Path) -> bool:
    return path.suffix == _SUFFIX and bool(_KEY.fullmatch(path.stem)) and path.parent.name == path.stem[:2]


def _mtime(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # its writer has finished
        return time.time()
