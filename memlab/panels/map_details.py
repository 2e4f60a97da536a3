"""What stands beside a map: the chosen vector with its text and true neighbours, and the vectors under the brush."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence

import ipywidgets as w
import numpy as np
import pandas as pd

from memlab.charts.maps import first_words
from memlab.charts.names import display, text_title
from memlab.decoding.decode import decode
from memlab.models import FrozenLM
from memlab.panels.base import WorkerThread
from memlab.panels.decoded import outcome_badge, show_decoded, show_mixture, token_pieces
from memlab.panels.picker import label_of
from memlab.panels.style import plain_table, row, status_line
from memlab.panels.tokens import TokenText
from memlab.probes.arithmetic import read_mixture
from memlab.results.mem_vector import MemVector

NEAR = 10
"""The number of nearest neighbours that are listed."""
LISTED = 60
"""The largest number of vectors under the brush that are listed."""


class VectorDetails(w.VBox):
    """One vector of a map: its text, a free decode, its nearest neighbours by cosine, and a comparison with another.

    ``on_other`` is called with the index of the vector that the chosen one is compared with, -1 if none.
    """

    def __init__(self, lm: FrozenLM, on_other: Callable[[int], None]) -> None:
        self.lm, self.on_other = lm, on_other
        self.mems: Sequence[MemVector] = ()
        self._cosines = np.empty((0, 0))
        self.chosen = self.other = -1
        self._thread = WorkerThread()
        self.head, self.outcome, self.comparison = w.HTML(), w.HTML(), w.HTML()
        self.text = TokenText("Text of the chosen vector", height="9em")
        wide = w.Layout(width="auto")
        self.decode = w.Button(description="Decode it now", icon="play", button_style="primary", layout=wide)
        self.decode.tooltip = "Let the model write freely from this vector alone"
        self.hold = w.ToggleButton(description="Hold to compare", icon="thumb-tack", layout=wide)
        self.hold.tooltip = "The next vector that you choose is compared with this one"
        self.middle = w.Button(description="Decode the middle", icon="adjust", disabled=True, layout=wide)
        self.middle.tooltip = "Let the model write from the point half-way between the two vectors"
        self.near = w.Select(rows=NEAR, layout=w.Layout(width="auto", height="190px"))
        self.near.tooltip = "Choose one to compare it"
        self.go = w.Button(description="Go there", icon="arrow-right", layout=wide, tooltip="Choose this neighbour")
        self.decode.on_click(lambda _: self._start(self._decode_chosen))
        self.middle.on_click(lambda _: self._start(self._decode_middle))
        self.near.observe(lambda change: self._set_other(change["new"]), "value")
        super().__init__()
        self.children = (
            self.head, self.text, row(self.decode, self.hold, self.outcome),
            w.HTML(status_line(f"Its {NEAR} nearest vectors by cosine (lines on the map):")),
            self.near, row(self.go, self.middle), self.comparison,
        )  # fmt: skip

    def know(self, mems: Sequence[MemVector], cosines: np.ndarray) -> None:
        """The vectors of the map and their cosines (n, n)."""
        self.mems, self._cosines = mems, cosines

    def nearest(self, i: int) -> list[int]:
        """Indices of the vectors nearest to vector ``i`` by cosine, nearest first."""
        order = np.argsort(-self._cosines[i], kind="stable")
        return [int(j) for j in order if j != i][:NEAR]

    def show(self, i: int, other: int = -1) -> None:
        """Choose vector ``i``; compare it with ``other``, or with the vector that is held."""
        held = self.chosen if self.hold.value and self.chosen != i else other
        self.hold.value = False
        self.chosen, mem = i, self.mems[i]
        self.head.value = status_line(f"{label_of(mem)}:")
        self.text.show(token_pieces(self.lm, mem.token_ids))
        self.outcome.value = ""
        near = self.nearest(i)
        options = [(f"{self._cosines[i, j]:.2f}  {label_of(self.mems[j])}", j) for j in near]
        with self.near.hold_trait_notifications():
            self.near.options, self.near.value = options, None
        self.near.rows = NEAR
        self._set_other(held if held >= 0 else None)

    def wait(self, timeout: float | None = None) -> None:
        """Block until the running decode is done, ``timeout`` seconds at most."""
        self._thread.wait(timeout)

    def _set_other(self, other: int | None) -> None:
        self.other = -1 if other is None else other
        self.middle.disabled = self.go.disabled = other is None
        self.comparison.value = ""
        if other is not None:
            cosine = self._cosines[self.chosen, other]
            self.comparison.value = status_line(f"Cosine {cosine:.2f} with {label_of(self.mems[other])}.")
        self.on_other(self.other)

    def _start(self, work: Callable[[], str]) -> None:
        def guarded() -> None:
            try:
                self.outcome.value = work()
            except Exception as error:  # the traceback of a thread is easily missed
                self.outcome.value = status_line(f"{type(error).__name__}: {error}", error=True)
            finally:
                self.decode.disabled = False
                self.middle.disabled = self.other < 0

        self.decode.disabled = self.middle.disabled = True
        self.outcome.value = status_line("Decoding ...")
        self._thread.submit(guarded)

    def _decode_chosen(self) -> str:
        mem = self.mems[self.chosen]
        ids = decode(self.lm, [mem], batch=1)[0]
        show_decoded(self.text, self.lm, mem, ids)
        return outcome_badge(mem, ids)

    def _decode_middle(self) -> str:
        a, b = self.mems[self.chosen], self.mems[self.other]
        mixture = read_mixture(self.lm, a.lerp(b, 0.5), a, b)
        show_mixture(self.text, self.lm, mixture, names=("this text", "the other text"))
        of_a, of_b = mixture.of_a.sum(), mixture.of_b.sum()
        found = f"The middle: {of_a} of {a.n} tokens as in this text, {of_b} of {b.n} as in the other."
        return status_line(found)


def brushed_html(selection: pd.DataFrame) -> str:
    """HTML of the vectors under a brush: how many of each passage, then one row per vector.

    Columns of ``MapPanel.selection()``. More than 60 vectors are not listed, only counted.
    """
    if selection.empty:
        return status_line("Drag over points to read them.")
    groups = selection.groupby("passage", sort=False)
    passages = pd.DataFrame({"vectors": groups.size(), "kind": groups.kind.first(), "text": groups.text.first()})
    passages = passages.sort_values("vectors", ascending=False, kind="stable")
    counts = pd.DataFrame(
        {
            "vectors": passages.vectors.astype(str),
            "passage": [html.escape(text_title(name)) for name in passages.index],
            "begins": [html.escape(first_words(text, 30)) for text in passages.text],
        }
    )
    rows = selection[:LISTED]
    each = pd.DataFrame(
        {
            "cosine": rows.cosine.map("{:.2f}".format),
            "passage": rows.passage.map(text_title).map(html.escape),
            "kind": rows.kind.map(display),
            "tokens": rows.tokens.astype(str),
            "seed": rows.seed.astype(str),
            "steps": rows.steps.astype(str),
        }
    )
    more = f" The first {LISTED}:" if len(selection) > LISTED else ""
    return (
        status_line(f"{len(selection)} vectors under the brush, of {len(passages)} passages.")
        + plain_table(counts, escape=False)
        + status_line(f"Cosine of each vector to the mean of them all.{more}")
        + plain_table(each, escape=False)
    )
