"""Vectors of a shelf in fewer bits, on a toy: what must come back, what must not, and what the codebooks may see."""

import numpy as np
import pandas as pd
import pytest
import torch

from memlab import Recipe, Store, check, cram, load
from memlab.experiments import fewer_bits, vector_codes
from memlab.experiments.landscape import shelves
from memlab.experiments.landscape.method import LandscapeError, Method
from memlab.experiments.landscape.vectors import vector_of
from memlab.experiments.session import Session
from memlab.results.mem_vector import VectorError
from memlab.texts import load_texts
from memlab.training.on_grid import margin_gradients, train_on_grid

pytestmark = pytest.mark.slow  # the laws and known answers of many methods: a minute together

COUNT, TOKENS = 14, 10


@pytest.fixture(scope="module")
def lm():
    return load("toy:llama")


@pytest.fixture(scope="module")
def passages(lm):
    """Three passages named like rows of the landscape; the others are texts to learn from."""
    rng = np.random.default_rng(0)
    rows = [text.id for text in load_texts("originals", count=3)]
    names = [*rows, *(f"other-{i}" for i in range(COUNT - 3))]
    return [lm.passage_of_ids(rng.integers(0, lm.vocabulary, TOKENS), name=name) for name in names]


@pytest.fixture(scope="module")
def shelf(lm, passages, tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("shelf"))
    for mem in cram(lm, passages, Recipe.default(), progress=False):
        assert mem.exact
        store.put(mem)
    return store


def exact_from(lm, shelf, passage, vector):
    return check(lm, vector_of(shelf, lm, passage).with_mem(vector.numpy(), "decoded")).exact


def test_every_method_fits_the_protocol_and_has_a_name_of_its_own(shelf):
    found = shelves.methods(shelf)
    assert all(isinstance(method, Method) for method in found)
    assert len({method.name for method in found}) == len(found)
    assert {method.family for method in found} == {"F6"}


def test_a_context_comes_from_the_bytes_alone(lm, shelf, passages):
    """What is stored of one passage gives its vector, whatever was stored in between; and it says what it shares."""
    for method in shelves.methods(shelf):
        if "trained" in method.name:
            continue
        first, second = (method.store(lm, passage) for passage in passages[:2])
        again = method.context(lm, first, TOKENS).embeddings
        assert again.shape == (1, lm.d)
        assert again.dtype == torch.float32
        assert torch.equal(again, method.context(lm, first, TOKENS).embeddings)
        assert first != second, method.name
        assert not torch.equal(again, method.context(lm, second, TOKENS).embeddings), method.name
        if method.fixed_size:
            assert len(first) == len(second)


def test_codebooks_never_learn_from_a_row_and_refuse_a_text_that_they_know(lm, shelf, passages):
    known = {mem.text.id for mem in shelves.fit_vectors(shelf, lm)}
    assert known == {passage.span.id for passage in passages[3:]}
    method = shelves.methods(shelf)[0]
    with pytest.raises(LandscapeError, match="has learnt from other-0"):
        method.store(lm, passages[3])
    with pytest.raises(LandscapeError, match="needs 8"):
        shelves.fit_vectors(None, lm)


def test_fewest_bits_are_exact_and_fewer_with_each_idea(lm, shelf, passages):
    sizes: dict[str, list[int]] = {}
    for method in shelves.methods(shelf):
        if not isinstance(method, shelves.Fewest):
            continue
        for passage in passages[: 1 if "trained" in method.by else 3]:
            data = method.store(lm, passage)
            assert exact_from(lm, shelf, passage, method.context(lm, data, TOKENS).embeddings)
            sizes.setdefault(method.by, []).append(8 * len(data))
    mean = {name: np.mean(some) for name, some in sizes.items()}
    any_grids = vector_codes.Grids(lm, np.ones((1, lm.d)))
    plain = np.mean([vector_codes.integers(any_grids, vector_of(shelf, lm, p)).bits for p in passages[:3]])
    assert mean["trained on the grid"] < mean["in the model's basis"] < mean["entropy-coded"] < plain


def test_codes_of_another_passage_write_nothing_of_this_one(lm, shelf, passages):
    method = next(m for m in shelves.methods(shelf) if "integers" in m.name)
    data = [method.store(lm, passage) for passage in passages[:3]]
    for i, passage in enumerate(passages[:3]):
        assert exact_from(lm, shelf, passage, method.context(lm, data[i], TOKENS).embeddings)
        assert not exact_from(lm, shelf, passage, method.context(lm, data[(i + 1) % 3], TOKENS).embeddings)


def test_margin_gradients_are_the_slopes_of_the_margins(lm, shelf, passages):
    mem = vector_of(shelf, lm, passages[0])
    gradients, margins = margin_gradients(lm, mem)
    assert gradients.shape == (TOKENS, lm.d)
    assert margins.min() == pytest.approx(check(lm, mem).margin, abs=1e-3)
    way = np.random.default_rng(0).standard_normal((1, lm.d)).astype(np.float32)
    way *= 30 / np.linalg.norm(way)
    ahead, behind = (margin_gradients(lm, mem.with_mem(mem.mem + sign * way, "moved"))[1] for sign in (1, -1))
    np.testing.assert_allclose((ahead - behind) / 2, gradients @ way[0], atol=0.02 * np.abs(gradients @ way[0]).max())


def test_training_on_a_grid_ends_on_the_grid_and_needs_no_step_where_the_grid_is_fine(lm, shelf, passages):
    mem = vector_of(shelf, lm, passages[0])
    grid = vector_codes.Grids(lm, np.concatenate([m.mem for m in shelves.fit_vectors(shelf, lm)])).plain
    fine, _, steps = train_on_grid(lm, mem, lambda v: grid.rounded(v[0], 60)[None], mem.mem, 5)
    assert steps == 0
    np.testing.assert_array_equal(fine, mem.mem)
    assert not check(lm, mem.with_mem(grid.rounded(mem.mem[0], 18)[None], "rounded")).exact
    hidden, point, steps = train_on_grid(lm, mem, lambda v: grid.rounded(v[0], 18)[None], mem.mem, 60)
    assert steps > 0
    np.testing.assert_array_equal(point.mem, grid.rounded(hidden[0], 18)[None])
    assert check(lm, point).exact
    np.testing.assert_array_equal(grid.decode(grid.pack(grid.levels(hidden[0], 18), 18)), point.mem)


def test_the_table_is_paired_and_resumes(lm, shelf, passages):
    mems = [("random", vector_of(shelf, lm, passage)) for passage in passages[:2]]
    fit = np.concatenate([mem.mem for mem in shelves.fit_vectors(shelf, lm)])
    chosen = ["signed integers", "entropy-coded", "in the model's basis"]
    some = fewer_bits.fewer_bits(Session(lm, shelf), mems[:1], fit, chosen[:2])
    said = []
    table = fewer_bits.fewer_bits(Session(lm, shelf, resume_from=some, log=said.append), mems, fit, chosen)
    assert len(table) == 6
    assert said[0].count("signed integers") == 0
    pd.testing.assert_frame_equal(table[:2], some)
    ratios = fewer_bits.ratios(table, draws=20)
    everything = ratios[ratios.texts == "all"].set_index("method")
    assert everything.ratio["signed integers"] == 1
    wide = table.pivot(index="key", columns="method", values="stored_bits")
    expected = (wide["entropy-coded"] / wide["signed integers"]).median()
    assert everything.ratio["entropy-coded"] == pytest.approx(expected)


def test_an_unknown_method_is_named(lm):
    with pytest.raises(fewer_bits.UnknownMethodError, match="error feedback"):
        fewer_bits.fewer_bits(Session(lm, Store("/nonexistent")), [], np.ones((1, lm.d)), ["rounding up"])


@pytest.mark.real
def test_real_vectors_in_fewer_bits(real):
    """One bundled vector: smaller codes are exact, and cosines arrive only with as many words as dimensions."""
    shelf = Store.bundled()
    methods = {method.name: method for method in shelves.methods(shelf)}
    passages = [real.passage(text, 32) for text in load_texts("originals", count=2)]
    sizes = {}
    for name in ("entropy-coded, fewest bits", "in the model's basis, milder, fewest bits"):
        data = methods[name].store(real, passages[0])
        assert exact_from(real, shelf, passages[0], methods[name].context(real, data, 32).embeddings)
        sizes[name] = 8 * len(data)
    grids = shelves.grids_of(shelf, real)
    plain = vector_codes.integers(grids, vector_of(shelf, real, passages[0])).bits
    assert max(sizes.values()) < plain
    for count, exact in ((256, False), (576, True)):
        method = methods[f"cosines to {count} words"]
        data = method.store(real, passages[0])
        assert exact_from(real, shelf, passages[0], method.context(real, data, 32).embeddings) == exact
    same = shelves.sent(real, real, passages, shelf)
    assert (same.bits_with < 0.1 * same.bits_without).all()
    assert (same.bits_shuffled > 0.9 * same.bits_without).all()


def test_several_vectors_are_refused(lm, shelf, passages):
    (mem,) = cram(lm, passages[:1], Recipe.default(k=2), progress=False)
    with pytest.raises(VectorError, match="k = 1"):
        fewer_bits.fewer_bits(Session(lm, shelf), [("random", mem)], np.ones((1, lm.d)))
