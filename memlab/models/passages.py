"""Cuts texts into passages: token ids that decode to exactly their piece of the text."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from memlab.errors import MemlabError
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
        self.tokenizer, self.model_name, self.vocabulary, self.context = tokenizer, model_name, vocabulary, context

    @cached_property
    def tokenizer_hash(self) -> str:
        """Hash of the tokenizer's serialized form."""
        if self.tokenizer is None:
            return f"none, {self.vocabulary} ids"  # stored in files, so it must not change
        fast = getattr(self.tokenizer, "backend_tokenizer", None)
        serialized = fast.to_str() if fast else json.dumps(self.tokenizer.get_vocab(), sort_keys=True)
        return hashlib.sha256(serialized.encode()).hexdigest()

    def encode(self, string: str) -> tuple[list[int], list[int]]:
        """Token ids without special tokens, and the character where each token ends."""
        # verbose=False: transformers would warn about texts longer than the context, which memlab checks itself.
        try:
            out = self.tokenizer(string, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        except Exception as error:  # the tokenizers library raises only this type
            raise PassageError(
                f"{self.model_name}'s tokenizer cannot encode this text: {error}. Give another text."
            ) from error
        return out["input_ids"], [end for _, end in out["offset_mapping"]]

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
        if tokens is not None and tokens < 1:
            raise PassageError(f"tokens={tokens} is too small. Give at least 1 token.")
        if tokens is not None and self.context and tokens >= self.context:
            raise PassageError(
                f"tokens={tokens} is too large: {self.model_name} has a context of {self.context} positions. Give less."
            )
        if start != "paper" and not isinstance(start, int):
            raise PassageError(f"start={start!r} is not valid. Give the number of a character, or 'paper'.")
        complete_text = tokens is None
        begin = self._paper_start(text) if start == "paper" else sentence_start(text.string, int(start))
        ids, ends, complete = self._encode_from(text.string, begin, tokens)
        if tokens is None:
            if self.context and (not complete or len(ids) >= self.context):
                raise PassageError(
                    f"Text {text.id!r} is longer than {self.model_name}'s context of {self.context} positions. "
                    "Cut it with tokens=N (on the command line: --tokens N)."
                )
            tokens = len(ids)
        elif len(ids) < tokens:
            raise PassageError(
                f"Text {text.id!r} has {len(ids)} tokens from character {begin} on, but {tokens} are needed. "
                "Give fewer tokens, an earlier start, or a longer text."
            )
        if max(ids[:tokens]) >= self.vocabulary:
            raise PassageError(
                f"Text {text.id!r} has a token without a row in {self.model_name}'s embedding. Give another text."
            )
        # A character can be several byte tokens, and a cut between them decodes to a replacement character. Then the
        # cut moves back. A complete text has no cut.
        for n in range(tokens, tokens - 1 if complete_text else max(0, tokens - 8), -1):
            end = ends[n - 1]
            if self.decode(ids[:n]) == text.string[begin:end]:
                span = TextSpan(text.id, text.source, begin, end)
                return Passage(np.asarray(ids[:n], np.int64), text.string[begin:end], span, self.tokenizer_hash)
        raise PassageError(
            f"{self.model_name}'s tokenizer changes text {text.id!r}: from character {begin} on, "
            f"{text.string[begin : begin + 30]!r} decodes to {self.decode(ids[:tokens])[:30]!r}. Give another text."
        )

    def _encode_from(self, string: str, begin: int, tokens: int | None) -> tuple[list[int], list[int], bool]:
        # The window grows until it has enough tokens, so that not all of a long file is encoded.
        wanted = tokens if tokens is not None else self.context or len(string)
        width = 8 * wanted + 256
        while True:
            ids, ends = self.encode(string[begin : begin + width])
            complete = begin + width >= len(string)
            # The last tokens depend on where the window ends, so 32 tokens are spare unless the window ends the text.
            if complete or len(ids) >= wanted + 32:
                return ids, [begin + e for e in ends], complete
            width *= 2

    def _paper_start(self, text: Text) -> int:
        ids, ends, _ = self._encode_from(text.string, 0, 1024)
        starts = sentence_starts(text.string[: ends[min(len(ids), 1024) - 1]])
        return starts[len(starts) // 2]


# A sentence begins after an empty line, or after a full stop, question mark or exclamation mark and white space. A
# closing quote or bracket may follow the mark; a title (Mr.) does not end a sentence. The rule is rough, like the
# paper's: it only decides where a passage starts. Libraries for this need data files.
_BREAK = re.compile(
    r"(?:(?<=[.!?])|(?<=[.!?][\"')\]\u2019\u201d]))(?<!(?i:\bmr\.|\bms\.|\bdr\.|\bst\.))(?<!(?i:\bmrs\.))"
    r"\s+(?=[\"'(\[\u2018\u201c]*[A-Z0-9])|\n\s*\n\s*"
)


def sentence_starts(string: str) -> list[int]:
    """Characters where sentences begin."""
    first = len(string) - len(string.lstrip())
    return [first, *(m.end() for m in _BREAK.finditer(string) if first < m.end() < len(string))]


def sentence_start(string: str, at: int) -> int:
    """Where the first sentence at or after character ``at`` begins."""
    if not 0 <= at < len(string):
        raise PassageError(
            f"start={at} is outside of the text, which has {len(string)} characters. Give a smaller start."
        )
    if not string[:at].strip():
        return len(string) - len(string.lstrip())
    # White space before ``at`` may be the gap between two sentences.
    before = len(string[:at].rstrip())
    for match in _BREAK.finditer(string, max(0, before - 6)):
        if at <= match.end() < len(string):
            return match.end()
    raise PassageError(f"start={at} is too late: no sentence begins after that character. Give a smaller start.")
