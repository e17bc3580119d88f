"""DeepSentiBank's network from a .caffemodel that the test writes, compared with OpenCV's Caffe importer."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from multistream_anp.deepsentibank import CROPPED, SQUASHED, DeepSentiBank, read_names
from torch import Tensor

from multistream import MultistreamError, compose
from multistream.network.compose import plan_of, recompose
from multistream.network.plan import NetworkPlan
from multistream.weights import read_tensors

WIDTHS = (4, 8, 6, 6, 4, 10, 12)
PAIRS = 7

LAYERS = """
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 4 kernel_size: 11 stride: 4 } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1"
  pooling_param { pool: MAX kernel_size: 3 stride: 2 } }
layer { name: "norm1" type: "LRN" bottom: "pool1" top: "norm1" lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 } }
layer { name: "conv2" type: "Convolution" bottom: "norm1" top: "conv2"
  convolution_param { num_output: 8 pad: 2 kernel_size: 5 group: 2 } }
layer { name: "relu2" type: "ReLU" bottom: "conv2" top: "conv2" }
layer { name: "pool2" type: "Pooling" bottom: "conv2" top: "pool2"
  pooling_param { pool: MAX kernel_size: 3 stride: 2 } }
layer { name: "norm2" type: "LRN" bottom: "pool2" top: "norm2" lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 } }
layer { name: "conv3" type: "Convolution" bottom: "norm2" top: "conv3"
  convolution_param { num_output: 6 pad: 1 kernel_size: 3 } }
layer { name: "relu3" type: "ReLU" bottom: "conv3" top: "conv3" }
layer { name: "conv4" type: "Convolution" bottom: "conv3" top: "conv4"
  convolution_param { num_output: 6 pad: 1 kernel_size: 3 group: 2 } }
layer { name: "relu4" type: "ReLU" bottom: "conv4" top: "conv4" }
layer { name: "conv5" type: "Convolution" bottom: "conv4" top: "conv5"
  convolution_param { num_output: 4 pad: 1 kernel_size: 3 group: 2 } }
layer { name: "relu5" type: "ReLU" bottom: "conv5" top: "conv5" }
layer { name: "pool5" type: "Pooling" bottom: "conv5" top: "pool5"
  pooling_param { pool: MAX kernel_size: 3 stride: 2 } }
layer { name: "fc6" type: "InnerProduct" bottom: "pool5" top: "fc6" inner_product_param { num_output: 10 } }
layer { name: "relu6" type: "ReLU" bottom: "fc6" top: "fc6" }
layer { name: "fc7" type: "InnerProduct" bottom: "fc6" top: "fc7" inner_product_param { num_output: 12 } }
layer { name: "relu7" type: "ReLU" bottom: "fc7" top: "fc7" }
layer { name: "fc8-t" type: "InnerProduct" bottom: "fc7" top: "fc8-t" inner_product_param { num_output: 7 } }
layer { name: "prob" type: "Softmax" bottom: "fc8-t" top: "prob" }
"""
PROTOTXT = (
    f'name: "toy"\ninput: "data"\ninput_dim: 1\ninput_dim: 3\ninput_dim: {CROPPED}\ninput_dim: {CROPPED}\n{LAYERS}'
)


def varint(number: int) -> bytes:
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def blob(tensor: Tensor) -> bytes:
    values = tensor.flatten().numpy().astype("<f4").tobytes()
    return field(7, field(1, b"".join(map(varint, tensor.shape)))) + field(5, values)


def caffemodel(tensors: dict[str, tuple[Tensor, Tensor]]) -> bytes:
    """A NetParameter with V2 layers."""
    made = b""
    for name, blobs in tensors.items():
        kind = b"InnerProduct" if name.startswith("fc") else b"Convolution"
        layer = field(1, name.encode()) + field(2, kind) + b"".join(field(7, blob(each)) for each in blobs)
        made += field(100, layer)
    return made


@pytest.fixture
def weights() -> dict[str, tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(0)
    shapes = {
        "conv1": (4, 3, 11, 11), "conv2": (8, 2, 5, 5), "conv3": (6, 8, 3, 3), "conv4": (6, 3, 3, 3),
        "conv5": (4, 3, 3, 3), "fc6": (10, 144), "fc7": (12, 10), "fc8-t": (7, 12),
    }  # fmt: skip
    return {
        name: (
            torch.randn(shape, generator=draw) * (2 / np.prod(shape[1:])) ** 0.5 / (50 if name == "conv1" else 1),
            0.1 * torch.randn(shape[0], generator=draw),
        )
        for name, shape in shapes.items()
    }


@torch.no_grad()
def test_every_stage_equals_opencvs(tmp_path: Path, weights: dict[str, tuple[Tensor, Tensor]]) -> None:
    cv2 = pytest.importorskip("cv2")
    if not hasattr(cv2.dnn, "readNetFromCaffe"):
        pytest.skip("this OpenCV has no Caffe importer (5 and later)")
    (tmp_path / "toy.caffemodel").write_bytes(caffemodel(weights))
    (tmp_path / "toy.prototxt").write_text(PROTOTXT)
    stream = DeepSentiBank(pairs=PAIRS, widths=WIDTHS).eval()
    stream.load_weights(read_tensors(tmp_path / "toy.caffemodel").tensors)
    images = torch.randint(0, 256, (1, 3, SQUASHED, SQUASHED), dtype=torch.uint8, generator=torch.Generator())
    maps = stream(images)
    network = cv2.dnn.readNetFromCaffe(str(tmp_path / "toy.prototxt"), str(tmp_path / "toy.caffemodel"))
    plain = images.float().flip(1) - torch.tensor([104.0, 117.0, 123.0]).view(3, 1, 1)
    network.setInput(plain[..., 14:241, 14:241].contiguous().numpy())
    expected = network.forward("prob")
    assert expected.std() > 0.01
    np.testing.assert_allclose(maps["concepts"].flatten(1).numpy(), expected.reshape(1, -1), rtol=0, atol=1e-4)
    assert [tuple(m.shape[1:]) for m in maps.values()] == [
        (4, 55, 55), (8, 27, 27), (6, 13, 13), (6, 13, 13), (4, 13, 13), (10, 1, 1), (12, 1, 1), (7, 1, 1),
    ]  # fmt: skip


def test_the_published_list_names_the_outputs(tmp_path: Path) -> None:
    names = [f"happy_{n}" for n in range(PAIRS)]
    (tmp_path / "classes.json").write_text(json.dumps(names))
    (tmp_path / "classes.txt").write_text("\n".join(names) + "\n")
    stream = DeepSentiBank(pairs=PAIRS, widths=WIDTHS, names=str(tmp_path / "classes.json"))
    assert stream.channel_names("concepts") == tuple(names) == read_names(tmp_path / "classes.txt", PAIRS)
    assert stream.channel_names("fc7") == ()
    again = DeepSentiBank(pairs=PAIRS, widths=WIDTHS, **stream.settled)
    assert again.channel_names("concepts") == tuple(names)
    with pytest.raises(MultistreamError, match="7 names for 8 outputs"):
        read_names(tmp_path / "classes.json", 8)


def test_the_mean_image_of_a_file_is_taken_off(tmp_path: Path) -> None:
    mean = torch.rand(3, SQUASHED, SQUASHED) * 255
    sizes = b"".join(bytes([number << 3]) + varint(n) for number, n in ((1, 1), (2, 3), (3, SQUASHED), (4, SQUASHED)))
    (tmp_path / "mean.binaryproto").write_bytes(sizes + field(5, struct.pack(f"<{mean.numel()}f", *mean.flatten())))
    stream = DeepSentiBank(pairs=PAIRS, widths=WIDTHS, mean=str(tmp_path / "mean.binaryproto"))
    images = torch.zeros(1, 3, SQUASHED, SQUASHED, dtype=torch.uint8)
    torch.testing.assert_close(stream.prepare(images), -mean[None, :, 14:241, 14:241])


@pytest.mark.parametrize("widths", [(4,), (4, 8, 6, 6, 3, 10, 12)])
def test_widths_that_cannot_be(widths: tuple[int, ...]) -> None:
    with pytest.raises(MultistreamError, match="seven even numbers"):
        DeepSentiBank(pairs=PAIRS, widths=widths)


def test_a_model_file_needs_neither_the_list_nor_the_mean_image(tmp_path: Path) -> None:
    """The network is rebuilt from its plan, which holds the names; the mean image is a buffer."""
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"pair_{n}" for n in range(PAIRS)))
    options = {"streams": {"d": {"pairs": PAIRS, "widths": list(WIDTHS), "names": str(names)}}}
    network = compose({"d": "deepsentibank"}, classes=["awe", "fear"], options=options)
    names.unlink()
    again = recompose(NetworkPlan.from_dict(json.loads(json.dumps(plan_of(network).to_dict()))))
    assert again.branches["d"].stream.channel_names("concepts")[:2] == ("pair_0", "pair_1")
    assert set(again.state_dict()) == set(network.state_dict())
