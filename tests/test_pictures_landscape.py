"""The pictures and the prose of notebook 10: its cells run, and each number is computed again from the table's rows."""

import re

import numpy as np
import pytest

from memlab import panels
from memlab.experiments.tables import stored_landscape
from memlab.measures.systems import FAMILIES
from tests.test_pictures_map import prose_of, run_cells

pytestmark = [pytest.mark.real, pytest.mark.slow]
NAME = "10_the_landscape.ipynb"
TEXT = prose_of(NAME)


@pytest.fixture(scope="module")
def ten(real):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(panels, "landscape_panel", lambda *args: None)
        return run_cells(NAME, real)


@pytest.fixture(scope="module")
def rows():
    return stored_landscape()


def recovered(rows, method, texts="originals"):
    """Mean over passages of (own bits - bits still missing) / own bits."""
    some = rows[(rows.method == method) & (rows.texts == texts)]
    assert len(some) == 12
    return float(np.mean([1 - row.bits_with / row.bits_without for row in some.itertuples()]))


def price(rows, method):
    some = rows[(rows.method == method) & (rows.texts == "originals")]
    return float(np.mean(some.stored_bits / some.bits_without)) / recovered(rows, method)


def test_what_a_bit_costs(ten, rows):
    (title,) = ten["bit_prices"]
    code, vector, cache = re.search(
        r"costs ([\d.]+) bits in a code, ([\d.]+) in a vector, ([\d,]+) in a cache", title
    ).groups()
    assert float(code) == round(price(rows, "arithmetic coding"), 2)
    assert float(vector) == round(price(rows, "trained on the grid, fewest bits"), 1)
    names = rows[(rows.family == "F4") & (rows.texts == "originals")].method.unique()
    cheapest = min(names, key=lambda name: price(rows, name))
    assert int(cache.replace(",", "")) == round(price(rows, cheapest))
    assert "one stored bit in a code, one and a half in a prompt that is read, four and a half in a mem vector" in TEXT
    assert round(price(rows, "arithmetic coding")) == 1
    assert price(rows, "first and last tokens, 50 %, read") == pytest.approx(1.5, abs=0.1)
    assert price(rows, "trained on the grid, fewest bits") == pytest.approx(4.5, abs=0.1)
    assert 1000 < price(rows, cheapest) < 10_000


def test_vectors_and_codes_alone_are_exact(rows):
    """All 24 vectors, and of all that is read as text or cache a single row."""
    vectors = rows[rows.method.isin(["mem vector, float32", "mem vector, fewest bits"])]
    assert vectors.exact.all()
    assert len(vectors) == 2 * 24
    others = rows[(rows.decoder == "read") & rows.family.isin(["F2", "F4"]) & rows.exact]
    assert others.method.tolist() == ["whole cache, without the sink"]
    assert "two exceptions: one passage, from the whole cache without its first position, and one text" in TEXT
    encoded = rows[(rows.family == "F3") & rows.exact]
    assert encoded.tokens.tolist() == [8]
    assert set(rows.family) <= set(FAMILIES)


def test_a_reader_of_the_whole_text_does_not_write_it(rows, real):
    assert "62 of 64 tokens are right while the true text is fed" in TEXT
    assert "the first token of all 24 passages is wrong" in TEXT
    assert "most of the text still follows in three passages of prose, and nothing of it in random words" in TEXT
    whole = rows[rows.method == "full text, raw ids, read"]
    assert len(whole) == 24
    assert whole.right.median() == 62
    assert (whole.exact_prefix == 0).all()
    assert (whole.edit[whole.texts == "originals"] > 0.5).sum() == 3
    assert (whole.edit[whole.texts == "random"] == 0).all()
    share = np.mean([recovered(rows, "full text, raw ids, read", kind) for kind in ("originals", "random")])
    assert "knows 95 % of its bits, and seldom writes it down" in TEXT
    assert round(share, 2) == 0.95
    assert recovered(rows, "mem vector, float32") > share
    # "a twentieth of the cache of a single token"
    assert real.d / (2 * np.prod(real.kv.shape)) == 1 / 20


def test_what_to_keep_of_a_prompt(ten, rows):
    filled, read = ten["by_share_kept"][:2]
    fill = re.search(r"Gaps filled: the dearest half of the tokens gives (\d+)% back", filled)[1]
    read = re.search(r"Read as a prompt: the dearest half gives (\d+)% back, and most other halves give more", read)[1]
    assert int(fill) == round(100 * recovered(rows, "surprisal-kept tokens, 50 %, fill"))
    assert int(read) == round(100 * recovered(rows, "surprisal-kept tokens, 50 %, read"))
    pieces = [
        "first and last tokens, 50 %, read", "units chosen for coverage, 50 %, read",
        "units chosen by neighbours and page rank, 50 %, read", "units kept by the model's Yes or No, 50 %, read",
    ]  # fmt: skip
    shares = [recovered(rows, name) for name in pieces]
    assert min(shares) > recovered(rows, "surprisal-kept tokens, 50 %, read")
    assert max(shares) - min(shares) < 0.05  # how the units were chosen hardly matters
    halves = rows[(rows.decoder == "read") & (rows.family == "F2") & rows.method.str.contains(", 50 %")].method.unique()
    more = [recovered(rows, name) > recovered(rows, "surprisal-kept tokens, 50 %, read") for name in halves]
    assert np.mean(more) > 0.5
    filled = rows[(rows.decoder == "fill") & rows.method.str.contains(", 50 %")].method.unique()
    assert max(filled, key=lambda name: recovered(rows, name)) == "surprisal-kept tokens, 50 %, fill"


def test_what_to_keep_of_a_cache(ten, rows):
    oracle, chance = re.search(
        r"A quarter of the cache: (\d+)% comes back .* (\d+)% by chance", ten["by_share_kept"][2]
    ).groups()
    assert int(oracle) == round(100 * recovered(rows, "positions that its repetition attends to, 25%"))
    assert int(chance) == round(100 * recovered(rows, "random positions, 25%"))
    blind = ["first and last positions", "positions with short keys", "positions that the cue attends to",
             "windows, layers in groups", "cache by kind of head", "sentences chosen by the cue"]  # fmt: skip
    for share in ("25%", "50%"):
        assert all(
            recovered(rows, f"{rule}, {share}") < recovered(rows, f"random positions, {share}") for rule in blind
        )
    assert "An eighth of the cache gives back 82 % of the bits, six times as much as chance" in TEXT
    heads, random = (
        recovered(rows, f"{rule}, 12%") for rule in ("all positions in the heads that copy", "random positions")
    )
    assert round(heads, 2) == 0.82
    assert round(heads / random) == 6
    cache = rows[(rows.method == "whole cache") & (rows.texts == "originals")]
    assert "28,000 times" in TEXT
    assert (cache.stored_bits / cache.bits_without).mean() == pytest.approx(28_000, rel=0.02)
    assert "two bits a number leave four fifths" in TEXT
    assert recovered(rows, "whole cache, 2 bits a number") == pytest.approx(0.8, abs=0.02)


def test_predictions(ten):
    (title,) = ten["predicted_and_measured"]
    held, all_of_them = map(int, re.search(r"(\d+) of (\d+) predictions held", title).groups())
    assert 0 < held < all_of_them
