"""Panel of paths: the line and the curve between two solutions of one passage."""

from __future__ import annotations

import html
import time
from typing import Any

import ipywidgets as w
import numpy as np
import pandas as pd
from IPython.display import HTML

from memlab import charts
from memlab.charts.names import display, text_title
from memlab.decoding.decode import check, decode
from memlab.errors import MemlabError
from memlab.experiments.geometry_tables import path_table
from memlab.experiments.solutions import solutions
from memlab.experiments.tables import require_columns
from memlab.measures import geometry
from memlab.models import FrozenLM
from memlab.panels.base import LivePanel
from memlab.panels.decoded import decoded_facts, show_decoded, token_pieces
from memlab.panels.style import STYLE, badge, box, download_links, dropdown, number_input, row
from memlab.panels.tokens import TokenText
from memlab.probes import paths
from memlab.probes.evaluate import Stopped
from memlab.results.mem_vector import MemVector
from memlab.results.store import Store

READ, MEASURE = "Read this place", "Measure this pair"
STEP = 5
"""Per cent between two stored places."""


def path_panel(lm: FrozenLM, table: pd.DataFrame, store: Store | None = None) -> PathPanel:
    """Move along the paths between two solutions of one passage, and read the text at each place.

    ``table`` is ``geometry-paths`` of ``memlab bench geometry``: its places are shown at once. Its vectors are bundled
    with memlab or in ``store``, your own store (None: the default one). Pairs of solutions in your store are offered
    too; they are measured first.
    """
    return PathPanel(lm, table, store)


class PathPanel(LivePanel):
    """The panel of ``path_panel``. ``result`` is the vector at the place that is shown."""

    def __init__(self, lm: FrozenLM, table: pd.DataFrame, store: Store | None = None) -> None:
        super().__init__(READ, icon="eye", tooltip="Decode the vector at this place freely, about a second")
        require_columns(table, ("ids", "bend"))
        self.lm, self.table = lm, table
        self._stores = [Store.bundled(), *([store] if store is not None else [])]
        self._own: dict[int, tuple[MemVector, MemVector]] = self._pairs_of(store)
        self.pair = dropdown("Solutions", self._options())
        ways = [(display(way), way) for way in dict.fromkeys(table.way)]
        self.way = w.ToggleButtons(
            options=ways, style={"button_width": "auto"}, tooltips=[display(way) for _, way in ways]
        )
        self.place, self._places = _place_input(50)
        self.text, self.truth = TokenText("The text that the vector at this place writes"), w.HTML()
        self.facts, self.links = w.HTML(), w.HTML()
        self.curve.on_pick("spot_bits", self._pick)
        self.curve.on_pick("spot_share", self._pick)
        self.pair.observe(self._show_pair, "value")
        self.way.observe(self._move, "value")
        self.place.observe(self._move, "value")
        self.while_busy = [self.pair, self.way, *self._places.children]
        self.outputs = []
        self.show_widgets(
            "path", row(self.pair, self.way), self.curve, self._places, self.buttons(), self.truth, self.facts,
            self.text, self.links,
        )  # fmt: skip
        self._show_pair()

    @property
    def ends(self) -> tuple[MemVector, MemVector]:
        """The two solutions of the chosen pair."""
        if self.pair.value in self._own:
            return self._own[self.pair.value]
        first = self._rows().iloc[0]
        return self._get(first.a), self._get(first.b)

    def vector(self) -> MemVector:
        """The vector at the chosen place of the chosen path. It is not checked yet."""
        (a, b), t, way = self.ends, self.place.value / 100, self.way.value
        if way == "line":
            return a.lerp(b, t)
        if way == "nowhere":
            seed = 0 if self.pair.value in self._own else self.pair.value  # as in path_table
            return a.perturb(t * float(np.linalg.norm(b.mem - a.mem)), seed=seed) if t else a
        rows = self._rows()
        bend = np.asarray(rows[rows.way == "curve"].bend.iloc[0], np.float32).reshape(a.mem.shape)
        return a.with_mem(geometry.bezier(a.mem, bend, b.mem, [t])[0].astype(np.float32), f"curve to {b.key} at {t}")

    def work(self) -> None:
        if not len(self._rows()):
            self._measure()
            return
        self.result = mem = self.vector()
        self.result = mem = mem.with_checks(check(self.lm, mem))
        ids = decode(self.lm, [mem], batch=1)[0]
        show_decoded(self.text, self.lm, mem, ids)
        self.facts.value = decoded_facts(self.lm, mem, ids)
        self.show_status(f"Done: read now, {self._where()}.")

    def _measure(self) -> None:
        """Train the curve between two solutions of the reader's own, and read the places of all paths."""
        began = time.perf_counter()

        def on_progress(done: int, of: int) -> bool:
            left = (time.perf_counter() - began) * (of - done) / done
            self.show_status(f"Step {done} of {of} of the curve" + f", {left:.0f} s left" * (done > 2))
            return self.stopping.is_set()

        try:
            measured = path_table(self.lm, self.ends, count=1, on_progress=on_progress)
        except Stopped:
            self.show_status("Stopped. Nothing was kept of this pair.")
            return
        kept = measured[measured.way.isin(self.table.way)].assign(pair=self.pair.value)
        by_key = {mem.key: mem for mem in self.ends}
        self._own[self.pair.value] = by_key[kept.a.iloc[0]], by_key[kept.b.iloc[0]]
        self.table = pd.concat([self.table, kept], ignore_index=True)
        self._show_pair()

    def _show_pair(self, _: Any = None) -> None:
        """Draw the paths of the chosen pair, and show the text at the chosen place."""
        a, rows = self.ends[0], self._rows()
        self.truth.value = box(
            f"The text: {html.escape(self.lm.decode_ids(a.token_ids))}", "memlab-text", "memlab-note"
        )
        self.start.description = READ if len(rows) else MEASURE
        if not len(rows):
            for shown in (self.curve, self.text):
                shown.clear()
            self.facts.value = self.links.value = ""
            self.show_status("This pair is not measured yet. To train its curve and read its places takes minutes.")
            return
        heights = rows.groupby("way", sort=False).barrier.first()
        title = (
            "Barrier: " + ", ".join(f"{display(way)} {bits:.2f}" for way, bits in heights.items()) + " bits per token"
        )
        self.curve.draw(lambda: charts.along_a_path(rows, self.place.value / 100).properties(title=title))
        columns = ["way", "t", "bits", "accuracy", "right", "tokens", "exact"]
        self.links.value = download_links(f"path-{self.pair.value}", rows[columns].to_csv(index=False))
        self._move()

    def _move(self, _: Any = None) -> None:
        """Show the stored text of the chosen place; read it now if there is none."""
        rows, t = self._rows(), self.place.value / 100
        if not len(rows):
            return
        self.curve.set(place=t)
        here = rows[(rows.way == self.way.value) & np.isclose(rows.t, t)]
        if here.empty:
            self._begin()
            return
        place, a = here.iloc[0], self.ends[0]
        self.result = self.vector()
        show_decoded(self.text, self.lm, a, place.ids)
        wrong = badge("wrong", f"Not exact: {a.n - place.right} of {a.n} tokens wrong")
        self.facts.value = (
            f'<div class="memlab-text">{badge("exact", "Exact") if place.exact else wrong}stored result</div>'
        )
        self.show_status(f"{self._where()}: {place.bits:.2f} bits per token.")

    def _where(self) -> str:
        return f"{self.place.value} % of the {display(self.way.value)}"

    def _pick(self, spots: list[dict[str, Any]]) -> None:
        """Go to the dot that was clicked in a picture."""
        if spots and not self._thread.busy:
            spot = spots[-1]
            self.place.value = round(100 * spot["t"])  # first: a dot is a stored place on all paths
            self.way.value = spot["way"]

    def _rows(self) -> pd.DataFrame:
        return self.table[self.table.pair == self.pair.value]

    def _get(self, key: str) -> MemVector:
        store = next((store for store in self._stores if key in store), self._stores[0])
        return store.get(key)

    def _options(self) -> list[tuple[str, int]]:
        def label(a: MemVector, b: MemVector, whose: str = "") -> str:
            return f"{whose}{text_title(a.text.id)}, seeds {a.recipe.seed} and {b.recipe.seed}"

        stored = [
            (label(self._get(a), self._get(b)), pair)
            for pair, a, b in self.table[["pair", "a", "b"]].drop_duplicates().itertuples(index=False)
        ]
        return [*stored, *((label(a, b, "yours: "), pair) for pair, (a, b) in self._own.items())]

    def _pairs_of(self, store: Store | None) -> dict[int, tuple[MemVector, MemVector]]:
        """Pairs of solutions in the reader's store that the table lacks, under numbers of their own."""
        try:
            mems = solutions(store if store is not None else Store(), self.lm, tokens=None)
        except (MemlabError, OSError):  # no store yet, or one that cannot be read: notebook 1 says so
            return {}
        known = {*self.table.a, *self.table.b}
        found = paths.pairs([mem for mem in mems if mem.key not in known], 12)
        return dict(enumerate(found, start=int(self.table.pair.max()) + 1))


def _place_input(place: int) -> tuple[w.BoundedIntText, w.HBox]:
    """A number box for every per cent of a path, and a row with the box and a slider over the stored places."""
    number, both = number_input("Place, %", place, 0, 100, about="0: one solution; 100: the other")
    usual = both.children[0]
    slider = w.IntSlider(
        value=place, min=0, max=100, step=STEP, description=usual.description, readout=False, style=usual.style,
        layout=usual.layout, tooltip="Stored places: shown at once",
    )  # fmt: skip

    def nearest(value: int) -> int:
        return STEP * round(value / STEP)

    def follow_slider(change: Any) -> None:
        if nearest(number.value) != change["new"]:
            number.value = change["new"]

    slider.observe(follow_slider, "value")
    number.observe(lambda change: setattr(slider, "value", nearest(change["new"])), "value")
    both.children = (slider, number)
    return number, both


def written_between(lm: FrozenLM, places: pd.DataFrame) -> HTML:
    """What the model writes at places between two texts, a line per place, with the tokens of each text marked.

    ``places``: rows of one pair of ``geometry-between`` of ``memlab bench geometry``, ``t first second ids``, with the
    two texts first and last.
    """
    texts = [np.asarray(ids) for ids in places.ids.iloc[[0, -1]]]
    kinds = {(True, False): "first", (False, True): "second", (True, True): "both", (False, False): ""}
    text = TokenText("What the model writes between two texts")

    def shown(ids: Any) -> str:
        of = [kinds[tuple(i < len(other) and token == other[i] for other in texts)] for i, token in enumerate(ids)]  # type: ignore[index]
        text.show(token_pieces(lm, ids), kinds=of)
        return text.static_html()

    titles = [
        f'<span class="memlab-token-{kind}">{html.escape(text_title(places[kind].iloc[0]))}</span>'
        for kind in ("first", "second")
    ]
    rows = "".join(
        f"<tr><td>{t:.0%}</td><td>{shown(ids)}</td></tr>" for t, ids in zip(places.t, places.ids, strict=True)
    )
    head = (
        f'<div class="memlab-text">Marked: tokens in the place that they have in {titles[0]} or in {titles[1]}.</div>'
    )
    return HTML(f'{STYLE}{head}<table class="memlab-table">{rows}</table>')
