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
from typing import Any

import numpy as np


class CodecError(ValueError):
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

    A range coder (the library constriction, 24-bit shares, so none is 0); then as few bits as tell its range apart.
    """
    import constriction

    encoder, tables = constriction.stream.queue.RangeEncoder(), []
    for symbol, shares in zip(symbols, distributions, strict=True):
        tables.append(_table(shares))
        encoder.encode(int(symbol), tables[-1])
    words = encoder.get_compressed()
    size = 32 * len(words)
    value = int.from_bytes(words.astype(">u4").tobytes(), "big")
    # The coder ends on a word; any number in its last range would do, and the one with the fewest digits is kept.
    for bits in range(max(0, size - 96), size + 1):
        rest = size - bits
        for head in (value >> rest, (value >> rest) + 1):
            if head >> bits == 0 and _says(head << rest, size, symbols, tables):
                filled = -bits % 8
                return Coded((head << filled).to_bytes((bits + filled) // 8, "big"), bits)
    raise CodecError("the range coder does not decode its own output")  # pragma: no cover


def decode(coded: Coded, count: int, next_shares: Callable[[list[int]], np.ndarray]) -> list[int]:
    """``count`` symbols; ``next_shares`` gives the distribution (V,) after those so far, bit for bit as in encoding."""
    words = -(-coded.bits // 32) + 3  # zeros behind the end, as many as the coder may look ahead
    decoder = _decoder(coded.data.ljust(4 * words, b"\0"))
    symbols: list[int] = []
    for _ in range(count):
        try:
            symbols.append(int(decoder.decode(_table(next_shares(symbols)))))
        except AssertionError:  # what constriction raises
            raise CodecError(f"symbol {len(symbols) + 1} of {count} cannot be decoded: other data was coded") from None
    return symbols


def ideal_bits(symbols: Sequence[int], distributions: Iterable[np.ndarray]) -> float:
    """What the symbols cost under those distributions, bits: their cross-entropy."""
    return float(-sum(np.log2(shares[symbol]) for symbol, shares in zip(symbols, distributions, strict=True)))


def _table(shares: np.ndarray) -> object:
    import constriction

    return constriction.stream.model.Categorical(np.asarray(shares, np.float64), perfect=False)


def _decoder(data: bytes) -> Any:
    import constriction

    return constriction.stream.queue.RangeDecoder(np.frombuffer(data, ">u4").astype(np.uint32))


def _says(value: int, size: int, symbols: Sequence[int], tables: Sequence[object]) -> bool:
    decoder = _decoder(value.to_bytes(size // 8, "big"))
    try:
        return all(int(decoder.decode(table)) == int(symbol) for symbol, table in zip(symbols, tables, strict=True))
    except AssertionError:
        return False
