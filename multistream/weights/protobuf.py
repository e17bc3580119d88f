"""The protobuf wire format: a message as fields, decoded only on request.

Caffe's files are protobuf messages; this reads the handful of fields that hold weights, without Caffe and without
running anything from the file (Protocol Buffers, "Encoding").
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from multistream.weights.tensors import Malformed

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
WIDTHS = {FIXED32: 4, FIXED64: 8}

MOST_FIELDS = 1_000_000
"""In one file. Caffe's largest have some thousand; numbers that stand each alone are one run and count as one."""


@dataclass(frozen=True)
class Message:
    """The values of a message's fields by field number (and wire type), each list in the order of the file."""

    integers: defaultdict[int, list[int]]
    chunks: defaultdict[tuple[int, int], list[memoryview]]


def budget() -> Iterator[int]:
    """How many fields a file may have, counted down by all messages that share it."""
    return iter(range(MOST_FIELDS))


def read_message(message: memoryview, left: Iterator[int]) -> Message:
    """The fields of a message; Malformed where a length points outside or a type is unknown.

    Numbers of 4 or 8 bytes that follow one another under one tag come as the bytes of them all.
    """
    found = Message(defaultdict(list), defaultdict(list))
    position = 0
    for _ in left:
        if position >= len(message):
            return found
        tag, start = varint(message, position)
        number, kind = tag >> 3, tag & 7
        if not 0 < number < 2**29:
            raise Malformed(f"field number {number} at byte {position:,}")
        if kind == VARINT:
            value, position = varint(message, start)
            found.integers[number].append(value)
            continue
        if kind == BYTES:
            length, start = varint(message, start)
            position = _end(message, start, length)
            chunk = message[start:position]
        elif kind in WIDTHS:
            chunk, position = _run(message, position, start - position, WIDTHS[kind])
        else:
            raise Malformed(f"wire type {kind} at byte {position:,}")
        found.chunks[number, kind].append(chunk)
    raise Malformed(f"more than {MOST_FIELDS:,} fields")


def varints(message: memoryview) -> Iterator[int]:
    """The numbers of a packed field."""
    position = 0
    while position < len(message):
        value, position = varint(message, position)
        yield value


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
    same = np.ones(1, np.bool_)
    while length < count and same.all():  # blocks that double: most fields stand alone
        same = (rows[length : 2 * length, :tag] == rows[0, :tag]).all(1)
        length += int(np.logical_and.accumulate(same).sum())
    return memoryview(rows[:length, tag:].tobytes()), position + length * (tag + size)
