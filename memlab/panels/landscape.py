"""Panel of the landscape: choose a text and families, click a point, read what came back from those bytes."""

from __future__ import annotations

import html
from difflib import SequenceMatcher
from typing import Any

import ipywidgets as w
import numpy as np
import pandas as pd

from memlab import charts
from memlab.charts.landscape import LOWEST
from memlab.charts.names import display, text_title
from memlab.measures import landscape as measures
from memlab.measures.systems import FAMILIES, SYSTEMS
from memlab.models import FrozenLM
from memlab.panels.base import Panel
from memlab.panels.decoded import token_pieces
from memlab.panels.live import LiveChart
from memlab.panels.style import badge, download_links, dropdown, plain_table, row, status_line
from memlab.panels.tokens import TokenText

LISTED = 40
"""The largest number of methods under the brush that are listed."""


def landscape_panel(lm: FrozenLM, table: pd.DataFrame) -> LandscapePanel:
    """Every way of storing a text as a point: bits stored, bits recovered. Click one to read what came back from it.

    ``table``: rows of ``memlab bench landscape``. Drag over points to list them; ``panel.selection()`` is their table.
    """
    return LandscapePanel(lm, table)


class LandscapePanel(Panel):
    """The panel of ``landscape_panel``. ``method`` is the name of the method that is shown."""

    def __init__(self, lm: FrozenLM, table: pd.DataFrame) -> None:
        super().__init__()
        self.lm, self.table = lm, measures.shares(table).reset_index(drop=True)
        kinds = list(dict.fromkeys(self.table.texts))
        texts = [(f"mean of {display(kind)}", ("kind", kind)) for kind in kinds]
        texts += [(text_title(text_id), ("text", text_id)) for text_id in dict.fromkeys(self.table.text_id)]
        self.text = dropdown("Text", texts)
        self.families = {
            family: w.ToggleButton(value=True, description=FAMILIES[family], layout=w.Layout(width="auto"))
            for family in FAMILIES
            if family in set(self.table.family)
        }
        for family, button in self.families.items():
            button.tooltip = f"Show or hide: {FAMILIES[family]}"
            button.observe(self._on_family, "value")
        self.chart = LiveChart(height=460)
        self.verdict, self.brushed, self.links = w.HTML(), w.HTML(), w.HTML()
        self.status = w.HTML(status_line("Click a point to read what came back. Drag over points to list them."))
        self.tokens = TokenText("What the reader writes", hint="Point at a token", height="9em")
        self.method = ""
        self._ranges: dict[str, list[float]] = {}
        self.text.observe(self._draw, "value")
        self.chart.on_pick("pick", self._on_pick)
        self.chart.on_pick("brush", self._on_brush)
        self.show_widgets(
            "landscape", row(self.text), row(*self.families.values()), self.chart, self.status, self.verdict,
            self.tokens, self.brushed, self.links,
        )  # fmt: skip
        self._draw()
        self.show(self.points.sort_values("recovered_share").method.iloc[-1] if len(self.points) else "")

    @property
    def points(self) -> pd.DataFrame:
        """The methods of the families that are shown, for the chosen text or as means of its kind."""
        kind, name = self.text.value
        rows = self.table[self.table.texts == name] if kind == "kind" else self.table[self.table.text_id == name]
        rows = rows[rows.family.isin([family for family, button in self.families.items() if button.value])]
        means = rows.groupby(["family", "system", "method", "sees", "decoder"], sort=False)
        return means.agg(
            stored_share=("stored_share", "mean"),
            read_share=("read_share", "mean"),
            recovered_share=("recovered_share", "mean"),
            net_share=("net_share", "mean"),
            exact=("exact", "sum"),
            exact_prefix=("exact_prefix", "median"),
            edit=("edit", "mean"),
            seconds=("seconds_store", "mean"),
            passages=("exact", "size"),
        ).reset_index()

    def selection(self) -> pd.DataFrame:
        """The points under the brush, or all that are shown."""
        points = self.points
        heights = points.recovered_share.clip(lower=LOWEST)  # as the chart draws them
        for name, places in (("stored_share", points.stored_share), ("y", heights)):
            if ends := self._ranges.get(name):
                points = points[places.reindex(points.index).between(*sorted(ends))]
        return points.reset_index(drop=True)

    def show(self, method: str) -> None:
        """Show what came back by this method."""
        self.method = method
        self.chart.set(chosen=method)
        rows = self._rows(method)
        if rows.empty or method not in set(self.points.method):
            self.verdict.value = ""
            self.tokens.clear()
            return
        one = rows.iloc[0]
        name = SYSTEMS[one.system].arxiv if one.system in SYSTEMS else ""
        source = f"after {one.system}, arXiv {name}" if name else one.system
        outcome = badge("exact", "Exact") if one.exact else badge("plain", f"{one.exact_prefix} tokens, then wrong")
        net = "" if pd.isna(one.net_share) else f", {one.net_share:.0%} more than with another text's bytes"
        facts = (
            f"{one.stored_bits:,.0f} bits stored, {one.bits_without:,.0f} are its own; {one.recovered_share:.0%} "
            f"recovered{net}"
        )
        self.verdict.value = (
            f'<div class="memlab-text">{outcome}<b>{html.escape(method)}</b> ({html.escape(source)}), '
            f"{html.escape(text_title(one.text_id))}: {facts}.</div>"
        )
        ids = np.asarray(one.ids, np.int64)
        if not len(ids):
            self.tokens.clear()
            self.tokens.hint = "This method finds a text among others, and writes nothing."
            return
        passage = self._passage(one.text_id)[: one.tokens]
        kinds = ["wrong"] * len(ids)
        for _, start, size in SequenceMatcher(
            None, passage.tolist(), ids.tolist(), autojunk=False
        ).get_matching_blocks():
            kinds[start : start + size] = ["right"] * size
        self.tokens.hint = "What the reader writes without help. Red: not in the passage at this point of it."
        self.tokens.show(token_pieces(self.lm, ids), kinds=kinds)

    def _rows(self, method: str) -> pd.DataFrame:
        kind, name = self.text.value
        rows = self.table[self.table.method == method]
        return rows[rows.texts == name] if kind == "kind" else rows[rows.text_id == name]

    def _passage(self, text_id: str) -> np.ndarray:
        """Token ids of a text: the longest that an exact method wrote. Empty if no method is exact."""
        exact = self.table[(self.table.text_id == text_id) & self.table.exact]
        return np.asarray(exact.loc[exact.tokens.idxmax()].ids, np.int64) if len(exact) else np.empty(0, np.int64)

    def _on_family(self, change: Any) -> None:
        if any(button.value for button in self.families.values()):
            self._draw()
        else:
            change["owner"].value = True  # the last family stays, or there would be nothing to look at

    def _draw(self, _: Any = None) -> None:
        self._ranges = {}
        points = self.points
        ceiling = measures.reader_ceiling(self.table, *self.text.value)
        self.chart.draw(lambda: charts.landscape_map(points, chosen=self.method, ceiling=ceiling))
        self.links.value = download_links("landscape", points.to_csv(index=False))
        self.brushed.value = ""
        if self.method:
            self.show(self.method)

    def _on_pick(self, value: Any) -> None:
        if value:
            self.show(str(value[-1]["method"]))

    def _on_brush(self, ranges: dict[str, list[float]] | None) -> None:
        self._ranges = dict(ranges or {})
        chosen = self.selection() if self._ranges else self.points.head(0)
        if chosen.empty:
            self.brushed.value = ""
            return
        shown = chosen.sort_values("recovered_share", ascending=False).head(LISTED)
        cells = pd.DataFrame(
            {
                "method": shown.method,
                "bits stored per bit": shown.stored_share.map("{:.3g}".format),
                "recovered": shown.recovered_share.map("{:.0%}".format),
                "net of the control": shown.net_share.map(lambda share: "–" if pd.isna(share) else f"{share:.0%}"),
                "exact": [f"{row.exact} of {row.passages}" for row in shown.itertuples()],
            }
        )
        told = status_line(f"{len(chosen)} methods under the brush. In Python: panel.selection().")
        self.brushed.value = f'<div class="memlab-scroll">{plain_table(cells)}</div>{told}'
