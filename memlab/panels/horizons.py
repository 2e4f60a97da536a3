"""A text in which the horizons of two searches are marked: the finding of notebook 2 in one look."""

from __future__ import annotations

import html

import ipywidgets as w

from memlab.models import FrozenLM
from memlab.panels.base import Panel
from memlab.panels.decoded import token_pieces
from memlab.panels.tokens import TokenText
from memlab.texts import Text

MORE = 30
"""Tokens after the longer horizon that are shown, pale."""


def horizons_in_text(lm: FrozenLM, text: Text, published: int, ours: int, *, title: str = "") -> HorizonsInText:
    """The opening of a text: its first ``published`` tokens on orange, its first ``ours`` underlined in blue."""
    return HorizonsInText(lm, text, published, ours, title)


class HorizonsInText(Panel):
    """The widget of ``horizons_in_text``."""

    def __init__(self, lm: FrozenLM, text: Text, published: int, ours: int, title: str) -> None:
        super().__init__()
        ids = lm.passage(text, None).ids[: max(published, ours) + MORE]
        self.text = TokenText(title, hint="Point at a token to see what brings it back.", height="16em")
        searches = {"the published search": published, "ours": ours}
        who = [[name for name, reached in searches.items() if i < reached] for i in range(len(ids))]
        self.text.show(
            token_pieces(lm, ids),
            kinds=["zone" if i < ours else "beyond" for i in range(len(ids))],
            shades=[0.5 if i < published else 0.0 for i in range(len(ids))],
            tips=[f"Token {i + 1}: {' and '.join(names) or 'none'}." for i, names in enumerate(who)],
            bars=[published - 1, ours - 1],
        )
        self.show_widgets("horizons", w.HTML(f'<b class="memlab-text">{html.escape(title)}</b>'), self.text)
