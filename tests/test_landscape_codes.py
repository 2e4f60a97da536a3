"""F5 on toys: tokens come back, windows are as full as they can be, damage stays in its window."""

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from memlab import Recipe, Store, cram, load, load_texts
from memlab.experiments import codecs as model_codes
from memlab.experiments.landscape import codes, measure, reading
from memlab.experiments.landscape import information_capacity as ic
from memlab.experiments.landscape.bits import stored_bits
from memlab.experiments.landscape.method import LandscapeError
from memlab.experiments.session import Session
from memlab.experiments.tables import TableError
from memlab.measures import codecs
from memlab.measures.information_capacity import BIAS, flops_per_token, information_capacity
from memlab.measures.landscape import above_the_bound
from memlab.measures.systems import REFERENCES, SYSTEMS
from memlab.models import FrozenLM

pytestmark = pytest.mark.slow  # the laws and known answers of many methods: a minute together

NOWHERE = Store("/nonexistent")


@pytest.fixture(scope="module")
def lm():
    return load("toy:llama")


@pytest.fixture(scope="module")
def passages(lm):
    return measure.sampled_passages(lm, 4, 40, seed=5)


def ids_of(method, lm, passage, data=None):
    context = method.context(lm, method.store(lm, passage) if data is None else data, len(passage))
    assert sorted(context.given) == list(range(len(passage)))
    return [context.given[i] for i in range(len(passage))]


def test_methods_have_their_own_names_and_known_systems():
    methods = codes.methods(NOWHERE)
    assert len({m.name for m in methods}) == len(methods) == 15
    assert {m.system for m in methods} <= {*SYSTEMS, *REFERENCES}
    assert {(m.family, m.decoder, m.cued, m.sees) for m in methods} == {("F5", "code", False, "nothing")}


@pytest.mark.parametrize("method", codes.methods(NOWHERE)[:-2], ids=lambda m: m.name)
def test_all_tokens_come_back_from_the_bytes_alone(lm, passages, method):
    texts = [lm.passage(text, n) for text, n in zip(load_texts("originals", count=2), (1, 37), strict=True)]
    for passage in [*passages, *texts]:
        data = method.store(lm, passage)
        assert ids_of(method, lm, passage, bytes(bytearray(data))) == passage.ids.tolist()
        assert method.store(lm, passage) == data
    sizes = {len(method.store(lm, p)) for p in passages}
    assert len(sizes) == 1 or not method.fixed_size


@pytest.mark.parametrize("size", [3, 8, 30])
def test_a_window_is_full_and_no_window_is_over_full(size):
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.full(50, 0.1), 200)
    symbols = [int(rng.choice(50, p=p)) for p in shares]
    found = codecs.windows(symbols, lambda start, at: shares[at], size)
    assert sum(count for count, _ in found) == 200
    start, bits = 0, 0.0
    for count, code in found:
        end = start + count
        assert code == codecs.encode(symbols[start:end], shares[start:end])
        assert code.bits <= size or count == 1
        if end < 200:
            assert codecs.encode(symbols[start : end + 1], shares[start : end + 1]).bits > size
            bits += max(size, code.bits)
        got = codecs.decode_padded(code.data + b"\0", count, lambda so_far, s=start: shares[s + len(so_far)])
        assert got == symbols[start:end]
        start = end
    plain, ideal = codecs.encode(symbols, shares).bits, codecs.ideal_bits(symbols, shares)
    assert bits + size >= plain >= ideal - 1
    dearest = max(-np.log2(shares[i][s]) for i, s in enumerate(symbols))
    if size > dearest + 2:  # each window wastes less than the token that did not fit, and a bit of rounding
        assert bits <= ideal + len(found) * (dearest + 2)
    (whole,) = codecs.windows(symbols, lambda start, at: shares[at], 10**6)
    assert whole == (200, codecs.encode(symbols, shares))


def test_windows_without_context_use_the_model_anew(lm, passages):
    """The tokens of each window cost what the model says of them alone, and fit; the control takes the whole text."""
    method, passage = codes.Windows(bits=64), passages[0]
    counts = method.counts(method.store(lm, passage), len(passage))
    assert sum(counts) == len(passage)
    assert len(counts) > 2
    start, whole = 0, lm.token_bits(passage.ids)
    differs = 0
    for count in counts:
        part = passage.ids[start : start + count]
        alone = lm.token_bits(part)
        differs += not np.allclose(alone[1:], whole[start + 1 : start + count], atol=1e-3)
        assert np.log2(lm.vocabulary) + alone[1:].sum() <= 64 + 1 or count == 1
        if start + count < len(passage):
            longer = lm.token_bits(passage.ids[start : start + count + 1])
            assert np.log2(lm.vocabulary) + longer[1:].sum() > 64 - 1
        start += count
    assert differs >= len(counts) - 2


@pytest.mark.parametrize("size", [16, 64])
def test_damage_stays_in_its_window(lm, passages, size):
    """Any flipped bit of a window changes at most that window. The control: in the plain code it ruins what follows."""
    method, passage = codes.Windows(bits=size), passages[1]
    data, ids = method.store(lm, passage), passage.ids.tolist()
    counts = method.counts(data, len(passage))
    changed = 0
    for j in range(len(counts)):
        start, end = sum(counts[:j]), sum(counts[: j + 1])
        for bit in range(j * size + j % 3, (j + 1) * size, 13):
            got = ids_of(method, lm, passage, flipped(data, bit))
            assert got[:start] == ids[:start]
            assert got[end:] == ids[end:]
            changed += got != ids
    assert changed >= len(counts)
    plain, coded = codes.Arithmetic(), model_codes.encode(lm, passage.ids)
    ruined = []
    for bit in range(3, coded.bits // 2, 23):
        try:
            got = ids_of(plain, lm, passage, flipped(coded.data, bit))
        except codecs.CodecError:
            got = codecs.decode_padded(flipped(coded.data, bit), len(ids), model_codes.Reader(lm))
        first = next(i for i in range(len(ids)) if got[i] != ids[i])
        ruined.append(np.mean([a != b for a, b in zip(got[first:], ids[first:], strict=True)]))
    assert np.median(ruined) > 0.8


def flipped(data, bit):
    return data[: bit // 8] + bytes([data[bit // 8] ^ 128 >> bit % 8]) + data[bit // 8 + 1 :]


def test_windows_need_room_for_a_token_and_short_passages(lm, passages):
    with pytest.raises(LandscapeError, match=r"Windows of 12 bits .*whole bytes"):
        codes.Windows(bits=12).store(lm, passages[0])
    big = copy.copy(lm)
    big.vocabulary = 2**18
    with pytest.raises(LandscapeError, match="at least 18 bits"):
        codes.Windows(bits=16).store(big, passages[0])
    with pytest.raises(LandscapeError, match="11 bytes are no numbers of windows"):
        codes.Windows(bits=256).counts(bytes(11), 5)
    # The number of windows can be read off the number of bytes, for every number of tokens up to 256.
    for tokens in (1, 2, 64, 255, 256):
        for bits in (16, 256):
            sizes = [m * bits // 8 + len(codes.pack_mask(range(m - 1), tokens - 1)) for m in range(1, tokens + 1)]
            assert len(set(sizes)) == tokens


def test_tokens_that_the_tokenizer_would_not_choose_are_kept_as_ids():
    """A tokenizer with merges: "ab" is one token, so the ids a, b come back only if ids are stored."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    merged = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    merged.pre_tokenizer, merged.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    other = FrozenLM.from_model(
        copy.deepcopy(load("toy:llama").model), PreTrainedTokenizerFast(tokenizer_object=merged)
    )
    method = codes.Characters(codec="zlib")
    for ids, stored_as_ids in (([2, 2], 0), ([2, 0, 1], 1), ([0, 1], 1), ([1, 0], 0), ([0, 1, 2, 0], 3)):
        data = method.store(other, other.passage_of_ids(ids))
        assert data[0] == stored_as_ids
        assert list(method.ids(other, data, len(ids))) == ids
    bare = FrozenLM.from_model(copy.deepcopy(load("toy:llama").model))
    with pytest.raises(LandscapeError, match=r"no tokenizer.*Store token ids"):
        method.store(bare, bare.passage_of_ids([1, 2]))


def test_no_code_is_above_the_bound_and_arithmetic_coding_is_on_it(lm):
    sampled = {"sampled": measure.sampled_passages(lm, 32, 8)}
    chosen = [codes.Arithmetic(), codes.TokenIds(), codes.Windows(bits=16), codes.Windows(bits=32, kept=True)]
    table = measure.landscape(Session(lm, NOWHERE, progress=False), sampled, chosen, cue="")
    assert table.exact.all()
    assert (table.bits_with == 0).all()
    bound = above_the_bound(table).set_index("method")
    assert not bound.above.any()
    assert bound.over["arithmetic coding"] > -(1 + 8 + 2 * math.log2(16) + 1)
    assert bound.over["arithmetic coding"] == bound.over.max()
    # The control: without its length, and with bits in place of bytes, the code is on the bound within its rounding.
    ideal = [model_codes.encode(lm, p.ids).bits for p in sampled["sampled"]]
    assert np.mean(ideal) == pytest.approx(table.bits_without[:32].mean(), abs=1.1)


def test_a_vector_per_window_writes_the_whole_passage(lm, tmp_path, monkeypatch):
    store = Store(tmp_path)
    passage = lm.passage_of_ids([5, 9, 2, 33, 60, 7, 7, 1], name="p")
    method = codes.VectorWindows(bits=20, shelf=store)
    parts = codes.vector_windows(lm, passage, 20)
    assert np.concatenate([part.ids for part in parts]).tolist() == passage.ids.tolist()
    assert len(parts) > 1
    assert all(mem.exact for mem in cram(lm, parts, Recipe.default(k=4), store=store, progress=False))
    data = method.store(lm, passage)
    assert ids_of(method, lm, passage, data) == passage.ids.tolist()
    assert stored_bits(data, fixed_size=False) > 2 * 4 * lm.d * len(parts)
    # What the store lacks is trained. A window for which the search finds nothing is an error.
    assert ids_of(codes.VectorWindows(bits=10, shelf=store), lm, passage) == passage.ids.tolist()
    long = lm.passage_of_ids(np.random.default_rng(0).integers(0, lm.vocabulary, 80).tolist(), name="long")
    monkeypatch.setattr(codes, "Recipe", SimpleNamespace(default=lambda: Recipe.default(budget=1)))
    with pytest.raises(LandscapeError, match=r"no exact vector of .*long:0-80.* fewer bits"):
        codes.VectorWindows(bits=1000, shelf=store).store(lm, long)
    # All of a short passage is one window.
    assert [len(part) for part in codes.vector_windows(lm, passage, 1000)] == [8]


# Information capacity -------------------------------------------------------------------------------------------------


def test_flops_are_those_of_a_hand_count_and_of_a_pass(lm):
    # d 4, 1 layer, 2 heads, 1 of keys, ff 3, vocabulary 5, 3 steps that attend to 0, 1 and 2 tokens before them.
    by_hand = 2 * (4 * 4 + 4 * 2 + 4 * 2 + 4 * 4) + (2 * 2 * 2 * 2) * (0 + 1 + 2) / 3 + 2 * 3 * 4 * 3 + 2 * 4 * 5
    assert flops_per_token(d=4, layers=1, heads=2, kv_heads=1, ff=3, vocabulary=5, tokens=3) == by_hand
    numbers = ic.shape(lm)
    eager = copy.deepcopy(lm.model)
    eager.set_attn_implementation("eager")  # torch does not count the fused attention of a processor
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        eager(input_ids=torch.arange(7)[None], use_cache=False)
    attention = numbers["layers"] * 4 * numbers["heads"] * numbers["head_width"]
    without = flops_per_token(**numbers, tokens=1)
    # A pass over 7 tokens scores all 7 times 7 pairs of them.
    assert counter.get_total_flops() == pytest.approx(7 * without + 49 * attention, rel=1e-3)
    # Their program assumes heads of width d / heads, so it counts less for models whose heads are wider.
    assert flops_per_token(**numbers | {"head_width": 2 * numbers["head_width"]}) > flops_per_token(**numbers)
    numbers.pop("head_width")
    assert flops_per_token(**numbers, tokens=1) == without


def test_a_uniform_model_codes_a_token_in_log2_of_the_vocabulary():
    uniform = FrozenLM.from_model(copy.deepcopy(load("toy:llama").model), load("toy:llama").tokenizer)
    with torch.no_grad():
        uniform.model.lm_head.weight.zero_()
    row = ic.row(uniform, ic.samples(uniform, load_texts("originals", count=2), 50))
    assert row["code_bits"] == pytest.approx(math.log2(uniform.vocabulary), abs=1e-5)
    assert row["text_bits"] == pytest.approx(8, abs=0.5)  # a token of the toy is a character
    assert row["capacity_without_bias"] == pytest.approx(
        (row["text_bits"] - math.log2(uniform.vocabulary)) / math.log2(row["flops"]), abs=1e-6
    )


def test_more_of_the_same_text_changes_nothing_and_a_bias_is_a_shift(lm):
    ids = ic.samples(lm, load_texts("originals", count=3), 60)
    once, twice = ic.row(lm, ids), ic.row(lm, [*ids, *ids])
    for name in ("capacity_mixed", "capacity_other", "capacity_without_bias", "text_bits", "code_bits"):
        assert once[name] == pytest.approx(twice[name], rel=1e-9)
    assert twice["tokens"] == 2 * once["tokens"] == 360
    shift = (once["capacity_without_bias"] - once["capacity_mixed"]) * math.log2(once["flops"])
    assert shift == pytest.approx(-BIAS["mixed"]) == 24
    assert information_capacity(30, 5, 2.0**25, bias=0) == 1


def test_the_table_of_models_grows_by_the_models_it_lacks(lm, monkeypatch):
    monkeypatch.setattr(ic, "TEXTS", 2)
    one = ic.information_capacity_table(Session(lm, NOWHERE))
    other = load("toy:gemma3")
    two = ic.information_capacity_table(Session(other, NOWHERE, one))
    assert list(two.model) == ["toy:llama", "toy:gemma3"]
    assert ic.information_capacity_table(Session(lm, NOWHERE, two)) is two
    assert np.array_equal(two.iloc[:1], one)
    with pytest.raises(TableError, match="no column model"):
        ic.information_capacity_table(Session(lm, NOWHERE, one[["tokens"]]))


def test_models_that_the_formula_does_not_describe_are_named():
    with pytest.raises(LandscapeError, match=r"toy:mamba has no .*Leave this model out"):
        ic.shape(load("toy:mamba"))


@pytest.mark.real
def test_shuffled_tokens_lower_information_capacity(real):
    ids = ic.samples(real, load_texts("originals", count=2), 128)
    mixed = [np.random.default_rng(0).permutation(sample) for sample in ids]
    own, shuffled = ic.row(real, ids), ic.row(real, mixed)
    assert shuffled["text_bits"] == pytest.approx(own["text_bits"], rel=0.02)
    assert shuffled["capacity_mixed"] < own["capacity_mixed"] - 0.1
    assert own["code_bits"] < 8


@pytest.mark.real
def test_windows_of_the_real_model(real):
    passage = real.passage(load_texts("originals", count=1)[0], 24)
    for method in (codes.Windows(bits=16), codes.Windows(bits=64), codes.Windows(bits=64, kept=True)):
        assert ids_of(method, real, passage) == passage.ids.tolist()
    for codec in ("UTF-8", "zlib", "zstd"):
        assert ids_of(codes.Characters(codec=codec), real, passage) == passage.ids.tolist()
    assert reading.token_bits(real, codes.TokenIds().context(real, codes.TokenIds().store(real, passage), 24),
                              passage.ids, ())[1].all()  # fmt: skip
