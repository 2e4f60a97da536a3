"""Texts and their sources. To add a source, write a function that returns texts, and add it to ``SOURCES``.

There are no token ids here: a model cuts a text into a passage (``lm.passage``).
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from memlab.errors import MemlabError

PLAIN = (".txt", ".md")
TABLES = (".csv", ".jsonl", ".parquet")
_COLUMNS = ("text", "content", "body")


class TextError(MemlabError, ValueError):
    """A text that cannot be read or used. The message names the file and what to do.

    >>> from memlab import Text
    >>> Text("draft", "  ")
    Traceback (most recent call last):
    memlab.texts.TextError: Text 'draft' is empty. Give it some characters.
    """

    exit_code = 2


@dataclass(frozen=True)
class Text:
    """A string with a name. Stored results keep ``source``, which says where the text came from.

    >>> from memlab import Text
    >>> Text("fiction-salt-ferry", "The ferry was late.", "my notes").kind
    'fiction'
    """

    id: str
    string: str
    source: str = ""

    def __post_init__(self) -> None:
        if not self.string.strip():
            raise TextError(f"Text {self.id!r} is empty. Give it some characters.")

    @property
    def kind(self) -> str:
        """Kind of the text: ``fiction-salt-ferry`` and ``long-fiction-the-accounts`` are both ``fiction``."""
        return self.id.removeprefix("long-").split("-")[0]


@dataclass(frozen=True)
class TextSpan:
    """The part of a text that was crammed: characters ``start`` to ``end`` of the text ``id``."""

    id: str = ""
    source: str = ""
    start: int = 0
    end: int = 0


def data_folder() -> Path:
    """``data/`` of the checkout, or its copy in an installed wheel."""
    for folder in (Path(__file__).parent / "data", Path(__file__).parents[1] / "data"):
        if (folder / "texts").is_dir():
            return folder
    raise TextError("The bundled texts are missing from this installation. Reinstall memlab.")


@cache
def originals() -> tuple[Text, ...]:
    """The bundled texts, sorted by id. They were written for memlab, and no model was trained on them."""
    return tuple(
        Text(p.stem, p.read_text(encoding="utf-8").strip(), "memlab originals")
        for p in sorted((data_folder() / "texts").glob("*.txt"))
    )


@cache
def _common_words() -> tuple[str, ...]:
    from wordfreq import top_n_list

    return tuple(w for w in top_n_list("en", 100_000) if w.isascii() and w.isalpha() and w.islower())


def random_words(count: int = 1, *, words: int = 400, seed: int = 0) -> list[Text]:
    """``count`` texts of ``words`` words, drawn uniformly from the a-z words among wordfreq's 100,000 most common.

    The paper (arXiv 2502.13063) drew from the 100,000 most common GloVe words. Text i depends only on (seed, i), so a
    larger ``count`` does not change the first texts.
    """
    if count < 1 or words < 1:
        raise TextError(f"count={count}, words={words}: both must be at least 1. Give larger numbers.")
    common = _common_words()
    texts = []
    for i in range(count):
        rng = random.Random(f"memlab random words {seed} {i}")
        texts.append(Text(f"random-{seed}-{i:03d}", " ".join(rng.choices(common, k=words)), f"wordfreq, seed {seed}"))
    return texts


def classics(path: str | Path | None = None) -> list[Text]:
    """Passages of novels from a JSON lines file, which memlab may not distribute: ``path``, or ``MEMLAB_CLASSICS``."""
    file = path or os.environ.get("MEMLAB_CLASSICS")
    if not file:
        raise TextError(
            "memlab does not ship the classics. Give the path of their .jsonl file, or set MEMLAB_CLASSICS."
        )
    return from_path(file)


def from_path(path: str | Path, *, column: str | None = None) -> list[Text]:
    """The texts of a .txt, .md, .csv, .jsonl or .parquet file, or of all such files in a folder, sorted by name.

    ``column`` names the text column of a table; the default is ``text``, ``content`` or ``body``. The ids come from
    the ``id`` column, or else from the file name and the row. Files with other endings are read as plain text.
    """
    path = Path(path).expanduser()
    try:
        is_folder = path.is_dir()
    except OSError as error:  # a folder without permission, or a text instead of a file name
        raise TextError(f"{str(path)[:80]!r} cannot be read: {error.strerror}. Give a text with --text.") from None
    if is_folder:
        files = sorted(p for p in path.rglob("*") if p.is_file() and p.suffix.lower() in PLAIN + TABLES)
        if not files:
            raise TextError(f"There is no text in {path}. Put files there that end in {', '.join(PLAIN + TABLES)}.")
        return [text for file in files for text in from_path(file, column=column)]
    if not path.exists():
        raise TextError(f"There is no file or folder {path}. Check the path.")
    ending = path.suffix.lower()
    if ending not in TABLES:
        return [Text(path.stem, _plain(path), path.name)]
    texts = []
    for number, row in enumerate(_rows(path, ending)):
        if not isinstance(row, dict):
            raise TextError(f"{path}, row {number + 1}, is {row!r:.80}. Give an object with a text column.")
        name = column or next((c for c in _COLUMNS if c in row), None)
        if name is None or name not in row:
            raise TextError(
                f"{path} has no column {column or ' or '.join(_COLUMNS)}. Give one of: {', '.join(map(str, row))}."
            )
        value = row[name]
        if not isinstance(value, str) or not value.strip():
            raise TextError(f"{path}, row {number + 1}: column {name!r} has no text, but {value!r:.80}. Correct it.")
        text_id = row.get("id")
        texts.append(Text(f"{path.stem}-{number}" if text_id in (None, "") else str(text_id), value, path.name))
    if not texts:
        raise TextError(f"{path} has no rows. Give another file.")
    return texts


def hugging_face(dataset: str, *, split: str = "validation", column: str = "text", count: int = 100) -> list[Text]:
    """The first ``count`` rows of a Hugging Face data set. Needs ``pip install 'memlab[data]'``."""
    try:
        from datasets import load_dataset
    except ImportError:
        raise TextError("The package for Hugging Face data sets is missing. Run: pip install 'memlab[data]'") from None
    try:
        rows = load_dataset(dataset, split=split, streaming=True)
        texts = []
        for number, row in zip(range(count), rows, strict=False):
            if column not in row:
                raise TextError(f"Data set {dataset} has no column {column!r}. Give one of: {', '.join(row)}.")
            texts.append(Text(f"{dataset.rpartition('/')[2]}-{split}-{number}", row[column], f"hf:{dataset}/{split}"))
    except TextError:
        raise
    except Exception as error:  # the hub's client raises many types
        raise TextError(
            f"Data set {dataset!r} (split {split!r}) could not be read: {type(error).__name__}: {error}. "
            "Without a network, use a file, --texts originals or --texts random."
        ) from error
    return texts


def pg19(count: int = 50, *, split: str = "validation") -> list[Text]:
    """Books of PG-19 from the Hugging Face hub. The paper (arXiv 2502.13063) measured on this set."""
    return hugging_face("emozilla/pg19", split=split, count=count)


@dataclass(frozen=True)
class Source:
    """A named source of texts. ``load_texts`` cuts its result to ``count`` texts."""

    load: Callable[[int | None, int, int], Sequence[Text]]
    """Function of (count, seed, words per text)."""
    unlimited: bool = False
    """True: it generates or downloads any number of texts, so a caller must give ``count``."""


SOURCES: dict[str, Source] = {
    "originals": Source(lambda count, seed, words: originals()),
    "random": Source(lambda count, seed, words: random_words(count or 16, words=words, seed=seed), unlimited=True),
    "classics": Source(lambda count, seed, words: classics()),
    "pg19": Source(lambda count, seed, words: pg19(count or 50), unlimited=True),
}
"""The sources by name."""
SOURCE_NAMES = ", ".join([*SOURCES, "hf:DATASET"])
"""For help texts and errors."""


def is_unlimited(name: str) -> bool:
    """Whether a source generates or downloads any number of texts. Files and folders do not."""
    return name.startswith("hf:") or (name in SOURCES and SOURCES[name].unlimited)


def load_texts(name: str, *, count: int | None = None, seed: int = 0, words: int = 400) -> list[Text]:
    """Texts of a source in ``SOURCES``, of ``hf:DATASET`` (Hugging Face), or of a file or folder.

    ``seed`` and ``words`` (words per text) are used by ``random``; more words do not change the first ones.

    >>> from memlab import load_texts
    >>> [text.id for text in load_texts("random", count=2, words=10)]
    ['random-0-000', 'random-0-001']
    """
    if count is not None and count < 1:
        raise TextError(f"count={count} is too small. Give at least 1.")
    if source := SOURCES.get(name):
        return list(source.load(count, seed, words))[:count]
    if name.startswith("hf:"):
        return hugging_face(name[3:], count=count or 100)
    path = Path(name).expanduser()
    try:
        missing = not path.exists()
    except OSError:  # ``from_path`` explains it
        missing = False
    if missing:
        raise TextError(
            f"{name!r} is not a text source, and there is no file or folder {path}. Give one of: {SOURCE_NAMES}."
        )
    return from_path(path)[:count]


def _plain(path: Path) -> str:
    try:
        return from_bytes(path.read_bytes(), str(path))
    except OSError as error:
        raise TextError(f"{path} cannot be read: {error.strerror}. Check the file.") from None


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


def _rows(path: Path, ending: str) -> Iterator[Any]:
    if ending == ".jsonl":
        for number, line in enumerate(_plain(path).split("\n"), 1):
            if line.strip():
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise TextError(f"{path}, line {number} is not JSON: {error}. Correct it.") from None
        return
    import pandas as pd

    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False) if ending == ".csv" else pd.read_parquet(path)
    except Exception as error:  # pandas and pyarrow raise many types for a damaged file
        raise TextError(f"{path} cannot be read as {ending[1:]}: {error}. Give another file.") from None
    yield from frame.to_dict("records")
