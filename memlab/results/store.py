"""A folder of finished results, each a file named by its key: ``objects/ab/<key>.safetensors``.

The first complete file of a key wins and is never written again, so any number of programs may write into one store.
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
from pathlib import Path
from typing import TYPE_CHECKING

from platformdirs import user_cache_path

from memlab.errors import MemlabError
from memlab.results.atomic import atomic_file, atomic_write
from memlab.results.checkpoints import CheckpointStore
from memlab.results.mem_vector import DamagedError, MemVector, VectorError
from memlab.texts import data_folder

if TYPE_CHECKING:
    import pandas as pd

_SUFFIX = ".safetensors"
_KEY = re.compile("[0-9a-f]{64}")


class StoreError(MemlabError, OSError):
    """A store that cannot be read or written. ``unsaved`` holds trained vectors that found no place in it."""

    def __init__(self, message: str, unsaved: list[MemVector] | None = None, *, full: bool = False) -> None:
        super().__init__(message)
        self.unsaved = unsaved or []
        self.full = full
        """Whether it was room that there was not enough of, on the disk or of a quota."""


class Store:
    """Finished mem vectors on disk. ``Store()`` is the user's own: ``MEMLAB_STORE``, else the user's cache folder."""

    def __init__(self, path: str | os.PathLike[str] | None = None, *, indexed: bool = True) -> None:
        self._indexed = indexed
        self.path = Path(path or os.environ.get("MEMLAB_STORE") or user_cache_path("memlab") / "store").expanduser()

    @classmethod
    def bundled(cls) -> Store:
        """The vectors that come with memlab, which its notebooks open with. To be read only."""
        return cls(data_folder() / "store", indexed=False)

    def __repr__(self) -> str:
        return f"<Store {self.path}>"

    def file(self, key: str) -> Path:
        """Where the result of this key is, or would be."""
        return self.path / "objects" / key[:2] / f"{key}{_SUFFIX}"

    def __contains__(self, key: str) -> bool:
        return self.file(key).exists()

    def keys(self) -> Iterator[str]:
        """The keys of all files here, in no order; whether a file is sound shows when it is read."""
        return (p.stem for p in self._files() if _is_key(p))

    def _files(self) -> Iterator[Path]:
        """What lies among the results and is not a writer's half-written file."""
        objects = self.path / "objects"
        for folder in sorted(objects.iterdir()) if objects.is_dir() else ():
            if folder.name[0] != ".":
                yield from (p for p in folder.iterdir() if p.name[0] != ".") if folder.is_dir() else [folder]

    def find(self, prefix: str) -> str:
        """The one key that starts with ``prefix`` (at least 4 characters)."""
        if len(prefix) < 4:
            raise StoreError(f"key {prefix!r} is too short: give at least 4 of its 64 characters")
        found = [k for k in self.keys() if k.startswith(prefix)]
        if len(found) != 1:
            some = f"{len(found)} results start" if found else "no result starts"
            raise StoreError(f"{some} with {prefix!r} in {self.path}; `memlab store ls` lists what is there")
        return found[0]

    def get(self, key: str) -> MemVector:
        """The result of a key, its payload hash verified. Raises ``KeyError`` where there is none."""
        file = self.file(key)
        if not file.exists():
            raise KeyError(f"no result {key} in {self.path}")
        vector = MemVector.load(file)
        if vector.key != key:
            raise DamagedError(f"{file} holds the result {vector.key}, not the one it is named after")
        return vector

    @property
    def unfinished(self) -> CheckpointStore:
        """Where long trainings of this store's keys stand."""
        return CheckpointStore(self.path / "unfinished")

    def check_writable(self) -> None:
        """Raise ``StoreError`` now rather than after an hour of training."""
        probe = self.path / "objects" / f".probe-{uuid.uuid4().hex}"
        try:
            probe.parent.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"memlab")
            probe.unlink()
        except OSError as error:
            raise self.cannot_write(error) from error

    def put(self, vector: MemVector) -> str:
        """Keep a result; returns its key. If the key is there already, the first one stays."""
        if not vector.is_original:
            why = vector.provenance.get("derived") or vector.provenance.get("interrupted")
            raise StoreError(f"{vector!r} is not what its key names ({why}): save it with vector.save(path)")
        key, data = vector.key, vector.to_bytes()
        if key in self:
            self.fetch(key)  # a damaged file gives way
        try:
            with atomic_file(self.file(key), data) as temporary:
                link_if_absent(temporary, self.file(key))
        except OSError as error:
            raise self.cannot_write(error, [vector]) from error
        return key

    def quarantine(self, key: str) -> Path | None:
        """Move a file out of the way, into ``quarantine/``, so that its key can be trained again; None: it is gone."""
        target = self.path / "quarantine" / f"{key}.{uuid.uuid4().hex[:8]}{_SUFFIX}"
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(self.file(key), target)
        except FileNotFoundError:  # another program was faster
            return None
        except OSError as error:
            raise self.cannot_write(error) from error
        return target

    def fetch(self, key: str) -> MemVector | None:
        """The result of a key, or None where it must be trained: absent, or damaged and now in quarantine.

        A file that is sound but cannot be read now (a newer memlab's, say) is an error, not damage.
        """
        if key not in self:
            return None
        try:
            return self.get(key)
        except KeyError:  # gone meanwhile
            return None
        except DamagedError as error:
            self.give_way(key, str(error))
            return None

    def give_way(self, key: str, why: str) -> None:
        """Put a file that is not what it should be into quarantine, with a warning that says so."""
        try:
            moved = self.quarantine(key)
        except StoreError as error:
            raise StoreError(f"{why}. It cannot be moved out of the way: {error}") from None
        if moved:
            warnings.warn(f"{why}. Moved to {moved}; it will be trained again", stacklevel=3)

    def verify(self) -> dict[str, Exception]:
        """Read every file and re-hash its payload. Returns {key: what is wrong}, empty if all is sound.

        A ``DamagedError`` is damage, and may be put into quarantine; other errors are of files that cannot be read
        now. A file whose name is no key stands under its path. For decoding them again, see
        ``memlab.decoding.verify``.
        """
        wrong: dict[str, Exception] = {}
        for path in self._files():
            if not _is_key(path):
                wrong[str(path.relative_to(self.path))] = StoreError(f"{path} is no result: its name is no key")
                continue
            try:
                self.get(path.stem)
            except (VectorError, OSError) as error:
                wrong[path.stem] = error
            except KeyError as error:  # a link that leads nowhere, or gone meanwhile
                if path.is_symlink() or path.exists():
                    wrong[path.stem] = StoreError(f"{path} is a link to nothing" if path.is_symlink() else str(error))
        return wrong

    def table(self) -> pd.DataFrame:
        """One row a result, from the files' metadata (payloads are not read). Damaged files are named in a warning.

        A large store keeps an ``index.parquet`` and reads only what is new; see ``memlab.results.index``.
        """
        from memlab.results import index

        return index.table(self.path, _SUFFIX, write=self._indexed)

    def reindex(self) -> tuple[int, list[str]]:
        """Write ``index.parquet`` anew from the files; how many results it holds, and what is wrong with the others."""
        from memlab.results import index

        try:
            return index.rebuild(self.path, _SUFFIX)
        except OSError as error:
            raise self.cannot_write(error) from error

    def gc(self, *, older: float = 3600, dry: bool = False) -> list[Path]:
        """Remove what killed writers left behind, and failures and states that have a result since; returns the files.

        Temporary files younger than ``older`` seconds may be somebody's still. Results and quarantine stay.
        """
        # Only what memlab itself names so: the folder may hold somebody's other files.
        ours = (
            "objects/[0-9a-f][0-9a-f]/.*.tmp", "objects/.probe-*", "failures/*.tmp", "unfinished/.*.tmp",
            ".index.parquet.*.tmp",
        )  # fmt: skip
        left = [p for pattern in ours for p in self.path.glob(pattern) if p.is_file()]
        now = time.time()
        found = [p for p in left if now - _mtime(p) >= older]
        found += [p for p in (self.path / "failures").glob("*.json") if p.stem in self]
        found += [p for p in (self.path / "unfinished").glob(f"*{_SUFFIX}") if p.stem in self]
        if not dry:
            for file in found:
                _discard(file)
        return sorted(found)

    def record_failure(self, key: str, error: str) -> None:
        """Remember why the run of this key failed; a later success makes it moot."""
        file = self.path / "failures" / f"{key}.json"
        try:
            atomic_write(file, json.dumps({"key": key, "error": error}).encode())
        except OSError as problem:
            raise self.cannot_write(problem) from problem

    def failures(self) -> dict[str, str]:
        """{key: error} of the runs that failed and have no result since."""
        found = {}
        for file in sorted((self.path / "failures").glob("*.json")):
            try:
                said = str(json.loads(file.read_text())["error"])
            except (OSError, ValueError, KeyError, TypeError):
                said = f"not known: {file} cannot be read"
            if file.stem not in self:
                found[file.stem] = said
        return found

    def cannot_write(self, error: OSError, unsaved: list[MemVector] | None = None) -> StoreError:
        """What to raise where writing failed."""
        return StoreError(
            f"the store {self.path} cannot be written: {error.strerror or error}. "
            "Free some space or permissions, or choose another folder (--store, MEMLAB_STORE)",
            unsaved,
            full=error.errno in (errno.ENOSPC, errno.EDQUOT),
        )


def link_if_absent(temporary: Path, final: Path) -> None:
    """Give a complete file its name, unless somebody else's has it already."""
    try:
        os.link(temporary, final)
    except FileExistsError:
        if not final.exists():  # a link that leads nowhere
            os.replace(temporary, final)
        # else somebody finished first, with the same inputs
    except OSError:
        # A file system without hard links: rename is still atomic, and the check before it almost always enough.
        if not final.exists():
            os.replace(temporary, final)


def _is_key(path: Path) -> bool:
    return path.suffix == _SUFFIX and bool(_KEY.fullmatch(path.stem)) and path.parent.name == path.stem[:2]


def _discard(temporary: Path) -> None:
    # On a full or read-only disk this can fail too; the error that matters is already on its way.
    try:
        temporary.unlink(missing_ok=True)
    except OSError:
        pass


def _mtime(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # gone meanwhile: its writer has finished
        return time.time()
