"""Panel of paths: the line and the curve between two solutions of one passage."""

from __future__ import annotations

import time
from typing import Any

import ipywidgets as w
import numpy as np
import pandas as pd

from memlab import charts
from memlab.decoding.decode import check, decode
from memlab.measures import geometry
from memlab.models import FrozenLM
from memlab.panels.base import LivePanel
from memlab.panels.decoded import readout_html
from memlab.panels.style import download_links, drawn, dropdown, number_input, row
from memlab.probes import paths
from memlab.probes.evaluate import Stopped
from memlab.results.store import Store

STEPS = 80
"""Training steps of a curve, as in the stored table."""


def path_panel(lm: FrozenLM, table: pd.DataFrame, store: Store | None = None) -> PathPanel:
    """Pick two stored solutions of one passage, see the paths between them, and decode any place on a path.

    ``table`` is ``geometry-paths`` of ``memlab bench geometry``. ``store`` holds the solutions (default: the bundled
    store).
    """
    return PathPanel(lm, table, store)


class PathPanel(LivePanel):
    """The panel of ``path_panel``. ``result`` is the vector at the place that was read last."""

    def __init__(self, lm: FrozenLM, table: pd.DataFrame, store: Store | None = None) -> None:
        super().__init__("Read this place", icon="eye", tooltip="Decode the vector at this place freely")
        self.lm, self.table, self.store = lm, table, store or Store.bundled()
        names = [(f"{name} ({pair})", pair) for pair, name in table.groupby("pair").text_id.first().items()]
        self.pair = dropdown("Solutions", names)
        self.chart, self.decoded, self.links = w.HTML(), w.HTML(), w.HTML()
        self.outputs += [self.decoded]
        self.place, places = number_input("Place, %", 50, 0, 100)
        label = "on the curve (trained now, a minute or two)"
        self.on_curve = w.Checkbox(description=label, value=False, indent=False, layout=w.Layout(width="360px"))
        self.pair.observe(self._show, "value")
        self.while_busy = [self.pair, self.on_curve, *places.children]
        self.show_widgets(
            "path", self.pair, self.chart, row(places, self.on_curve), self.buttons(), self.decoded, self.links
        )
        self._show()

    def work(self) -> None:
        pair = self.table[self.table.pair == self.pair.value].iloc[0]
        a, b = self.store.get(pair.a), self.store.get(pair.b)
        t = self.place.value / 100
        if self.on_curve.value:
            self._began = time.perf_counter()
            curve = paths.curve(self.lm, a, b, points=3, steps=STEPS, on_progress=self._on_curve_step, recheck=0)
            assert curve.middle is not None
            point = geometry.bezier(a.mem, curve.middle, b.mem, [t])[0].astype(np.float32)
            mem = a.with_mem(point, f"curve at {t}")
        else:
            mem = a.lerp(b, t)
        self.result = mem
        self.result = mem = mem.with_checks(check(self.lm, mem))
        ids = decode(self.lm, [mem], batch=1)[0]
        self.decoded.value = readout_html(self.lm, mem, ids)
        right = int((ids == mem.token_ids).sum())
        self.show_status(f"Done: {right} of {mem.n} tokens right at {t:.0%} of the path.")

    def _on_curve_step(self, done: int, of: int) -> bool:
        left = (time.perf_counter() - self._began) * (of - done) / done
        self.show_status(f"Step {done} of {of} of the curve" + f", {left:.0f} s left" * (done > 2))
        return self.stopping.is_set()

    def _guarded(self) -> None:
        try:
            super()._guarded()
        except Stopped:
            self.show_status("Stopped; nothing stored.")

    def _show(self, _: Any = None) -> None:
        self.clear()
        rows = self.table[self.table.pair == self.pair.value]
        self.chart.value = drawn(lambda: charts.along_a_path(rows))
        barriers = rows.groupby("way").barrier.first()
        self.show_status(", ".join(f"{path}: barrier {bits:.2f} bits per token" for path, bits in barriers.items()))
        columns = ["way", "t", "bits", "accuracy", "right", "tokens", "exact"]
        self.links.value = download_links(
            f"path-{self.pair.value}", rows[columns].to_csv(index=False), self.chart.value
        )
