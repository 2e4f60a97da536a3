"""What every chart must have: a title that says something, axes with titles, and no text that is cut off."""

from __future__ import annotations

import re
from xml.etree import ElementTree

WORDS = 4
"""The fewest words of a title that says something."""
NUMBER = re.compile(r"[+−-]?[\d.,]+(?:e[+−-]?\d+)?\s*[%kMG×]?$")


def faults(svg: str) -> list[str]:
    """What a chart, as the SVG that Vega draws, lacks."""
    root = ElementTree.fromstring(re.sub(r"&(?!amp;|lt;|gt;|quot;|apos;|#)", "&amp;", svg.replace("&nbsp;", " ")))
    titles = [text for group in _with(root, "role-title-text") for text in _texts(group)]
    name = max(titles, key=len, default="")
    found = []
    if not titles:
        found.append("a chart has no title")
    elif len(name.split()) < WORDS:
        found.append(f"the title {name!r} has fewer than {WORDS} words")
    found += _untitled(root, name)
    for role in ("role-axis-label", "role-axis-title", "role-legend-label", "role-legend-title", "role-title-text"):
        cut = {text for group in _with(root, role) for text in _texts(group) if text.endswith("…")}
        found += [f"{text!r} is cut off in the chart {name!r}" for text in sorted(cut)]
    return found


def _untitled(root: ElementTree.Element, name: str) -> list[str]:
    """Axes of numbers without a title."""
    found = []
    for axis in _with(root, "role-axis"):
        labels = [text for group in _with(axis, "role-axis-label") for text in _texts(group)]
        titles = [text for group in _with(axis, "role-axis-title") for text in _texts(group)]
        if labels and not titles and all(NUMBER.match(label) for label in labels):
            found.append(f"an axis has no title: {labels[0]} to {labels[-1]} in the chart {name!r}")
    return found


def _with(element: ElementTree.Element, role: str) -> list[ElementTree.Element]:
    """The elements inside with this class, which is a role that Vega gives."""
    return [inner for inner in element.iter() if role in inner.get("class", "").split()]


def _texts(element: ElementTree.Element) -> list[str]:
    texts = ("".join(inner.itertext()).strip() for inner in element.iter() if inner.tag.endswith("text"))
    return [text for text in texts if text]
