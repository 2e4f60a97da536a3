"""Panel of a map: vectors on a plane. Click one to read it and to see its true neighbours; drag to select many."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import ipywidgets as w
import numpy as np
import pandas as pd

from memlab import charts
from memlab.charts.names import kind_of
from memlab.experiments.map_places import stored_places
from memlab.measures import geometry
from memlab.models import FrozenLM
from memlab.panels.base import Panel, WorkerThread
from memlab.panels.live import LiveChart
from memlab.panels.map_details import NEAR, VectorDetails, brushed_html
from memlab.panels.picker import VectorPicker
from memlab.panels.style import download_links, dropdown, row, status_line
from memlab.results.mem_vector import MemVector
from memlab.results.store import Store
from memlab.scoring.memory import trim_memory

METHODS: dict[str, geometry.Map] = {"UMAP": "umap", "t-SNE": "tsne", "PCA": "pca"}
COLOURS = {"passage": "passage", "kind of text": "kind", "length": "tokens"}
VECTOR, BRUSHED = "one vector", "selection"


def map_panel(lm: FrozenLM, mems: Sequence[MemVector], store: Store | None = None) -> MapPanel:
    """A map of vectors of one shape. Click a point to read it and to see its nearest neighbours; drag to select many.

    Afterwards ``panel.picked`` is the list of the selected vectors, and ``panel.selection()`` is their table. ``store``
    is your own store (None: the default one): choose a vector of it, and it is laid out among the others.
    """
    return MapPanel(lm, mems, store)


class MapPanel(Panel):
    """The panel of ``map_panel``. ``picked`` are the vectors under the brush; ``chosen`` is the clicked one."""

    def __init__(self, lm: FrozenLM, mems: Sequence[MemVector], store: Store | None = None) -> None:
        super().__init__()
        self.lm, self.mems, self.picked = lm, list(mems), list[MemVector]()
        self._texts = [lm.decode_ids(mem.token_ids) for mem in self.mems]
        self._flat: dict[str, np.ndarray] = {**stored_places(self.mems)}
        self._share: dict[str, float] = {}
        self._rows: list[int] = []
        """Indices of ``picked`` in ``mems``."""
        self._view: dict[str, list[float]] | None = None
        """The visible part of the map, if it is not the whole."""
        self._following = False
        self._drawn: geometry.Map = "umap"
        """The visible map. Another one may be in preparation."""
        self._thread = WorkerThread()
        self.method = dropdown("Map", METHODS.items())
        self.colour = dropdown("Colour", COLOURS.items())
        self.word = w.Text(placeholder="a word of the text", description="Find", continuous_update=True)
        self.word.layout.width, self.word.style.description_width = "250px", "40px"
        self.drag = w.ToggleButtons(options=["select", "zoom and move"], style={"button_width": "auto"})
        self.drag.tooltips = ["Dragging selects vectors", "The wheel zooms and dragging moves the map"]
        self.whole = w.Button(description="Whole map", icon="expand", layout=w.Layout(width="auto"))
        for control in (self.method, self.colour):
            control.layout.width, control.style.description_width = "200px", "55px"
        self.status, self.found, self.links, self.brushed = w.HTML(), w.HTML(), w.HTML(), w.HTML()
        self.chart = LiveChart(height=480)
        self.details = VectorDetails(lm, lambda other: self.chart.set(other=other))
        self.details.go.on_click(lambda _: self._choose(self.details.other))
        self.view = w.ToggleButtons(options=[VECTOR, BRUSHED], style={"button_width": "auto"})
        self.side = w.VBox([self.view, self.details], layout=w.Layout(width="490px"))
        self._know()
        self.picker = VectorPicker(lm, self.mems, store, k=len(self.mems[0].mem) if self.mems else 0)
        self._listen()
        self.show_widgets(
            "map", self.picker, row(self.method, self.colour, self.word, self.found, self.drag, self.whole),
            self.status, row(self.chart, self.side), self.links,
        )  # fmt: skip
        self._pick(None)
        if self.mems:
            self.details.show(0)
        self._draw()

    @property
    def chosen(self) -> MemVector:
        """The vector whose text and neighbours are shown."""
        return self.mems[self.details.chosen]

    @property
    def table(self) -> pd.DataFrame:
        """The points of the visible map: ``i x y kind passage text tokens seed steps``; ``i`` is the index in ``mems``.

        Call ``wait()`` first: a map that does not come with memlab takes a moment.
        """
        flat = self._flat[self._drawn]
        n = len(flat)  # vectors that were just added have no place yet
        mems = self.mems[:n]
        return pd.DataFrame(
            {
                "i": range(n),
                "x": flat[:, 0],
                "y": flat[:, 1],
                "kind": [kind_of(mem.text.id) for mem in mems],
                "passage": [mem.text.id for mem in mems],
                "text": self._texts[:n],
                "tokens": [mem.n for mem in mems],
                "seed": [mem.recipe.seed for mem in mems],
                "steps": [mem.steps for mem in mems],
            }
        )

    def selection(self) -> pd.DataFrame:
        """The rows of ``table`` of the picked vectors in the order of ``picked``, and ``cosine``, to their mean."""
        rows = self.table.iloc[self._rows].reset_index(drop=True)
        x = self._x[self._rows]
        return rows.assign(cosine=geometry.cosines(x, x.mean(0, keepdims=True))[:, 0] if len(x) else [])

    def wait(self, timeout: float | None = None) -> None:
        """Block until the requested map is drawn and the last decode is done, ``timeout`` seconds at most each."""
        self._thread.wait(timeout)
        self.details.wait(timeout)

    def _repr_mimebundle_(self, **options: Any) -> Any:
        self.wait(2)  # so that the copy for static pages has the map
        return super()._repr_mimebundle_(**options)

    def _listen(self) -> None:
        for control in (self.method, self.colour, self.drag):
            control.observe(self._draw, "value")
        self.whole.on_click(self._show_all)
        self.word.observe(self._find, "value")
        self.view.observe(self._turn, "value")
        self.picker.on_change(self._show_vector)
        self.chart.on_pick("brush", self._on_brush)
        self.chart.on_pick("pick", self._on_click)
        self.chart.on_pick("view", self._on_view)

    # The map ---------------------------------------------------------------------------------------------------------

    def _know(self) -> None:
        self._x = np.stack([mem.mem.reshape(-1) for mem in self.mems])
        self.details.know(self.mems, geometry.cosines(self._x))
        self._near = [self.details.nearest(i) for i in range(len(self.mems))]

    def _draw(self, _: Any = None) -> None:
        # In a thread: UMAP may take half a minute, and the page must stay responsive.
        self._thread.submit(partial(self._lay_out, self.method.value))

    def _lay_out(self, method: geometry.Map) -> None:
        x = self._x  # it grows when vectors are added; the next job lays those out
        try:
            if len(self._flat.get(method, ())) != len(x):
                half = ", about half a minute the first time" if method == "umap" else ""
                self.status.value = status_line(f"Laying out {len(x)} vectors{half} ...")
                self._flat[method] = geometry.flat_map(x, method, start=self._start(method, x))
                self._share.pop(method, None)
                trim_memory()  # a layout leaves much memory behind; drawings leave too little to trim
            if method not in self._share:
                self._share[method] = geometry.neighbours_kept(x, self._flat[method])
            if method == self.method.value:
                self._view = self._view if self._drawn == method else None
                self._drawn = method
                self._show()
        except Exception as error:  # too few vectors, or umap-learn is not installed
            self.status.value = status_line(f"{type(error).__name__}: {error}", error=True)

    def _start(self, method: geometry.Map, x: np.ndarray) -> np.ndarray | None:
        """Vectors start where an earlier map had them, and new ones near their nearest neighbour."""
        if (known := self._flat.get(method)) is None:
            return None
        rng = np.random.default_rng(0)
        nearest = geometry.cosines(x[len(known) :], x[: len(known)]).argmax(1)
        return np.vstack([known, known[nearest] + rng.normal(scale=known.std() / 100, size=(len(nearest), 2))])

    def _show(self) -> None:
        method, table = self._drawn, self.table
        table["near"] = self._near[: len(table)]
        name = next(label for label, value in METHODS.items() if value == method)
        near, n = min(NEAR, len(table) - 1), len(table)
        title = {
            "text": f"{name}: {self._share[method]:.0%} of near neighbours stay near (by chance {near / (n - 1):.0%})",
            "subtitle": f"{n} vectors; near: the {near} nearest of each, by cosine in {self._x.shape[1]} dimensions",
        }
        options: dict[str, Any] = dict(by=self.colour.value, labelled=method != "pca", title=title, view=self._view)
        options |= dict(chosen=self.details.chosen, other=self.details.other, found=self._matches())
        options["drag"] = "select" if self.drag.value == "select" else "zoom"
        self.chart.draw(lambda: charts.vector_map(table, **options))
        self.status.value = status_line(
            "Drag to select vectors, click one to read it, shift-click another to compare the two."
            if options["drag"] == "select"
            else "Drag to move the map, turn the wheel to zoom, click a vector to read it."
        )
        self.links.value = download_links(f"map-{method}", self.table.to_csv(index=False))
        self._pick(None)

    def _on_view(self, ranges: dict[str, list[float]]) -> None:
        self._view = {name: sorted(ends) for name, ends in ranges.items()} if len(ranges) == 2 else self._view

    def _show_all(self, _: Any = None) -> None:
        self._view = None
        self._draw()

    # One vector ------------------------------------------------------------------------------------------------------

    def _on_click(self, points: list[dict[str, int]]) -> None:
        if picked := [int(point["i"]) for point in points or () if "i" in point]:
            self._choose(picked[-1], picked[-2] if len(picked) > 1 else -1)

    def _choose(self, i: int, other: int = -1) -> None:
        self.details.show(i, other)
        self.chart.set(chosen=i)
        self.view.value = VECTOR
        if self.picker.value is not self.mems[i]:
            self._following = True
            self.picker.choose(self.mems[i])
            self._following = False

    def _show_vector(self, mem: MemVector) -> None:
        """Choose a vector of the lists. One that is not on the map yet is laid out, with the rest of its list."""
        if self._following:  # the list follows a click
            return
        known = {other.key for other in self.mems}
        if mem.key not in known:
            own = [other for other in self.picker.mems if other.key not in known]
            self.mems += own
            self._texts += [self.lm.decode_ids(other.token_ids) for other in own]
            self._know()
            self._draw()
        self._choose(next(i for i, other in enumerate(self.mems) if other.key == mem.key))

    # Many vectors ----------------------------------------------------------------------------------------------------

    def _matches(self) -> list[int]:
        word = self.word.value.strip()
        if not word:
            return []
        pattern = re.compile(re.escape(word), re.IGNORECASE)
        return [i for i, text in enumerate(self._texts) if pattern.search(text)]

    def _find(self, _: Any = None) -> None:
        found = self._matches()
        word = self.word.value.strip()
        texts = len({self.mems[i].text.id for i in found})
        told = f"{len(found)} vectors of {texts} passages" if found else "no text has it"
        self.found.value = status_line(told) if word else ""
        self.chart.set(found=found)

    def _on_brush(self, ranges: dict[str, list[float]] | None) -> None:
        self._pick(ranges if ranges and len(ranges) == 2 else None)

    def _pick(self, ranges: dict[str, list[float]] | None) -> None:
        """Pick the vectors in these ranges of x and y, or none."""
        self._rows = []
        if ranges is not None:
            table = self.table
            inside = table.x.between(*sorted(ranges["x"])) & table.y.between(*sorted(ranges["y"]))
            self._rows = table.i[inside].tolist()
        self.picked = [self.mems[i] for i in self._rows]
        in_python = status_line("In Python: panel.picked has these vectors, panel.selection() this table.")
        self.brushed.value = (
            f'<div class="memlab-scroll">{brushed_html(self.selection())}</div>{in_python}'
            if self.picked
            else status_line("Drag over points of the map to select vectors.")
        )
        self.view.value = BRUSHED if self.picked else VECTOR

    def _turn(self, _: Any = None) -> None:
        self.side.children = (self.view, self.brushed if self.view.value == BRUSHED else self.details)
