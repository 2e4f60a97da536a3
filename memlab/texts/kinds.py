"""Kinds of text beyond prose and random words, for the question what a vector's limit depends on.

German and Russian prose and program code were written for memlab. All other kinds are made by a rule from a seed, so
text i of a kind is always the same. Every text has more tokens than a vector of the default model holds.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from memlab.texts.text import Text, TextError

BEGINNING = "kind:"
SYNTAX = f"{BEGINNING}NAME"
"""For help texts."""
_THINGS = (
    "flour", "rope", "soap", "candles", "nails", "paper", "string", "chalk", "vinegar", "salt", "wire", "paint", "glue",
    "coffee", "barley", "canvas", "buttons", "ladders", "hinges", "brushes", "sacks", "tiles", "bricks", "onions",
)  # fmt: skip
_PLACES = (
    "Aldern", "Brook", "Corrin", "Dunmow", "Eskdale", "Farrow", "Garth", "Holm", "Ilkley", "Jarrow", "Kelso", "Lorn",
)  # fmt: skip
_SYLLABLES = (
    "ka", "lu", "mi", "to", "re", "sha", "vo", "ne", "pi", "dra", "gu", "el", "on", "tis", "bra", "qui", "fe", "zo",
)  # fmt: skip


def _rng(kind: str, seed: int, i: int) -> random.Random:
    return random.Random(f"memlab {kind} {seed} {i}")


def _digits(rng: random.Random, words: int) -> str:
    return "".join(rng.choices("0123456789", k=2 * words))


def _base64(rng: random.Random, words: int) -> str:
    return base64.b64encode(rng.randbytes(2 * words)).decode()


def _list(rng: random.Random, words: int) -> str:
    lines = [f"- {rng.randint(2, 90)} {rng.choice(('kg', 'boxes', 'm', 'pieces'))} of {rng.choice(_THINGS)}"
             for _ in range(words // 4)]  # fmt: skip
    return "To buy:\n" + "\n".join(lines)


def _table(rng: random.Random, words: int) -> str:
    rows = [f"{rng.choice(_PLACES)},{rng.randint(1900, 2029)},{rng.randint(0, 99999)},{rng.random():.3f}"
            for _ in range(words // 6)]  # fmt: skip
    return "place,year,people,share\n" + "\n".join(rows)


def _invented(rng: random.Random, words: int) -> str:
    """Sentences of a language that does not exist: 60 words of two or three syllables, used again and again."""
    vocabulary = ["".join(rng.choices(_SYLLABLES, k=rng.randint(2, 3))) for _ in range(60)]
    sentences = []
    for _ in range(max(1, words // 7)):
        said = " ".join(rng.choices(vocabulary, k=rng.randint(5, 9)))
        sentences.append(said[0].upper() + said[1:] + ".")
    return " ".join(sentences)


MADE: dict[str, Callable[[random.Random, int], str]] = {
    "digits": _digits,
    "base64": _base64,
    "list": _list,
    "table": _table,
    "invented": _invented,
}
"""Kinds that are made by a rule: function of (random numbers, words)."""
WRITTEN = ("german", "russian", "code")
"""Kinds that were written for memlab: files in ``data/texts/kinds``."""
CHANGED: dict[str, Callable[[str, int], str]] = {
    "capitals": lambda string, words: string.upper(),
    "repeated": lambda string, words: " ".join([string.split(". ")[0].rstrip(".") + "."] * (words // 2)),
}
"""Kinds that are made of the bundled texts: function of (text, words)."""
NAMES = (*WRITTEN, *CHANGED, *MADE)
"""All kinds by name."""
MADE_AT_FIRST = 6
"""Texts of a kind that is made by a rule, if no number is asked for."""


def texts_of(
    name: str, folder: Path, originals: Iterable[Text], count: int | None = None, *, seed: int = 0, words: int = 400
) -> Sequence[Text]:
    """Texts of ``kind:NAME``. ``folder``: memlab's texts. ``words``: length of those that are made, about.

    Raises ``TextError`` for another name.

    >>> from memlab import load_texts
    >>> load_texts("kind:digits", count=2, words=5)[1].string
    '7421912473'
    """
    kind = name.removeprefix(BEGINNING)
    if kind not in NAMES:
        raise TextError(f"There is no kind of text {kind!r}. Give {BEGINNING} and one of: {', '.join(NAMES)}.")
    if kind in MADE:
        strings = [MADE[kind](_rng(kind, seed, i), words) for i in range(count or MADE_AT_FIRST)]
        return [Text(f"{kind}-{seed}-{i:03d}", string, f"made, seed {seed}") for i, string in enumerate(strings)]
    if kind in CHANGED:
        change = CHANGED[kind]
        return [
            Text(f"{kind}-{text.id}", change(text.string, words), "memlab originals, changed") for text in originals
        ]
    found = json.loads((folder / "kinds" / f"{kind}.json").read_text(encoding="utf-8"))
    return [Text(f"{kind}-{i}", string, "written for memlab") for i, string in enumerate(found)]
