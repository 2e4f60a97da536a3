"""Rules of the look: colours come from one file, marks can be seen on both pages, charts say what they show."""

import ast
import itertools
import re

import pytest

from memlab.charts import colours
from memlab.charts.theme import theme
from tests.browser_lab import ROOT
from tests.chart_rules import faults

PAGES = ("#ffffff", "#111111")
"""The page of JupyterLab's light and dark theme."""
PLACES = [ROOT / "memlab" / name for name in ("charts", "panels", "pages", "results")]
HEX = re.compile(r"(?<!&)#[0-9a-fA-F]{3,8}\b")
NAMES = re.compile(
    r"\b(aqua|azure|beige|blue|brown|coral|crimson|cyan|firebrick|fuchsia|gold|goldenrod|gr[ae]y|green|indigo|ivory|khaki|"
    r"lavender|lime|magenta|maroon|navy|olive|orange|orchid|pink|plum|purple|red|salmon|sienna|silver|steelblue|tan|teal|"
    r"tomato|turquoise|violet|wheat|yellow)\b"
)
"""Names of colours in CSS, without black and white."""


def is_grey(colour):
    """Black, white and greys of pages, boxes and menus mean nothing."""
    digits = colour[1:7] if len(colour) > 6 else "".join(c * 2 for c in colour[1:4])
    channels = [int(digits[i : i + 2], 16) for i in (0, 2, 4)]
    return max(channels) - min(channels) < 4


def luminance(colour):
    """Relative luminance of a colour #rrggbb, as WCAG 2 defines it."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def test_contrast():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


MARKS = {**colours.COLOURS, **dict(zip(itertools.count(), colours.OTHERS, strict=False))}


@pytest.mark.parametrize("name", MARKS)
@pytest.mark.parametrize("page", PAGES)
def test_marks_can_be_seen_on_both_pages(name, page):
    assert contrast(MARKS[name], page) >= 3


def test_badges_can_be_read():
    assert all(contrast("#ffffff", ground) >= 4.5 for ground in colours.BADGES.values())


def test_text_has_the_colour_of_the_page():
    config = theme()["config"]
    texts = [config[part][name] for part in ("axis", "legend", "header") for name in ("labelColor", "titleColor")]
    texts += [config["title"]["color"], config["title"]["subtitleColor"], config["text"]["color"]]
    assert set(texts) == {colours.INK}


def test_a_colour_means_one_thing():
    shown = [*colours.COLOURS.values(), *colours.OTHERS]
    assert len(set(shown)) == len(shown)


def constants(file):
    """(line, string) of the strings in a file, without docstrings."""
    tree = ast.parse(file.read_text())
    bodies = [node.body for node in ast.walk(tree) if isinstance(getattr(node, "body", None), list)]
    docs = {id(line.value) for body in bodies for line in body if isinstance(line, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.lineno, node.value


def test_python_takes_its_colours_from_one_file():
    found = []
    for file in (file for place in PLACES for file in place.glob("*.py") if file.name != "colours.py"):
        for line, text in constants(file):
            if NAMES.fullmatch(text) or any(not is_grey(colour) for colour in HEX.findall(text)):
                found.append(f"{file.relative_to(ROOT)}:{line}: {text[:60]!r}")
    assert not found, "\n".join(found)


LINKS = {"#0072b2", "#00639c", "#7cc0ee"}
"""Links in pages without JupyterLab's own colour for them."""
TEXT_WRONG = {"#be2a42", "#ff8296", "#c02c42"}
"""The colour of what is wrong, as text: darker or lighter than a mark, so that it can be read."""


def test_style_sheets_use_the_same_colours():
    known = {value.lower() for value in [*colours.COLOURS.values(), *colours.BADGES.values()]}
    known |= LINKS | TEXT_WRONG
    found = []
    for file in (file for place in PLACES for kind in ("css", "js") for file in place.glob(f"*.{kind}")):
        for number, line in enumerate(file.read_text().splitlines(), 1):
            wrong = {colour for colour in HEX.findall(line) if colour.lower() not in known and not is_grey(colour)}
            if wrong or (file.suffix == ".css" and ":" in line and NAMES.search(line.partition(":")[2])):
                found.append(f"{file.relative_to(ROOT)}:{number}: {line}")
    assert not found, "\n".join(found)


def test_text_of_wrong_tokens_can_be_read():
    css = (ROOT / "memlab" / "panels" / "style.css").read_text()
    light, dark = (re.search(rf"{place}[^{{]*{{[^}}]*--memlab-wrong: (#\w+)", css)[1] for place in (":root", "false"))
    assert contrast(light, PAGES[0]) >= 4.5
    assert contrast(dark, PAGES[1]) >= 4.5


DRAWN = """<svg xmlns="http://www.w3.org/2000/svg"><g class="role-axis"><g class="role-axis-label">
<text>0.0</text><text>4%</text></g>{title}</g><g class="role-title-text"><text>{name}</text></g></svg>"""
AXIS = '<g class="role-axis-title"><text>tokens</text></g>'


@pytest.mark.parametrize(
    ("title", "name", "expected"),
    [
        (AXIS, "Half of the text fits", []),
        ("", "Half of the text fits", ["an axis has no title: 0.0 to 4% in the chart 'Half of the text fits'"]),
        (AXIS, "Half", ["the title 'Half' has fewer than 4 words"]),
        (AXIS, "", ["a chart has no title"]),
        (AXIS, "Half of the text f…", ["'Half of the text f…' is cut off in the chart 'Half of the text f…'"]),
    ],
)
def test_faults_of_a_chart_are_found(title, name, expected):
    assert faults(DRAWN.format(title=title, name=name)) == expected
