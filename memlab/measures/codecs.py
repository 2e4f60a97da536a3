"""Lossless codecs to hold a mem vector against: general ones on the text's bytes, and arithmetic coding.

The arithmetic coder takes whatever distribution it is given for the next symbol, so with a language model's own it
comes within a bit or two of the text's cross-entropy. No model here: ``experiments.coding`` brings one.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from memlab.errors import MemlabError


class CodecError(MemlabError, ValueError):
    """Data that cannot be decoded: damaged, or coded with other distributions."""


@dataclass(frozen=True)
class Coded:
    """A message as ``bits`` bits, the first ones of ``data``; the last byte is filled with zeros."""

    data: bytes
    bits: int


def general_bits(text: str) -> dict[str, int]:
    """Bits of a text's UTF-8 as it is, and through zlib, bz2, lzma and zstd at their strongest, by name.

    Headers and checksums are left out where the format allows (not bz2): on a text of a hundred tokens they would
    decide.
    """
    import zstandard

    raw = text.encode()
    deflate = zlib.compressobj(9, wbits=-15)
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]
    plain = zstandard.ZstdCompressor(level=22, write_checksum=False, write_content_size=False, write_dict_id=False)
    made = {
        "UTF-8": raw,
        "zlib": deflate.compress(raw) + deflate.flush(),
        "bz2": bz2.compress(raw, 9),
        "lzma": lzma.compress(raw, lzma.FORMAT_RAW, filters=filters),
        "zstd": plain.compress(raw),
    }
    return {name: 8 * len(data) for name, data in made.items()}


def encode(symbols: Sequence[int], distributions: Iterable[np.ndarray]) -> Coded:
    """Arithmetic coding: ``distributions`` yields, for each symbol, the shares (V,) of all that could stand there.

    The message is a part of the interval [0, 1) as large as its probability; its code is the shortest binary fraction
    there. In whole numbers without any rounding, since texts are short: libraries' coders count shares in 2**-24, and
    tokens rarer than that would be cheaper than the model says (random words by up to 1.5 %).
    """
    low, width, of = 0, 1, 1  # the interval [low, low + width) / of
    for symbol, shares in zip(symbols, distributions, strict=True):
        counts = _counts(shares)
        ends = counts.cumsum()
        low = low * int(ends[-1]) + width * int(ends[symbol] - counts[symbol])
        width, of = width * int(counts[symbol]), of * int(ends[-1])
    return _shortest(low, width, of)


def decode(coded: Coded, count: int, next_shares: Callable[[list[int]], np.ndarray]) -> list[int]:
    """``count`` symbols; ``next_shares`` gives the distribution (V,) after those so far, bit for bit as in encoding."""
    value, unit = int.from_bytes(coded.data, "big"), 1 << 8 * len(coded.data)
    low, width, of = 0, 1, 1
    symbols: list[int] = []
    for _ in range(count):
        counts = _counts(next_shares(symbols))
        ends = counts.cumsum()
        total = int(ends[-1])
        symbol = int(np.searchsorted(ends, (value * of - low * unit) * total // (width * unit), side="right"))
        symbols.append(symbol)
        low = low * total + width * int(ends[symbol] - counts[symbol])
        width, of = width * int(counts[symbol]), of * total
    if _shortest(low, width, of) != coded:
        raise CodecError(f"{coded.bits} bits are no code of {count} symbols under these distributions")
    return symbols


def ideal_bits(symbols: Sequence[int], distributions: Iterable[np.ndarray]) -> float:
    """What the symbols cost under those distributions, bits: their cross-entropy."""
    return float(-sum(np.log2(shares[symbol]) for symbol, shares in zip(symbols, distributions, strict=True)))


def _counts(shares: np.ndarray) -> np.ndarray:
    """Shares as whole numbers in 2**60ths, none of them 0."""
    return (np.asarray(shares, np.float64) * 2.0**60).astype(np.int64) + 1


def _shortest(low: int, width: int, of: int) -> Coded:
    """The shortest binary fraction of the interval [low, low + width) / of."""
    bits = max(0, of.bit_length() - width.bit_length() - 1)
    while (head := -(-(low << bits) // of)) * of >= (low + width) << bits:
        bits += 1
    filled = -bits % 8
    return Coded((head << filled).to_bytes((bits + filled) // 8, "big"), bits)
