"""Passages to train an encoder on: windows of n tokens, drawn from the pieces of a corpus."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from memlab.models import FrozenLM
from memlab.models.sentences import sentence_starts
from memlab.training.encoders.corpus import CorpusError

AT_SENTENCES = 0.5
"""Share of the windows that begin with a sentence, as passages of an evaluation do. The others begin with any word."""
_WORD = re.compile(r"(?<=\s)\S")


class Windows:
    """Windows of a list of texts. A window is tokenized from its first character on, as a passage is.

    Which windows a call draws depends on the generator alone, so a training that goes on draws what it would have
    drawn.
    """

    def __init__(self, lm: FrozenLM, pieces: Sequence[str], *, longest: int = 64) -> None:
        self._lm, self._pieces, self.longest = lm, list(pieces), longest
        room = 4 * longest
        self._sentences = _starts(self._pieces, room, sentence_starts)
        self._words = _starts(self._pieces, room, lambda piece: [m.start() for m in _WORD.finditer(piece)])
        if not len(self._sentences) or not len(self._words):
            raise CorpusError(f"No piece of the training text has {room} characters. Give longer texts.")

    def __len__(self) -> int:
        """Number of sentences at which a window can begin."""
        return len(self._sentences)

    def draw(self, random: np.random.Generator, n: int, rows: int) -> np.ndarray:
        """Token ids (rows, n) of windows drawn at random. n is at most ``longest``."""
        if not 1 <= n <= self.longest:
            raise CorpusError(f"Windows have 1 to {self.longest} tokens, not {n}.")
        found: list[list[int]] = []
        while len(found) < rows:
            table = self._sentences if random.random() < AT_SENTENCES else self._words
            piece, start = table[random.integers(len(table))]
            string = self._pieces[piece][start : start + 8 * n + 40]
            ids = self._lm.tokenizer(string, add_special_tokens=False)["input_ids"]
            if len(ids) > n:  # the last token of the string may be cut in two
                found.append(ids[:n])
        return np.array(found, np.int64)


def _starts(pieces: Sequence[str], room: int, find: object) -> np.ndarray:
    """(starts, 2): piece and character of every start with ``room`` characters after it."""
    rows = [
        (i, start)
        for i, piece in enumerate(pieces)
        for start in find(piece)  # type: ignore[operator]
        if start + room <= len(piece)
    ]
    return np.array(rows, np.int64).reshape(-1, 2)
