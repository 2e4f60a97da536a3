"""Where sentences begin in a text of any language."""

from __future__ import annotations

import re
from collections.abc import Iterator

# The rule for English: a sentence begins after an empty line, or after a full stop, question mark or exclamation mark
# and white space. A closing quote or bracket may follow the mark; a title (Mr.) does not end a sentence. Keys of stored
# results depend on this rule. The paper's rule (arXiv 2502.13063) is as rough: it only decides where a passage starts.
_BREAK = re.compile(
    r"(?:(?<=[.!?])|(?<=[.!?][\"')\]\u2019\u201d]))(?<!(?i:\bmr\.|\bms\.|\bdr\.|\bst\.))(?<!(?i:\bmrs\.))"
    r"\s+(?=[\"'(\[\u2018\u201c]*[A-Z0-9])|\n\s*\n\s*"
)
# That rule judges sentences that begin with ASCII, if the text has capitals. The library finds the other sentences, and
# those after a mark of another script (Chinese has no spaces).
_JUDGED = re.compile(r"(?<=[\x00-\x7f\s\u2019\u201d])[\"'(\[\u2018\u201c]*[\x00-\x7f]")
_CAPITAL = re.compile(r"[A-Z]")
# sentencex 1.0.32 fails on some white space and on lone surrogates. A space in their place keeps all positions.
_ODD = re.compile(r"[^\S\n]|[\ud800-\udfff]")
# The library takes quadratic time, so it gets blocks. They lie at fixed places, and each is read with the characters
# around it: a start is the same wherever the search begins.
_BLOCK, _AROUND = 1000, 200


def sentence_starts(string: str) -> list[int]:
    """Characters where sentences begin."""
    first = len(string) - len(string.lstrip())
    starts = {m.end() for m in _BREAK.finditer(string) if first < m.end() < len(string)}
    return sorted(starts | {first, *_other_starts(string, first + 1, len(string))})


def next_sentence(string: str, at: int) -> int | None:
    """Where the first sentence at or after character ``at`` begins; None if no sentence begins there."""
    if not string[:at].strip():
        return len(string) - len(string.lstrip())
    # White space before ``at`` may be the gap between two sentences.
    before = len(string[:at].rstrip())
    ends = (match.end() for match in _BREAK.finditer(string, max(0, before - 6)))
    found = next((end for end in ends if at <= end < len(string)), None)
    return next(_other_starts(string, at, len(string) if found is None else found), found)


def _other_starts(string: str, at: int, end: int) -> Iterator[int]:
    """Sentences that begin from ``at`` to before ``end`` and that the rule for English cannot judge."""
    for block in range(at // _BLOCK * _BLOCK, end, _BLOCK):
        low = max(0, block - _AROUND)
        piece = string[low : block + _BLOCK + _AROUND]
        has_capitals = _CAPITAL.search(piece) is not None
        if has_capitals and piece.isascii():
            continue
        import sentencex

        for sentence in sentencex.get_sentence_boundaries("en", _ODD.sub(" ", piece)):
            words = sentence["text"].lstrip()
            start = low + sentence["end_index"] - len(words)
            judged = has_capitals and _JUDGED.match(string, start)
            if words and not judged and max(at, block) <= start < min(end, block + _BLOCK):
                yield start
