"""Tokenizers of transformers: which state they have, and how the text that their ids write differs from a text."""

from __future__ import annotations

import copy
import hashlib
import json
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any


def fixed(tokenizer: Any) -> Any:
    """The tokenizer, or a copy of it that never cuts, pads or draws at random.

    ``tokenizer.json`` can be saved with truncation or padding. The first call of transformers switches both off, in
    the caller's object and in its serialized form. BPE dropout gives other ids at each call.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not (backend.truncation or backend.padding or getattr(backend.model, "dropout", None)):
        return tokenizer
    tokenizer = copy.deepcopy(tokenizer)
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    if getattr(backend.model, "dropout", None):
        backend.model.dropout = None
    return tokenizer


def hash_of(tokenizer: Any) -> str:
    """Hash of a tokenizer's serialized form. It is the same in every process, and calls do not change it."""
    backend = getattr(fixed(tokenizer), "backend_tokenizer", None)
    if backend is not None:
        return hashlib.sha256(backend.to_str().encode()).hexdigest()
    digest = hashlib.sha256(type(tokenizer).__name__.encode())
    digest.update(json.dumps(tokenizer.get_vocab(), sort_keys=True).encode())
    # The files of a tokenizer in Python: its merges, or its SentencePiece model. Mistral's own class writes none.
    with TemporaryDirectory() as folder, suppress(NotImplementedError):
        for file in sorted(tokenizer.save_vocabulary(folder, None) or ()):
            digest.update(Path(file).name.encode() + Path(file).read_bytes())
    return digest.hexdigest()


# What tokenizers do to a text before they cut it, and the call that does it first, so that they have nothing to change.
_CHANGES: tuple[tuple[str, Callable[[str], str], str], ...] = (
    *(
        (
            f"normalizes text to {form}",
            lambda s, form=form: unicodedata.normalize(form, s),
            f'normalize("{form}", text)',
        )
        for form in ("NFC", "NFD", "NFKC", "NFKD")
    ),
    ("writes lower case", str.lower, "text.lower()"),
    ("puts a space before the text", " ".__add__, '" " + text'),
    ("merges white space", lambda s: " ".join(s.split()), '" ".join(text.split())'),
)


def explain(wanted: str, written: str, at: int, unknown: str | None) -> str:
    """Where ``written``, the text of token ids, first differs from ``wanted``, and why if that can be seen.

    ``at`` is the position of ``wanted`` in its text, and ``unknown`` the tokenizer's token for unknown characters.
    """
    i = next(
        (i for i, (a, b) in enumerate(zip(wanted, written, strict=False)) if a != b), min(map(len, (wanted, written)))
    )
    around = slice(max(0, i - 15), i + 15)
    place = (
        f"Character {at + i} is {_character(wanted, i)}, but its tokens write {_character(written, i)}: "
        f"{wanted[around]!r} becomes {written[around]!r}."
    )
    if unknown and written.startswith(unknown, i):
        return (
            f"{place} That is its token for what it does not know. Give a text without {_character(wanted, i)} there."
        )
    rest = wanted[: 4 * len(written) + 64]
    for does, change, call in _CHANGES:
        if written and change(rest).startswith(written):
            module = "unicodedata." if call.startswith("normalize") else ""
            return f"{place} It {does}. Give {module}{call} in place of the text."
    if not unicodedata.is_normalized("NFC", wanted[around]):
        return f'{place} The text is not in NFC there. Try unicodedata.normalize("NFC", text), or give another text.'
    return f"{place} Give another text."


def _character(string: str, i: int) -> str:
    return f"{string[i]!r} (U+{ord(string[i]):04X})" if i < len(string) else "nothing"
