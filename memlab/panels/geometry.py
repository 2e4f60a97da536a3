"""Panels on geometry: a map to brush and read, the way between two solutions, a vector moved, a look inside."""

from __future__ import annotations

import html
import time
from functools import partial
from typing import Any

import altair as alt
import ipywidgets as w
import numpy as np
import pandas as pd

from memlab import charts
from memlab.decoding.decode import check, decode
from memlab.measures import geometry
from memlab.models import FrozenLM
from memlab.panels.base import TEXT, LastingThread, LivePanel, links, number, plain_table, say
from memlab.panels.cram import readout_html
from memlab.probes import attention, paths
from memlab.probes.evaluate import Stopped
from memlab.results.mem_vector import MemVector
from memlab.results.store import Store
from memlab.scoring.memory import trim_memory

_WIDE = {"description_width": "90px"}
_LAYOUT = {"width": "420px"}
_BOX = "border-left:3px solid var(--jp-border-color1,#999);margin:6px 0;padding:2px 12px;"
STEPS = 80
"""Of a curve's training, as in the stored table."""
SHOWN = 12
"""Vectors that a map lists at most."""
PICTURE = {"actions": {"export": {"svg": True, "png": True}, "source": False, "compiled": False, "editor": False}}
"""What the menu of a chart in the page offers: its own picture, made in the browser when it is asked for."""


def map_panel(lm: FrozenLM, mems: list[MemVector]) -> MapPanel:
    """A map of vectors; drag over points to read their texts, norms and checks."""
    return MapPanel(lm, mems)


class MapPanel(w.VBox):
    """The panel of ``map_panel``. ``picked`` are the vectors under the brush."""

    def __init__(self, lm: FrozenLM, mems: list[MemVector]) -> None:
        super().__init__()
        self.lm, self.mems, self.picked = lm, mems, list[MemVector]()
        self._x = np.stack([mem.mem.reshape(-1) for mem in mems])
        self._texts = [_beginning(lm, mem) for mem in mems]
        self._flat: dict[str, np.ndarray] = {}
        self._share: dict[str, float] = {}
        self._drawn = "pca"
        """The map that is to be seen, while another may be laid out."""
        self._thread = LastingThread()
        alt.JupyterChart.enable_offline()
        ways = [("PCA", "pca"), ("UMAP (about 20 s, the first time)", "umap"), ("t-SNE", "tsne")]
        self.how = w.Dropdown(options=ways, description="Map", style=_WIDE, layout=_LAYOUT)
        colours = [("kind of text", "kind"), ("passage", "passage"), ("length", "length")]
        self.colour = w.Dropdown(options=colours, description="Colour", style=_WIDE, layout=_LAYOUT)
        self.kept = w.HTML()
        self.place = w.Box()
        self.told = w.HTML()
        self.links = w.HTML()
        self.how.observe(self._draw, "value")
        self.colour.observe(self._draw, "value")
        self.children = [self.how, self.colour, self.kept, self.place, self.told, self.links]
        self.layout.max_width = "900px"
        self.add_class("memlab-map-panel")
        self._draw()

    @property
    def table(self) -> pd.DataFrame:
        """What is drawn: ``i x y kind label text tokens norm seed``."""
        flat = self._flat[self._drawn]
        labels = {"kind": self._kind, "passage": lambda mem: mem.text.id, "length": lambda mem: f"{mem.n:>3} tokens"}
        return pd.DataFrame(
            {
                "i": range(len(self.mems)),
                "x": flat[:, 0],
                "y": flat[:, 1],
                "kind": [labels[self.colour.value](mem) for mem in self.mems],
                "label": [mem.text.id for mem in self.mems],
                "text": self._texts,
                "tokens": [mem.n for mem in self.mems],
                "norm": np.linalg.norm(self._x, axis=1),
                "seed": [mem.recipe.seed for mem in self.mems],
            }
        )

    @staticmethod
    def _kind(mem: MemVector) -> str:
        return "random words" if mem.text.id.startswith("random-") else "originals"

    def wait(self, timeout: float | None = None) -> None:
        """Until the map that is being laid out is drawn."""
        self._thread.wait(timeout)

    def _draw(self, _: Any = None) -> None:
        """UMAP may take twenty seconds: in a thread, so that the page goes on."""
        self._thread.ask(partial(self._lay_out, self.how.value))

    def _lay_out(self, how: geometry.Map) -> None:
        try:
            if how not in self._flat:
                self.kept.value = say("Laying out ...")
                flat = geometry.flat_map(self._x, how)
                self._share[how] = geometry.neighbours_kept(self._x, flat)
                self._flat[how] = flat
                trim_memory()  # of a layout's work; a drawing's is small, and looking for it takes longer
            if how == self.how.value:
                self._drawn = how
                self._show(how)
        except Exception as error:  # too few vectors, or umap-learn is not there: said where the reader looks
            self.kept.value = say(f"{type(error).__name__}: {error}", wrong=True)

    def _show(self, how: str) -> None:
        share = self._share[how]
        near = min(10, len(self.mems) - 1)
        chance = near / (len(self.mems) - 1)
        name = {value: label.split(" (")[0] for label, value in self.how.options}[how]
        title = f"{name}: {share:.0%} of near neighbours stay near"
        chart = charts.vector_map(self.table, brush=alt.selection_interval(name="brush"), title=title)
        with alt.theme.enable("memlab"):
            live = alt.JupyterChart(chart, embed_options=PICTURE)
        live.selections.observe(self._brushed, "brush")
        before, self.place.children = self.place.children, [live]
        for old in before:  # else kernel and page keep each chart ever drawn
            old.close()
        self.kept.value = say(
            f"{name} of {len(self.mems)} vectors. Of each one's {near} nearest, {share:.0%} are near on the map too; "
            f"by chance {chance:.0%}."
        )
        self.links.value = links(f"map-{how}", self.table.to_csv(index=False))
        self._tell(None)

    def _brushed(self, change: Any) -> None:
        ends = change["new"].value or {}
        self._tell(ends if len(ends) == 2 else None)

    def _tell(self, ends: dict[str, list[float]] | None) -> None:
        table = self.table
        if ends is None:
            self.picked, self.told.value = [], say("Drag over points to read them.")
            return
        inside = table.x.between(*sorted(ends["x"])) & table.y.between(*sorted(ends["y"]))
        self.picked = [self.mems[i] for i in table.i[inside]]
        rows = []
        for mem in self.picked[:SHOWN]:
            text = html.escape(_beginning(self.lm, mem))
            margin = "–" if mem.margin is None else f"{mem.margin:.2f}"
            norm = f"{np.linalg.norm(mem.mem):,.0f}"
            rows.append(
                (text, str(mem.n), str(mem.recipe.seed), norm, str(mem.steps), margin, "yes" if mem.exact else "no")
            )
        names = ["text", "tokens", "seed", "norm", "steps", "margin", "exact"]
        more = f" The first {SHOWN}:" if len(self.picked) > SHOWN else ""
        head = say(f"{len(self.picked)} vectors under the brush.{more}")
        self.told.value = head + plain_table(pd.DataFrame(rows, columns=names), escape=False) if rows else head


def _beginning(lm: FrozenLM, mem: MemVector, characters: int = 60) -> str:
    string = lm.decode_ids(mem.token_ids)
    return string[:characters].replace("\n", " ") + ("…" if len(string) > characters else "")


def path_panel(lm: FrozenLM, table: pd.DataFrame, store: Store | None = None) -> PathPanel:
    """Pick two stored solutions of one passage, see the line and the curve between them, read any place on the line."""
    return PathPanel(lm, table, store)


class PathPanel(LivePanel):
    """The panel of ``path_panel``; ``table`` is ``geometry-paths`` of ``memlab bench geometry``."""

    def __init__(self, lm: FrozenLM, table: pd.DataFrame, store: Store | None = None) -> None:
        super().__init__("Read this place", icon="eye", tooltip="Decode the vector at this place of the line, freely")
        self.lm, self.table, self.store = lm, table, store or Store.bundled()
        names = [(f"{name} ({pair})", pair) for pair, name in table.groupby("pair").text_id.first().items()]
        self.pair = w.Dropdown(options=names, description="Solutions", style=_WIDE, layout=_LAYOUT)
        self.chart, self.decoded, self.links = w.HTML(), w.HTML(), w.HTML()
        self.at, place = number("Place, %", 50, 0, 100)
        self.bend = w.Checkbox(description="on the curve: trained now, a minute or two", value=False, indent=False)
        self.pair.observe(self._show, "value")
        self.while_busy = [self.pair, self.bend, *place.children]
        self.children = [
            self.pair, self.chart, w.HBox([place, self.bend], layout=w.Layout(flex_flow="row wrap")),
            self.buttons(), self.decoded, self.links,
        ]  # fmt: skip
        self.add_class("memlab-path-panel")
        self._show()

    def clear(self) -> None:
        super().clear()
        self.decoded.value = ""

    def work(self) -> None:
        row = self.table[self.table.pair == self.pair.value].iloc[0]
        a, b = self.store.get(row.a), self.store.get(row.b)
        t = self.at.value / 100
        if self.bend.value:
            self._began = time.perf_counter()
            curve = paths.curve(self.lm, a, b, points=3, steps=STEPS, watch=self._heard, again=0)
            assert curve.middle is not None
            where = geometry.bezier(a.mem, curve.middle, b.mem, [t])[0].astype(np.float32)
            mem = a.with_mem(where, f"curve at {t}")
        else:
            mem = a.lerp(b, t)
        mem = mem.with_checks(check(self.lm, mem))
        ids = decode(self.lm, [mem], batch=1)[0]
        self.decoded.value = readout_html(self.lm, mem, ids)
        self.result = mem
        right = int((ids == mem.token_ids).sum())
        self.status.value = say(f"Done: {right} of {mem.n} tokens right at {t:.0%} of the way.")

    def _heard(self, done: int, of: int) -> bool:
        left = (time.perf_counter() - self._began) * (of - done) / done
        self.status.value = say(f"Step {done} of {of} of the curve" + f", {left:.0f} s left" * (done > 2))
        return self.stopping.is_set()

    def _guarded(self) -> None:
        try:
            super()._guarded()
        except Stopped:
            self.status.value = say("Stopped; nothing was kept.")

    def _show(self, _: Any = None) -> None:
        self.clear()
        mine = self.table[self.table.pair == self.pair.value]
        chart = charts.along_a_path(mine)
        self.chart.value = charts.to_svg(chart)
        heights = mine.groupby("way").barrier.first()
        self.status.value = say(
            ", ".join(f"{way}: barrier {height:.2f} bits a token" for way, height in heights.items())
        )
        columns = ["way", "t", "bits", "accuracy", "right", "tokens", "exact"]
        self.links.value = links(f"path-{self.pair.value}", mine[columns].to_csv(index=False), self.chart.value)


def move_panel(lm: FrozenLM, mems: list[MemVector]) -> MovePanel:
    """Move a stored vector by noise, rounding or dropout, and read what it still writes."""
    return MovePanel(lm, mems)


class MovePanel(LivePanel):
    """The panel of ``move_panel``."""

    WAYS = ("noise, % of its norm", "numbers left out, %", "rounded to bits")

    def __init__(self, lm: FrozenLM, mems: list[MemVector]) -> None:
        super().__init__(
            "Move it", icon="arrows-alt", tooltip="Change the vector and decode it, freely: about a second", stops=False
        )
        self.lm, self.mems = lm, mems
        names = [(f"{mem.text.id}, {mem.n} tokens, seed {mem.recipe.seed}", i) for i, mem in enumerate(mems)]
        self.which = w.Dropdown(options=names, description="Vector", style=_WIDE, layout=_LAYOUT)
        self.way = w.Dropdown(options=self.WAYS, description="Change", style=_WIDE, layout=_LAYOUT)
        self.amount, amounts = number("How much", 10, 0, 100)
        self.amounts = amounts
        self.seed, seeds = number("Seed", 0, 0, 99)
        self.decoded, self.links = w.HTML(), w.HTML()
        self.way.observe(self._bound, "value")
        for control in (self.which, self.way, self.amount, self.seed):
            control.observe(self._changed, "value")
        self.children = [
            self.which, self.way, w.HBox([amounts, seeds], layout=w.Layout(flex_flow="row wrap")),
            self.buttons(), self.decoded, self.links,
        ]  # fmt: skip
        self.while_busy = [self.which, self.way, *amounts.children, *seeds.children]
        self.add_class("memlab-move-panel")

    def clear(self) -> None:
        super().clear()
        self.decoded.value = self.links.value = ""

    def _bound(self, _: Any = None) -> None:
        """Bits are 2 to 16, shares 0 to 100 %."""
        low, high = (2, 16) if self.way.value == self.WAYS[2] else (0, 100)
        for control in self.amounts.children:
            # The wider of old and new first: a low end above the high one is refused.
            control.max = max(high, control.max)
            control.min, control.max = low, high

    def _changed(self, _: Any = None) -> None:
        self.clear()
        self.status.value = say("Ready.")

    def moved(self) -> MemVector:
        """The vector as the controls say."""
        mem, share = self.mems[self.which.value], self.amount.value / 100
        if self.way.value == self.WAYS[0]:
            return mem.perturb(share * float(np.linalg.norm(mem.mem)), seed=self.seed.value)
        if self.way.value == self.WAYS[2]:
            return mem.quantise(self.amount.value)
        return mem.dropout(share, seed=self.seed.value)

    def work(self) -> None:
        moved = self.moved()
        moved = moved.with_checks(check(self.lm, moved))
        before = self.mems[self.which.value]
        ids = decode(self.lm, [moved], batch=1)[0]
        self.decoded.value = readout_html(self.lm, moved, ids)
        cosine = float(geometry.cosines(moved.mem.reshape(1, -1), before.mem.reshape(1, -1))[0, 0])
        self.result = moved
        right = int((ids == moved.token_ids).sum())
        self.links.value = links("moved", _told_apart(self.lm, moved, ids))
        verdict = "it still decodes exactly" if moved.exact else f"{right} of {moved.n} tokens right"
        self.status.value = say(f"Done: cosine to what it was {cosine:.3f}; {verdict}.")


def attention_panel(lm: FrozenLM, mems: list[MemVector]) -> AttentionPanel:
    """Where the text looks, layer by head, and what each of its tokens cost before and after."""
    return AttentionPanel(lm, mems)


class AttentionPanel(LivePanel):
    """The panel of ``attention_panel``: it runs the model once on the button, a second or two."""

    COLUMNS = (("the vector", "on_mem"), ("the sink token", "on_first"), ("the text itself", "on_text"))

    def __init__(self, lm: FrozenLM, mems: list[MemVector]) -> None:
        super().__init__(
            "Look",
            icon="search",
            tooltip="One pass of the model over the vector and its text: about a second",
            stops=False,
        )
        self.lm, self.mems = lm, mems
        self._mass: pd.DataFrame | None = None
        self._seen = ""
        names = [(f"{mem.text.id}, {mem.n} tokens, seed {mem.recipe.seed}", i) for i, mem in enumerate(mems)]
        self.which = w.Dropdown(options=names, description="Vector", style=_WIDE, layout=_LAYOUT)
        self.column = w.Dropdown(options=self.COLUMNS, description="Attention to", style=_WIDE, layout=_LAYOUT)
        self.chart, self.bars, self.links = w.HTML(), w.HTML(), w.HTML()
        self.column.observe(self._draw, "value")
        self.which.observe(self._changed, "value")
        self.while_busy = [self.which]
        self.children = [self.which, self.column, self.buttons(), self.chart, self.bars, self.links]
        self.add_class("memlab-attention-panel")

    def clear(self) -> None:
        super().clear()
        self._mass, self.chart.value, self.bars.value, self.links.value = None, "", "", ""

    def _changed(self, _: Any = None) -> None:
        self.clear()
        self.status.value = say("Ready.")

    def work(self) -> None:
        mem = self.mems[self.which.value]
        self._mass, self._seen = attention.attention_mass(self.lm, mem), f"{mem.text.id}, seed {mem.recipe.seed}"
        self._draw()
        table = attention.waterfall(self.lm, mem)
        chart = charts.token_waterfall(table).properties(title="What each token costs the model")
        self.bars.value = charts.to_svg(chart)
        self.links.value = links("waterfall", table.to_csv(index=False), self.bars.value)
        self.result = mem
        both = table.dropna()  # a first token that nothing foretells has a cost with the vector only
        gained = float(both.before.sum() - both.after.sum())
        self.status.value = say(f"Done: the vector saves {gained:.0f} of {both.before.sum():.0f} bits.")

    def _draw(self, _: Any = None) -> None:
        if self._mass is None:
            return
        if not len(self._mass):
            self.chart.value = f'<div style="{_BOX}{TEXT}">This model has no attention.</div>'
            return
        name = {value: label for label, value in self.COLUMNS}[self.column.value]
        chart = charts.attention_map(
            self._mass, self.column.value, title=f"Share of the text's attention to {name}", of=self._seen
        )
        self.chart.value = charts.to_svg(chart)


def _told_apart(lm: FrozenLM, mem: MemVector, ids: np.ndarray) -> str:
    """CSV of a passage's tokens beside those that were decoded."""
    table = pd.DataFrame(
        {"true": [lm.decode_ids([i]) for i in mem.token_ids], "decoded": [lm.decode_ids([i]) for i in ids]}
    )
    return str(table.assign(right=ids == mem.token_ids).to_csv())
