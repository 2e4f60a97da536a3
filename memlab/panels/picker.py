"""``VectorPicker``: choose a vector among those that come with memlab, those in your store, and the last one made."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import ipywidgets as w

from memlab.charts.names import counted, kind_of, text_title
from memlab.errors import MemlabError
from memlab.models import FrozenLM
from memlab.panels.style import dropdown
from memlab.results.mem_vector import MemVector
from memlab.results.store import Store

BUNDLED, MINE, LAST = "bundled", "in your store", "last made"
_LAST: list[MemVector] = []
"""Vectors that panels of this session made, newest first."""
KEPT = 20
"""The largest number of them."""
OFFERED = 200
"""The newest vectors of a store that the list offers."""


def remember(mem: MemVector) -> None:
    """Offer this vector to all panels as the last one made."""
    _LAST[:] = [mem, *(old for old in _LAST if old.key != mem.key)][:KEPT]


def label_of(mem: MemVector) -> str:
    """What a list calls a vector: the title of its text, its length, and what sets it apart."""
    parts = [text_title(mem.text.id), counted(mem.n, "token"), f"seed {mem.recipe.seed}"]
    if mem.k > 1:
        parts.append(f"{mem.k} vectors")
    if mem.recipe.where != "input":
        parts.append(f"in {mem.recipe.where}")
    if not mem.exact:
        parts.append("not exact")
    return ", ".join(parts)


class VectorPicker(w.HBox):
    """Three lists of vectors of one model, and the chosen vector as ``value``.

    ``bundled`` are the vectors that a notebook shows. ``store`` is your own store, None for the default one. Vectors
    without their text, and those of another model, are left out. A list is read again each time it is opened.

    >>> from memlab import Recipe, Store, cram, load
    >>> lm = load("toy:gemma3")
    >>> mems = cram(lm, lm.passage_of_ids([5, 9, 2]), Recipe.default(k=4), progress=False)
    >>> VectorPicker(lm, mems, Store("a-new-store")).value.n
    3
    """

    def __init__(self, lm: FrozenLM, bundled: Sequence[MemVector], store: Store | None = None, *, k: int = 0) -> None:
        """``k``: offer only vectors of so many rows; 0: of any number."""
        self.lm, self._store, self._k = lm, store, k
        self._lists: dict[str, list[MemVector]] = {BUNDLED: [mem for mem in bundled if self._fits(mem)]}
        self._callbacks: list[Callable[[MemVector], None]] = []
        self.source = w.ToggleButtons(
            options=[BUNDLED, MINE, LAST], style={"button_width": "110px"}, layout=w.Layout(width="auto"),
            tooltips=["Vectors that come with memlab", "Vectors that you made", "Vectors made since this kernel began"],
        )  # fmt: skip
        self.choice = dropdown("Vector")
        self.choice.layout.width = "520px"
        self.note = w.HTML()
        super().__init__([self.choice, self.source, self.note], layout=w.Layout(flex_flow="row wrap"))
        self.source.observe(self._open, "value")
        self.choice.observe(lambda _: self._tell(), "value")
        self.refresh()

    @property
    def controls(self) -> list[w.Widget]:
        """What to disable while work runs."""
        return [self.choice, self.source]

    @property
    def mems(self) -> list[MemVector]:
        """The vectors of the open list."""
        return self._lists.get(self.source.value, [])

    @property
    def value(self) -> MemVector | None:
        """The chosen vector; None if the open list is empty."""
        return self.mems[self.choice.value] if self.choice.value is not None and self.mems else None

    def on_change(self, callback: Callable[[MemVector], None]) -> None:
        """Call ``callback`` with the vector each time another one is chosen."""
        self._callbacks.append(callback)

    def choose(self, mem: MemVector) -> None:
        """Choose this vector; one that no list has yet becomes the last made."""
        for source, mems in self._lists.items():
            for i, other in enumerate(mems):
                if other is mem or (other.key == mem.key and other.mem is mem.mem):
                    self.source.value = source
                    self.choice.value = i
                    return
        remember(mem)
        self.source.value = LAST
        self.refresh()
        self.choice.value = 0

    def refresh(self) -> None:
        """Read the open list again."""
        source = self.source.value
        if source != BUNDLED:
            found = _LAST if source == LAST else self._mine()
            self._lists[source] = [mem for mem in found if self._fits(mem)]
        options = [(self._label(mem), i) for i, mem in enumerate(self.mems)]
        self.choice.options = options
        self.choice.disabled = not options
        elsewhere = "none since this kernel began; earlier ones: press <b>in your store</b>"
        empty = "" if options else elsewhere if source == LAST else "none yet: make one in notebook 1"
        self.note.value = f'<span class="memlab-status">{empty}</span>' if empty else ""
        self.choice.value = 0 if options else None

    def _open(self, _: object) -> None:
        before = self.choice.value
        self.refresh()
        if self.choice.value == before:  # the same place in another list: the list itself tells nobody
            self._tell()

    def _mine(self) -> list[MemVector]:
        try:
            store = self._store if self._store is not None else Store()
            table = store.table()
            files = {store.file(key): key for key in table.key[table.model == self.lm.name]}
            newest = sorted(files, key=lambda file: file.stat().st_mtime, reverse=True)[:OFFERED]
            return [store.get(files[file]) for file in newest]
        except (MemlabError, OSError):  # no store yet, or one that cannot be read: notebook 1 says so
            return []

    def _label(self, mem: MemVector) -> str:
        """Your own texts have no title: their first words tell them apart."""
        if kind_of(mem.text.id) != "own":
            return label_of(mem)
        words = " ".join(self.lm.decode_ids(mem.token_ids[:24]).split())
        return f"“{words[:28]}{'…' * (len(words) > 28)}” {label_of(mem)}"

    def _fits(self, mem: MemVector) -> bool:
        return mem.fingerprint == self.lm.fingerprint and not mem.redaction and self._k in (0, len(mem.mem))

    def _tell(self) -> None:
        if (mem := self.value) is not None:
            for callback in self._callbacks:
                callback(mem)
