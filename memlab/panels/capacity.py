"""Two panels on capacity: a run as both protocols see it, and a text as the model sees it before any training."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

import ipywidgets as w
import numpy as np
import pandas as pd

from memlab import charts
from memlab.decoding.decode import EXACT, decode
from memlab.measures import capacity, capacity_fits
from memlab.measures.prediction import Predictor
from memlab.models import FrozenLM
from memlab.panels.base import TEXT, LivePanel, number, plain_table, say, token_pieces
from memlab.panels.cram import OWN, readout_html
from memlab.probes.token_costs import gains
from memlab.results.store import Store
from memlab.texts import Text, originals

_WIDE = {"description_width": "90px"}
_LAYOUT = {"width": "420px"}
_BOX = "border-left:3px solid var(--jp-border-color1,#999);margin:6px 0;padding:2px 12px;"
_KS = (1, 2, 4, 8)
READ = 4000
"""Characters of an original that are read: more than a few vectors hold, and a matter of seconds."""


def capacity_panel(lm: FrozenLM, runs: pd.DataFrame, store: Store | None = None) -> CapacityPanel:
    """Pick a passage and one of its runs; its vector is read from the store, decoded, and explained."""
    return CapacityPanel(lm, runs, store)


class CapacityPanel(LivePanel):
    """The panel of ``capacity_panel``; ``runs`` is a table of ``memlab capacity``, ``store`` holds their vectors."""

    def __init__(self, lm: FrozenLM, runs: pd.DataFrame, store: Store | None = None) -> None:
        super().__init__(
            "Decode it now",
            icon="play",
            tooltip="Read the stored vector and decode it, freely: about 20 tokens a second",
        )
        self.lm, self.runs, self.store = lm, runs, store or Store.bundled()
        # Whatever the table begins with: what is called exact first.
        protocols = sorted(dict.fromkeys(runs.protocol), key=lambda name: name != "exact")
        self.protocol = w.Dropdown(options=protocols, description="Protocol", style=_WIDE, layout=_LAYOUT)
        self.kind = w.Dropdown(description="Texts", style=_WIDE, layout=_LAYOUT)
        self.text = w.Dropdown(description="Passage", style=_WIDE, layout=_LAYOUT)
        self.run = w.Dropdown(description="Run", style=_WIDE, layout=_LAYOUT)
        self.chart, self.along, self.decoded, self.told = w.HTML(), w.HTML(), w.HTML(), w.HTML()
        self.protocol.observe(self._protocol, "value")
        self.kind.observe(self._kind, "value")
        self.text.observe(self._text, "value")
        self.run.observe(self._run, "value")
        self.children = [
            self.protocol, self.kind, self.text, self.chart, self.run, self.along, self.buttons(), self.decoded,
            self.told,
        ]  # fmt: skip
        self.while_busy = [self.protocol, self.kind, self.text, self.run]
        self.add_class("memlab-capacity-panel")
        self._protocol()

    def clear(self) -> None:
        super().clear()
        self.decoded.value = self.told.value = ""

    def work(self) -> None:
        mem = self.store.get(self.run.value)

        def watch(tokens: int) -> bool:
            if tokens % 8 == 0:
                self.status.value = say(f"Decoded {tokens} of {mem.n} tokens")
            return self.stopping.is_set()

        ids = decode(self.lm, [mem], batch=1, on_token=watch)[0]
        if len(ids) < mem.n:
            self.status.value = say(f"Stopped after {len(ids)} of {mem.n} tokens.")
            return
        (row,) = gains(self.lm, [mem]).to_dict("records")
        table = capacity.explain(
            row["token_bits_without"],
            row["token_bits_with"],
            row["token_right_without"],
            row["token_right_with"],
            ids == mem.token_ids,
        )
        self.decoded.value = f'<div style="max-height:340px;overflow:auto">{readout_html(self.lm, mem, ids)}</div>'
        self.told.value = plain_table(table.map(_shown))
        self.result = mem
        wrong = np.flatnonzero(ids != mem.token_ids)
        first_wrong = int(wrong[0]) if len(wrong) else None
        same = any(c.settings == EXACT and c.first_wrong == first_wrong for c in mem.checks)
        was = "as stored" if same else "NOT as stored"
        self.status.value = say(f"Done: decoded from the stored bytes, {was}.", wrong=not same)

    def _mine(self) -> pd.DataFrame:
        runs = self.runs[self.runs.protocol == self.protocol.value]
        return runs[(runs.texts == self.kind.value) & (runs.text_id == self.text.value)]

    def _fill(self, control: w.Dropdown, options: list[Any], changed: Callable[..., None]) -> None:
        """Other options, the first one chosen; told once, when all of it is done, since each telling draws."""
        control.unobserve(changed, "value")
        control.options = options
        control.index = 0
        control.observe(changed, "value")
        changed()

    def _protocol(self, _: Any = None) -> None:
        kinds = self.runs.texts[self.runs.protocol == self.protocol.value]
        self._fill(self.kind, list(dict.fromkeys(kinds)), self._kind)

    def _kind(self, _: Any = None) -> None:
        chosen = (self.runs.protocol == self.protocol.value) & (self.runs.texts == self.kind.value)
        self._fill(self.text, list(dict.fromkeys(self.runs.text_id[chosen])), self._text)

    def _text(self, _: Any = None) -> None:
        mine = self._mine()
        runs = [
            (f"{_outcome(r)}, k = {r.k}, seed {r.seed}", r.key) for r in mine.sort_values(["k", "length"]).itertuples()
        ]
        self._fill(self.run, runs, self._run)

    def _run(self, _: Any = None) -> None:
        self.clear()
        row = self.runs[self.runs.key == self.run.value].iloc[0]
        self.chart.value = self._ladder(int(row.k))
        chart = charts.bits_along(row.token_bits_without, row.token_bits_with, int(row.exact_prefix))
        self.along.value = charts.to_svg(chart)
        here = self.run.value in self.store
        self.start.disabled = not here
        why = "This vector is not in the store; memlab capacity makes it again."
        self.status.value = say("Ready." if here else why)

    def _ladder(self, k: int) -> str:
        """The attempts that were trained on all of their text, if there are some: one that grew has one long text."""
        mine = self._mine()
        mine = mine[(mine.k == k) & (mine.exact | (mine.tried == mine.tokens))]
        if len(mine) < 2:
            return ""
        title = f"Bits that {self.text.value} still costs with {k} vector{'s' * (k > 1)}"
        return charts.to_svg(charts.attempts_by_length(mine).properties(title=title))


def information_panel(lm: FrozenLM, predictor: Predictor) -> InformationPanel:
    """Pick or type a text; see what each token costs the model, windows of equal information, and how much will fit."""
    return InformationPanel(lm, predictor)


class InformationPanel(LivePanel):
    """The panel of ``information_panel``. ``bits`` (n,) are those of the text last read."""

    def __init__(self, lm: FrozenLM, predictor: Predictor) -> None:
        super().__init__(
            "Read it", icon="eye", tooltip="One pass of the frozen model over the text: about a second", stops=False
        )
        self.lm, self.predictor = lm, predictor
        self.bits: np.ndarray | None = None
        self._ids: np.ndarray = np.array([], np.int64)
        names = [OWN, *(t.id for t in originals())]
        # One that no horizon was measured of: what is said of it is foretold indeed.
        self.source = w.Dropdown(
            options=names, value="speech-retirement-of-a-postman", description="Text", style=_WIDE, layout=_LAYOUT
        )
        self.words = w.Textarea(description="Words", rows=5, style=_WIDE, layout=w.Layout(width="auto"))
        self.window, windows = number("Window", 100, 20, 1000)
        self.shown, self.told = w.HTML(), w.HTML()
        self.source.observe(self._fill, "value")
        self.words.observe(self._changed, "value")
        self.window.observe(self._draw, "value")
        self._fill()
        self.while_busy = [self.source, self.words]
        self.children = [self.source, self.words, windows, self.buttons(), self.shown, self.told]
        self.add_class("memlab-information-panel")

    def clear(self) -> None:
        super().clear()
        self.bits, self.shown.value, self.told.value = None, "", ""

    def work(self) -> None:
        passage = self.lm.passage(Text("typed", self.words.value, "typed"), None)
        self._ids, self.bits = passage.ids, self.lm.token_bits(passage.ids)
        self._draw()
        total = float(np.nansum(self.bits))
        self.status.value = say(f"Done: {len(self.bits)} tokens, {total:.0f} bits, {total / len(self.bits):.1f} each.")

    def _fill(self, _: Any = None) -> None:
        picked = next((t for t in originals() if t.id == self.source.value), None)
        self.words.value = picked.string[:READ] if picked else ""
        self.words.placeholder = "Type or paste some text"

    def _changed(self, _: Any = None) -> None:
        """What was said of another text is gone."""
        self.clear()
        self.status.value = say("Ready.")

    def _draw(self, _: Any = None) -> None:
        if self.bits is None:
            return
        windows = capacity_fits.equal_information(self.bits, self.window.value)
        self.shown.value = _costs(self.lm, self._ids, self.bits, windows, self.window.value)
        rows = []
        for k in _KS:
            found = self.predictor.horizon(self.bits, k)
            whole = " (all of it)" if found.value >= len(self.bits) else ""
            vectors = str(k) if k in self.predictor.ks else f"{k} (extrapolated)"
            rows.append((vectors, f"{found.value:.0f}{whole}", f"{found.low:.0f} to {found.high:.0f}"))
        try:
            needed = self.predictor.vectors_needed(self.bits)
            told = f"Predicted, before any training: <b>{needed}</b> vector{'s' * (needed > 1)} for all of it."
        except ValueError as error:
            told = f"Predicted, before any training; not how many vectors all of it takes: {html.escape(str(error))}."
        table = pd.DataFrame(rows, columns=["vectors", "tokens they will hold", "90 % interval"])
        self.told.value = f'<div style="{TEXT}">{told}</div>{plain_table(table)}'


def _costs(lm: FrozenLM, ids: np.ndarray, bits: np.ndarray, windows: list[tuple[int, int]], each: int) -> str:
    """The text, the dearer a token the stronger its ground; windows of equal information end with a bar."""
    ends = {end for _, end in windows}
    shown = []
    for i, (piece, cost) in enumerate(zip(token_pieces(lm, ids), bits, strict=True)):
        strength = 0.0 if np.isnan(cost) else min(1.0, cost / 16)
        tip = "not scored" if np.isnan(cost) else f"{cost:.1f} bits"
        text = html.escape(piece).replace("\n", "&#8629;<br>")
        shown.append(f'<span title="{tip}" style="background:rgba(213,94,0,{0.75 * strength:.2f})">{text}</span>')
        if i + 1 in ends:
            shown.append('<span class="memlab-window" style="color:#2A8CCB;font-weight:700"> &#9474; </span>')
    key = f"Darker ground: more bits. Blue bars: windows of {each} bits each."
    style = f"{_BOX}{TEXT};white-space:pre-wrap;overflow-wrap:anywhere;max-height:20em;overflow-y:auto"
    return (
        f'<div style="{TEXT};opacity:.75">{key}</div><div class="memlab-costs" style="{style}">{"".join(shown)}</div>'
    )


def _outcome(run: Any) -> str:
    return f"all of {run.tokens} tokens" if run.exact else f"the first {run.exact_prefix} of {run.tokens} tokens"


def _shown(value: Any) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1 else f"{value:.0f}"
    return str(value)
