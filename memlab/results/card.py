"""``card``: a vector as a notebook shows it: what it writes, its numbers, how it was made, and how to get it again.

No script and no style sheet: the card looks the same in JupyterLab, in exported HTML and in a mail. Its text is shown
if a model of this process can read it, or if it comes with memlab.
"""

from __future__ import annotations

import base64
import html
import textwrap
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakSet

import numpy as np

from memlab.results.checks import EXACT, latest
from memlab.results.file_format import file_of
from memlab.texts import data_folder, originals

if TYPE_CHECKING:
    from collections.abc import Sequence


class Reader(Protocol):
    """What the card needs of a model: ``FrozenLM`` has it."""

    @property
    def fingerprint(self) -> str: ...
    def decode_ids(self, ids: Sequence[int] | np.ndarray) -> str: ...


READERS: WeakSet[Any] = WeakSet()
"""The models that were loaded in this process: they can turn token ids into text."""

_LINE = "color:var(--jp-content-font-color1,inherit);font-size:13px;line-height:1.6"
_PICTURE = "max-width:100%;image-rendering:pixelated;border:1px solid #808080;border-radius:2px"


def card(mem: Any) -> str:
    """HTML of a ``MemVector``: outcome, text, numbers as colours, facts, and Python that gives it again."""
    from memlab.charts.colours import BADGES
    from memlab.charts.names import counted, text_title

    kind, outcome, fate = _outcome(mem)
    title = " · ".join(
        [text_title(mem.text.id) if mem.text.id else "A text without a name", counted(mem.n, "token"),
         f"{counted(len(mem.mem), 'vector')} of {mem.d:,} numbers"]
    )  # fmt: skip
    badge = (
        f'<span style="background:{BADGES[kind]};color:#fff;border-radius:10px;padding:2px 10px;font-weight:600;'
        f'margin-right:8px;white-space:nowrap">{outcome}</span>'
    )
    shown = " · ".join(map(html.escape, _facts(mem)))
    if not mem.provenance.get("derived"):
        shown += f' · key <code title="{mem.key}" style="user-select:all">{mem.key[:12]}</code>'
    return (
        f'<div style="border:1px solid #808080;border-radius:6px;padding:10px 14px;max-width:800px;{_LINE}">'
        f"<div>{badge}<b>{html.escape(title)}</b></div>"
        f'<div style="margin:8px 0;max-height:9em;overflow-y:auto">{fate}</div>{_strip(mem.mem)}'
        f'<div style="margin-top:6px">{shown}</div>'
        f'<details style="margin-top:4px"><summary style="cursor:pointer">Copy as Python</summary>'
        f'<pre style="user-select:all;margin:4px 0;white-space:pre-wrap;overflow-wrap:anywhere;{_LINE}">'
        f"{html.escape(python(mem))}</pre></details></div>"
    )


def _outcome(mem: Any) -> tuple[str, str, str]:
    """(kind of badge, its text, HTML of what the vector writes)."""
    text = read(mem)
    if text is not None:
        words = f"“{html.escape(text)}”"
    else:
        load = f"its text is shown here after <code>load({html.escape(repr(mem.model))})</code>"
        words = f"<i>{'its text was removed' if mem.redaction else load}</i>"
    if mem.exact:
        return "exact", "Exact", f"From these numbers alone, the model writes: {words}"
    check = latest(mem.checks).get(EXACT)
    if check is None:
        kind, outcome, before = "stored", "Not decoded yet", ""
        if derived := mem.provenance.get("derived"):
            before = f"Made from {html.escape(str(mem.provenance.get('from'))[:12])}: {html.escape(str(derived))}. "
    else:
        kind, outcome = "wrong", f"Not exact: {check.right:,} of {check.tokens:,} tokens right"
        before = f"Token {(check.first_wrong or 0) + 1:,} is the first wrong one. "
    return kind, outcome, f"{before}The model should write: {words}"


def _facts(mem: Any) -> list[str]:
    """How a vector was made, in the words of a reader."""
    from memlab.charts.names import counted, display

    recipe, *changes = mem.recipe.name.split(" ")
    facts = [f"recipe: {display(recipe).removeprefix('recipe of ')}"]
    facts += [change.replace("=", " ") for change in changes if not change.startswith(("seed=", "k="))]
    if mem.recipe.where != "input":
        facts.append(f"written into {mem.recipe.where} of the model")
    facts.append(f"seed {mem.recipe.seed}")
    if mem.provenance.get("interrupted"):
        facts.append("stopped early")
    if not mem.provenance.get("derived"):
        facts.append(counted(mem.steps, "step"))
    if mem.margin is not None:
        facts.append(f"smallest margin {mem.margin:.2f} logits")
    return [*facts, display(mem.model)]


def read(mem: Any) -> str | None:
    """The text of a vector's token ids, from a model of this process with the same weights; None if none is known.

    >>> from memlab import Recipe, cram, load
    >>> lm = load("toy:gemma3")
    >>> (mem,) = cram(lm, lm.passage("cat"), Recipe.default(k=4), progress=False)
    >>> read(mem)
    'cat'
    """
    if mem.redaction:
        return None
    for lm in list(READERS):
        try:
            if lm.fingerprint == mem.fingerprint:
                return str(lm.decode_ids(mem.token_ids))
        except Exception:  # any: a model that changed, or has no tokenizer, is no reason to show no card
            continue
    if _bundled(mem):  # its key names its tokens, so the text is the one that comes with memlab
        for text in originals():
            if text.id == mem.text.id:
                return text.string[mem.text.start : mem.text.end]
    return None


def _bundled(mem: Any) -> bool:
    """Whether this vector was made from, or is, one that comes with memlab."""
    return file_of(data_folder() / "store", mem.key).exists()


def python(mem: Any) -> str:
    """Python that gets this vector: from where it is stored, or by the same training."""
    bundled = _bundled(mem)
    derived = mem.provenance.get("derived")
    if bundled or derived or mem.redaction or mem.parent or not mem.is_original:
        then = f"  # then: {derived}" if derived else ""
        return f'from memlab import Store\n\nmem = Store{".bundled" * bundled}().get("{mem.key}"){then}'
    ids = textwrap.fill(", ".join(map(str, mem.token_ids)), 100, initial_indent="    ", subsequent_indent="    ")
    return (
        "from memlab import Recipe, Store, cram, load\n\n"
        f"lm = load({mem.model!r})\nids = [\n{ids}\n]\n"
        f"recipe = Recipe.from_json({mem.recipe.canonical()!r})\n"
        "# From your store; trained again if it is not there.\n"
        "(mem,) = cram(lm, lm.passage_of_ids(ids), recipe, store=Store())"
    )


def _strip(mem: np.ndarray) -> str:
    """All numbers (k, d) as cells of a picture, a row of cells after the other, and what the colours mean."""
    from memlab.charts import png
    from memlab.charts.colours import COLOURS

    k, d = mem.shape
    signs = COLOURS["negative"], COLOURS["positive"]
    columns = next((c for c in (96, 192, 384) if k * -(-d // c) * 768 // c <= 120), 768)
    end = float(np.quantile(np.abs(mem), 0.98)) or 1.0
    rows = -(-d // columns)
    cells = np.zeros((k, rows + 1, columns))  # the last row of each vector stays empty: it sets the vectors apart
    cells[:, :rows].reshape(k, -1)[:, :d] = mem
    picture = cells.reshape(-1, columns)[:-1]
    low, high = (np.array([int(code[i : i + 2], 16) for i in (1, 3, 5)], np.uint8) for code in signs)
    pixels = np.empty((*picture.shape, 4), np.uint8)
    pixels[..., :3] = np.where(picture[..., None] < 0, low, high)
    pixels[..., 3] = np.minimum(255, np.abs(picture) / end * 255)
    cell = 768 // columns
    name = f"The {mem.size:,} numbers as coloured cells"
    image = (
        f'<img alt="{name}" title="{name}" width="{columns * cell}" height="{len(picture) * cell}" '
        f'style="{_PICTURE}" src="data:image/png;base64,{base64.b64encode(png.write(pixels)).decode()}">'
    )
    colours = f"linear-gradient(to right,{signs[0]},transparent,{signs[1]})"
    legend = (
        f'<span style="display:inline-block;width:120px;height:10px;vertical-align:middle;'
        f'border:1px solid #808080;background:{colours}"></span>'
    )
    return f"<div>{image}</div><div>{mem.size:,} numbers. Colours: −{end:.3g} or less {legend} {end:.3g} or more</div>"
