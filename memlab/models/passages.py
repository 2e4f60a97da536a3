"""From a text to a passage: token ids that decode to exactly the piece of the source they stand for."""

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
    """A text that cannot become the passage asked for, or a passage a model cannot take."""

    exit_code = 2


@dataclass(frozen=True, eq=False)
class Passage:
    """Token ids (n,) of a piece of text. Decoding the ids gives ``string`` back, character for character."""

    ids: np.ndarray
    string: str
    span: TextSpan
    tokenizer_hash: str

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"<Passage {self.span.id or 'of ids'}:{self.span.start} {len(self)} tokens {self.string[:40]!r}>"


class Cutter:
    """A model's tokenizer (or none) with what it takes to cut passages: its name, vocabulary and context."""

    def __init__(self, tokenizer: Any, model_name: str, vocabulary: int, context: int) -> None:
        self.tokenizer, self.model_name, self.vocabulary, self.context = tokenizer, model_name, vocabulary, context

    @cached_property
    def tokenizer_hash(self) -> str:
        """Hash of the tokenizer's own description."""
        if self.tokenizer is None:
            return f"none, {self.vocabulary} ids"
        fast = getattr(self.tokenizer, "backend_tokenizer", None)
        told = fast.to_str() if fast else json.dumps(self.tokenizer.get_vocab(), sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()

    def encode(self, string: str) -> tuple[list[int], list[int]]:
        """Token ids without special ones, and for each the character where it ends."""
        # verbose=False: transformers warns of texts beyond the context, which is ours to judge.
        try:
            out = self.tokenizer(string, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        except Exception as error:  # tokenizers raises nothing finer
            raise PassageError(f"{self.model_name}'s tokenizer cannot encode this text: {error}") from error
        return out["input_ids"], [end for _, end in out["offset_mapping"]]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Text of token ids, nothing skipped and nothing tidied up."""
        if self.tokenizer is None:
            return " ".join(map(str, ids))
        return self.tokenizer.decode(
            [int(i) for i in ids], skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    def cut(self, text: Text, tokens: int | None, start: int | str) -> Passage:
        """What ``FrozenLM.passage`` promises."""
        if self.tokenizer is None:
            raise PassageError(f"{self.model_name} has no tokenizer, so it takes token ids: use lm.passage_of_ids(ids)")
        if tokens is not None and tokens < 1:
            raise PassageError(f"tokens={tokens}: a passage has at least 1 token")
        if tokens is not None and self.context and tokens >= self.context:
            raise PassageError(f"tokens={tokens}, but {self.model_name} has a context of {self.context} positions")
        if start != "paper" and not isinstance(start, int):
            raise PassageError(f"start={start!r}: expected a character's number, or 'paper'")
        whole = tokens is None
        begin = self._paper_start(text) if start == "paper" else sentence_start(text.string, int(start))
        ids, ends, complete = self._encode_from(text.string, begin, tokens)
        if tokens is None:
            if self.context and (not complete or len(ids) >= self.context):
                raise PassageError(
                    f"text {text.id!r} is longer than {self.model_name}'s context of {self.context} positions: "
                    "cut it with tokens=N (on the command line --tokens N)"
                )
            tokens = len(ids)
        elif len(ids) < tokens:
            raise PassageError(
                f"text {text.id!r} has {len(ids)} tokens from character {begin} on, {tokens} were asked for: "
                "ask for fewer, start earlier, or give a longer text"
            )
        if max(ids[:tokens]) >= self.vocabulary:
            raise PassageError(f"text {text.id!r} has a token that {self.model_name}'s embedding has no row for")
        # A character may be several byte tokens, and a cut between them decodes to a replacement character. A text
        # that is wanted whole has no cut to move.
        for n in range(tokens, tokens - 1 if whole else max(0, tokens - 8), -1):
            end = ends[n - 1]
            if self.decode(ids[:n]) == text.string[begin:end]:
                span = TextSpan(text.id, text.source, begin, end)
                return Passage(np.asarray(ids[:n], np.int64), text.string[begin:end], span, self.tokenizer_hash)
        raise PassageError(
            f"text {text.id!r} does not survive {self.model_name}'s tokenizer: from character {begin} on, "
            f"{text.string[begin : begin + 30]!r} comes back as {self.decode(ids[:tokens])[:30]!r}"
        )

    def _encode_from(self, string: str, begin: int, tokens: int | None) -> tuple[list[int], list[int], bool]:
        # A window that grows: the tokens wanted of a ten-million-character file should not cost the whole file.
        wanted = tokens if tokens is not None else self.context or len(string)
        width = 8 * wanted + 256
        while True:
            ids, ends = self.encode(string[begin : begin + width])
            complete = begin + width >= len(string)
            # The window's own end can change its last tokens, so they only count when it is the text's.
            if complete or len(ids) >= wanted + 32:
                return ids, [begin + e for e in ends], complete
            width *= 2

    def _paper_start(self, text: Text) -> int:
        ids, ends, _ = self._encode_from(text.string, 0, 1024)
        starts = sentence_starts(text.string[: ends[min(len(ids), 1024) - 1]])
        return starts[len(starts) // 2]


# A sentence begins after a full stop, question or exclamation mark (quotes and brackets may close behind it) and white
# space, unless that was a title, or after an empty line. Rough, as the paper's is: it only decides where a passage
# starts. Libraries for this want data files of their own.
_BREAK = re.compile(
    r"(?:(?<=[.!?])|(?<=[.!?][\"')\]\u2019\u201d]))(?<!(?i:\bmr\.|\bms\.|\bdr\.|\bst\.))(?<!(?i:\bmrs\.))"
    r"\s+(?=[\"'(\[\u2018\u201c]*[A-Z0-9])|\n\s*\n\s*"
)


def sentence_starts(string: str) -> list[int]:
    """Characters at which sentences begin."""
    first = len(string) - len(string.lstrip())
    return [first, *(m.end() for m in _BREAK.finditer(string) if first < m.end() < len(string))]


def sentence_start(string: str, at: int) -> int:
    """Where the first sentence at or after character ``at`` begins."""
    if not 0 <= at < len(string):
        raise PassageError(f"start={at}: the text has {len(string)} characters")
    if not string[:at].strip():
        return len(string) - len(string.lstrip())
    # White space before ``at`` may be the break itself.
    before = len(string[:at].rstrip())
    for match in _BREAK.finditer(string, max(0, before - 6)):
        if at <= match.end() < len(string):
            return match.end()
    raise PassageError(f"start={at}: no sentence begins after that character; start earlier")
