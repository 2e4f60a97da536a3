"""The colours of all charts and panels. A colour means one thing everywhere.

Marks use these colours: each has a contrast of at least 3:1 on the pages of JupyterLab's light and dark theme. Text is
drawn in the colour of the page's own text (``INK``).

>>> colour("ours"), colour("exact")
('#2A8CCB', '#009E73')
>>> colour("classics") == colour("novels")
True
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import altair as alt

from memlab.charts.names import display

INK = "currentColor"
"""The colour of the page's text. In SVG it follows the theme of the page, also when the theme changes later."""
PAPER = "#3b3f45"
"""What ``INK`` is in pictures on white."""
GROUND = "var(--jp-layout-color0, white)"
"""The colour of the page behind a chart: a halo around text that lies on marks."""

COLOURS = {
    # Whose result it is.
    "ours": "#2A8CCB",
    "published": "#C97400",
    "control": "#7b7f86",
    # Whether it is right.
    "exact": "#009E73",
    "wrong": "#D43D51",
    # Kinds of text.
    "originals": "#8472D4",
    "novels": "#8F7B2E",
    "random": "#C7609B",
    # Paths between two solutions.
    "curve": "#1B9AAA",
    "line": "#B5623E",
    # How much a token surprises the model, as a background.
    "surprisal": "#7A6A8F",
    # The sign of a number of a vector.
    "negative": "#9B6BB0",
    "positive": "#6E8F3C",
}
"""{what is drawn: its colour}."""
OURS, PUBLISHED, CONTROL = COLOURS["ours"], COLOURS["published"], COLOURS["control"]
EXACT, WRONG = COLOURS["exact"], COLOURS["wrong"]
ORIGINALS, NOVELS, RANDOM = COLOURS["originals"], COLOURS["novels"], COLOURS["random"]
SURPRISAL = COLOURS["surprisal"]
BADGES = {"exact": "#00734F", "wrong": "#B52C40", "stored": "#5B6068"}
"""Grounds of white text, darker than the marks: contrast of at least 4.5:1."""
_SAME = {
    "memlab": "ours", "default": "ours", "incumbent": "ours", "rotation": "ours", "vector": "ours",
    "paper2025": "published", "as published, arXiv 2502.13063": "published",
    "classics": "novels", "pg19": "novels",
    "prose": "originals", "random words": "random",
    "nowhere": "control", "sink": "control", "words of the vocabulary": "control",
    "seeds of one text": "ours", "different texts": "control",
}  # fmt: skip
"""Other names of the same things."""
OTHERS = (
    "#6C8EBF", "#7A9A3A", "#A0709A", "#A88B5E", "#B0555F", "#5E8C61", "#5B6FC0", "#BC8430",
    "#2E8B8B", "#C0708A", "#B07A6A", "#9C8AA5",
)  # fmt: skip
"""Colours without a meaning of their own, for further lines of one chart."""


def colour(name: str) -> str:
    """The colour of a thing that has one. Raises ``KeyError`` for other names."""
    return COLOURS[_SAME.get(name, name)]


def palette(names: Iterable[str]) -> dict[str, str]:
    """{name: colour}: things that have a colour get theirs, and others one of ``OTHERS``, in this order."""
    others = itertools.cycle(OTHERS)
    known = {**COLOURS, **{name: COLOURS[same] for name, same in _SAME.items()}}
    return {name: known.get(name) or next(others) for name in dict.fromkeys(names)}


def scale(names: Iterable[str]) -> alt.Scale:
    """The scale of a colour channel whose values are these names, as they stand in the table."""
    colours = palette(names)
    return alt.Scale(domain=list(colours), range=list(colours.values()))


def kinds_scale(table: object, column: str = "texts") -> alt.Scale:
    """The scale for a column of kinds of text: originals first, then novels and random words, then others."""
    found = list(dict.fromkeys(table[column]))  # type: ignore[index]
    usual = ["originals", "prose", "novels", "classics", "pg19", "random", "random words"]
    return scale(sorted(found, key=lambda name: usual.index(name) if name in usual else len(usual)))


def labels(names: Iterable[str]) -> str:
    """A Vega expression that shows the display names of these values on an axis or in a legend."""
    return expression({name: display(name) for name in names})


def expression(names: dict[str, str]) -> str:
    """A Vega expression that shows ``names`` ({value: what a reader sees}) on an axis or in a legend."""
    chosen = ", ".join(f"'{_quoted(name)}': '{_quoted(shown)}'" for name, shown in names.items())
    return f"({{{chosen}}})[datum.value] || datum.value"


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")
