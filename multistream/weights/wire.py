"""The protobuf wire format: fields of a message as (number, value), nothing decoded that nobody asks for.

Caffe's files are protobuf messages; this reads the handful of fields that hold weights, without Caffe and without
running anything from the file (Protocol Buffers, "Encoding").
"""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

Field = tuple[int, int, int | memoryview]
"""(field number, wire type, value): an int for VARINT, the raw bytes for the others."""


class Malformed(ValueError):
    """The bytes are no protobuf message."""


def fields(message: memoryview) -> Iterator[Field]:
    """The fields of a message, in their order. Malformed where a length points outside or a type is unknown."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, kind = tag >> 3, tag & 7
        if number == 0:
            raise Malformed(f"field number 0 at byte {position}")
        if kind == VARINT:
            value, position = _varint(message, position)
            yield number, kind, value
            continue
        if kind == BYTES:
            length, position = _varint(message, position)
        elif kind in (FIXED32, FIXED64):
            length = 4 if kind == FIXED32 else 8
        else:
            raise Malformed(f"wire type {kind} at byte {position}")
        if position + length > len(message):
            raise Malformed(f"a field of {length:,} bytes at byte {position:,} of {len(message):,}")
        yield number, kind, message[position : position + length]
        position += length


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise Malformed("the message ends inside a number")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise Malformed(f"a number of more than 10 bytes at byte {position}")
