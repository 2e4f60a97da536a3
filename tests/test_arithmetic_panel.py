"""Arithmetic on vectors: the formulas against numpy, whose tokens are written, and the panel without a browser."""

import numpy as np
import pytest

from memlab import Recipe, VectorError, cram, decode, load
from memlab.panels import arithmetic_panel
from memlab.probes.arithmetic import FORMULAS, Operands, combine, nearest_words, read_mixture
from tests.conftest import random_passages


@pytest.fixture(scope="module")
def three():
    """A toy; vectors of three texts, and a second seed of the first."""
    lm = load("toy:llama")
    texts = random_passages(lm, 3, 5)
    recipes = [Recipe.default(budget=80, k=2), Recipe.default(budget=80, k=2, seed=1)]
    mems = cram(lm, [*texts, texts[0]], [recipes[0]] * 3 + [recipes[1]], progress=False)
    assert all(mem.exact for mem in mems)
    return lm, mems


def test_formulas_are_what_they_say(three):
    lm, (a, b, c, again) = three
    of = Operands(lm, a, b, c, [a, b, c, again])
    t = 0.3
    table = lm.embed(np.arange(lm.vocabulary)).numpy()
    words = np.array([table[np.argmax(table @ row / np.linalg.norm(table, axis=1))] for row in a.mem])
    words *= np.linalg.norm(a.mem, axis=1, keepdims=True) / np.linalg.norm(words, axis=1, keepdims=True)
    expected = {
        "(1 - t) A + t B": (1 - t) * a.mem + t * b.mem,
        "A + t (B - C)": a.mem + t * (b.mem - c.mem),
        "(1 - t) A + t (B + C) / 2": (1 - t) * a.mem + t * (b.mem + c.mem) / 2,
        "t A": t * a.mem,
        "(1 - t) A + t (nearest word, as long as A)": (1 - t) * a.mem + t * words,
        "(1 - t) A + t (mean of A's seeds)": (1 - t) * a.mem + t * (a.mem + again.mem) / 2,
    }
    assert set(expected) == set(FORMULAS)
    for formula, mem in expected.items():
        found = combine(formula, of, t)
        np.testing.assert_allclose(found.mem, mem, rtol=1e-4, atol=1e-2)
        assert not found.is_original
        unchanged = combine(formula, of, 1 if formula == "t A" else 0)
        np.testing.assert_array_equal(unchanged.mem, a.mem)
    ids, cosines = nearest_words(lm, a)
    np.testing.assert_allclose(np.abs(cosines) <= 1, True)
    assert ids.shape == (2,)


def test_impossible_sums_say_what_to_do(three):
    lm, (a, b, c, _) = three
    (other,) = cram(lm, random_passages(lm, 1, 3), Recipe.default(budget=2, k=1), progress=False)
    with pytest.raises(VectorError, match="Choose vectors of one shape"):
        combine("(1 - t) A + t B", Operands(lm, a, other, c, []), 0.5)
    with pytest.raises(VectorError, match="several seeds"):
        combine("(1 - t) A + t (mean of A's seeds)", Operands(lm, b, a, c, [a, b, c]), 0.5)
    with pytest.raises(VectorError, match="Give one of"):
        combine("A * B", Operands(lm, a, b, c, []), 0.5)


def test_whose_tokens_are_written(three):
    lm, (a, b, *_) = three
    for t in (0.0, 0.4, 1.0):
        mixed = a.lerp(b, t)
        mixture, ids = read_mixture(lm, mixed, a, b), decode(lm, mixed, 5)[0]
        np.testing.assert_array_equal(mixture.ids, ids)
        np.testing.assert_array_equal(mixture.of_a, ids == a.token_ids)
        np.testing.assert_array_equal(mixture.of_b, ids == b.token_ids)
        size = np.linalg.norm(a.mem)
        assert mixture.distance_a == pytest.approx(np.linalg.norm(mixed.mem - a.mem) / size, abs=1e-6)
        assert mixture.distance_b == pytest.approx(np.linalg.norm(mixed.mem - b.mem) / size, abs=1e-6)
        assert (mixture.leads >= 0).all()


@pytest.mark.slow
def test_the_panel_writes_while_t_moves(three):
    lm, mems = three
    panel = arithmetic_panel(lm, mems)
    panel.t.value = 0
    panel.wait(60)
    assert "5 of 5 tokens of A" in panel.status.value
    np.testing.assert_array_equal(panel.result.mem, mems[0].mem)
    assert set(panel.text.kinds) <= {"first", "both"}
    panel.t.value = 1
    panel.wait(60)
    assert "5 of 5 of B" in panel.status.value
    assert "0% from B" in panel.status.value
    assert set(panel.text.kinds) <= {"second", "both"}
    assert list(panel.used.children) == [panel.vectors["A"], panel.vectors["B"]]
    panel.formula.value = "A + t (B - C)"
    panel.wait(60)
    assert panel.vectors["C"] in panel.used.children
    assert panel.t.max == 2
    panel.formula.value = "(1 - t) A + t (nearest word, as long as A)"
    panel.wait(60)
    assert "Nearest word:" in panel.status.value
    assert list(panel.used.children) == [panel.vectors["A"]]


def test_an_error_has_a_way_out_and_the_panel_goes_on(three):
    lm, mems = three
    panel = arithmetic_panel(lm, mems)
    panel.formula.value = "(1 - t) A + t (mean of A's seeds)"
    panel.vectors["A"].choice.value = 1  # a text with one seed
    panel.wait(60)
    assert "Choose an A whose text has several seeds" in panel.status.value
    assert panel.result is None
    panel.vectors["A"].choice.value = 0
    panel.wait(60)
    assert panel.status.value.count("Done") == 1
