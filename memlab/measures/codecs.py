"""Lossless codecs to compare a mem vector with: general codecs on the text's bytes, and arithmetic coding.

The arithmetic coder takes the distribution of the next symbol as an argument. With a language model's distribution, the
code is within a bit or two of the text's cross-entropy. There is no model here: ``experiments.codecs`` supplies one.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from memlab.errors import MemlabError


class CodecError(MemlabError, ValueError):
    """Data cannot be decoded: it is damaged, or was coded with other distributions."""


@dataclass(frozen=True)
class Coded:
    """A coded message: the first ``bits`` bits of ``data``. The last byte is padded with zeros."""

    data: bytes
    bits: int


def general_bits(text: str) -> dict[str, int]:
    """Size of a text in bits, by codec: plain UTF-8, and zlib, bz2, lzma and zstd at their strongest level.

    Headers and checksums are left out if the format allows it (bz2 does not): in a text of a hundred tokens they would
    decide the comparison.
    """
    import zstandard

    raw = text.encode()
    deflate = zlib.compressobj(9, wbits=-15)
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]
    plain = zstandard.ZstdCompressor(level=22, write_checksum=False, write_content_size=False, write_dict_id=False)
    coded = {
        "UTF-8": raw,
        "zlib": deflate.compress(raw) + deflate.flush(),
        "bz2": bz2.compress(raw, 9),
        "lzma": lzma.compress(raw, lzma.FORMAT_RAW, filters=filters),
        "zstd": plain.compress(raw),
    }
    return {name: 8 * len(data) for name, data in coded.items()}


def encode(symbols: Sequence[int], distributions: Iterable[np.ndarray]) -> Coded:
    """Arithmetic coding. ``distributions`` yields, for each symbol, the probabilities (V,) of all possible symbols.

    A message is a part of the interval [0, 1), with the message's probability as its size. The code is the shortest
    binary fraction in that part. The coder uses integers without rounding, because texts are short. Library coders
    round probabilities to multiples of 2**-24, so tokens rarer than that would cost less than the model says (a text of
    random words: up to 1.5 % less).
    """
    low, width, whole = 0, 1, 1  # the interval [low, low + width) / whole
    for symbol, shares in zip(symbols, distributions, strict=True):
        counts = _counts(shares)
        ends = counts.cumsum()
        low = low * int(ends[-1]) + width * int(ends[symbol] - counts[symbol])
        width, whole = width * int(counts[symbol]), whole * int(ends[-1])
    return _shortest(low, width, whole)


def decode(coded: Coded, count: int, next_shares: Callable[[list[int]], np.ndarray]) -> list[int]:
    """The ``count`` symbols of a code. ``next_shares`` returns the distribution (V,) after the symbols so far.

    A code that was kept as whole bytes has 8 bits per byte. That distribution must be bit for bit the one used in encoding. Raises ``CodecError`` if the code does not match.
    """
    value, unit = int.from_bytes(coded.data, "big"), 1 << 8 * len(coded.data)
    low, width, whole = 0, 1, 1
    symbols: list[int] = []
    for _ in range(count):
        counts = _counts(next_shares(symbols))
        ends = counts.cumsum()
        total = int(ends[-1])
        symbol = int(np.searchsorted(ends, (value * whole - low * unit) * total // (width * unit), side="right"))
        symbols.append(symbol)
        low = low * total + width * int(ends[symbol] - counts[symbol])
        width, whole = width * int(counts[symbol]), whole * total
    shortest = _shortest(low, width, whole)
    if shortest.data != coded.data or coded.bits not in (shortest.bits, 8 * len(coded.data)):
        raise CodecError(
            f"These {coded.bits} bits are not a code of {count} symbols under these distributions. Decode with "
            "the model, the machine and the number of symbols that were used to encode."
        )
    return symbols


def ideal_bits(symbols: Sequence[int], distributions: Iterable[np.ndarray]) -> float:
    """Cross-entropy of the symbols under the distributions, bits."""
    return float(-sum(np.log2(shares[symbol]) for symbol, shares in zip(symbols, distributions, strict=True)))


def measured_with_all(sizes: pd.DataFrame) -> pd.DataFrame:
    """The rows of passages that were stored with every codec: only over the same passages can means be compared.

    ``sizes``, one row per passage and codec: ``text_id codec``.
    """
    return sizes.groupby("text_id").filter(lambda rows: len(rows) == sizes.codec.nunique())


def bits_a_token(sizes: pd.DataFrame) -> pd.DataFrame:
    """Mean size of a passage in bits per token, by codec and kind of text: ``codec texts bits_a_token``.

    ``sizes``, one row per passage and codec: ``codec texts bits tokens``, with ``bits`` of the whole passage.
    """
    table = sizes.assign(bits_a_token=sizes.bits / sizes.tokens)
    return table.groupby(["codec", "texts"], sort=False, as_index=False).bits_a_token.mean()


def size_ratio(sizes: pd.DataFrame, codec: str, other: str) -> pd.Series:
    """Size with ``codec`` divided by size with ``other``: median over passages, by kind of text.

    ``sizes``, one row per passage and codec: ``text_id texts codec bits``.
    """
    wide = sizes.pivot(index=["texts", "text_id"], columns="codec", values="bits")
    return (wide[codec] / wide[other]).groupby("texts").median()


def _counts(shares: np.ndarray) -> np.ndarray:
    """Probabilities as integer multiples of 2**-60, none of them 0."""
    return (np.asarray(shares, np.float64) * 2.0**60).astype(np.int64) + 1


def _shortest(low: int, width: int, whole: int) -> Coded:
    """The shortest binary fraction in the interval [low, low + width) / whole."""
    bits = max(0, whole.bit_length() - width.bit_length() - 1)
    while (head := -(-(low << bits) // whole)) * whole >= (low + width) << bits:
        bits += 1
    filled = -bits % 8
    return Coded((head << filled).to_bytes((bits + filled) // 8, "big"), bits)
