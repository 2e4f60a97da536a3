"""Writes the pictures of ``data/pictures`` that no experiment writes: ``python -m tests.pictures``.

``mechanism.svg`` and ``cramming.svg`` are drawn here, of a bundled vector and its training. ``python -m tests.pictures
thumbnails [01 02 ...]`` also executes notebooks, and puts their first charts into the index. ``panel.png`` is written
by the browser test of the first notebook, if ``MEMLAB_WRITE_PICTURES`` is set.
"""

from __future__ import annotations

import base64
import html
import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import nbformat
import numpy as np
from nbclient import NotebookClient

from memlab import Progress, Store, cram, load
from memlab.charts.colours import BADGES, COLOURS, CONTROL, EXACT, OURS, PAPER
from tests.browser_lab import ROOT, browser_page
from tests.browser_setup import find_browser

PICTURES = ROOT / "data" / "pictures"
FERRY = "c29e64be82b1cd28ede3656e7ac3750bc3df9b6d9f7d342e4919ab2ceca818b6"
"""A bundled vector: the first 32 tokens of "Salt ferry"."""
WIDTH, LEFT, COLUMNS, CELL = 920, 28, 144, 6


def mechanism() -> str:
    """SVG: what the model reads, that it stays as it is, what it writes; and a token's numbers next to the vector's."""
    lm, mem = load(), Store.bundled().get(FERRY)
    pieces = [lm.decode_ids([token]) for token in mem.token_ids]
    (row,) = [token for token, piece in zip(mem.token_ids, pieces, strict=True) if piece == " ferry"][:1]
    numbers = [lm.embed([int(row)]).cpu().numpy()[0], mem.mem[0]]
    d = mem.d
    parts = [
        _text(LEFT, 32, "What the model reads", bold=True),
        _box(LEFT, 48, 104, 88, CONTROL),
        _text(LEFT + 52, 84, "token 0", bold=True, middle=True),
        _text(LEFT + 52, 106, "always the same", middle=True, size=12),
        _box(LEFT + 116, 48, 132, 88, OURS, 3),
        _text(LEFT + 182, 76, "mem vector", bold=True, middle=True),
        _text(LEFT + 182, 98, f"{d} numbers,", middle=True, size=12),
        _text(LEFT + 182, 116, "found by search", middle=True, size=12),
        _arrow(284, 92, "H 326"),
        _box(332, 40, 172, 104, PAPER, 2, fill="#eceff3"),
        _text(418, 78, "Language model", bold=True, middle=True),
        _text(418, 100, "frozen: none of its", middle=True, size=12),
        _text(418, 116, "weights changes", middle=True, size=12),
        _arrow(510, 92, "H 548"),
        _text(556, 32, f"What it writes: all {mem.n} tokens, none wrong", bold=True),
        *_tokens(pieces, 556, 46, WIDTH - 24),
        _arrow(720, 166, "V 182 H 418 V 152"),
        _text(569, 200, "each token that it writes is fed back to it", middle=True, size=12),
        _text(LEFT, 234, f"A token is a row of the model's table: {d} numbers, here of “ferry”"),
        *_cells(numbers[0], 242),
        _text(LEFT, 296, f"The mem vector has {d} numbers too. They are searched for, and the text comes from them"),
        *_cells(numbers[1], 304),
    ]
    return _page(342, "A frozen language model reads one token and a mem vector, and writes a text from them", parts)


def _page(height: int, title: str, parts: Sequence[str]) -> str:
    """SVG on white: a picture in a README knows nothing of the page's theme."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'font-family="Arial, Helvetica, sans-serif" font-size="14" fill="{PAPER}">\n<title>{title}</title>\n'
        f'<defs><marker id="tip" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="7" markerHeight="7" '
        f'orient="auto"><path d="M0 0 10 5 0 10z" fill="{CONTROL}"/></marker></defs>\n'
        f'<rect x="1" y="1" width="{WIDTH - 2}" height="{height - 2}" rx="10" fill="#fff" stroke="{CONTROL}"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _text(x: int, y: int, words: str, *, bold: bool = False, middle: bool = False, size: int = 14) -> str:
    more = ' font-weight="600"' * bold + ' text-anchor="middle"' * middle + f' font-size="{size}"' * (size != 14)
    return f'<text x="{x}" y="{y}"{more}>{html.escape(words)}</text>'


def _box(x: int, y: int, width: int, height: int, stroke: str, line: int = 1, fill: str = "none") -> str:
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" fill="{fill}" stroke="{stroke}" '
        f'stroke-width="{line}"/>'
    )


def _arrow(x: int, y: int, way: str) -> str:
    return f'<path d="M{x} {y} {way}" fill="none" stroke="{CONTROL}" stroke-width="2" marker-end="url(#tip)"/>'


def _tokens(
    pieces: Sequence[str], left: int, top: int, right: int, size: int = 12, changes: Sequence[str] = ()
) -> Iterator[str]:
    """Tokens as boxes in lines, like the text that they are; ``changes``: an animation each."""
    x, y, wide, high = left, top, 0.61 * size, round(1.5 * size)
    for i, piece in enumerate(pieces):
        shown = piece.replace("\n", "↵")
        width = round(len(shown) * wide) + 2
        if x + width > right:
            x, y = left, y + high + 4
        change = changes[i] if changes else ""
        yield (
            f'<g>{change}<rect x="{x}" y="{y}" width="{width}" height="{high}" rx="3" fill="{EXACT}" '
            f'fill-opacity=".16"/><text x="{x + 1}" y="{y + round(1.08 * size)}" font-size="{size}" '
            f'font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" textLength="{width - 2}" '
            f'xml:space="preserve">{html.escape(shown)}</text></g>'
        )
        x += width + 2


def _cells(numbers: np.ndarray, top: int) -> Iterator[str]:
    """Each number as a cell: colour for the sign, strength for the size (in 8 steps, up to the 98 % quantile)."""
    strength = np.ceil(np.minimum(1, np.abs(numbers) / np.quantile(np.abs(numbers), 0.98)) * 8).astype(int)
    for sign, colour in ((-1, COLOURS["negative"]), (1, COLOURS["positive"])):
        for level in range(1, 9):
            places = np.flatnonzero((np.sign(numbers) == sign) & (strength == level))
            path = "".join(
                f"M{LEFT + i % COLUMNS * CELL} {top + i // COLUMNS * CELL}h{CELL}v{CELL}h-{CELL}z" for i in places
            )
            yield f'<path d="{path}" fill="{colour}" fill-opacity="{level / 8:g}"/>'


def cramming() -> str:
    """Animated SVG: a training of the ferry's vector on this machine, step by step. A still picture shows the end."""
    lm, mem = load(), Store.bundled().get(FERRY)
    seen: list[Progress] = []
    (made,) = cram(lm, [lm.passage_of_ids(mem.token_ids)], mem.recipe, progress=False, on_step=seen.append)
    assert made.exact
    film = _Film(len(seen) + 10)  # ten frames at the end
    right = np.stack([now.argmax[0] == mem.token_ids for now in seen])  # (steps, n)
    dark = [film.change("opacity", np.where(row, 1, 0.25)) for row in right.T]
    pieces = [lm.decode_ids([token]) for token in mem.token_ids]
    bits = [now.loss_bits[0] for now in seen]
    widths = [round(440 * value / bits[0]) for value in bits]
    cost = f"what the text still costs: {bits[0]:.1f} bits per token at first, {bits[-1]:.2f} at the end"
    heading = f"Training one vector of {mem.d} numbers. The model stays as it is. Dark: the model has the token right"
    steps = [film.only(i, f'<text x="{LEFT}" y="140">step {now.steps[0]}</text>') for i, now in enumerate(seen[:-1])]
    end = (
        f'<text x="{LEFT}" y="140">step {seen[-1].steps[0]}</text>'
        f'<rect x="600" y="124" width="292" height="26" rx="13" fill="{BADGES["exact"]}"/>'
        '<text x="746" y="142" text-anchor="middle" fill="#fff" font-weight="600">'
        "Exact: written from the vector alone</text>"
    )
    bar = f'<rect x="120" y="128" height="14" rx="3" width="{widths[-1]}" fill="{OURS}">'
    parts = [
        _text(LEFT, 34, heading), *_tokens(pieces, LEFT, 52, WIDTH - 24, 17, dark), *steps,
        film.only(len(seen) - 1, end, last=True),
        bar + film.change("width", widths) + "</rect>",
        _text(120, 160, cost, size=12),
    ]  # fmt: skip
    return _page(178, "A text develops while its vector is trained", parts)


@dataclass(frozen=True)
class _Film:
    """Attributes that change from frame to frame, again and again."""

    frames: int

    def change(self, attribute: str, values: Iterable[object]) -> str:
        """One value per frame; the last one stays."""
        known = [str(value) for value in values]
        shown = ";".join([*known, *known[-1:] * (self.frames - len(known))])
        seconds = f"{0.4 * self.frames:.1f}s"
        return (
            f'<animate attributeName="{attribute}" calcMode="discrete" dur="{seconds}" repeatCount="indefinite" '
            f'values="{shown}"/>'
        )

    def only(self, frame: int, part: str, *, last: bool = False) -> str:
        """A part that is seen in one frame only, or from this frame on."""
        seen = ["hidden"] * frame + ["visible"] + ["hidden"] * (not last)
        return f'<g visibility="{seen[-1]}">{self.change("visibility", seen)}{part}</g>'


def thumbnails(numbers: Sequence[str]) -> None:
    """Put the first chart of these notebooks ("01"), small, into the index. Executes them, which takes minutes."""
    charts = {}
    for number in numbers or [f"{n:02d}" for n in range(1, 12)]:
        (path,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
        began = time.monotonic()
        executed = nbformat.read(path, 4)
        NotebookClient(executed, timeout=600, resources={"metadata": {"path": path.parent}}).execute()
        outputs = [output for cell in executed.cells for output in cell.get("outputs", ())]
        shown = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
        if shown:
            charts[number] = shown[0]
        print(f"{path.name}: {len(shown)} charts, {time.monotonic() - began:.0f} s", flush=True)
    index = ROOT / "notebooks" / "00_start_here.ipynb"
    executable = find_browser()
    with browser_page(executable or "") as page:
        notebook = nbformat.read(index, 4)
        (cell,) = [cell for cell in notebook.cells if cell.id == "cell-index"]
        cell.setdefault("attachments", {})
        for number, png in charts.items():
            page.set_content(f'<img width="280" style="display:block" src="data:image/png;base64,{png}">')
            jpeg = page.locator("img").screenshot(type="jpeg", quality=80)
            cell.attachments[f"{number}.jpg"] = {"image/jpeg": base64.b64encode(jpeg).decode()}
        index.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    for name, draw in {"mechanism": mechanism, "cramming": cramming}.items():
        (PICTURES / f"{name}.svg").write_text(draw(), encoding="utf-8")
    if sys.argv[1:2] == ["thumbnails"]:
        thumbnails(sys.argv[2:])
