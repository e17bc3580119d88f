"""Caffe's weights: .caffemodel (V1 and V2 layers) and .binaryproto, as named tensors (paper section 5)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multistream.weights.protobuf import BYTES, FIXED32, FIXED64, VARINT, budget, fields, varint
from multistream.weights.tensors import Contents, Malformed

# Field numbers of caffe.proto: BlobProto's old sizes and its shape.
SIZES, SHAPE = (1, 2, 3, 4), 7
NUMBERS = {(5, BYTES): 4, (5, FIXED32): 4, (8, BYTES): 8, (8, FIXED64): 8}
"""BlobProto.data and .double_data, packed or each alone: bytes a number."""

DIMENSIONS = 1
MOST_DIMENSIONS = 8

KINDS = ("weight", "bias")
"""What a layer's first and second blob are; later ones are named by their number."""


BATCH_NORM = b"BatchNorm"
"""The type of layers that hold statistics; the weights of a batch norm lie in a layer of type Scale."""


@dataclass(frozen=True)
class Layout:
    """The field numbers of a layer, and how its type says that it is fully connected."""

    name: int
    type: int
    blobs: int
    connected: int | bytes


LAYOUTS = {2: Layout(name=4, type=5, blobs=6, connected=14), 100: Layout(1, 2, 7, b"InnerProduct")}
"""NetParameter.layers (V1) and .layer (V2)."""


def read_caffemodel(path: Path) -> Contents:
    """{"LAYER.weight", "LAYER.bias"} of all layers with blobs, as stored: Caffe's OIHW is torch's, colours are BGR."""
    tensors: dict[str, Tensor] = {}
    left = budget()
    for number, kind, value in fields(memoryview(path.read_bytes()), left):
        if number in LAYOUTS and kind == BYTES and isinstance(value, memoryview):
            for name, tensor in _layer(value, LAYOUTS[number], left):
                if name in tensors:
                    raise Malformed(f"two layers are named {name.rpartition('.')[0]!r}")
                tensors[name] = tensor
    return Contents(tensors)


def read_binaryproto(path: Path) -> Contents:
    """{"mean": (C, H, W)} of a mean image, in the file's own channel order (Caffe's is BGR)."""
    tensor = _blob(memoryview(path.read_bytes()), budget())
    if tensor.ndim == 4 and tensor.shape[0] == 1:
        tensor = tensor[0]
    if tensor.ndim != 3 or tensor.numel() == 0:
        raise Malformed(f"a mean image of shape {tuple(tensor.shape)}")
    return Contents({"mean": tensor})


def _layer(message: memoryview, layout: Layout, left: Iterator[int]) -> Iterator[tuple[str, Tensor]]:
    """The blobs of one layer by name; biases and matrices without the ones that old files put before their sizes."""
    name, kind = "", cast(int | bytes, b"")
    blobs: list[Tensor] = []
    for number, _, value in fields(message, left):
        if number == layout.type:
            kind = value if isinstance(value, int) else bytes(value)
        elif isinstance(value, memoryview) and number == layout.name:
            name = bytes(value).decode(errors="replace")
        elif isinstance(value, memoryview) and number == layout.blobs:
            blobs.append(_blob(value, left))
    if kind == BATCH_NORM:
        yield from _statistics(name, blobs)
        return
    for place, tensor in enumerate(blobs):
        word = KINDS[place] if place < len(KINDS) else place
        yield f"{name}.{word}", _without_ones(tensor, is_bias=place > 0, connected=kind == layout.connected)


def _without_ones(tensor: Tensor, *, is_bias: bool, connected: bool) -> Tensor:
    """A bias as (n,), a fully connected layer's matrix as (out, in); other blobs as they are."""
    if tensor.ndim == 4 and is_bias and tensor.shape[:3] == (1, 1, 1):
        return tensor.reshape(-1)
    if tensor.ndim == 4 and connected and tensor.shape[:2] == (1, 1):
        return tensor[0, 0]
    return tensor


def _statistics(name: str, blobs: Sequence[Tensor]) -> Iterator[tuple[str, Tensor]]:
    """A BatchNorm layer's: Caffe keeps sums of mean and variance, and by what they are to be divided."""
    if len(blobs) != 3 or blobs[0].numel() != blobs[1].numel() or blobs[2].numel() != 1:
        raise Malformed(f"a BatchNorm layer {name!r} with blobs of {[blob.numel() for blob in blobs]} numbers")
    factor = float(blobs[2])
    scale = 0.0 if factor == 0 else 1 / factor  # as Caffe does
    yield f"{name}.running_mean", blobs[0].reshape(-1) * scale
    yield f"{name}.running_var", blobs[1].reshape(-1) * scale


def _blob(message: memoryview, left: Iterator[int]) -> Tensor:
    """A BlobProto, by its shape or by the old num, channels, height, width."""
    sizes: dict[int, int] = {}
    shape: list[int] | None = None
    parts: list[NDArray[np.floating]] = []
    for number, kind, value in fields(message, left):
        if number in SIZES and kind == VARINT and isinstance(value, int):
            sizes[number] = value
        elif number == SHAPE and kind == BYTES and isinstance(value, memoryview):
            shape = _shape(value, left)
        elif isinstance(value, memoryview) and (number, kind) in NUMBERS:
            parts.append(_numbers(value, NUMBERS[number, kind]))
    dimensions = shape if shape is not None else [sizes.get(number, 1) for number in SIZES]
    count = sum(part.size for part in parts)
    if prod(dimensions) != count:
        raise Malformed(f"a blob of shape {dimensions} with {count:,} numbers")
    with np.errstate(over="ignore"):  # a double may be infinite as a float
        data = np.concatenate([np.zeros(0, np.float32), *parts], dtype=np.float32, casting="same_kind")
    return torch.from_numpy(data).view(dimensions)


def _numbers(message: memoryview, size: int) -> NDArray[np.floating]:
    if len(message) % size:
        raise Malformed(f"{len(message):,} bytes, not a multiple of {size}")
    return np.frombuffer(message, dtype=f"<f{size}")


def _shape(message: memoryview, left: Iterator[int]) -> list[int]:
    """A BlobShape: its dimensions, packed or each alone."""
    found: list[int] = []
    for number, kind, value in fields(message, left):
        if number == DIMENSIONS:
            found += [value] if isinstance(value, int) else _packed(value) if kind == BYTES else []
        if len(found) > MOST_DIMENSIONS:
            raise Malformed(f"a blob of more than {MOST_DIMENSIONS} dimensions")
    return found


def _packed(message: memoryview) -> list[int]:
    """Numbers one after another, of which no more are read than a shape may have."""
    found: list[int] = []
    position = 0
    while position < len(message) and len(found) <= MOST_DIMENSIONS:
        dimension, position = varint(message, position)
        found.append(dimension)
    return found
