"""Caffe's weights: .caffemodel (V1 and V2 layers) and .binaryproto, as named tensors (paper section 5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multistream.weights.wire import BYTES, FIXED32, VARINT, Malformed, fields

# Field numbers of caffe.proto: NetParameter.layers (V1) and .layer; the layer's name and blobs; BlobProto.
LAYERS_V1, LAYER = 2, 100
NAME_V1, BLOBS_V1 = 4, 6
NAME, BLOBS = 1, 7
SIZES, DATA, SHAPE, DOUBLE_DATA = (1, 2, 3, 4), 5, 7, 8
DIMENSIONS = 1

MOST_DIMENSIONS = 8

VGG16_LAYERS = {
    "conv1_1": 0, "conv1_2": 2, "conv2_1": 5, "conv2_2": 7, "conv3_1": 10, "conv3_2": 12, "conv3_3": 14,
    "conv4_1": 17, "conv4_2": 19, "conv4_3": 21, "conv5_1": 24, "conv5_2": 26, "conv5_3": 28,
}  # fmt: skip
"""Caffe's names of VGG16's convolutions -> their places in torchvision's `features`."""


def read_caffemodel(path: Path) -> dict[str, Tensor]:
    """{"LAYER.weight", "LAYER.bias"} of all layers with blobs, as stored (Caffe's OIHW is torch's)."""
    message = memoryview(path.read_bytes())
    tensors: dict[str, Tensor] = {}
    for number, kind, value in fields(message):
        if kind == BYTES and number in (LAYERS_V1, LAYER):
            assert isinstance(value, memoryview)
            name, blobs = _layer(value, *((NAME_V1, BLOBS_V1) if number == LAYERS_V1 else (NAME, BLOBS)))
            for place, blob in enumerate(blobs):
                tensors[f"{name}.{('weight', 'bias')[place] if place < 2 else place}"] = blob
    if not tensors:
        raise Malformed("no layer with weights is in it")
    return tensors


def read_binaryproto(path: Path) -> dict[str, Tensor]:
    """{"mean": (C, H, W)} of a mean image, in the file's own channel order (Caffe's is BGR)."""
    return {"mean": _blob(memoryview(path.read_bytes())).squeeze(0)}


def caffe_vgg16(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Caffe's VGG16 under torchvision's names, for RGB input: the first convolution's channels are turned round.

    The mean stays outside: folded into a bias it would be wrong by up to 7.5 at the border, where zeros are padded.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        layer, _, kind = name.rpartition(".")
        if layer in VGG16_LAYERS:
            tensor = tensor.flip(1) if name == "conv1_1.weight" else tensor
            renamed[f"features.{VGG16_LAYERS[layer]}.{kind}"] = tensor.reshape(-1) if kind == "bias" else tensor
        else:
            place = {"fc6": "classifier.0", "fc7": "classifier.3"}.get(layer, "classifier.6")
            renamed[f"{place}.{kind}"] = tensor.reshape(-1) if kind == "bias" else tensor.reshape(tensor.shape[-2:])
    return renamed


def is_vgg16(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are the convolutions of a VGG16."""
    return {f"{layer}.weight" for layer in VGG16_LAYERS} <= set(tensors)


def _layer(message: memoryview, name_field: int, blobs_field: int) -> tuple[str, list[Tensor]]:
    name, blobs = "", []
    for number, kind, value in fields(message):
        if kind == BYTES and isinstance(value, memoryview):
            if number == name_field:
                name = bytes(value).decode(errors="replace")
            elif number == blobs_field:
                blobs.append(_blob(value))
    return name, blobs


def _blob(message: memoryview) -> Tensor:
    """A BlobProto: its old sizes num, channels, height, width or its shape, and packed or single floats."""
    sizes: dict[int, int] = {}
    shape: list[int] | None = None
    parts: list[NDArray[np.floating]] = []
    for number, kind, value in fields(message):
        if number in SIZES and kind == VARINT and isinstance(value, int):
            sizes[number] = value
        elif number == SHAPE and isinstance(value, memoryview):
            shape = list(_dimensions(value))
        elif number in (DATA, DOUBLE_DATA) and isinstance(value, memoryview):
            size = 4 if number == DATA else 8
            if len(value) % size or (kind == FIXED32 and number == DOUBLE_DATA):
                raise Malformed(f"{len(value):,} bytes of numbers of {size} bytes")
            parts.append(np.frombuffer(value, dtype=f"<f{size}"))
    data = np.concatenate(parts).astype(np.float32) if parts else np.zeros(0, np.float32)
    dimensions = shape if shape is not None else [sizes.get(number, 1) for number in SIZES]
    if len(dimensions) > MOST_DIMENSIONS or prod(dimensions) != data.size:
        raise Malformed(f"a blob of shape {dimensions} with {data.size:,} numbers")
    return torch.from_numpy(data).view(dimensions)


def _dimensions(message: memoryview) -> Iterator[int]:
    for number, kind, value in fields(message):
        if number == DIMENSIONS and kind == VARINT and isinstance(value, int):
            yield value
        elif number == DIMENSIONS and isinstance(value, memoryview):
            yield from _packed(value)


def _packed(message: memoryview) -> Iterator[int]:
    """Packed varints, read as the values of one-field messages."""
    value, shift = 0, 0
    for byte in message:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            yield value
            value, shift = 0, 0
