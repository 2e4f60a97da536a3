"""Texts in files: plain text, tables, and folders of both. ``TABLES`` is the registry of formats."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import itertools
import json
import lzma
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import zstandard

from memlab.texts.rows import id_column, text_column, texts_of_rows
from memlab.texts.text import Text, TextError, with_unique_ids

PLAIN = (".txt", ".md")
"""Endings of plain texts in a folder. A file that is given by its name may have any other ending, too."""
COMPRESSED: dict[str, Callable[[Path], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": lambda path: io.BufferedReader(zstandard.open(path, "rb")),  # its own reader has no lines
}
"""{ending: function that opens such a file}. It follows another ending, such as ``.csv.gz``."""
DOCUMENTS = (
    ".pdf", ".doc", ".docx", ".odt", ".rtf", ".epub", ".mobi", ".ipynb", ".xls", ".xlsx", ".ods", ".ppt", ".pptx",
    ".zip", ".tar", ".tgz", ".7z", ".rar",
)  # fmt: skip
"""Endings of files whose bytes are not their text."""


def from_path(path: str | os.PathLike[str], *, column: str | None = None, count: int | None = None) -> list[Text]:
    """The first ``count`` texts of a file or folder (None: all of them).

    Tables are .csv, .tsv, .jsonl, .ndjson, .json (a list of objects or of strings) and .parquet files. ``column`` names
    their text column; the default is ``text``, ``content`` or ``body``. The ids come from the ``id`` column, or else
    from the file name and the row. A second text with the same id gets another one. Rows without a text are left out,
    with a warning. Other files are plain text. Any of them may be compressed (.gz, .bz2, .xz, .zst).

    Of a folder, all tables and .txt and .md files are read, sorted by name, except hidden files and folders, what
    editors and systems leave there, files called README, and .json files, which are mostly settings. Raises
    ``TextError`` for what cannot be read.
    """
    if not isinstance(path, (str, os.PathLike)) or not str(path).strip():
        raise TextError(f"The path of the texts is {path!r:.80}. Give the path of a file or folder.")
    path = Path(os.path.expanduser(path))  # Path.expanduser raises for an unknown user
    try:
        if path.is_dir():
            texts: list[Text] = []
            for file in _files_of(path):
                if len(texts) != count:
                    texts += _texts(file, column, None if count is None else count - len(texts))
            return with_unique_ids(texts)
        exists = path.exists()
    except OSError as error:  # a folder without permission, or a text instead of a file name
        raise TextError(f"{str(path)[:80]!r} cannot be read: {error.strerror}. Give a text with --text.") from None
    if not exists:
        raise TextError(f"There is no file or folder {path}. Check the path.")
    return _texts(path, column, count)


def from_bytes(raw: bytes, path: str) -> str:
    """The text in the bytes of ``path``. Refuses bytes that are not a UTF-8 text."""
    try:
        string = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TextError(
            f"{path} is not UTF-8 text (byte {error.start} is 0x{raw[error.start]:02x}). "
            "Convert the file to UTF-8, or give another file."
        ) from None
    if "\0" in string:
        raise TextError(f"{path} has NUL bytes, so it is a binary file. Give a text file.")
    if not string.strip():
        raise TextError(f"{path} is empty. Give a file with some text.")
    return string


def _files_of(folder: Path) -> list[Path]:
    def refuse(error: OSError) -> None:
        raise TextError(f"{error.filename} cannot be read: {error.strerror}. Change its permissions, or move it away.")

    files: list[Path] = []
    for where, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not _is_left_over(name)]
        files += [Path(where, name) for name in names if not _is_left_over(name)]
    read = [*PLAIN, *(ending for ending in TABLES if ending != ".json")]
    files = sorted(
        file for file in files if _ending(file) in read and _stem(file).lower() != "readme" and file.is_file()
    )
    if not files:
        raise TextError(
            f"There is no text in {folder}. Put files there that end in {', '.join(read)}. Hidden files, README files "
            "and .json files are only read if you give their own path."
        )
    return files


def _is_left_over(name: str) -> bool:
    """Whether a file or folder is hidden, or was left by an editor or a system: ``.git``, ``._a.txt``, ``~$a.csv``."""
    return name.startswith((".", "~", "__MACOSX"))


def _texts(path: Path, column: str | None, count: int | None) -> list[Text]:
    ending = _ending(path)
    if ending in DOCUMENTS:
        raise TextError(f"{path} is a {ending} file, and its bytes are not its text. Save the text as .txt or .csv.")
    if reader := TABLES.get(ending):
        rows = _reported(path, ending[1:], lambda: reader(path, column))
        return texts_of_rows(rows, _stem(path), path.name, str(path), column=column, count=count)
    (string,) = _reported(path, "text", lambda: iter([_plain(path)]))
    return [Text(_stem(path), string, path.name)]


def _reported(path: Path, form: str, read: Callable[[], Iterator[Any]]) -> Iterator[Any]:
    """What ``read()`` yields, with a ``TextError`` instead of the errors of a damaged file."""
    try:
        yield from read()
    except TextError:
        raise
    except UnicodeDecodeError as error:
        bad = error.object[error.start]
        raise TextError(f"{path} is not UTF-8 text (it has a byte 0x{bad:02x}). Convert the file to UTF-8.") from None
    except OSError as error:
        raise TextError(f"{path} cannot be read: {error.strerror or error}. Check the file.") from None
    except Exception as error:  # decompressors, csv and pyarrow raise many types
        raise TextError(f"{path} cannot be read as {form}: {error}. Give another file.") from None


def _ending(path: Path) -> str:
    """The ending without that of a compression, in lower case."""
    return (path.with_suffix("") if path.suffix.lower() in COMPRESSED else path).suffix.lower()


def _stem(path: Path) -> str:
    return Path(path.stem).stem if path.suffix.lower() in COMPRESSED else path.stem


def _open(path: Path) -> IO[bytes]:
    opened: IO[bytes] = COMPRESSED.get(path.suffix.lower(), lambda path: path.open("rb"))(path)
    return opened


def _plain(path: Path) -> str:
    with _open(path) as file:
        return from_bytes(file.read(), str(path))


def _csv_rows(path: Path, column: str | None) -> Iterator[tuple[str, dict[str, str]]]:
    # The csv module and not pandas: pandas takes the first value of a row that has one too many for an index.
    limit = csv.field_size_limit(2**31 - 1)  # the default refuses texts of more than 131,072 characters
    try:
        with io.TextIOWrapper(_open(path), encoding="utf-8-sig", newline="") as file:
            first, skipped = file.readline(), 0
            while first.isspace():
                first, skipped = file.readline(), skipped + 1
            if not first:
                return
            delimiter = "\t" if _ending(path) == ".tsv" else _delimiter(first, column)
            # A space after each delimiter is a way to write the file; without it, spaces belong to the text.
            spaced = f"{delimiter} " in first
            reader = csv.reader(
                itertools.chain([first], file), delimiter=delimiter, skipinitialspace=spaced, strict=True
            )
            try:
                header = [name.strip() for name in next(reader)]
                text_column(header, column, str(path))
                began = reader.line_num
                for values in reader:
                    place, began = f"line {skipped + began + 1}", reader.line_num
                    if not values:
                        continue
                    if len(values) < len(header) or any(values[len(header) :]):
                        raise TextError(
                            f"{path}, {place}, has {len(values)} values, but the header names {len(header)} columns. "
                            f"Put a text that has a {delimiter!r} or a line break in double quotes."
                        )
                    yield place, dict(zip(header, values, strict=False))
            except csv.Error as error:
                place = f"line {skipped + reader.line_num}"
                raise TextError(f"{path}, {place}: {error}. Correct the quotes there.") from None
    finally:
        csv.field_size_limit(limit)


def _delimiter(header: str, column: str | None) -> str:
    """The delimiter whose columns include the text column, or else the one that gives the most columns."""
    columns = {mark: [name.strip() for name in next(csv.reader([header], delimiter=mark), [])] for mark in ",;\t|"}

    def names_the_texts(mark: str) -> bool:
        try:
            return bool(text_column(columns[mark], column, ""))
        except TextError:
            return False

    return max(columns, key=lambda mark: (names_the_texts(mark), len(columns[mark])))


def _json_lines(path: Path, column: str | None) -> Iterator[tuple[str, Any]]:
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    row = json.loads(line.decode("utf-8-sig"))
                except (ValueError, RecursionError) as error:
                    raise TextError(f"{path}, line {number} is not JSON: {error}. Correct it.") from None
                yield f"line {number}", row


def _json_list(path: Path, column: str | None) -> Iterator[tuple[str, Any]]:
    try:
        value = json.loads(_plain(path))
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise TextError(f"{path} is not JSON: {error}. Correct it.") from None
        yield from _json_lines(path, column)  # JSON lines often have this ending
        return
    for number, row in enumerate(value if isinstance(value, list) else [value], 1):
        yield f"item {number}", row


def _parquet_rows(path: Path, column: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow.parquet as pq

    with _open(path) as raw:
        file = pq.ParquetFile(raw)
        names = file.schema_arrow.names
        wanted = {text_column(names, column, str(path)), id_column(names)} - {None}
        rows = (row for batch in file.iter_batches(256, columns=list(wanted)) for row in batch.to_pylist())
        for number, row in enumerate(rows, 1):
            yield f"row {number}", row


TABLES: dict[str, Callable[[Path, str | None], Iterator[tuple[str, Any]]]] = {
    ".csv": _csv_rows,
    ".tsv": _csv_rows,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json_list,
    ".parquet": _parquet_rows,
}
"""{ending: function of (path, text column), which yields each row with its place in the file}."""
