"""Reads Caffe's weights, .caffemodel (V1 and V2 layers) and .binaryproto, as named tensors (paper section 5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from math import prod
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multistream.weights.protobuf import BYTES, FIXED32, FIXED64, budget, read_message, varints
from multistream.weights.tensors import Contents, Malformed, expect

Value = TypeVar("Value")

# Field numbers of caffe.proto: BlobProto's old sizes and its shape.
SIZES, SHAPE = (1, 2, 3, 4), 7
NUMBERS = {(5, BYTES): 4, (5, FIXED32): 4, (8, BYTES): 8, (8, FIXED64): 8}
"""BlobProto.data and .double_data, packed or unpacked: bytes per number."""

DIMENSIONS = 1
MOST_DIMENSIONS = 8

KINDS = {0: "weight", 1: "bias"}
"""Names of a layer's first and second blob; later blobs are named by their number."""

BATCH_NORM = b"BatchNorm"
"""The type of layers with running statistics; the weights of a batch norm are in a layer of type Scale."""


@dataclass(frozen=True)
class Layout:
    """The field numbers of a layer, and the type value of a fully connected layer."""

    name: int
    type: int
    blobs: int
    connected: int | bytes


LAYOUTS = {2: Layout(name=4, type=5, blobs=6, connected=14), 100: Layout(1, 2, 7, b"InnerProduct")}
"""NetParameter.layers (V1) and .layer (V2)."""


def read_caffemodel(path: Path) -> Contents:
    """Reads {"LAYER.weight", "LAYER.bias"} of all layers with blobs, unchanged.

    Caffe's order OIHW is torch's; colour channels are BGR.
    """
    tensors: dict[str, Tensor] = {}
    left = budget()
    net = read_message(memoryview(path.read_bytes()), left)
    for number, layout in LAYOUTS.items():
        for message in net.chunks[number, BYTES]:
            layer = _layer(message, layout, left)
            if twice := layer.keys() & tensors.keys():
                raise Malformed(f"two layers are named {min(twice).rpartition('.')[0]!r}")
            tensors |= layer
    return Contents(tensors)


def read_binaryproto(path: Path) -> Contents:
    """Reads {"mean": (C, H, W)} of a mean image, in the file's channel order (Caffe's is BGR)."""
    tensor = _blob(memoryview(path.read_bytes()), budget())
    if tensor.ndim == 4 and tensor.shape[0] == 1:
        tensor = tensor[0]
    expect(tensor.ndim == 3 and tensor.numel() > 0, f"a mean image of shape {tuple(tensor.shape)}")
    return Contents({"mean": tensor})


def _layer(message: memoryview, layout: Layout, left: Iterator[int]) -> Mapping[str, Tensor]:
    """Returns the blobs of a layer by name; removes leading sizes of 1, which old files add to biases and matrices."""
    layer = read_message(message, left)
    name = bytes(_last(layer.chunks[layout.name, BYTES], b"")).decode(errors="replace")
    kind = _last([*layer.integers[layout.type], *layer.chunks[layout.type, BYTES]], b"")
    blobs = [_blob(blob, left) for blob in layer.chunks[layout.blobs, BYTES]]
    if kind == BATCH_NORM:
        return _statistics(name, blobs)
    matrix = 2 if kind == layout.connected else 0
    return {
        f"{name}.{KINDS.get(place, place)}": _without_ones(blob, 3 if place else matrix)
        for place, blob in enumerate(blobs)
    }


def _without_ones(blob: Tensor, count: int) -> Tensor:
    """Removes the first `count` sizes of a blob with four sizes, if these are all 1."""
    return blob.reshape(blob.shape[count:]) if blob.ndim == 4 and blob.shape[:count] == (1,) * count else blob


def _statistics(name: str, blobs: Sequence[Tensor]) -> Mapping[str, Tensor]:
    """Returns a BatchNorm layer's statistics; Caffe stores sums of mean and variance, and their divisor."""
    counts = [blob.numel() for blob in blobs]
    expect(
        len(counts) == 3 and counts[0] == counts[1] and counts[2] == 1,
        f"a BatchNorm layer {name!r} with blobs of {counts} numbers",
    )
    factor = float(blobs[2])
    scale = 0.0 if factor == 0 else 1 / factor  # same as in Caffe
    return {f"{name}.running_mean": blobs[0].reshape(-1) * scale, f"{name}.running_var": blobs[1].reshape(-1) * scale}


def _blob(message: memoryview, left: Iterator[int]) -> Tensor:
    """Decodes a BlobProto, with its shape or the old num, channels, height, width."""
    blob = read_message(message, left)
    shapes = [_shape(shape, left) for shape in blob.chunks[SHAPE, BYTES]]
    dimensions = _last(shapes, [_last(blob.integers[number], 1) for number in SIZES])
    parts = [_numbers(chunk, size) for field, size in NUMBERS.items() for chunk in blob.chunks[field]]
    count = sum(part.size for part in parts)
    expect(prod(dimensions) == count, f"a blob of shape {dimensions} with {count:,} numbers")
    with np.errstate(over="ignore"):  # a double may be infinite as a float
        data = np.concatenate([np.zeros(0, np.float32), *parts], dtype=np.float32, casting="same_kind")
    return torch.from_numpy(data).view(dimensions)


def _last(values: Sequence[Value], default: Value) -> Value:
    """Returns the last value of a field that may be repeated or missing; the last one is valid."""
    return values[-1] if values else default


def _numbers(message: memoryview, size: int) -> NDArray[np.floating]:
    expect(len(message) % size == 0, f"{len(message):,} bytes, not a multiple of {size}")
    return np.frombuffer(message, dtype=f"<f{size}")


def _shape(message: memoryview, left: Iterator[int]) -> list[int]:
    """Decodes the dimensions of a BlobShape, packed or unpacked; reads at most one more than allowed."""
    shape = read_message(message, left)
    packed = map(varints, shape.chunks[DIMENSIONS, BYTES])
    found = list(islice(chain(shape.integers[DIMENSIONS], *packed), MOST_DIMENSIONS + 1))
    expect(len(found) <= MOST_DIMENSIONS, f"a blob of more than {MOST_DIMENSIONS} dimensions")
    return found
