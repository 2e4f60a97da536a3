"""The table of a store in one Parquet file, so that a hundred thousand results are listed in a second.

The index only repeats what the result files say. It is rebuilt if it is missing, damaged or of another version, and
updated if files were added, removed or changed. Any program may write it at any time: each write replaces all of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from memlab.recipes import Recipe, RecipeError
from memlab.results.atomic import temporary_sibling
from memlab.results.checks import Check, exact_check, portability
from memlab.results.mem_vector import read_metadata

NAME = "index.parquet"
VERSION = 3
"""Version of the index. Raise it if ``_COLUMNS`` changes."""
WORTHWHILE = 200
"""The index is written if it would save reading at least this many files. A smaller store is fast without it."""

_Column = Callable[[dict[str, Any], list[Check], Recipe], Any]


def _plain(name: str) -> _Column:
    return lambda metadata, checks, recipe: metadata[name]


def _real(name: str) -> _Column:
    # In JSON an integer is a number too, and it may be larger than the integers of a table.
    return lambda metadata, checks, recipe: None if metadata[name] is None else float(metadata[name])


def _first_given(metadata: dict[str, Any], checks: list[Check], recipe: Recipe) -> float | None:
    """Share of right tokens of the decode with a given first token, the decode of arXiv 2502.13063."""
    check = next((c for c in checks if c.first_given), None)
    return check.right / check.tokens if check else None


_COLUMNS: dict[str, _Column] = {
    "key": _plain("key"),
    "model": _plain("model"),
    "text_id": lambda metadata, checks, recipe: metadata["text"]["id"],
    "start": lambda metadata, checks, recipe: metadata["text"]["start"],
    "tokens": _plain("tokens"),
    "k": _plain("k"),
    "recipe": lambda metadata, checks, recipe: recipe.canonical(),
    "seed": lambda metadata, checks, recipe: recipe.seed,
    "exact": lambda metadata, checks, recipe: exact_check(checks) is not None,
    "portable": lambda metadata, checks, recipe: portability(checks),
    "margin": lambda metadata, checks, recipe: float(check.margin) if (check := exact_check(checks)) else None,
    "teacher_forced": _real("teacher_forced"),
    "first_given": _first_given,
    "loss_bits": _real("loss_bits"),
    "steps": _plain("steps"),
    "seconds": _real("seconds"),
}
"""{column: function of (metadata, checks, recipe)}."""
COLUMNS = tuple(_COLUMNS)
_FILE = ("file_size", "file_time")


def table(root: Path, suffix: str, *, write: bool = True) -> pd.DataFrame:
    """One row per result of the store at ``root``, sorted by model, text and length; columns ``COLUMNS``.

    Tensors are not read. Files that cannot be used are left out (they are damaged, or from a newer memlab); a warning
    names one of them.
    """
    rows, changed, damaged = _update(root, suffix)
    if write and changed >= WORTHWHILE:
        with contextlib.suppress(OSError):  # on a read-only or full disk the table is only slower
            _write(rows, root / NAME)
    if damaged:
        warnings.warn(
            f"{len(damaged)} files are left out. `memlab store verify` names all. The first: {damaged[0]}", stacklevel=3
        )
    # The name of a recipe depends on today's named recipes, so the index stores the recipe and not its name.
    names = {canonical: _name(canonical) for canonical in rows.recipe.unique()}
    named = rows[list(COLUMNS)].assign(recipe=rows.recipe.map(names))
    return named.sort_values(["model", "text_id", "tokens"], ignore_index=True)


def rebuild(root: Path, suffix: str) -> tuple[int, list[str]]:
    """Write the index again from the files. Returns the number of results, and what is wrong with other files.

    Raises ``OSError`` if the index cannot be written; the old index then stays.
    """
    rows, _, damaged = _update(root, suffix, from_scratch=True)
    _write(rows, root / NAME)
    return len(rows), damaged


def _name(canonical: str) -> str:
    try:
        return Recipe.from_json(canonical).name
    except RecipeError:  # a newer memlab wrote this row
        return "unknown here"


def _update(root: Path, suffix: str, *, from_scratch: bool = False) -> tuple[pd.DataFrame, int, list[str]]:
    """(rows of all files, number of rows that differ from the written index, what is wrong with other files)."""
    files = _listing(root, suffix)
    index = _empty() if from_scratch else _read(root / NAME)
    present = pd.MultiIndex.from_tuples(files or [("", 0, 0)])
    kept = index[index.set_index(["key", *_FILE]).index.isin(present)]
    kept_keys = set(kept.key)
    rows, damaged = [], []
    for key, size, time in files:
        if key not in kept_keys:
            file = root / "objects" / key[:2] / f"{key}{suffix}"
            try:
                metadata = read_metadata(file)
                if metadata["key"] != key:
                    raise ValueError(f"it holds the result {metadata['key']:.64}")
                rows.append(_row(metadata) | {"file_size": size, "file_time": time})
            except Exception as error:  # a file can come from anybody, and must not hide the other files
                damaged.append(str(error) if str(file) in str(error) else f"{file}: {error}")
    new = pd.DataFrame(rows, columns=[*COLUMNS, *_FILE])
    combined = pd.concat([kept, new], ignore_index=True) if rows and len(kept) else new if rows else kept
    return combined, len(rows) + len(index) - len(kept), damaged


def _listing(root: Path, suffix: str) -> list[tuple[str, int, int]]:
    """(key, size, time) of the file of each result."""
    files = []
    objects = root / "objects"
    folders = sorted(objects.glob("[0-9a-f][0-9a-f]")) if objects.is_dir() else []
    for folder in folders:
        with contextlib.suppress(NotADirectoryError, FileNotFoundError), os.scandir(folder) as entries:
            for entry in entries:
                key = entry.name.removesuffix(suffix)
                if key != entry.name and len(key) == 64 and key.startswith(folder.name):
                    with contextlib.suppress(FileNotFoundError):  # another program removed it
                        info = entry.stat(follow_symlinks=False)
                        files.append((key, info.st_size, info.st_mtime_ns))
    return files


def _read(file: Path) -> pd.DataFrame:
    """The written index. It has no rows if the file is missing, damaged or of another version."""
    import pyarrow.parquet as pq

    try:
        opened = pq.read_table(file, page_checksum_verification=True)
        rows = opened.to_pandas()
        if (opened.schema.metadata or {}).get(b"memlab_index") == str(VERSION).encode():
            return rows[[*COLUMNS, *_FILE]]
    except Exception:  # a damaged index fails in many ways; it is rebuilt from the result files
        pass
    return _empty()


def _empty() -> pd.DataFrame:
    return pd.DataFrame(columns=[*COLUMNS, *_FILE])


def _write(rows: pd.DataFrame, file: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrow = pa.Table.from_pandas(rows, preserve_index=False)
    arrow = arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), b"memlab_index": str(VERSION).encode()})
    with temporary_sibling(file) as temporary:
        pq.write_table(arrow, temporary, write_page_checksum=True)
        os.replace(temporary, file)


def _row(metadata: dict[str, Any]) -> dict[str, Any]:
    checks = [Check(**c) for c in metadata["checks"]]
    recipe = Recipe.from_json(json.dumps(metadata["recipe"]))
    return {column: value(metadata, checks, recipe) for column, value in _COLUMNS.items()}
