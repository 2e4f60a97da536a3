"""The card of a vector: what ``MemVector._repr_html_`` shows, and the Python that it offers."""

import base64
import re
import struct
import subprocess
import sys
import zlib
from html import unescape

import numpy as np
import pytest

from memlab import MemVector, Recipe, Store, Text, cram, load
from memlab.results import card
from memlab.results.checks import Check

IDS = dict(token_ids=[5, 1, 9], prefix_ids=[0], suffix_ids=[], model="toy:llama", fingerprint="f" * 64)


def vector(mem=None, **more):
    return MemVector(mem=np.ones((1, 4)) if mem is None else mem, **{**IDS, "recipe": Recipe(), **more})


def check(right=3, first_wrong=None):
    return Check("float32", "cpu", 1, True, False, tokens=3, right=right, first_wrong=first_wrong, margin=1.5)


@pytest.fixture
def toy():
    return load("toy:gemma3")


def crammed(toy, words="cat", **changes):
    (mem,) = cram(toy, toy.passage(Text("typed", words)), Recipe.default(k=4, **changes), progress=False)
    return mem


def visible(html):
    return " ".join(unescape(re.sub("<[^>]+>", "", html.replace("<div", " <div"))).split())


def test_each_outcome_has_its_own_badge():
    from memlab.charts.colours import BADGES

    shown = {
        "exact": vector().with_checks(check()), "wrong": vector().with_checks(check(1, 1)), "stored": vector(),
    }  # fmt: skip
    words = {"exact": "Exact", "wrong": "Not exact: 1 of 3 tokens right", "stored": "Not decoded yet"}
    for kind, mem in shown.items():
        html = mem._repr_html_()
        assert [other for other in BADGES if BADGES[other] in html] == [kind]
        assert words[kind] in visible(html)
    assert "Token 2 is the first wrong one." in visible(shown["wrong"]._repr_html_())
    assert "smallest margin 1.50 logits" in visible(shown["exact"]._repr_html_())


def test_the_latest_check_counts():
    assert "Not exact" in visible(vector().with_checks(check(), check(0, 0))._repr_html_())


def test_the_text_is_shown_if_a_model_of_this_process_can_read_it(toy, monkeypatch):
    mem = crammed(toy)
    assert "the model writes: “cat”" in visible(mem._repr_html_())
    monkeypatch.setattr(card, "READERS", set())
    assert "its text is shown here after load('toy:gemma3')" in visible(mem._repr_html_())
    assert "cat" not in visible(mem._repr_html_())


@pytest.mark.real
def test_the_text_of_a_bundled_vector_needs_no_model(real, monkeypatch):
    store = Store.bundled()
    mems = [store.get(key) for key in sorted(store.keys())[::40]]
    with_model = [card.read(mem) for mem in mems]
    monkeypatch.setattr(card, "READERS", set())
    shown = [card.read(mem) for mem in mems]
    assert [text for mem, text in zip(mems, with_model, strict=True) if not mem.text.id.startswith("random")] == [
        text for text in shown if text is not None
    ]
    assert any(shown)


def test_a_redacted_vector_keeps_its_secret(toy):
    mem = crammed(toy).redacted()
    assert "its text was removed" in visible(mem._repr_html_())
    assert "“cat”" not in mem._repr_html_()


def test_nothing_of_a_foreign_file_becomes_markup(toy):
    evil = "<script>alert(1)</script>"
    mem = vector(model=evil, provenance={"derived": evil, "from": evil})
    assert "<script" not in mem._repr_html_()
    assert "<b>" not in crammed(toy, "a<b>c")._repr_html_().split("the model writes:")[1].split("</div>")[0]


def test_the_card_needs_no_script_and_no_style_sheet(toy):
    html = crammed(toy)._repr_html_()
    assert not re.search(r"<script|<style|class=|onclick|https?:", html)
    assert len(html) < 12_000


def pixels(html):
    """RGBA (rows, columns, 4) of the card's picture."""
    file = base64.b64decode(re.search(r"base64,([^\"]+)", html)[1])
    columns, rows = struct.unpack(">II", file[16:24])
    at, data = 8, b""
    while at < len(file):
        (length,) = struct.unpack(">I", file[at : at + 4])
        if file[at + 4 : at + 8] == b"IDAT":
            data += file[at + 8 : at + 8 + length]
        at += 12 + length
    lines = np.frombuffer(zlib.decompress(data), np.uint8).reshape(rows, 1 + 4 * columns)
    return lines[:, 1:].reshape(rows, columns, 4)


@pytest.mark.parametrize(("k", "d"), [(1, 576), (1, 7), (2, 640), (8, 576), (8, 4096)])
def test_every_number_is_a_cell_of_its_colour(k, d):
    mem = np.random.default_rng(0).standard_normal((k, d)).astype(np.float32)
    drawn = pixels(vector(mem)._repr_html_())
    rows = -(-d // drawn.shape[1])
    each = [drawn[i * (rows + 1) : i * (rows + 1) + rows].reshape(-1, 4)[:d] for i in range(k)]
    cells = np.concatenate(each)
    colours = {tuple(c) for c in cells[mem.ravel() < 0][:, :3]}, {tuple(c) for c in cells[mem.ravel() > 0][:, :3]}
    assert [len(c) for c in colours] == [1, 1]
    assert colours[0] != colours[1]
    order = np.argsort(np.abs(mem.ravel()))
    assert (np.diff(cells[order, 3].astype(int)) >= 0).all()
    assert (cells[:, 3] == 255).mean() == pytest.approx(0.02, abs=0.2 if d < 10 else 0.01)
    assert drawn[..., 3].astype(bool).sum() <= k * d


def run(code):
    space: dict = {}
    exec(code, space)
    return space["mem"]


def test_its_python_gives_the_same_vector(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("MEMLAB_STORE", str(tmp_path / "store"))
    mem = crammed(toy, seed=3)
    assert run(card.python(mem)).key == mem.key
    html = mem._repr_html_()
    assert "Recipe.from_json" in html.split("<pre")[1]
    assert "user-select:all" in html.split("<pre")[1]


def test_a_bundled_vector_is_found_where_it_lies():
    store = Store.bundled()
    mem = store.get(min(store.keys()))
    assert run(card.python(mem)).key == mem.key
    moved = card.python(mem.quantise(4))
    assert "Store.bundled()" in moved
    assert moved.endswith("# then: quantise 4 bits")


def test_a_changed_vector_says_what_it_was_made_from():
    mem = vector(np.arange(8.0).reshape(1, 8)).quantise(4)
    words = visible(mem._repr_html_())
    assert f"Made from {mem.key[:12]}: quantise 4 bits." in words
    assert "· key" not in words  # its key is that of the other vector


def test_the_text_form_stays():
    assert repr(vector()).startswith("<MemVector ")


def test_a_card_needs_no_torch():
    code = (
        "import sys; from memlab import Store; s = Store.bundled(); s.get(next(s.keys()))._repr_html_();"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
