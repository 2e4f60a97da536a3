"""``TokenText``: a text token by token, with marks, shades, and one token that can be picked."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

import anywidget
import traitlets as t

from memlab.charts.colours import COLOURS
from memlab.panels.style import StaticCopy

KINDS = ("", "right", "wrong", "waiting", "beyond", "zone", "first", "second", "both")
"""How a token looks: plain; right; wrong; not right yet (grey); beyond what counts (pale); underlined, as a part;
of the first of two texts, of the second, of both."""


class TokenText(StaticCopy, anywidget.AnyWidget):
    """Tokens in a row. Click one, or use the arrow keys: ``picked`` is its index, or -1. Change it with ``show``.

    >>> text = TokenText("Decoded text")
    >>> text.show(["the ", "cat"], kinds=["", "wrong"], below=["", "dog"], tips=["", "should be dog"])
    >>> text.picked
    -1
    >>> text.static_html()[:60]
    '<div class="memlab-tokens"><span class="memlab-token">the </'
    """

    _esm = Path(__file__).with_name("tokens.js")
    pieces = t.List(t.Unicode()).tag(sync=True)
    """The characters that each token adds."""
    kinds = t.List(t.Unicode()).tag(sync=True)
    """One of ``KINDS`` per token."""
    below = t.List(t.Unicode()).tag(sync=True)
    """A short text under each token, for instance what should stand there; mostly empty."""
    shades = t.List(t.Float()).tag(sync=True)
    """Strength of each token's background, 0 to 1."""
    tips = t.List(t.Unicode()).tag(sync=True)
    """One line about each token: shown below the text while the pointer is on it or it is picked."""
    bars = t.List(t.Int()).tag(sync=True)
    """Tokens after which a vertical bar stands."""
    colour = t.Unicode(COLOURS["published"]).tag(sync=True)
    """Colour of the shades."""
    label = t.Unicode().tag(sync=True)
    """What screen readers call the text."""
    hint = t.Unicode().tag(sync=True)
    """The line below the text while no token is picked."""
    height = t.Unicode("20em").tag(sync=True)
    """Largest height (CSS); a longer text scrolls."""
    focus = t.Int(-1).tag(sync=True)
    """The token that is scrolled into view when the text changes; -1: none."""
    picked = t.Int(-1).tag(sync=True)
    """The token that the reader picked; -1: none."""

    def __init__(self, label: str, *, hint: str = "", height: str = "20em") -> None:
        super().__init__(label=label, hint=hint, height=height)
        self.add_class("memlab-token-text")

    def show(
        self,
        pieces: Sequence[str],
        *,
        kinds: Sequence[str] = (),
        below: Sequence[str] = (),
        shades: Sequence[float] = (),
        tips: Sequence[str] = (),
        bars: Sequence[int] = (),
        focus: int = -1,
        keep: bool = False,
    ) -> None:
        """Replace the text. What is not given is empty. ``keep`` the picked token, if the text stays the same."""
        n = len(pieces)
        with self.hold_sync():
            self.pieces, self.focus, self.bars = list(pieces), focus, list(bars)
            self.kinds, self.below = list(kinds) or [""] * n, list(below) or [""] * n
            self.shades, self.tips = [float(s) for s in shades] or [0.0] * n, list(tips) or [""] * n
            if not keep or self.picked >= n:
                self.picked = -1

    def clear(self) -> None:
        """Show nothing."""
        self.show([])

    def static_html(self) -> str:
        """The same text as HTML, for pages without widgets."""
        spans = []
        for i, piece in enumerate(self.pieces):
            shown = html.escape(piece or "·" * (self.kinds[i] == "wrong")).replace("\n", "&#8629;<br>")
            classes = "memlab-token" + (f" memlab-token-{self.kinds[i]}" if self.kinds[i] else "")
            shade, style = self.shades[i], ""
            if shade > 0:
                classes += " memlab-token-shaded"
                style = f' style="--memlab-shade:{75 * min(1, shade):.0f}%;--memlab-shade-colour:{self.colour}"'
            if i in self.bars:
                classes += " memlab-token-bar"
            tip = f' title="{html.escape(self.tips[i], quote=True)}"' if self.tips[i] else ""
            if self.below[i]:
                shown = f"<ruby>{shown}<rt>{html.escape(self.below[i])}</rt></ruby>"
            spans.append(f'<span class="{classes}"{style}{tip}>{shown}</span>')
        return f'<div class="memlab-tokens">{"".join(spans)}</div>' if spans else ""
