"""Panel of attention: how much each token looks at the vector, through which layers and heads, and what that saves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ipywidgets as w
import numpy as np
import pandas as pd

from memlab import charts
from memlab.models import FrozenLM
from memlab.panels.decoded import token_pieces
from memlab.panels.instant import InstantPanel
from memlab.panels.picker import VectorPicker, label_of
from memlab.panels.style import download_links, dropdown, row
from memlab.panels.tokens import TokenText
from memlab.probes import attention
from memlab.results.mem_vector import MemVector
from memlab.results.store import Store

PLACES = (("the vector", "on_mem"), ("position 0 (the sink token)", "on_first"), ("the text so far", "on_text"))
BITS, SHARE = "bits that the vector saves", "attention of each token"
MOST_BITS = 16
"""Saved bits at which a token has the strongest colour."""


def attention_panel(lm: FrozenLM, mems: Sequence[MemVector], store: Store | None = None) -> AttentionPanel:
    """How much each token of a vector's text attends to the vector, by layer and head, and the bits that this saves."""
    return AttentionPanel(lm, mems, store)


class _Side:
    """One vector: its picker, its text, and what was measured."""

    def __init__(self, panel: AttentionPanel, place: int, picker: VectorPicker) -> None:
        self.panel, self.place, self.picker = panel, place, picker
        hint = "Point at a token, click one, or use the arrow keys."
        self.text = TokenText("Text of the vector", hint=hint, height="7em")
        self.head: tuple[int, int] | None = None
        """The layer and head that were clicked."""
        self.shares = np.zeros((0, 0, 0, 3))
        self.bits = pd.DataFrame({"position": [], "token": [], "before": [], "after": []})
        self.mem: MemVector | None = None
        panel.curve.on_pick(f"head_{place}", self._pick_head)
        panel.curve.on_pick(f"token_{place}", self._pick_token)
        self.text.observe(lambda change: panel.curve.set(**{f"picked_{place}": change["new"] + 1}), "picked")

    def measure(self) -> None:
        """Run the model over the chosen vector and its text."""
        chosen = self.picker.value
        if chosen is not self.mem or not len(self.bits):
            self.mem, self.head = chosen, None
            if chosen is not None:
                self.shares = attention.token_attention(self.panel.lm, chosen)
                self.bits = attention.bits_before_and_after(self.panel.lm, chosen)

    def shown(self, target: int) -> np.ndarray:
        """(n,) the share of each token's attention: through the clicked head, or the mean over layers and heads."""
        shares = self.shares[..., target]
        if not len(shares):
            return np.zeros(len(self.bits))
        return np.asarray(shares[self.head] if self.head else shares.mean((0, 1)))

    def tables(self, target: int) -> tuple[str, pd.DataFrame, pd.DataFrame, pd.DataFrame]:
        """The name and the three tables of ``charts.attention_view``."""
        assert self.mem is not None
        shares = self.shares[..., target]
        layer, head = np.indices(shares.shape[:2]).reshape(2, -1)
        heads = pd.DataFrame({"layer": layer, "head": head, "share": shares.mean(2).reshape(-1)})
        layer, token = np.indices((shares.shape[0], shares.shape[2])).reshape(2, -1)
        tokens = pd.DataFrame({"position": token + 1, "layer": layer, "share": shares.mean(1).reshape(-1)})
        return label_of(self.mem), heads, tokens, self.bits

    def write(self, target: int, *, keep: bool = False) -> None:
        """Show the text in the chosen colours, with a line about each token."""
        assert self.mem is not None
        share, bits, place = self.shown(target), self.bits, PLACES_OF[target]
        saved = (bits.before - bits.after).to_numpy()
        by_bits = self.panel.colour.value == BITS
        through = f"layer {self.head[0]}, head {self.head[1]}" if self.head else "all layers and heads, mean"
        strong = np.nan_to_num(saved) / MOST_BITS if by_bits else share / max(float(share.max()), 1e-9)
        self.text.show(
            token_pieces(self.panel.lm, self.mem.token_ids),
            shades=strong.clip(0, 1).tolist(),
            tips=[
                f"Token {i + 1}: {_cost(before, after)}; while it is read, {part:.1%} of its attention goes to {place} "
                f"({through})."
                for i, (before, after, part) in enumerate(zip(bits.before, bits.after, share, strict=True))
            ],
            keep=keep,
        )

    def _pick_head(self, value: Any) -> None:
        self.head = (int(value[0]["layer"]), int(value[0]["head"])) if value else None
        self.panel.colour.value = SHARE if self.head else BITS
        self.panel.recolour()

    def _pick_token(self, value: Any) -> None:
        self.text.picked = int(value[0]["position"]) - 1 if value else -1


PLACES_OF = [next(label for label, column in PLACES if column == target) for target in attention.TARGETS]
"""What the last axis of ``token_attention`` is attention to."""


def _cost(before: float, after: float) -> str:
    return f"{after:.2f} bits" if np.isnan(before) else f"{before:.1f} bits without the vector, {after:.2f} with it"


class AttentionPanel(InstantPanel):
    """The panel of ``attention_panel``. It looks, in about a second, when a vector is chosen."""

    def __init__(self, lm: FrozenLM, mems: Sequence[MemVector], store: Store | None = None) -> None:
        super().__init__()
        self.lm = lm
        self.target = dropdown("Attention to", PLACES)
        self.colour = dropdown("Colour shows", (BITS, SHARE))
        self.vector = VectorPicker(lm, mems, store)
        self.other = VectorPicker(lm, mems, store)
        self.compare = w.Checkbox(description="compare with another vector", indent=False)
        self.sides = [_Side(self, 0, self.vector), _Side(self, 1, self.other)]
        self.curve.layout.min_height = "400px"
        self.links = w.HTML()
        self.outputs += [self.links, *(side.text for side in self.sides)]
        self.compare.observe(self._toggle, "value")
        self.target.observe(self.ask, "value")
        self.colour.observe(lambda _: self.recolour(), "value")
        for picker in (self.vector, self.other):
            picker.on_change(self.ask)
        self._second = w.VBox(), w.VBox()
        """Places of the picker and of the text of the vector to compare with."""
        self.show_widgets(
            "attention", self.vector, self.compare, self._second[0], row(self.target, self.colour), self.status,
            self.sides[0].text, self._second[1], self.curve, self.links,
        )  # fmt: skip
        self._toggle()

    @property
    def _open(self) -> list[_Side]:
        return [side for side in self.sides[: 2 if self.compare.value else 1] if side.mem is not None]

    def _toggle(self, _: Any = None) -> None:
        for place, widget in zip(self._second, (self.other, self.sides[1].text), strict=True):
            place.children = (widget,) if self.compare.value else ()
        if self.compare.value and (same := self._another()) is not None:
            self.other.choose(same)
        self.ask()

    def _another(self) -> MemVector | None:
        """Another vector of the same text, if the list has one."""
        mem = self.vector.value
        same = [m for m in self.other.mems if mem and m is not mem and m.token_sha256 == mem.token_sha256]
        return same[0] if same else None

    def work(self) -> None:
        self.result = None
        for side in self.sides[: 2 if self.compare.value else 1]:
            side.measure()
        if not self._open:
            self.clear()
            self.show_status("No vector is chosen.")
            return
        self.result = self.sides[0].mem
        self._redraw()
        saved = []
        for side in self._open:
            scored = side.bits.dropna()  # without the vector, nothing predicts the first token: it has no cost
            saved.append(f"{(scored.before - scored.after).sum():.0f} of {scored.before.sum():.0f} bits")
        self.show_status(f"Done: the vector saves {' and the other '.join(saved)}.")

    def _redraw(self) -> None:
        target, place = attention.TARGETS.index(self.target.value), self.target.label
        for side in self._open:
            side.head = None
            side.write(target, keep=True)
        if not len(self.sides[0].shares):
            title = "This model has no attention. Bits per token, without the vector (grey) and with it (blue)"
            self.curve.draw(lambda: charts.token_bits(self.sides[0].bits).properties(title=title))
            return
        tables = [side.tables(target) for side in self._open]
        picked = [side.text.picked + 1 for side in self._open]
        title = f"Attention of the text to {place}"
        self.curve.draw(lambda: charts.attention_view(tables, title=title, picked=picked))
        csv = pd.concat([heads.assign(vector=name) for name, heads, *_ in tables]).to_csv(index=False)
        self.links.value = download_links("attention", csv)

    def recolour(self) -> None:
        """Colour the text anew."""
        for side in self._open:
            side.write(attention.TARGETS.index(self.target.value), keep=True)
