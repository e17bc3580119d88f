"""Weight files of every format, small, written by each format's own library."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from torch import Tensor

Field = tuple[str, int, str, bool]
"""Name, number, type, repeated."""

SCHEMA: dict[str, list[Field]] = {
    "BlobShape": [("dim", 1, "int64", True)],
    "BlobProto": [
        ("num", 1, "int32", False), ("channels", 2, "int32", False), ("height", 3, "int32", False),
        ("width", 4, "int32", False), ("data", 5, "float", True), ("diff", 6, "float", True),
        ("shape", 7, "BlobShape", False), ("double_data", 8, "double", True),
    ],
    "V1LayerParameter": [
        ("bottom", 2, "string", True), ("top", 3, "string", True), ("name", 4, "string", False),
        ("type", 5, "int32", False), ("blobs", 6, "BlobProto", True), ("blobs_lr", 7, "float", True),
    ],
    "LayerParameter": [
        ("name", 1, "string", False), ("type", 2, "string", False), ("bottom", 3, "string", True),
        ("blobs", 7, "BlobProto", True),
    ],
    "NetParameter": [
        ("name", 1, "string", False), ("layers", 2, "V1LayerParameter", True), ("input", 3, "string", True),
        ("layer", 100, "LayerParameter", True),
    ],
}  # fmt: skip
"""The part of caffe.proto that a weight file uses."""


def messages(*, packed: bool) -> dict[str, type[Any]]:
    """Google's own protobuf classes for Caffe's messages."""
    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")
    kinds = descriptor_pb2.FieldDescriptorProto
    for message, fields in SCHEMA.items():
        described = file.message_type.add(name=message)
        for name, number, kind, repeated in fields:
            field = described.field.add(name=name, number=number)
            field.label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            if kind in SCHEMA:
                field.type, field.type_name = kinds.TYPE_MESSAGE, f".caffe.{kind}"
            else:
                field.type = kinds.Type.Value(f"TYPE_{kind.upper()}")
                if repeated and kind != "string":
                    field.options.packed = packed
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe.{name}")) for name in SCHEMA}


MakeCaffe = Callable[..., bytes]


@pytest.fixture(scope="session")
def make_caffe() -> MakeCaffe:
    """`make_caffe({"conv1": (weight, bias)}, v1=..., old_shape=..., packed=..., double=...)`: a .caffemodel's bytes.

    Layers whose weight has two dimensions are fully connected. Old shapes always have four sizes.
    """
    classes = {packed: messages(packed=packed) for packed in (True, False)}

    def make(
        layers: dict[str, tuple[Tensor, ...]],
        *,
        v1: bool = False,
        old_shape: bool = False,
        packed: bool = True,
        double: bool = False,
    ) -> bytes:
        net = classes[packed]["NetParameter"](name="toy", input=["data"])
        (net.layers if v1 else net.layer).add(name="relu")
        for name, blobs in layers.items():
            connected = blobs[0].ndim == 2
            kind = (14 if connected else 4) if v1 else ("InnerProduct" if connected else "Convolution")
            layer = (net.layers if v1 else net.layer).add(name=name, type=kind)
            if v1:
                layer.blobs_lr.extend([1.0, 2.0])
            for tensor in blobs:
                _fill(layer.blobs.add(), tensor, old_shape=old_shape, double=double)
        return bytes(net.SerializeToString())

    return make


def _fill(blob: Any, tensor: Tensor, *, old_shape: bool, double: bool) -> None:
    (blob.double_data if double else blob.data).extend(tensor.flatten().tolist())
    if old_shape:
        blob.num, blob.channels, blob.height, blob.width = [1] * (4 - tensor.ndim) + list(tensor.shape)
    else:
        blob.shape.dim.extend(tensor.shape)


@pytest.fixture
def layers() -> dict[str, tuple[Tensor, ...]]:
    """Two convolutions and a fully connected layer with random numbers."""
    draw = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw)

    return {
        "conv1_1": (random(4, 3, 3, 3), random(4)),
        "conv1_2": (random(5, 4, 1, 1), random(5)),
        "fc6": (random(7, 45), random(7)),
    }


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, bytes], Path]:
    """`write("a.pth", data)`: a file with this content."""

    def written(name: str, data: bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return written
