"""The table of a store in one Parquet file, so that a hundred thousand results list in a second.

The files are the truth: the index is rebuilt from them where it is absent, damaged or of another version, and brought
up to date for what came, went or changed since. Anybody may write it, at any time: it is replaced whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from pathlib import Path
from typing import Any

import pandas as pd

from memlab.recipes import Recipe, RecipeError
from memlab.results.atomic import temporary_sibling
from memlab.results.checks import Check, portability
from memlab.results.mem_vector import read_metadata

NAME = "index.parquet"
VERSION = 3
WORTHWHILE = 200
"""Files that must be read anew before the index is written: a small store lists as fast without."""
COLUMNS = (
    "key", "model", "text_id", "start", "tokens", "k", "recipe", "seed", "exact", "portable", "margin",
    "teacher_forced", "first_given", "loss_bits", "steps", "seconds",
)  # fmt: skip
_FILE = ("file_size", "file_time")


def table(root: Path, suffix: str, *, write: bool = True) -> pd.DataFrame:
    """One row a result of the store at ``root``, in order of model, text and length; columns ``COLUMNS``.

    Payloads are not read. Files that cannot be used (damaged, or a newer memlab's) are left out, with a warning that
    names one of them.
    """
    whole, changed, damaged = _whole(root, suffix)
    if write and changed >= WORTHWHILE:
        with contextlib.suppress(OSError):  # read-only or full: it lists all the same, only slower
            _write(whole, root / NAME)
    if damaged:
        warnings.warn(f"{len(damaged)} files left out, `memlab store verify` names all: {damaged[0]}", stacklevel=3)
    # A recipe's name depends on what the named ones are now, so it is no matter for the index.
    names = {said: _name(said) for said in whole.recipe.unique()}
    told = whole[list(COLUMNS)].assign(recipe=whole.recipe.map(names))
    return told.sort_values(["model", "text_id", "tokens"], ignore_index=True)


def rebuild(root: Path, suffix: str) -> tuple[int, list[str]]:
    """Write the index anew from the files: how many results it holds, and what is wrong with the others.

    Raises ``OSError`` where it cannot be written; the old one then stays.
    """
    whole, _, damaged = _whole(root, suffix, anew=True)
    _write(whole, root / NAME)
    return len(whole), damaged


def _name(said: str) -> str:
    try:
        return Recipe.from_json(said).name
    except RecipeError:  # a newer memlab wrote this row
        return "unknown here"


def _whole(root: Path, suffix: str, *, anew: bool = False) -> tuple[pd.DataFrame, int, list[str]]:
    """(index, how many rows changed since it was written, what is damaged)."""
    there = _listing(root, suffix)
    known = _empty() if anew else _read(root / NAME)
    now = pd.MultiIndex.from_tuples(there or [("", 0, 0)])
    kept = known[known.set_index(["key", *_FILE]).index.isin(now)]
    have = set(kept.key)
    rows, damaged = [], []
    for key, size, time in there:
        if key not in have:
            file = root / "objects" / key[:2] / f"{key}{suffix}"
            try:
                meta = read_metadata(file)
                if meta["key"] != key:
                    raise ValueError(f"it holds the result {meta['key']:.64}")
                rows.append(_row(key, meta) | {"file_size": size, "file_time": time})
            except Exception as error:  # files are other people's, and one of them must not hide the others
                damaged.append(str(error) if str(file) in str(error) else f"{file}: {error}")
    found = pd.DataFrame(rows, columns=[*COLUMNS, *_FILE])
    whole = pd.concat([kept, found], ignore_index=True) if rows and len(kept) else found if rows else kept
    return whole, len(rows) + len(known) - len(kept), damaged


def _listing(root: Path, suffix: str) -> list[tuple[str, int, int]]:
    """(key, size, time) of every result's file."""
    found = []
    objects = root / "objects"
    folders = sorted(objects.glob("[0-9a-f][0-9a-f]")) if objects.is_dir() else []
    for folder in folders:
        with contextlib.suppress(NotADirectoryError, FileNotFoundError), os.scandir(folder) as entries:
            for entry in entries:
                key = entry.name.removesuffix(suffix)
                if key != entry.name and len(key) == 64 and key.startswith(folder.name):
                    with contextlib.suppress(FileNotFoundError):  # gone since
                        about = entry.stat(follow_symlinks=False)
                        found.append((key, about.st_size, about.st_mtime_ns))
    return found


def _read(file: Path) -> pd.DataFrame:
    """The index as it was written; without a row where it is absent, damaged or of another version."""
    import pyarrow.parquet as pq

    try:
        opened = pq.read_table(file, page_checksum_verification=True)
        made = opened.to_pandas()
        if (opened.schema.metadata or {}).get(b"memlab_index") == str(VERSION).encode():
            return made[[*COLUMNS, *_FILE]]
    except Exception:  # a damaged one fails in many ways, and the files say it all again
        pass
    return _empty()


def _empty() -> pd.DataFrame:
    return pd.DataFrame(columns=[*COLUMNS, *_FILE])


def _write(whole: pd.DataFrame, file: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    made = pa.Table.from_pandas(whole, preserve_index=False)
    made = made.replace_schema_metadata({**(made.schema.metadata or {}), b"memlab_index": str(VERSION).encode()})
    with temporary_sibling(file) as temporary:
        pq.write_table(made, temporary, write_page_checksum=True)
        os.replace(temporary, file)


def _row(key: str, meta: dict[str, Any]) -> dict[str, Any]:
    checks = [Check(**c) for c in meta["checks"]]
    recipe = Recipe.from_json(json.dumps(meta["recipe"]))
    given = next((c for c in checks if c.first_given), None)
    return {
        "key": key,
        "text_id": meta["text"]["id"],
        "start": meta["text"]["start"],
        "recipe": recipe.canonical(),
        "seed": recipe.seed,
        "exact": any(c.exact for c in checks),
        "portable": portability(checks),
        "margin": next((float(c.margin) for c in checks if c.exact), None),
        # The paper's way of decoding, in a column of its own: the share right once the first token is given.
        "first_given": given and given.right / given.tokens,
        **{c: meta[c] for c in ("model", "tokens", "k", "steps")},
        # An integer that is a number in JSON may be larger than a table's integers.
        **{c: None if meta[c] is None else float(meta[c]) for c in ("teacher_forced", "loss_bits", "seconds")},
    }
