"""The protobuf wire format: a message as fields, decoded only on request.

Caffe's files are protobuf messages; this reads the handful of fields that hold weights, without Caffe and without
running anything from the file (Protocol Buffers, "Encoding").
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from multistream.weights.tensors import Malformed

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

MOST_FIELDS = 1_000_000
"""In one file. Caffe's largest have some thousand; numbers that stand each alone are one run and count as one."""

Field = tuple[int, int, int | memoryview]
"""(field number, wire type, value): an int for VARINT, the raw bytes for the others."""


def budget() -> Iterator[int]:
    """How many fields a file may have, counted down by all `fields` that share it."""
    return iter(range(MOST_FIELDS))


def fields(message: memoryview, left: Iterator[int]) -> Iterator[Field]:
    """The fields of a message, in their order; Malformed where a length points outside or a type is unknown.

    Numbers of 4 or 8 bytes that follow one another under one tag come as the bytes of them all.
    """
    position = 0
    for _ in left:
        if position >= len(message):
            return
        tag, start = varint(message, position)
        number, kind = tag >> 3, tag & 7
        if not 0 < number < 2**29:
            raise Malformed(f"field number {number} at byte {position:,}")
        if kind == VARINT:
            value, position = varint(message, start)
            yield number, kind, value
        elif kind == BYTES:
            length, start = varint(message, start)
            position = _end(message, start, length)
            yield number, kind, message[start:position]
        elif kind in (FIXED32, FIXED64):
            run, position = _run(message, position, start - position, 4 if kind == FIXED32 else 8)
            yield number, kind, run
        else:
            raise Malformed(f"wire type {kind} at byte {position:,}")
    raise Malformed(f"more than {MOST_FIELDS:,} fields")


def varint(message: memoryview, position: int) -> tuple[int, int]:
    """A number of at most 64 bits, 7 of them a byte, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise Malformed("the message ends inside a number")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise Malformed(f"a number of more than 10 bytes at byte {position:,}")


def _end(message: memoryview, start: int, length: int) -> int:
    if length > len(message) - start:
        raise Malformed(f"a field of {length:,} bytes at byte {start:,} of {len(message):,}")
    return start + length


def _run(message: memoryview, position: int, tag: int, size: int) -> tuple[memoryview, int]:
    """All numbers that follow under the same tag (of `tag` bytes), as bytes without the tags, and the place behind."""
    _end(message, position, tag + size)
    count = (len(message) - position) // (tag + size)
    rows: NDArray[np.uint8] = np.frombuffer(message, np.uint8, count * (tag + size), position).reshape(count, -1)
    length = 1
    while length < count and (rows[length, :tag] == rows[0, :tag]).all():  # blocks that double: most fields stand alone
        block = rows[length : 2 * length, :tag]
        same = (block == rows[0, :tag]).all(1)
        length += int(same.argmin()) if not same.all() else len(block)
        if not same.all():
            break
    return memoryview(rows[:length, tag:].tobytes()), position + length * (tag + size)
