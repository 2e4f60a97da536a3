"""The pictures of the README and of the first notebook: what they say is true of the data."""

import base64
import re
import struct
import xml.etree.ElementTree as ET

import nbformat
import numpy as np
import pandas as pd
import pytest

from memlab import Store, charts
from memlab.texts import data_folder
from tests import pictures
from tests.browser_lab import ROOT

SVG = "{http://www.w3.org/2000/svg}"


def drawn(name):
    return ET.parse(pictures.PICTURES / f"{name}.svg").getroot()


def words(root, **attributes):
    texts = [e for e in root.iter(f"{SVG}text") if all(e.get(k) == v for k, v in attributes.items())]
    return ["".join(e.itertext()) for e in texts]


def tokens(root):
    return "".join(t.text for t in root.iter(f"{SVG}text") if "Mono" in (t.get("font-family") or ""))


def ferry():
    return Store.bundled().get(pictures.FERRY)


# The dumbbell of notebook 1 ------------------------------------------------------------------------------------------


def dumbbell_title():
    cells = nbformat.read(ROOT / "notebooks" / "01_cram_and_decode.ipynb", 4).cells
    (found,) = re.findall(r'title = "(.*)"\ncharts\.readings', "\n".join(c.source for c in cells))
    return found


def test_the_title_of_the_dumbbell_is_true():
    runs = pd.read_csv(data_folder() / "bench" / "recovery-originals-32.csv")
    theirs = runs[runs.recipe == "paper2025"]
    claim = (
        r"Published recipe: (\d+) % right while the true text is fed, at most (\d+) token of (\d+) when decoded freely"
    )
    percent, most, length = map(int, re.fullmatch(claim, dumbbell_title()).groups())
    assert set(theirs.tokens) == {length}
    assert round(100 * theirs.teacher_forced.median()) == percent
    assert (theirs.alone_right * length).max() == pytest.approx(most, abs=1e-3)
    assert (runs[runs.recipe == "default"].alone_right == 1).all()


def test_the_dumbbell_leads_from_fed_to_free():
    table = pd.DataFrame(
        {
            "recipe": ["default", "paper2025"], "text_id": ["fiction-salt-ferry"] * 2,
            "teacher_forced": [1.0, 0.75], "alone_right": [1.0, 0.25],
        }
    )  # fmt: skip
    svg = charts.to_svg(charts.readings(table))
    assert "Salt ferry (fiction)" in svg
    assert "recipe of arXiv 2502.13063" in svg
    found = re.findall(r'rule mark" transform="translate\(([\d.]+),[^)]*\)" x2="(-?[\d.]+)"', svg)
    assert [tuple(map(float, line)) for line in found] == [(520, 0), (390, -260)]


# The two drawings ----------------------------------------------------------------------------------------------------


def test_the_mechanism_shows_the_text_and_the_numbers_of_a_vector():
    root, mem = drawn("mechanism"), ferry()
    assert mem.exact
    assert f"What it writes: all {mem.n} tokens, none wrong" in words(root)
    assert any(f"{mem.d} numbers" in line for line in words(root))
    paths = [e for e in root.iter(f"{SVG}path") if e.get("fill-opacity")]
    # Cells of the vector: colour for the sign, place for the index.
    colours = {}
    for path in paths:
        for x, y in re.findall(r"M(\d+) (\d+)h", path.get("d")):
            colours[int(x), int(y)] = path.get("fill")
    top = min(y for _, y in colours) + 62
    for i, number in enumerate(mem.mem[0]):
        place = pictures.LEFT + i % pictures.COLUMNS * pictures.CELL, top + i // pictures.COLUMNS * pictures.CELL
        assert colours[place] == pictures.COLOURS["positive" if number > 0 else "negative"]


@pytest.mark.real
def test_the_mechanism_is_what_its_code_draws(real):
    assert (pictures.PICTURES / "mechanism.svg").read_text() == pictures.mechanism()


@pytest.mark.real
@pytest.mark.parametrize("name", ["mechanism", "cramming"])
def test_the_drawings_show_the_text_that_the_vector_writes(real, name):
    from memlab import decode

    mem = ferry()
    assert tokens(drawn(name)) == real.decode_ids(decode(real, [mem])[0])


def test_the_film_has_the_steps_and_the_cost_of_the_stored_training():
    root, mem = drawn("cramming"), ferry()
    steps = [int(step) for step in re.findall(r"step (\d+)", " ".join(words(root)))]
    assert steps == list(range(mem.steps + 1))
    (first, last) = re.findall(r"([\d.]+) bits per token at first, ([\d.]+) at the end", " ".join(words(root)))[0]
    assert float(first) == pytest.approx(mem.trace["loss"][0], rel=0.05)
    assert float(last) == pytest.approx(mem.trace["loss"][-1], abs=0.1)


def test_the_film_ends_with_all_tokens_dark():
    changes = [a for a in drawn("cramming").iter(f"{SVG}animate") if a.get("attributeName") == "opacity"]
    opacity = [change.get("values").split(";") for change in changes]
    assert len(opacity) == ferry().n
    assert {values[-1] for values in opacity} == {"1.0"}
    assert np.mean([values[0] == "1.0" for values in opacity]) < 0.5


@pytest.mark.parametrize("name", ["mechanism", "cramming"])
def test_a_drawing_is_readable_on_any_page(name):
    """White below everything, no text lighter than 4.5:1, no script, nothing from elsewhere."""
    source = (pictures.PICTURES / f"{name}.svg").read_text()
    ground = next(drawn(name).iter(f"{SVG}rect"))
    assert ground.get("fill") == "#fff"
    assert not re.search(r"<script|<image|href|url\(http", source)
    assert len(source.encode()) < 40_000


def test_notebook_1_brings_its_drawing_along():
    (cell,) = [
        c for c in nbformat.read(ROOT / "notebooks" / "01_cram_and_decode.ipynb", 4).cells if c.get("attachments")
    ]
    (name,) = re.findall(r"!\[[^\]]{40,}\]\(attachment:([\w.]+)\)", cell.source)
    png = base64.b64decode(cell.attachments[name]["image/png"])
    size = struct.unpack(">II", png[16:24])
    root = drawn("mechanism")
    assert size[0] / size[1] == pytest.approx(int(root.get("width")) / int(root.get("height")), rel=0.01)


def test_the_index_leads_to_every_notebook_and_shows_eleven():
    cells = nbformat.read(ROOT / "notebooks" / "00_start_here.ipynb", 4).cells
    assert len(cells) <= 6
    prose = "".join(cell.source for cell in cells)
    others = {path.name for path in (ROOT / "notebooks").glob("*.ipynb")} - {"00_start_here.ipynb"}
    assert set(re.findall(r"\]\((\w+\.ipynb)\)", prose)) == others
    attached = {name for cell in cells for name in cell.get("attachments", {})}
    assert attached == set(re.findall(r"attachment:([\w.]+)", prose)) == {f"{n:02d}.jpg" for n in range(1, 12)}
