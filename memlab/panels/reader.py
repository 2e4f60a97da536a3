"""Panel that reads a vector's text token by token: how sure the model is, and what it would have written instead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ipywidgets as w
import numpy as np

from memlab import charts
from memlab.models import FrozenLM
from memlab.panels.decoded import outcome_badge, token_pieces
from memlab.panels.instant import InstantPanel
from memlab.panels.picker import VectorPicker
from memlab.panels.style import download_links
from memlab.panels.tokens import TokenText
from memlab.probes.token_reading import Reading, read_tokens
from memlab.results.mem_vector import MemVector
from memlab.results.store import Store

SURE = 6.0
"""Margin in logits from which on a token has no colour: the runner-up is then at least 400 times less likely."""


def reader_panel(lm: FrozenLM, mems: Sequence[MemVector], store: Store | None = None) -> ReaderPanel:
    """A vector's text token by token: margin, bits with and without the vector, and the likeliest other tokens."""
    return ReaderPanel(lm, mems, store)


class ReaderPanel(InstantPanel):
    """The panel of ``reader_panel``. It decodes when a vector is chosen. ``reading`` holds what it measured."""

    def __init__(self, lm: FrozenLM, mems: Sequence[MemVector], store: Store | None = None) -> None:
        super().__init__()
        self.lm = lm
        self.reading: Reading | None = None
        self.vector = VectorPicker(lm, mems, store)
        self.verdict, self.links = w.HTML(), w.HTML()
        hint = "Stronger colour: a smaller margin. Click a token, or use the arrow keys."
        self.text = TokenText("Decoded text", hint=hint, height="9em")
        self.curve.layout.min_height = "330px"
        self.outputs += [self.verdict, self.text, self.links]
        self.vector.on_change(self.ask)
        self.text.observe(self._follow, "picked")
        self.curve.on_pick("token", self._pick)
        self.show_widgets("reader", self.vector, w.HBox([self.verdict, self.status]), self.text, self.curve, self.links)
        self.ask()

    def work(self) -> None:
        self.result, self.reading = None, None
        mem = self.vector.value
        if mem is None:
            self.clear()
            self.show_status("No vector is chosen.")
            return
        self.reading = reading = read_tokens(self.lm, mem)
        self.result = mem
        tokens, first = reading.tokens, reading.first_wrong
        wrong = int((~tokens.right).sum())
        self.verdict.value = outcome_badge(mem, reading.ids)
        if first is None:
            weakest = tokens.loc[tokens.margin.idxmin()]
            outcome = (
                f"Done: all {mem.n} tokens right. The smallest margin is {weakest.margin:.2f} logits, at token "
                f"{weakest.position}: {weakest.token!r}, and not {weakest.rival!r}."
            )
        else:
            here = tokens.loc[first]
            outcome = (
                f"Done: {wrong} of {mem.n} tokens wrong, the first at token {first + 1}: the model writes "
                f"{here.written!r}, and {here.token!r} should stand there."
            )
        self._write(reading, first)
        title = "How sure the model is of each token"
        picked = int(tokens.margin.idxmin()) if first is None else first
        self.curve.draw(lambda: charts.token_margins(tokens, reading.likely, picked=picked + 1).properties(title=title))
        self.text.picked = picked
        self.links.value = download_links(f"reading-{mem.key[:12]}", tokens.to_csv(index=False))
        self.show_status(outcome)

    def _write(self, reading: Reading, first: int | None) -> None:
        tokens = reading.tokens
        after_an_error = np.arange(len(tokens)) > (len(tokens) if first is None else first)
        right = tokens.right.to_numpy()
        kinds = np.where(right, np.where(after_an_error, "beyond", ""), "wrong")
        shades = np.where(after_an_error, 0, (1 - tokens.margin / SURE).clip(0, 1))
        tips = [_line(row, bool(late)) for row, late in zip(tokens.itertuples(), after_an_error, strict=True)]
        below = ["" if ok else token for ok, token in zip(right, tokens.token, strict=True)]
        focus = -1 if first is None else first
        pieces = token_pieces(self.lm, reading.ids)
        self.text.show(pieces, kinds=kinds.tolist(), below=below, shades=shades.tolist(), tips=tips, focus=focus)

    def _follow(self, _: Any = None) -> None:
        self.curve.set(picked=self.text.picked + 1)

    def _pick(self, value: Any) -> None:
        if value:
            self.text.picked = int(value[0]["position"]) - 1


def _line(row: Any, after_an_error: bool) -> str:
    bits = "" if np.isnan(row.before) else f"{row.before:.1f} bits without the vector, {row.after:.2f} with it. "
    if row.right:
        said = f"{row.token!r} leads {row.rival!r} by {row.margin:.2f} logits."
    else:
        behind = f"{row.token!r} should stand here and is {-row.margin:.2f} logits behind."
        said = f"the model writes {row.written!r}; {behind}"
    late = " It reads its own wrong words here." if after_an_error else ""
    return f"Token {row.position}: {said} {bits}{late}".strip()
