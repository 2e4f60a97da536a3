"""``Text``: a string with a name."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

from memlab.errors import MemlabError


class TextError(MemlabError, ValueError):
    """A text that cannot be read or used. The message names the file and what to do.

    >>> from memlab import Text, TextError
    >>> try:
    ...     Text("draft", "  ")
    ... except TextError as error:
    ...     print(error)
    Text 'draft' is empty. Give it some characters.
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
        for name in ("id", "string", "source"):
            if not isinstance(value := getattr(self, name), str):
                raise TextError(f"The {name} of a text is {value!r:.80}. Give a string.")
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


def with_unique_ids(texts: Iterable[Text]) -> list[Text]:
    """The texts; the second one with an id ``a`` becomes ``a-2``, because tables tell texts apart by their ids.

    An id depends only on the texts before it.
    """
    unique: dict[str, Text] = {}
    last: dict[str, int] = {}
    for text in texts:
        name, number = text.id, last.get(text.id, 1)
        while name in unique:
            number += 1
            name = f"{text.id}-{number}"
        last[text.id] = number
        unique[name] = text if name == text.id else dataclasses.replace(text, id=name)
    return list(unique.values())
