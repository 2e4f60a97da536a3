"""Cuts texts into passages: token ids that decode to exactly their piece of the text."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from memlab.errors import MemlabError
from memlab.models import tokenization
from memlab.models.sentences import next_sentence, sentence_starts
from memlab.texts import Text, TextSpan


class PassageError(MemlabError, ValueError):
    """A text that cannot give the requested passage, or a passage that a model cannot take.

    >>> from memlab import load
    >>> load("toy:llama").passage("Hello.", tokens=7)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    memlab.models.passages.PassageError: Text 'typed' has 6 tokens from character 0 on, but 7 are needed. ...
    """

    exit_code = 2


@dataclass(frozen=True, eq=False)
class Passage:
    """Token ids (n,) of a piece of text. The ids decode to ``string``, character for character.

    >>> from memlab import load
    >>> passage = load("toy:llama").passage("Meet me at nine. Bring tea.", start=5)
    >>> len(passage), passage.string, passage.span.start
    (10, 'Bring tea.', 17)
    """

    ids: np.ndarray
    string: str
    span: TextSpan
    tokenizer_hash: str

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"<Passage {self.span.id or 'of ids'}:{self.span.start} {len(self)} tokens {self.string[:40]!r}>"


class Cutter:
    """Cuts passages with a model's tokenizer (or None), for its vocabulary and context."""

    def __init__(self, tokenizer: Any, model_name: str, vocabulary: int, context: int) -> None:
        self.tokenizer = tokenization.fixed(tokenizer)
        self.model_name, self.vocabulary, self.context = model_name, vocabulary, context

    @cached_property
    def tokenizer_hash(self) -> str:
        """Hash of the tokenizer's serialized form."""
        if self.tokenizer is None:
            return f"none, {self.vocabulary} ids"  # stored in files, so it must not change
        return tokenization.hash_of(self.tokenizer)

    def encode(self, string: str) -> Any:
        """What transformers returns for a text without special tokens: ``["input_ids"]``."""
        # verbose=False: transformers would warn about texts longer than the context, which memlab checks itself.
        try:
            return self.tokenizer(string, add_special_tokens=False, verbose=False)
        except Exception as error:  # the tokenizers library raises only this type
            raise PassageError(
                f"{self.model_name}'s tokenizer cannot encode this text: {error}. Give another text."
            ) from error

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Text of token ids. Special tokens and spaces stay as they are."""
        if self.tokenizer is None:
            return " ".join(map(str, ids))
        return self.tokenizer.decode(
            [int(i) for i in ids], skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    def cut(self, text: Text, tokens: int | None, start: int | str) -> Passage:
        """See ``FrozenLM.passage``."""
        if self.tokenizer is None:
            raise PassageError(f"{self.model_name} has no tokenizer. Give token ids to lm.passage_of_ids(ids).")
        if tokens is not None:
            tokens = _integer(tokens, f"tokens={tokens!r} is not valid. Give an integer, at least 1.")
            if tokens < 1:
                raise PassageError(f"tokens={tokens} is too small. Give at least 1 token.")
            if self.context and tokens >= self.context:
                raise PassageError(
                    f"tokens={tokens} is too large: {self.model_name} has a context of {self.context} positions. "
                    "Give less."
                )
        begin, end = self._begin(text, start), len(text.string)
        # Some tokenizers drop white space at the edges of a text. Then the passage goes without it.
        first = begin or end - len(text.string.lstrip())
        last = len(text.string.rstrip()) if tokens is None else end
        for low, high in dict.fromkeys([(begin, end), (begin, last), (first, end), (first, last)]):
            if passage := self._cut(text, low, high, tokens):
                if (low, high) != (begin, end):
                    warnings.warn(
                        f"{self.model_name}'s tokenizer drops white space at the edges of text {text.id!r}. "
                        f"The passage goes from character {passage.span.start} to {passage.span.end}.",
                        stacklevel=3,
                    )
                return passage
        raise self._refusal(text, first, last, tokens)

    def _begin(self, text: Text, start: int | str) -> int:
        if isinstance(start, str) and start == "paper":
            tokens, _ = self._encode_from(text.string, 0, 1024)
            ids = tokens["input_ids"][:1024]
            # Offsets, because some tokenizers write another text. Tokenizers in Python have none.
            end = tokens.encodings[0].offsets[len(ids) - 1][1] if tokens.is_fast and ids else len(self.decode(ids))
            begins = sentence_starts(text.string[:end])
            return begins[len(begins) // 2]
        at = _integer(start, f"start={start!r} is not valid. Give the number of a character, or 'paper'.")
        if not 0 <= at < len(text.string):
            raise PassageError(
                f"start={at} is outside of the text, which has {len(text.string)} characters. Give a smaller start."
            )
        begin = next_sentence(text.string, at) if at else 0
        if begin is None:
            raise PassageError(
                f"start={at} is too late: no sentence begins after that character. Give a smaller start, or give "
                f"text[{at}:] in place of the text."
            )
        return begin

    def _cut(self, text: Text, begin: int, end: int, tokens: int | None) -> Passage | None:
        """The passage from character ``begin`` on; None if its ids write another text than characters up to ``end``."""
        encoded, complete = self._encode_from(text.string[:end], begin, tokens)
        ids = encoded["input_ids"]
        wanted = len(ids) if tokens is None else tokens
        if tokens is None and self.context and (not complete or wanted >= self.context):
            raise PassageError(
                f"Text {text.id!r} is longer than {self.model_name}'s context of {self.context} positions. "
                "Cut it with tokens=N (on the command line: --tokens N)."
            )
        if len(ids) < wanted:
            raise PassageError(
                f"Text {text.id!r} has {len(ids)} tokens from character {begin} on, but {tokens} are needed. "
                "Give fewer tokens, an earlier start, or a longer text."
            )
        if max(ids[:wanted], default=0) >= self.vocabulary:
            raise PassageError(
                f"Text {text.id!r} has a token without a row in {self.model_name}'s embedding. Give another text."
            )
        # A character can be several byte tokens. After a cut between them, the last token writes a replacement
        # character, or nothing. Then the cut moves back. A complete text has no cut.
        for n in range(wanted, wanted - 1 if tokens is None else max(0, wanted - 8), -1):
            string = self.decode(ids[:n])
            if not string or not text.string.startswith(string, begin):
                continue
            if begin + len(string) == end if tokens is None else n == 1 or self.decode(ids[: n - 1]) != string:
                span = TextSpan(text.id, text.source, begin, begin + len(string))
                return Passage(np.asarray(ids[:n], np.int64), string, span, self.tokenizer_hash)
        return None

    def _refusal(self, text: Text, begin: int, end: int, tokens: int | None) -> PassageError:
        encoded, _ = self._encode_from(text.string[:end], begin, tokens)
        written, wanted = self.decode(encoded["input_ids"][:tokens]), text.string[begin:end]
        whole = written.rstrip("\ufffd")
        if tokens is not None and wanted.startswith(whole):
            return PassageError(
                f"tokens={tokens} ends inside character {begin + len(whole)} of text {text.id!r}, "
                f"{wanted[len(whole) :][:1]!r}. Give more tokens."
            )
        reason = tokenization.explain(wanted, written, begin, getattr(self.tokenizer, "unk_token", None))
        return PassageError(f"{self.model_name}'s tokenizer changes text {text.id!r}. {reason}")

    def _encode_from(self, string: str, begin: int, tokens: int | None) -> tuple[Any, bool]:
        """What ``encode`` returns from character ``begin`` on, and whether that is all of the text."""
        # The window grows until it has enough tokens, so that not all of a long file is encoded.
        wanted = tokens if tokens is not None else self.context or len(string)
        width = 8 * wanted + 256
        while True:
            encoded = self.encode(string[begin : begin + width])
            complete = begin + width >= len(string)
            # The last tokens depend on where the window ends, so 32 tokens are spare unless the window ends the text.
            if complete or len(encoded["input_ids"]) >= wanted + 32:
                return encoded, complete
            width *= 2


def row_of_ids(ids: Any) -> np.ndarray:
    """Token ids (n,) int64. Raises ``PassageError`` for anything but one row of integers."""
    try:
        array = np.asarray(ids)
    except ValueError:  # rows of different lengths
        array = np.asarray(None)
    if array.ndim != 1 or not len(array):
        raise PassageError(f"The token ids have the shape {array.shape}. Give one row with at least one id.")
    # Floats would be rounded, and numbers beyond 64 bits are objects.
    if array.dtype.kind not in "iu":
        raise PassageError(f"The token ids are {array[:3].tolist()!r:.80}... Give integers.")
    return array.astype(np.int64)


def _integer(value: Any, refusal: str) -> int:
    # operator.index takes the integers of numpy and pandas, and no floats.
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise PassageError(refusal)
