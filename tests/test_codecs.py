"""Encoding and decoding, compared with entropies computed independently."""

import bz2
import contextlib
import lzma
import math
import zlib

import numpy as np
import pandas as pd
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from memlab.measures import codecs
from memlab.measures.codecs import CodecError, Coded


def source(seed, count, vocabulary, sharpness=3.0):
    """Symbols drawn from distributions that change at each place."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, sharpness, (count, vocabulary))
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return [int(rng.choice(vocabulary, p=p)) for p in shares], shares


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(2, 300), st.floats(0, 6))
def test_decode_inverts_encode(seed, count, vocabulary, sharpness):
    symbols, shares = source(seed, count, vocabulary, sharpness)
    coded = codecs.encode(symbols, shares)
    assert len(coded.data) == math.ceil(coded.bits / 8)
    assert codecs.decode(coded, count, lambda so_far: shares[len(so_far)]) == symbols


def test_code_length_is_the_cross_entropy():
    excess = []
    for seed in range(20):
        symbols, shares = source(seed, 150, 5000)
        coded = codecs.encode(symbols, shares)
        ideal = -sum(math.log2(shares[i][s]) for i, s in enumerate(symbols))
        assert codecs.ideal_bits(symbols, shares) == pytest.approx(ideal)
        excess.append(coded.bits - ideal)
        assert coded.bits < 1.01 * ideal
    # The interval's size is the probability; the shortest fraction in it takes at most one bit more, and may take less.
    assert -1 < np.mean(excess) < 1
    assert max(excess) <= 1 + 1e-6


def test_certain_symbols_are_free_and_impossible_ones_cost_60_bits():
    certain = np.zeros(1000)
    certain[7] = 1
    assert codecs.encode([7] * 200, [certain] * 200).bits <= 2
    coded = codecs.encode([3], [certain])
    assert 58 <= coded.bits <= 62  # one part in 2**60
    assert codecs.decode(coded, 1, lambda _: certain) == [3]
    assert codecs.encode([], []).bits == 0
    assert codecs.decode(Coded(b"", 0), 0, lambda _: certain) == []


def test_rare_symbols_cost_their_full_bits():
    """Tokens with a probability of 2**-40 cost 40 bits, not fewer."""
    shares = np.full(49152, 2.0**-40)
    shares[0] = 1 - shares[1:].sum()
    coded = codecs.encode([40000, 0, 12345, 0], [shares] * 4)
    assert coded.bits == pytest.approx(80, abs=2)
    assert codecs.decode(coded, 4, lambda _: shares) == [40000, 0, 12345, 0]


def test_distributions_may_depend_on_earlier_symbols():
    shares = np.array([[0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.05, 0.05, 0.9]])
    symbols = [0, 0, 0, 1, 1, 1, 2, 2, 2, 0]
    after = [np.full(3, 1 / 3), *(shares[s] for s in symbols[:-1])]
    coded = codecs.encode(symbols, after)
    got = codecs.decode(coded, len(symbols), lambda so_far: shares[so_far[-1]] if so_far else np.full(3, 1 / 3))
    assert got == symbols


def test_damaged_data_does_not_decode_to_the_message():
    symbols, shares = source(0, 50, 400)
    coded = codecs.encode(symbols, shares)
    flipped = Coded(bytes([coded.data[0] ^ 0x80]) + coded.data[1:], coded.bits)
    with contextlib.suppress(CodecError):
        assert codecs.decode(flipped, 50, lambda so_far: shares[len(so_far)]) != symbols
    # What no encoder makes is result apart: a code too long, one of more symbols, one of other distributions.
    for strange, count in ((Coded(b"\xff" * 80, 640), 50), (coded, 49)):
        with pytest.raises(CodecError, match=f"{strange.bits} bits are not a code of {count} symbols"):
            codecs.decode(strange, count, lambda so_far: shares[len(so_far)])
    with pytest.raises(CodecError):
        codecs.decode(coded, 50, lambda so_far: shares[-1 - len(so_far)])


def test_general_codecs_are_the_libraries_without_headers():
    text = "The ferry crossed, and the ferry crossed again; " * 40
    raw = text.encode()
    bits = codecs.general_bits(text)
    assert bits["UTF-8"] == 8 * len(raw)
    assert 0 < 8 * len(zlib.compress(raw, 9)) - bits["zlib"] == 8 * 6  # two bytes of header, four of checksum
    assert bits["bz2"] == 8 * len(bz2.compress(raw))
    assert bits["lzma"] < 8 * len(lzma.compress(raw))
    assert bits["zstd"] <= 8 * len(zstandard.compress(raw, 22))
    assert all(n < bits["UTF-8"] / 5 for name, n in bits.items() if name != "UTF-8")


def test_sizes_are_compared_over_the_same_passages():
    rows = [("a", "x", "zip", 80), ("a", "x", "mem", 160), ("b", "x", "zip", 90), ("b", "x", "mem", 300),
            ("c", "y", "zip", 40), ("c", "y", "mem", 20), ("d", "y", "zip", 1000)]  # fmt: skip
    sizes = pd.DataFrame(rows, columns=["text_id", "texts", "codec", "bits"]).assign(tokens=10)
    both = codecs.measured_with_all(sizes)
    assert sorted(set(both.text_id)) == ["a", "b", "c"]
    means = codecs.bits_a_token(both).set_index(["codec", "texts"]).bits_a_token
    assert means.to_dict() == {("zip", "x"): 8.5, ("mem", "x"): 23, ("zip", "y"): 4, ("mem", "y"): 2}
    ratio = codecs.size_ratio(both, "zip", "mem")
    assert ratio.to_dict() == pytest.approx({"x": (80 / 160 + 90 / 300) / 2, "y": 2})
