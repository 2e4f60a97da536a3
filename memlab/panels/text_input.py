"""``TextInput``: choose a bundled text, or type your own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ipywidgets as w

from memlab.charts.names import text_title
from memlab.models import FrozenLM, Passage, PassageError
from memlab.panels.style import dropdown, text_area
from memlab.texts import Text, originals

OWN = "(my own words)"


class TextInput(w.VBox):
    """A list of the bundled texts (``source``), and a field with the words of the chosen one, or your own (``words``).

    >>> given = TextInput("fiction-salt-ferry", rows=5, shown=1000)
    >>> given.text().id
    'fiction-salt-ferry'
    >>> given.words.value = "Other words."
    >>> given.text().id, given.source.value
    ('typed', '(my own words)')
    """

    def __init__(self, chosen: str, *, rows: int, shown: int) -> None:
        """``chosen``: the id of the first text. The field has the first ``shown`` characters of a bundled text."""
        self.shown = shown
        names = [(OWN, OWN), *((text_title(text.id), text.id) for text in originals())]
        self.source = dropdown("Text", names, value=chosen)
        self.words = text_area("Words", rows=rows)
        self._choose()
        self.source.observe(self._choose, "value")
        self.words.observe(self._edited, "value")
        super().__init__([self.source, self.words])

    @property
    def controls(self) -> list[w.Widget]:
        """What to disable while work runs."""
        return [self.source, self.words]

    def on_change(self, callback: Callable[[Any], None]) -> None:
        """Call ``callback`` each time the words change."""
        self.words.observe(callback, "value")

    def text(self) -> Text:
        """The chosen text, complete, as long as its words are not edited; else your own words.

        Raises ``PassageError`` if there are none.
        """
        if (original := self._original()) is not None:
            return original
        if not self.words.value.strip():
            raise PassageError("There is no text yet. Type or paste some words, or choose a text from the list.")
        return Text("typed", self.words.value, "typed")

    def passage(self, lm: FrozenLM, tokens: int) -> Passage:
        """The first tokens of the text, or all of it if it is shorter. Raises ``PassageError``."""
        text = self.text()
        try:
            return lm.passage(text, tokens)
        except PassageError:
            if len(whole := lm.passage(text, None)) <= tokens:
                return whole
            raise

    def _original(self) -> Text | None:
        return next((text for text in originals() if text.id == self.source.value), None)

    def _choose(self, _: Any = None) -> None:
        original = self._original()
        self.words.value = original.string[: self.shown] if original else ""

    def _edited(self, _: Any) -> None:
        """An edited text is no longer the one that the list names."""
        original = self._original()
        if original is not None and self.words.value != original.string[: self.shown]:
            self.source.unobserve(self._choose, "value")
            self.source.value = OWN
            self.source.observe(self._choose, "value")
