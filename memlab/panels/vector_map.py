"""Panel of a map: vectors on a plane. Drag over points to read their texts."""

from __future__ import annotations

import html
from functools import partial
from typing import Any

import altair as alt
import ipywidgets as w
import numpy as np
import pandas as pd

from memlab import charts
from memlab.measures import geometry
from memlab.models import FrozenLM
from memlab.panels.base import Panel, WorkerThread
from memlab.panels.style import download_links, dropdown, plain_table, status_line
from memlab.results.mem_vector import MemVector
from memlab.scoring.memory import trim_memory

LISTED = 12
"""The largest number of picked vectors that the panel lists."""
MENU = {"actions": {"export": {"svg": True, "png": True}, "source": False, "compiled": False, "editor": False}}
"""The menu of a chart in the page: save it as a picture, which the browser makes."""


def map_panel(lm: FrozenLM, mems: list[MemVector]) -> MapPanel:
    """A map of vectors. Drag over points to read their texts, norms and checks.

    Afterwards ``panel.picked`` is the list of the picked vectors, and ``panel.selection()`` is their table.
    """
    return MapPanel(lm, mems)


class MapPanel(Panel):
    """The panel of ``map_panel``. ``picked`` are the vectors under the brush."""

    def __init__(self, lm: FrozenLM, mems: list[MemVector]) -> None:
        super().__init__()
        self.lm, self.mems, self.picked = lm, mems, list[MemVector]()
        self._x = np.stack([mem.mem.reshape(-1) for mem in mems])
        self._texts = [_beginning(lm, mem) for mem in mems]
        self._flat: dict[str, np.ndarray] = {}
        self._share: dict[str, float] = {}
        self._rows: list[int] = []
        """Indices of ``picked`` in ``mems``."""
        self._drawn = "pca"
        """The visible map. Another one may be in preparation."""
        self._thread = WorkerThread()
        alt.JupyterChart.enable_offline()
        methods = [("PCA", "pca"), ("UMAP (about 20 s, the first time)", "umap"), ("t-SNE", "tsne")]
        self.method = dropdown("Map", methods)
        self.colour = dropdown("Colour", [("kind of text", "kind"), ("passage", "passage"), ("length", "length")])
        self.status, self.details, self.links = w.HTML(), w.HTML(), w.HTML()
        self.chart = w.Box()
        self.method.observe(self._draw, "value")
        self.colour.observe(self._draw, "value")
        self.show_widgets("map", self.method, self.colour, self.status, self.chart, self.details, self.links)
        self._draw()

    @property
    def table(self) -> pd.DataFrame:
        """The points of the visible map: ``i x y kind label text tokens norm seed``; ``i`` is the index in ``mems``.

        Call ``wait()`` first: the first map takes a moment.
        """
        flat = self._flat[self._drawn]
        kinds = {"kind": _kind, "passage": lambda mem: mem.text.id, "length": lambda mem: f"{mem.n:>3} tokens"}
        return pd.DataFrame(
            {
                "i": range(len(self.mems)),
                "x": flat[:, 0],
                "y": flat[:, 1],
                "kind": [kinds[self.colour.value](mem) for mem in self.mems],
                "label": [mem.text.id for mem in self.mems],
                "text": self._texts,
                "tokens": [mem.n for mem in self.mems],
                "norm": np.linalg.norm(self._x, axis=1),
                "seed": [mem.recipe.seed for mem in self.mems],
            }
        )

    def selection(self) -> pd.DataFrame:
        """The rows of ``table`` of the picked vectors, in the order of ``picked``; no rows if none is picked."""
        return self.table.iloc[self._rows].reset_index(drop=True)

    def wait(self, timeout: float | None = None) -> None:
        """Block until the requested map is drawn, ``timeout`` seconds at most."""
        self._thread.wait(timeout)

    def _repr_mimebundle_(self, **options: Any) -> Any:
        self.wait(2)  # so that the copy for static pages has the map; a PCA map takes less than a second
        return super()._repr_mimebundle_(**options)

    def _draw(self, _: Any = None) -> None:
        # In a thread: UMAP may take 20 seconds, and the page must stay responsive.
        self._thread.submit(partial(self._lay_out, self.method.value))

    def _lay_out(self, method: geometry.Map) -> None:
        try:
            if method not in self._flat:
                self.status.value = status_line("Laying out ...")
                flat = geometry.flat_map(self._x, method)
                self._share[method] = geometry.neighbours_kept(self._x, flat)
                self._flat[method] = flat
                trim_memory()  # a layout leaves much memory behind; drawings leave too little to trim
            if method == self.method.value:
                self._drawn = method
                self._show(method)
        except Exception as error:  # too few vectors, or umap-learn is not installed
            self.status.value = status_line(f"{type(error).__name__}: {error}", error=True)

    def _show(self, method: str) -> None:
        share = self._share[method]
        near = min(10, len(self.mems) - 1)
        chance = near / (len(self.mems) - 1)
        name = {value: label.split(" (")[0] for label, value in self.method.options}[method]
        title = f"{name}: {share:.0%} of near neighbours stay near"
        chart = charts.vector_map(self.table, brush=alt.selection_interval(name="brush"), title=title)
        with alt.theme.enable("memlab"):
            live = alt.JupyterChart(chart, embed_options=MENU)
        live.selections.observe(self._on_brush, "brush")
        before, self.chart.children = self.chart.children, [live]
        for old in before:  # otherwise kernel and page keep every chart ever drawn
            old.close()
        self.status.value = status_line(
            f"{name} of {len(self.mems)} vectors. Of a vector's {near} nearest neighbours, "
            f"{share:.0%} are also near on the map (by chance: {chance:.0%})."
        )
        self.links.value = download_links(f"map-{method}", self.table.to_csv(index=False))
        self._pick(None)

    def _on_brush(self, change: Any) -> None:
        ranges = change["new"].value or {}
        self._pick(ranges if len(ranges) == 2 else None)

    def _pick(self, ranges: dict[str, list[float]] | None) -> None:
        """Pick the vectors in these ranges of x and y, or none."""
        if ranges is None:
            self.picked, self._rows = [], []
            self.details.value = status_line("Drag over points to read them.")
            return
        table = self.table
        inside = table.x.between(*sorted(ranges["x"])) & table.y.between(*sorted(ranges["y"]))
        self._rows = table.i[inside].tolist()
        self.picked = [self.mems[i] for i in self._rows]
        cells = [
            {
                "text": html.escape(self._texts[i]),
                "tokens": str(mem.n),
                "seed": str(mem.recipe.seed),
                "norm": f"{np.linalg.norm(mem.mem):,.0f}",
                "steps": str(mem.steps),
                "margin": "–" if mem.margin is None else f"{mem.margin:.2f}",
                "exact": "yes" if mem.exact else "no",
            }
            for i, mem in zip(self._rows[:LISTED], self.picked, strict=False)
        ]
        more = f" The first {LISTED}:" if len(self.picked) > LISTED else ""
        head = status_line(f"{len(self.picked)} vectors under the brush.{more}")
        self.details.value = head + plain_table(pd.DataFrame(cells), escape=False) if cells else head


def _kind(mem: MemVector) -> str:
    return "random words" if mem.text.id.startswith("random-") else "originals"


def _beginning(lm: FrozenLM, mem: MemVector, characters: int = 60) -> str:
    text = lm.decode_ids(mem.token_ids)
    return text[:characters].replace("\n", " ") + ("…" if len(text) > characters else "")
