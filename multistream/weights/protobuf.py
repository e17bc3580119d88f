"""The protobuf wire format: splits a message into fields, and decodes values only on request.

Caffe's files are protobuf messages. This module reads the few fields that contain weights, without Caffe and without
running any code from the file (Protocol Buffers, "Encoding").
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
"""Maximum per file. Caffe's largest files have some thousand; a run of unpacked numbers counts as one field."""


@dataclass(frozen=True)
class Message:
    """The values of a message's fields by field number (and wire type), each list in the order of the file."""

    integers: defaultdict[int, list[int]]
    chunks: defaultdict[tuple[int, int], list[memoryview]]


def budget() -> Iterator[int]:
    """Returns an iterator that limits the number of fields in a file; all its messages share it."""
    return iter(range(MOST_FIELDS))


def read_message(message: memoryview, left: Iterator[int]) -> Message:
    """Splits a message into its fields. Raises Malformed if a length exceeds the message or a type is unknown.

    Consecutive numbers of 4 or 8 bytes with the same tag are returned as one chunk.
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
    """Yields the numbers of a packed field."""
    position = 0
    while position < len(message):
        value, position = varint(message, position)
        yield value


def varint(message: memoryview, position: int) -> tuple[int, int]:
    """Decodes a number of at most 64 bits, 7 bits per byte; returns it and the position after it."""
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
    """Reads consecutive numbers with the same tag (of `tag` bytes); returns their bytes and the position after them."""
    _end(message, position, tag + size)
    count = (len(message) - position) // (tag + size)
    rows: NDArray[np.uint8] = np.frombuffer(message, np.uint8, count * (tag + size), position).reshape(count, -1)
    length = 1
    same = np.ones(1, np.bool_)
    while length < count and same.all():  # block sizes double, because most fields occur once
        same = (rows[length : 2 * length, :tag] == rows[0, :tag]).all(1)
        length += int(np.logical_and.accumulate(same).sum())
    return memoryview(rows[:length, tag:].tobytes()), position + length * (tag + size)
