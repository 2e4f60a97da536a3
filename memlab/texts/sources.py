"""Texts and their sources. To add a source, write a function that returns texts, and add it to ``SOURCES``."""

from __future__ import annotations

import operator
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from memlab.texts import hub, kinds
from memlab.texts.files import from_path
from memlab.texts.text import Text, TextError


def data_folder() -> Path:
    """``data/`` of the checkout, or its copy in an installed wheel."""
    for folder in (Path(__file__).parents[1] / "data", Path(__file__).parents[2] / "data"):
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
    count, words, seed = _whole("count", count, 1), _whole("words", words, 1), _whole("seed", seed)
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


def pg19(count: int = 50, *, split: str = "validation") -> list[Text]:
    """Books of PG-19 from the Hugging Face hub. The paper (arXiv 2502.13063) measured on this set."""
    return hub.hugging_face("emozilla/pg19", split=split, count=count)


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
SOURCE_NAMES = ", ".join([*SOURCES, kinds.SYNTAX, hub.SYNTAX])
"""For help texts and errors."""


def is_unlimited(name: str) -> bool:
    """Whether a source generates or downloads any number of texts. Files and folders do not."""
    return name.startswith("hf:") or (name in SOURCES and SOURCES[name].unlimited)


def load_texts(
    name: str | os.PathLike[str],
    *,
    count: int | None = None,
    seed: int = 0,
    words: int = 400,
    column: str | None = None,
) -> list[Text]:
    """Texts of a source in ``SOURCES``, of ``kind:NAME``, such as ``kind:german`` (see ``kinds``), of
    ``hf:DATASET[:CONFIG[:SPLIT]]`` (Hugging Face), or of a file or folder.

    ``seed`` and ``words`` (words per text) are used by ``random``; more words do not change the first ones. ``column``
    names the text column of a table or data set, see ``from_path``. Raises ``TextError``.

    >>> from memlab import load_texts
    >>> [text.id for text in load_texts("random", count=2, words=10)]
    ['random-0-000', 'random-0-001']
    """
    if not isinstance(name, (str, os.PathLike)) or not str(name).strip():
        raise TextError(f"The source of texts is {name!r:.80}. Give one of: {SOURCE_NAMES}, or a path.")
    if count is not None:
        count = _whole("count", count, 1)
    if isinstance(name, str):
        if source := SOURCES.get(name):
            return list(source.load(count, seed, words))[:count]
        if name.startswith(kinds.BEGINNING):
            words, seed = _whole("words", words, 1), _whole("seed", seed)
            folder = data_folder() / "texts"
            return list(kinds.texts_of(name, folder, originals(), count, seed=seed, words=words))[:count]
        if name.startswith("hf:"):
            return hub.from_name(name, column=column, count=count or 100)
    path = Path(os.path.expanduser(name))
    try:
        missing = not path.exists()
    except OSError:  # ``from_path`` explains it
        missing = False
    if missing:
        raise TextError(
            f"{name!r} is not a text source, and there is no file or folder {path}. Give one of: {SOURCE_NAMES}."
        )
    return from_path(path, column=column, count=count)


def _whole(name: str, value: int, least: int | None = None) -> int:
    """The value as an int; numpy's integers are welcome."""
    if not isinstance(value, bool):
        try:
            number = operator.index(value)
        except TypeError:
            pass
        else:
            if least is None or number >= least:
                return number
    raise TextError(f"{name} is {value!r}. Give a whole number{'' if least is None else f' of at least {least}'}.")
