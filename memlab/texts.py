"""Texts and where they come from. No token ids here: a model cuts a text into a passage (``lm.passage``)."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from memlab.errors import MemlabError

PLAIN = (".txt", ".md")
TABLES = (".csv", ".jsonl", ".parquet")
_COLUMNS = ("text", "content", "body")


class TextError(MemlabError, ValueError):
    """A text that cannot be read or used; the message names the file and the way out."""

    exit_code = 2


@dataclass(frozen=True)
class Text:
    """A string with a name. ``source`` says where it came from, so that a stored result can be traced back."""

    id: str
    string: str
    source: str = ""

    def __post_init__(self) -> None:
        if not self.string.strip():
            raise TextError(f"text {self.id!r} is empty: there is nothing to cram; give it some characters")

    @property
    def kind(self) -> str:
        """What kind of text: ``fiction-salt-ferry`` and ``long-fiction-the-accounts`` are both ``fiction``."""
        return self.id.removeprefix("long-").split("-")[0]


@dataclass(frozen=True)
class TextSpan:
    """Which part of which text was crammed: characters ``start`` to ``end`` of the text ``id``."""

    id: str = ""
    source: str = ""
    start: int = 0
    end: int = 0


def data_folder() -> Path:
    """``data/`` of the checkout, or the copy that an installed wheel carries."""
    for folder in (Path(__file__).parent / "data", Path(__file__).parents[1] / "data"):
        if (folder / "texts").is_dir():
            return folder
    raise TextError("memlab's bundled texts are missing from this installation; reinstall memlab")


@cache
def originals() -> tuple[Text, ...]:
    """The bundled pieces, written for memlab: no model was trained on them. In order of their ids."""
    return tuple(
        Text(p.stem, p.read_text(encoding="utf-8").strip(), "memlab originals")
        for p in sorted((data_folder() / "texts").glob("*.txt"))
    )


@cache
def _common_words() -> tuple[str, ...]:
    from wordfreq import top_n_list

    return tuple(w for w in top_n_list("en", 100_000) if w.isascii() and w.isalpha() and w.islower())


def random_words(count: int = 1, *, words: int = 400, seed: int = 0) -> list[Text]:
    """``count`` texts of ``words`` words drawn uniformly from wordfreq's commonest 100,000, pure a-z ones only.

    The paper (arXiv 2502.13063) drew from the commonest 100,000 GloVe words. Text i depends on (seed, i) alone, so
    asking for more texts leaves the first ones as they were.
    """
    if count < 1 or words < 1:
        raise TextError(f"random_words(count={count}, words={words}): both must be at least 1")
    common = _common_words()
    made = []
    for i in range(count):
        rng = random.Random(f"memlab random words {seed} {i}")
        made.append(Text(f"random-{seed}-{i:03d}", " ".join(rng.choices(common, k=words)), f"wordfreq, seed {seed}"))
    return made


def classics(path: str | Path | None = None) -> list[Text]:
    """Passages of novels from a JSON lines file that memlab may not ship: ``path``, or ``MEMLAB_CLASSICS``."""
    given = path or os.environ.get("MEMLAB_CLASSICS")
    if not given:
        raise TextError("the classics are not shipped: give their path, or set MEMLAB_CLASSICS to the .jsonl file")
    return from_path(given)


def from_path(path: str | Path, *, column: str | None = None) -> list[Text]:
    """The texts of a .txt, .md, .csv, .jsonl or .parquet file, or of all such files in a folder, sorted by name.

    ``column`` names the text column of a table; without it ``text``, ``content`` or ``body`` is taken. A table's
    ``id`` column gives the ids, else the file name and row. Other endings are read as plain text.
    """
    path = Path(path).expanduser()
    try:
        folder = path.is_dir()
    except OSError as error:  # a folder that may not be entered, or a text where a file's name should be
        raise TextError(f"{str(path)[:80]!r} cannot be read: {error.strerror}; a text goes in with --text") from None
    if folder:
        files = sorted(p for p in path.rglob("*") if p.is_file() and p.suffix.lower() in PLAIN + TABLES)
        if not files:
            raise TextError(f"no text in {path}: expected files ending in {', '.join(PLAIN + TABLES)}")
        return [text for file in files for text in from_path(file, column=column)]
    if not path.exists():
        raise TextError(f"no file or folder {path}")
    ending = path.suffix.lower()
    if ending not in TABLES:
        return [Text(path.stem, _plain(path), path.name)]
    rows = _rows(path, ending)
    texts = []
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise TextError(f"{path}, row {number + 1}: expected an object with a text column, got {row!r:.80}")
        name = column or next((c for c in _COLUMNS if c in row), None)
        if name is None or name not in row:
            raise TextError(f"{path}: no column {column or ' or '.join(_COLUMNS)}; it has: {', '.join(map(str, row))}")
        value = row[name]
        if not isinstance(value, str) or not value.strip():
            raise TextError(f"{path}, row {number + 1}: column {name!r} holds no text but {value!r:.80}")
        name = row.get("id")
        texts.append(Text(f"{path.stem}-{number}" if name in (None, "") else str(name), value, path.name))
    if not texts:
        raise TextError(f"{path} has no rows")
    return texts


def hugging_face(dataset: str, *, split: str = "validation", column: str = "text", count: int = 100) -> list[Text]:
    """The first ``count`` rows of a Hugging Face data set, streamed. Needs ``pip install 'memlab[data]'``."""
    try:
        from datasets import load_dataset
    except ImportError:
        raise TextError("Hugging Face data sets need one more package: pip install 'memlab[data]'") from None
    try:
        rows = load_dataset(dataset, split=split, streaming=True)
        texts = []
        for number, row in zip(range(count), rows, strict=False):
            if column not in row:
                raise TextError(f"data set {dataset} has no column {column!r}; it has: {', '.join(row)}")
            texts.append(Text(f"{dataset.rpartition('/')[2]}-{split}-{number}", row[column], f"hf:{dataset}/{split}"))
    except TextError:
        raise
    except Exception as error:  # the hub's client raises many kinds, and each means: not to be had from here
        raise TextError(
            f"data set {dataset!r} (split {split!r}) could not be read: {type(error).__name__}: {error}. "
            "Without a network, use a file, --texts originals or --texts random"
        ) from error
    return texts


def pg19(count: int = 50, *, split: str = "validation") -> list[Text]:
    """Books of PG-19 from the Hugging Face hub, the set the paper (arXiv 2502.13063) measured on."""
    return hugging_face("emozilla/pg19", split=split, count=count)


def load_texts(name: str, *, count: int | None = None, seed: int = 0, words: int = 400) -> list[Text]:
    """Texts by name: ``originals``, ``random``, ``classics``, ``pg19``, ``hf:DATASET``, or a file or folder.

    ``seed`` and ``words`` (of each text) are for ``random``: more words leave the first ones as they were.
    """
    if count is not None and count < 1:
        raise TextError(f"count={count}: at least 1 text is needed")
    if name == "originals":
        texts = list(originals())
    elif name == "random":
        return random_words(count or 16, words=words, seed=seed)
    elif name == "classics":
        texts = classics()
    elif name == "pg19":
        return pg19(count or 50)
    elif name.startswith("hf:"):
        return hugging_face(name[3:], count=count or 100)
    else:
        texts = from_path(name)
    return texts[:count]


def _plain(path: Path) -> str:
    try:
        return from_bytes(path.read_bytes(), str(path))
    except OSError as error:
        raise TextError(f"{path} cannot be read: {error.strerror}") from None


def from_bytes(raw: bytes, path: str) -> str:
    """The text in bytes that came from ``path``; refuses what is no text."""
    try:
        string = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TextError(
            f"{path} is not UTF-8 text (byte {error.start} is 0x{raw[error.start]:02x}); "
            "memlab crams text: convert the file to UTF-8, or give another"
        ) from None
    if "\0" in string:
        raise TextError(f"{path} holds NUL bytes, so it is a binary file; memlab crams text")
    if not string.strip():
        raise TextError(f"{path} is empty: there is nothing to cram")
    return string


def _rows(path: Path, ending: str) -> Iterator[Any]:
    if ending == ".jsonl":
        for number, line in enumerate(_plain(path).split("\n"), 1):
            if line.strip():
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise TextError(f"{path}, line {number} is no JSON: {error}") from None
        return
    import pandas as pd

    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False) if ending == ".csv" else pd.read_parquet(path)
    except Exception as error:  # pandas and pyarrow raise many kinds for a damaged file
        raise TextError(f"{path} cannot be read as {ending[1:]}: {error}") from None
    yield from frame.to_dict("records")
