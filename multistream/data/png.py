"""The chunks of a PNG file: checks that they are complete, and removes optional ones (PNG specification, section 5).

Pillow does not check the CRC of image data, reads truncated files, and rejects an intact image because of an oversized
text chunk.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_PICTURE = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf")
"""The chunks that pixels and orientation depend on; not texts and profiles, which may be decompression bombs."""


def fault(data: bytes) -> str:
    """Why the PNG file `data` is damaged: "truncated" or "bad CRC"; "" if it is intact, or not a PNG."""
    if not data.startswith(SIGNATURE):
        return ""
    last, view = b"", memoryview(data)  # its slices are not copies
    for kind, start, end in _chunks(data):
        last = kind
        if end + 4 > len(data):
            return "truncated"
        if zlib.crc32(view[start - 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            return "bad CRC"
    return "" if last == b"IEND" else "truncated"


def without_texts(data: bytes) -> bytes:
    """The PNG file without texts, profiles and later frames."""
    kept = [data[start - 8 : end + 4] for kind, start, end in _chunks(data) if kind in _PICTURE]
    return SIGNATURE + b"".join(kept)


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Type, start and end of the content of each chunk, up to IEND; the last may end after the end of the file."""
    place = len(SIGNATURE)
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        yield kind, place + 8, place + 8 + length
        if kind == b"IEND":
            return
        place += 12 + length
