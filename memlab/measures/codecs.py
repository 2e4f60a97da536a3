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
    return {name: 8 * len(compress(text.encode())) for name, (compress, _) in GENERAL.items()}


def _deflate(raw: bytes) -> bytes:
    coder = zlib.compressobj(9, wbits=-15)
    return coder.compress(raw) + coder.flush()


def _zstd(raw: bytes) -> bytes:
    import zstandard

    coder = zstandard.ZstdCompressor(level=22, write_checksum=False, write_content_size=False, write_dict_id=False)
    return coder.compress(raw)


def _from_zstd(data: bytes) -> bytes:
    import zstandard

    return zstandard.ZstdDecompressor().decompressobj().decompress(data)


_LZMA = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]

GENERAL: dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]] = {
    "UTF-8": (bytes, bytes),
    "zlib": (_deflate, lambda data: zlib.decompress(data, wbits=-15)),
    "bz2": (lambda raw: bz2.compress(raw, 9), bz2.decompress),
    "lzma": (
        lambda raw: lzma.compress(raw, lzma.FORMAT_RAW, filters=_LZMA),
        lambda data: lzma.decompress(data, lzma.FORMAT_RAW, filters=_LZMA),
    ),
    "zstd": (_zstd, _from_zstd),
}
"""{general codec: (compress, decompress)}, of bytes."""


def encode(symbols: Sequence[int], distributions: Iterable[np.ndarray]) -> Coded:
    """Arithmetic coding. ``distributions`` yields, for each symbol, the probabilities (V,) of all possible symbols.

    A message is a part of the interval [0, 1), with the message's probability as its size. The code is the shortest
    binary fraction in that part. The coder uses integers without rounding, because texts are short. Library coders
    round probabilities to multiples of 2**-24, so tokens rarer than that would cost less than the model says (a text of
    random words: up to 1.5 % less).
    """
    part = _ALL
    for symbol, shares in zip(symbols, distributions, strict=True):
        part = _narrowed(part, symbol, _counts(shares).cumsum())
    return _shortest(*part)


def windows(
    symbols: Sequence[int], shares_after: Callable[[int, int], np.ndarray], bits: int
) -> list[tuple[int, Coded]]:
    """Consecutive windows of equal information (after arXiv 2404.03626): (number of symbols, code) of each.

    A window is the most symbols whose code has at most ``bits`` bits. The coder begins anew in each window. A symbol
    that is dearer than ``bits`` is a window of its own: only its code is longer than ``bits``.
    ``shares_after(start, at)`` is the distribution (V,) of symbol ``at`` in a window that begins with symbol ``start``.
    It is called in the order of the text, and twice for a symbol that does not fit.
    """
    found, start = [], 0
    while start < len(symbols):
        part, code, end = _ALL, Coded(b"", 0), start
        while end < len(symbols) and code.bits <= bits:
            part = _narrowed(part, symbols[end], _counts(shares_after(start, end)).cumsum())
            longer = _shortest(*part)
            if longer.bits > bits and end > start:
                break
            code, end = longer, end + 1
        found.append((end - start, code))
        start = end
    return found


def decode(coded: Coded, count: int, next_shares: Callable[[list[int]], np.ndarray]) -> list[int]:
    """The ``count`` symbols of a code. ``next_shares`` returns the distribution (V,) after the symbols so far.

    That distribution must be bit for bit the one used in encoding. A code that was kept as whole bytes has 8 bits per
    byte. Raises ``CodecError`` if the code does not match.
    """
    symbols, part = _read(coded.data, count, next_shares)
    shortest = _shortest(*part)
    if shortest.data != coded.data or coded.bits not in (shortest.bits, 8 * len(coded.data)):
        raise CodecError(
            f"These {coded.bits} bits are not a code of {count} symbols under these distributions. Decode with "
            "the model, the machine and the number of symbols that were used to encode."
        )
    return symbols


def decode_padded(data: bytes, count: int, next_shares: Callable[[list[int]], np.ndarray]) -> list[int]:
    """``decode`` for a code with zeros after it, as in a window of fixed size. Nothing is checked.

    Any bytes are the code of some symbols, so damage in one window stays in it.
    """
    return _read(data, count, next_shares)[0]


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


_Part = tuple[int, int, int]
"""(low, width, whole): the interval [low, low + width) / whole."""
_ALL: _Part = (0, 1, 1)


def _narrowed(part: _Part, symbol: int, ends: np.ndarray) -> _Part:
    """The part of an interval that one more symbol takes. ``ends`` (V,): the summed counts."""
    low, width, whole = part
    begin, end, total = int(ends[symbol - 1]) if symbol else 0, int(ends[symbol]), int(ends[-1])
    return low * total + width * begin, width * (end - begin), whole * total


def _read(data: bytes, count: int, next_shares: Callable[[list[int]], np.ndarray]) -> tuple[list[int], _Part]:
    """The ``count`` symbols whose interval the fraction ``data`` lies in, and that interval."""
    value, unit = int.from_bytes(data, "big"), 1 << 8 * len(data)
    symbols: list[int] = []
    part = _ALL
    for _ in range(count):
        ends = _counts(next_shares(symbols)).cumsum()
        low, width, whole = part
        place = (value * whole - low * unit) * int(ends[-1]) // (width * unit)
        symbols.append(int(np.searchsorted(ends, place, side="right")))
        part = _narrowed(part, symbols[-1], ends)
    return symbols, part


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
