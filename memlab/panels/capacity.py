"""Panel of capacity runs: click one in a strip of all horizons, read its text, decode its vector."""

from __future__ import annotations

from typing import Any, NamedTuple

import ipywidgets as w
import numpy as np
import pandas as pd

from memlab import charts
from memlab.charts.colours import SURPRISAL
from memlab.charts.names import counted, display, text_title
from memlab.decoding.decode import decode
from memlab.errors import MemlabError
from memlab.measures import capacity
from memlab.models import FrozenLM
from memlab.panels.base import LivePanel
from memlab.panels.decoded import show_decoded, token_pieces, wrong_tokens
from memlab.panels.live import LiveChart
from memlab.panels.picker import VectorPicker
from memlab.panels.style import badge, plain_table, row
from memlab.panels.tokens import TokenText
from memlab.probes.token_costs import gains
from memlab.results.checks import EXACT, latest
from memlab.results.mem_vector import MemVector
from memlab.results.store import Store
from memlab.texts import originals, random_words

MOST_BITS = 16
"""Bits per token at which the background of a token is darkest."""
_HINT = "Stronger ground: more bits left. Pale: after the first wrong token. Click a token to find it in the chart."
_WHOLE = {"fixed": "trained as a whole", "equal": "cut to equal bits"}


class _Shown(NamedTuple):
    """What the panel shows: the text of one run, and what its tokens cost."""

    title: str
    n: int
    reached: int
    without: np.ndarray
    given: np.ndarray
    ids: np.ndarray | None
    mem: MemVector | None
    absent: str = ""


def capacity_panel(lm: FrozenLM, runs: pd.DataFrame, store: Store | None = None) -> CapacityPanel:
    """Click a run in the strip of all horizons: read its text along its bits, and decode its vector.

    ``runs`` is a table of ``memlab capacity``. ``store`` holds its vectors (default: the bundled store). The list also
    offers vectors of your own store, and those made in this session.
    """
    return CapacityPanel(lm, runs, store)


class CapacityPanel(LivePanel):
    """The panel of ``capacity_panel``. ``shown`` is what it shows."""

    def __init__(self, lm: FrozenLM, runs: pd.DataFrame, store: Store | None = None) -> None:
        super().__init__(
            "Decode it now",
            icon="play",
            tooltip="Read the stored vector and decode it freely, about 20 tokens per second",
        )
        self.lm, self.store = lm, store or Store.bundled()
        self.runs = grouped(runs).assign(stored=[key in self.store for key in grouped(runs).key])
        self.shown: _Shown | None = None
        self.strip, self.verdict, self.explanation = LiveChart(), w.HTML(), w.HTML()
        self.text = TokenText("The text of the run", hint=_HINT, height="14em")
        self.text.colour = SURPRISAL
        self._mems = {key: self.store.get(key) for key in self.runs.key[self.runs.stored]}
        self.picker = VectorPicker(lm, list(self._mems.values()))
        self.picker.choice.layout.width = "620px"  # the longest names, with several vectors
        self.outputs = [self.explanation]  # the text and the curve stay
        self.strip.on_pick("run", self._pick_run)
        self.curve.on_pick("over", self._pick_token)
        self.text.observe(lambda change: self.curve.set(place=change["new"] + 1), "picked")
        self.picker.on_change(self._pick_vector)
        self.while_busy = self.picker.controls
        self.show_widgets(
            "capacity", row(self.strip, self.curve), self.picker, self.verdict, self.text, self.buttons(),
            self.explanation,
        )  # fmt: skip
        title = f"{len(self.runs)} runs: click one. Filled: its vector can be decoded here"
        columns = ["i", "group", "texts", "tokens", "stored", "title"]
        points = self.runs.assign(tokens=self.runs.exact_prefix)[columns]
        self.strip.draw(lambda: charts.run_strip(points).properties(title=title))
        if (mem := self.picker.value) is not None:
            self._pick_vector(mem)
        elif len(self.runs):
            self._show(self._of_run(self.runs.iloc[0]), 0)

    def work(self) -> None:
        shown = self.shown
        assert shown is not None and shown.mem is not None  # noqa: PT018 (the button is disabled otherwise)
        mem = shown.mem

        def on_token(tokens: int) -> bool:
            if tokens % 8 == 0:
                self.show_status(f"Decoded {tokens} of {mem.n} tokens")
            return self.stopping.is_set()

        ids = decode(self.lm, [mem], batch=1, on_token=on_token)[0]
        if len(ids) < mem.n:
            self.show_status(f"Stopped after {len(ids)} of {mem.n} tokens.")
            return
        self.result = mem
        (costs,) = gains(self.lm, [mem]).to_dict("records")
        right = ids == mem.token_ids
        bits = costs["token_bits_without"], costs["token_bits_with"]
        table = capacity.explain(*bits, costs["token_right_without"], costs["token_right_with"], right)
        table = table.rename(columns={"paper2025": "counted as published", "exact": "counted here"})
        self.explanation.value = plain_table(table.map(_cell))
        wrong = wrong_tokens(mem, ids)
        reached = int(wrong[0]) if len(wrong) else mem.n
        self.verdict.value = _verdict(reached, mem.n, f"{shown.title}, decoded just now")
        show_decoded(self.text, self.lm, mem, ids)
        kinds = list(self.text.kinds)
        self.text.kinds = [kind if i <= reached else "beyond" for i, kind in enumerate(kinds)]
        self.text.below = [said if i == reached else "" for i, said in enumerate(self.text.below)]
        same = reached == shown.reached
        other = f"Not the stored result: {shown.reached} tokens came back then."
        self.show_status("Same result as in the table." if same else other, error=not same)

    def _pick_run(self, value: Any) -> None:
        if not value or self._thread.busy:
            return
        run = self.runs.iloc[int(value[0]["i"])]
        if run.stored:
            mem = self._mems[run.key]
            self.picker.choose(mem)  # draws, unless it was chosen already
            if self.shown is None or self.shown.mem is not mem:
                self._pick_vector(mem)
        else:
            self._show(self._of_run(run), int(run.i))

    def _pick_vector(self, mem: MemVector) -> None:
        run = self.runs[self.runs.key == mem.key]
        if len(run):
            self._show(self._of_run(run.iloc[0], mem), int(run.iloc[0].i))
        else:  # one of your own: the model must score it
            self._thread.submit(lambda: self._score(mem))

    def _score(self, mem: MemVector) -> None:
        self.show_status("Scoring the text ...")
        try:
            (costs,) = gains(self.lm, [mem]).to_dict("records")
        except MemlabError as error:
            self.show_status(str(error), error=True)
            return
        check = latest(mem.checks).get(EXACT)
        reached = mem.n if check is None or check.first_wrong is None else check.first_wrong
        bits = costs["token_bits_without"], costs["token_bits_with"]
        self._show(_Shown(text_title(mem.text.id), mem.n, reached, *bits, mem.token_ids, mem), -1)

    def _of_run(self, run: Any, mem: MemVector | None = None) -> _Shown:
        ids = mem.token_ids if mem is not None else self._ids_of(run)
        absent = "" if mem is not None else _why_absent(run, ids is not None)
        bits = np.asarray(run.token_bits_without, float), np.asarray(run.token_bits_with, float)
        return _Shown(run.title, int(run.tokens), int(run.exact_prefix), *bits, ids, mem, absent)

    def _ids_of(self, run: Any) -> np.ndarray | None:
        """Token ids of a run's text, if memlab ships the text; the text of a novel it does not."""
        texts = {text.id: text for text in originals()}
        if run.text_id.startswith("random-0-"):
            texts |= {text.id: text for text in random_words(int(run.text_id.rpartition("-")[2]) + 1)}
        if run.text_id not in texts:
            return None
        try:
            ids = self.lm.passage(texts[run.text_id], int(run.tokens), start=int(run.start)).ids
        except MemlabError:
            return None
        return ids if len(ids) == run.tokens else None

    def _show(self, shown: _Shown, i: int) -> None:
        self.clear()
        self.shown = shown
        self.strip.set(shown=i)
        self.curve.draw(lambda: charts.bits_along(shown.without, shown.given, shown.reached))
        self.verdict.value = _verdict(shown.reached, shown.n, shown.title)
        self.start.disabled = shown.mem is None
        self._show_text(shown)
        self.show_status(shown.absent or "Ready.")

    def _show_text(self, shown: _Shown) -> None:
        if shown.ids is None:
            self.text.clear()
            self.text.hint = ""
            return
        left = np.nan_to_num(shown.given)
        tips = [
            f"Token {i + 1}: {before:.1f} bits without the vector, {after:.2f} with it."
            for i, (before, after) in enumerate(zip(shown.without, shown.given, strict=True))
        ]
        kinds = ["" if i < shown.reached else "wrong" if i == shown.reached else "beyond" for i in range(shown.n)]
        self.text.hint = _HINT
        focus = shown.reached if shown.reached < shown.n else -1
        shades = np.clip(left / MOST_BITS, 0, 1)
        self.text.show(token_pieces(self.lm, shown.ids), kinds=kinds, shades=shades, tips=tips, focus=focus)

    def _pick_token(self, value: Any) -> None:
        at = int(value[0]["token"]) - 1 if value else -1
        if at < len(self.text.pieces):
            self.text.picked = at


def grouped(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs in the order of the strip, with ``i``, the name of their row in it (``group``), and their ``title``."""
    several = runs.k[runs.protocol == "exact"].max()
    names = [
        _WHOLE.get(run.protocol, display(run.protocol))
        if run.protocol != "exact"
        else "grown, 1 vector" if run.k == 1 else f"grown, 2 to {several} vectors"
        for run in runs.itertuples()
    ]  # fmt: skip
    first, kinds = {"exact": 0, "fixed": 1, "equal": 2}, {"originals": 0, "classics": 1, "random": 2}
    order = runs.assign(group=names, rank=runs.protocol.map(first).fillna(3), one=runs.k > 1)
    order["kind"] = runs.texts.map(kinds).fillna(3)
    order = order.sort_values(["rank", "one", "k", "kind", "text_id", "tokens"], kind="stable").reset_index(drop=True)
    titles = [
        f"{text_title(run.text_id)}, {run.tokens} tokens tried, {counted(run.k, 'vector')}"
        for run in order.itertuples()
    ]
    return order.drop(columns=["rank", "one", "kind"]).assign(i=range(len(order)), title=titles)


def _verdict(reached: int, n: int, title: str) -> str:
    if reached == n:
        shown = badge("exact", f"All {n} tokens come back")
    elif reached:
        shown = badge("plain", f"{reached} tokens come back, token {reached + 1} is wrong")
    else:
        shown = badge("wrong", "The first token is wrong")
    return f'<div class="memlab-text">{shown}{title}</div>'


def _why_absent(run: Any, has_text: bool) -> str:
    """Why a run has no vector here, and the command that makes one."""
    kind = "FILE" if run.texts == "classics" else run.texts
    command = f"memlab capacity --texts {kind} --protocol {run.protocol}"
    if not has_text:
        return f"No vector to decode: memlab may not distribute the texts of novels. With your own file: {command}"
    return f"No vector to decode: memlab ships those of grown runs only. To make this one: {command}"


def _cell(value: Any) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1 else f"{value:.0f}"
    return str(value)
