"""The panel that crams a text while one watches, and reads what the vector writes back."""

from __future__ import annotations

import html
from typing import Any

import ipywidgets as w

from memlab.decoding.decode import EXACT, decode
from memlab.models import FrozenLM
from memlab.panels.base import TEXT, LivePanel, links, number, token_pieces
from memlab.recipes import Recipe
from memlab.results.mem_vector import MemVector
from memlab.results.store import Store
from memlab.texts import Text, originals

OWN = "(my own words)"
SHOWN = 1000
"""Characters of a bundled text that the panel shows; crammed is the text."""
_WRONG = "color:#D55E00;font-weight:600;text-decoration:underline wavy #D55E00"
# What a half-trained vector writes can be one word of 300 characters, or twenty spaces.
_AS_WRITTEN = "white-space:pre-wrap;overflow-wrap:anywhere"


def cram_panel(lm: FrozenLM, store: Store | None = None) -> CramPanel:
    """Pick or type a text, cram it, watch, and read what the vector writes back."""
    return CramPanel(lm, store)


def marked(lm: FrozenLM, ids: Any, truth: Any) -> str:
    """HTML of decoded ids, tokens that differ from the truth marked; the pointer shows what should stand there."""
    pieces = []
    for i, (piece, got, wanted) in enumerate(zip(token_pieces(lm, ids), ids, truth, strict=True)):
        shown = html.escape(piece).replace("\n", "&#8629;<br>")
        if got == wanted:
            pieces.append(shown)
        else:
            tip = html.escape(f"token {i + 1}: should be {lm.decode_ids([wanted])!r}", quote=True)
            pieces.append(f'<span class="memlab-wrong" style="{_WRONG}" title="{tip}">{shown or "&middot;"}</span>')
    return f'<span style="{TEXT}">{"".join(pieces)}</span>'


def readout(lm: FrozenLM, mem: MemVector) -> w.HTML:
    """A stored vector decoded now, next to what its teacher-forced accuracy promised."""
    return w.HTML(readout_html(lm, mem, decode(lm, [mem], batch=1)[0]))


class CramPanel(LivePanel):
    """The panel of ``cram_panel``. ``result`` is the last vector, ``wait()`` blocks until it is there."""

    def __init__(self, lm: FrozenLM, store: Store | None = None) -> None:
        super().__init__("Cram", icon="compress", tooltip="Train the vectors")
        self.lm, self.store = lm, store
        wide = {"description_width": "90px"}
        names = [OWN, *(t.id for t in originals())]
        self.source = w.Dropdown(options=names, value="fiction-salt-ferry", description="Text", style=wide)
        self.words = w.Textarea(description="Words", rows=6, style=wide, layout=w.Layout(width="auto"))
        self.tokens, tokens = number("Tokens", 24, 2, 128)
        self.k, vectors = number("Vectors k", 1, 1, 8)
        self.seed, seeds = number("Seed", 0, 0, 99)
        self.decoded = w.HTML()
        self.links = w.HTML()
        self.source.observe(self._fill, "value")
        self._fill()
        numbers = w.HBox([tokens, vectors, seeds], layout=w.Layout(flex_flow="row wrap"))
        self.children = [self.source, self.words, numbers, self.buttons(), self.curve, self.decoded, self.links]
        self.add_class("memlab-cram-panel")

    def clear(self) -> None:
        super().clear()
        self.decoded.value = self.links.value = ""

    def _picked(self) -> Text | None:
        return next((t for t in originals() if t.id == self.source.value), None)

    def _fill(self, _: Any = None) -> None:
        picked = self._picked()
        self.words.value = picked.string[:SHOWN] if picked else ""
        self.words.placeholder = "Type or paste some text"

    def work(self) -> None:
        picked = self._picked()
        untouched = picked is not None and self.words.value == picked.string[:SHOWN]
        text = picked if picked is not None and untouched else Text("typed", self.words.value, "typed")
        passage = self.lm.passage(text, self.tokens.value)
        recipe = Recipe.default(k=self.k.value, seed=self.seed.value)
        mem, trace, outcome = self.train(self.lm, passage, recipe, self.store)
        self.decoded.value = readout_html(self.lm, mem, decode(self.lm, [mem], batch=1)[0])
        csv = trace.to_csv(index=False, float_format="%.6g")
        self.links.value = links(mem.key[:12], csv, self.curve.value)
        self.result = mem
        self.status.value = outcome  # last: who reads "Done" finds all of it there


def readout_html(lm: FrozenLM, mem: MemVector, ids: Any) -> str:
    """HTML of what a vector decodes to (``ids``), what is wrong of it, and what its checks say."""
    made = next((c for c in mem.checks if c.settings == EXACT), None)
    truth = ids if mem.redaction else mem.token_ids  # without the ids there is nothing to compare with
    right = int((ids == truth).sum())
    verdict = "<b>exact</b>" if mem.exact else "<b>not exact</b>"
    numbers = [f"{mem.n} tokens in {mem.k} vector{'s' if mem.k > 1 else ''}: {verdict}"]
    if not mem.redaction:
        numbers.append(f"{right} of {mem.n} tokens right")
    if mem.teacher_forced is not None:
        numbers.append(f"teacher-forced {mem.teacher_forced:.1%}")
    if made and mem.exact:
        numbers.append(f"smallest margin {made.margin:.2f}")
    head = f'<div style="{TEXT}">Decoded from the vector alone &mdash; {" &middot; ".join(numbers)}</div>'
    box = "border-left:3px solid var(--jp-border-color1,#999);margin:6px 0;padding:2px 12px;" + _AS_WRITTEN
    return f'{head}<div class="memlab-decoded" style="{box}">{marked(lm, ids, truth)}</div>'
