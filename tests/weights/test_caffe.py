"""Caffe's files, written by Google's protobuf, read by ours."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor
from torch.nn import functional

from multistream import streams
from multistream.errors import WeightsError
from multistream.weights import caffe_vgg16, protobuf, read_tensors
from tests.weights.conftest import messages

Write = Callable[[str, bytes], Path]
Layers = dict[str, tuple[Tensor, ...]]

KINDS = ("weight", "bias")

FORMS = [
    {"v1": v1, "old_shape": old, "packed": packed, "double": double}
    for v1 in (False, True)
    for old in (False, True)
    for packed in (False, True)
    for double in (False, True)
]


@pytest.mark.parametrize(
    "form", FORMS, ids=lambda form: "-".join(name for name, is_so in form.items() if is_so) or "v2"
)
def test_every_form_gives_the_numbers_that_were_written(
    form: dict[str, bool], make_caffe: Callable[..., bytes], layers: Layers, write: Write
) -> None:
    file = read_tensors(write("toy.caffemodel", make_caffe(layers, **form)))
    assert file.format == "Caffe"
    expected = {f"{name}.{kind}": t for name, ts in layers.items() for kind, t in zip(KINDS, ts, strict=True)}
    assert list(file.tensors) == list(expected)
    for name, tensor in expected.items():
        assert torch.equal(file.tensors[name], tensor), name


def test_a_convolution_of_one_channel_keeps_its_shape(make_caffe: Callable[..., bytes], write: Write) -> None:
    layers = {"conv": (torch.randn(1, 1, 3, 3), torch.randn(1))}
    tensors = read_tensors(write("one.caffemodel", make_caffe(layers, old_shape=True))).tensors
    assert tensors["conv.weight"].shape == (1, 1, 3, 3)
    assert tensors["conv.bias"].shape == (1,)


def test_old_biases_that_were_saved_again_are_vectors(make_caffe: Callable[..., bytes], write: Write) -> None:
    """Caffe writes a shape of four sizes for what it read from an old file."""
    layers = {"conv": (torch.randn(2, 3, 3, 3), torch.randn(1, 1, 1, 2))}
    assert read_tensors(write("again.caffemodel", make_caffe(layers))).tensors["conv.bias"].shape == (2,)


def test_later_blobs_are_numbered_and_diffs_left_out(make_caffe: Callable[..., bytes], write: Write) -> None:
    layers = {"norm": (torch.ones(4), torch.zeros(4), torch.ones(1))}
    assert list(read_tensors(write("bn.caffemodel", make_caffe(layers))).tensors) == [
        "norm.weight",
        "norm.bias",
        "norm.2",
    ]


@pytest.fixture(scope="module")
def vgg16() -> torch.nn.Module:
    torch.manual_seed(0)
    return torchvision.models.vgg16().features.eval()


@pytest.fixture(scope="module")
def vgg16_file(
    vgg16: torch.nn.Module, make_caffe: Callable[..., bytes], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A VGG16 whose numbers read B, G, R, as Caffe wrote them; its dense layers are small."""
    convolutions = [module for module in vgg16.modules() if isinstance(module, torch.nn.Conv2d)]
    names = [f"conv{b}_{i}" for b, n in enumerate((2, 2, 3, 3, 3), 1) for i in range(1, n + 1)]
    layers = {name: (c.weight.detach(), c.bias.detach()) for name, c in zip(names, convolutions, strict=True)}
    dense = {name: (torch.randn(3, 2), torch.randn(3)) for name in ("fc6", "fc7", "fc8a")}
    path = tmp_path_factory.mktemp("caffe") / "vgg16_places365.caffemodel"
    path.write_bytes(make_caffe({**layers, **dense}, v1=True, old_shape=True))
    return path


IMAGES = torch.randint(256, (1, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_the_places_stream_takes_the_file_and_feeds_it_blue_green_red(vgg16: torch.nn.Module, vgg16_file: Path) -> None:
    stream = streams["places"]().eval()
    fitted = stream.load_weights(read_tensors(vgg16_file).tensors)
    assert fitted.loaded == 26
    assert len(fitted.ignored) == 6
    red, green, blue = IMAGES.float().unbind(1)
    expected = vgg16[:30](torch.stack([blue - 104.0, green - 116.7, red - 122.7], 1))
    torch.testing.assert_close(stream(IMAGES)["block5"], expected, rtol=1e-5, atol=1e-5 * float(expected.max()))


@torch.no_grad()
def test_turned_to_rgb_a_vgg16_takes_red_green_blue(vgg16: torch.nn.Module, vgg16_file: Path) -> None:
    tensors = read_tensors(vgg16_file).tensors
    turned = torchvision.models.vgg16().features.eval()
    renamed = caffe_vgg16(tensors)
    turned.load_state_dict({k.removeprefix("features."): v for k, v in renamed.items() if k.startswith("features.")})
    rgb = torch.randn(1, 3, 32, 32)
    # Sums of 27 products in another order: the first layer is the only one that differs.
    torch.testing.assert_close(turned(rgb), vgg16(rgb.flip(1)), rtol=1e-4, atol=1e-5)
    assert torch.equal(caffe_vgg16(tensors, rgb=False)["features.0.weight"], tensors["conv1_1.weight"])
    assert {k for k in renamed if k.startswith("classifier")} == {
        f"classifier.{n}.{kind}" for n in (0, 3, 6) for kind in ("weight", "bias")
    }


def test_layers_of_another_network_are_no_vgg16() -> None:
    with pytest.raises(WeightsError, match=r"inception_3a\.weight is not a layer of VGG16"):
        caffe_vgg16({"inception_3a.weight": torch.ones(1)})


@torch.no_grad()
def test_a_grouped_convolution_reads_as_caffes(make_caffe: Callable[..., bytes], write: Write) -> None:
    """CaffeNet's conv2 has 2 groups: its blob is (out, in / groups, h, w), which is torch's shape too."""
    weight, bias, x = torch.randn(6, 2, 3, 3), torch.randn(6), torch.randn(1, 4, 5, 5)
    tensors = read_tensors(write("g.caffemodel", make_caffe({"conv2": (weight, bias)}, old_shape=True))).tensors
    halves = [
        functional.conv2d(x[:, 2 * g : 2 * g + 2], weight[3 * g : 3 * g + 3], bias[3 * g : 3 * g + 3]) for g in (0, 1)
    ]
    got = functional.conv2d(x, tensors["conv2.weight"], tensors["conv2.bias"], groups=2)
    torch.testing.assert_close(got, torch.cat(halves, 1))


def blob(*fields: bytes) -> bytes:
    return b"".join(fields)


def field(number: int, kind: int, payload: bytes) -> bytes:
    return bytes([number << 3 | kind]) + payload


def length(data: bytes) -> bytes:
    assert len(data) < 128
    return bytes([len(data)]) + data


ONE = field(5, 2, length(struct.pack("<f", 1.0)))
HUGE = b"\xff" * 9 + b"\x01"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (blob(field(7, 2, length(field(1, 0, HUGE))), ONE), "a blob of shape"),
        (blob(field(7, 2, length(field(1, 2, length(b"\xff" * 60)))), ONE), "more than 10 bytes"),
        (blob(field(7, 2, length(field(1, 0, b"\x01") * 9)), ONE), "more than 8 dimensions"),
        (blob(field(7, 2, length(field(1, 2, length(b"\x01" * 40)))), ONE), "more than 8 dimensions"),
        (blob(field(1, 0, b"\x02"), ONE), r"a blob of shape \[2, 1, 1, 1\] with 1 numbers"),
        (field(5, 2, length(b"abc")), "3 bytes, not a multiple of 4"),
        (field(5, 2, b"\xff\xff\xff\xff\x07"), "a field of 2,147,483,647 bytes"),
        (field(5, 5, b"ab"), "a field of 5 bytes"),
        (field(5, 3, b""), "wire type 3"),
        (field(5, 7, b""), "wire type 7"),
        (b"\x00\x01", "field number 0"),
        (b"\xff" * 11, "more than 10 bytes"),
        (b"\x08", "ends inside a number"),
        (b"", "a blob of shape"),
        (blob(field(7, 2, length(field(1, 0, b"\x00")))), "a mean image of shape"),
    ],
)
def test_damaged_messages_are_refused(data: bytes, says: str, write: Write) -> None:
    with pytest.raises(WeightsError, match=says):
        read_tensors(write("mean.binaryproto", data))


def test_two_layers_of_one_name_are_refused(make_caffe: Callable[..., bytes], layers: Layers, write: Write) -> None:
    data = make_caffe(layers)
    with pytest.raises(WeightsError, match="two layers are named 'conv1_1'"):
        read_tensors(write("twice.caffemodel", data + data))


def test_a_file_of_tiny_fields_is_given_up_early(write: Write) -> None:
    path = write("many.caffemodel", b"\x08\x01" * (4 * protobuf.MOST_FIELDS))
    start = time.perf_counter()
    with pytest.raises(WeightsError, match="more than 1,000,000 fields"):
        read_tensors(path)
    assert time.perf_counter() - start < 20  # some 1 s; the bound is for a busy machine


def test_the_number_of_fields_is_that_of_the_whole_file(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protobuf, "MOST_FIELDS", 50)
    layer = field(1, 2, length(b"a")) * 10
    with pytest.raises(WeightsError, match="more than 50 fields"):
        read_tensors(write("nested.caffemodel", (b"\xa2\x06" + length(layer)) * 10))


def test_unpacked_numbers_cost_no_more_than_packed(
    make_caffe: Callable[..., bytes], write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2 x 100,000 numbers, each under its own tag, are two fields."""
    monkeypatch.setattr(protobuf, "MOST_FIELDS", 40)
    weight = torch.randn(1000, 100)
    path = write("u.caffemodel", make_caffe({"fc": (weight, weight[:, 0])}, packed=False))
    assert torch.equal(read_tensors(path).tensors["fc.weight"], weight)


def test_batch_norm_and_scale_get_torchs_names(write: Write) -> None:
    """Caffe's BatchNorm keeps sums and what they are divided by; its weights lie in a Scale layer of their own."""
    net = messages(packed=True)["NetParameter"](name="toy")
    blobs = {"bn_a": ("BatchNorm", [[2.0, 4.0], [6.0, 8.0], [2.0]]), "scale_a": ("Scale", [[3.0, 5.0], [0.5, 0.25]])}
    for name, (kind, values) in blobs.items():
        layer = net.layer.add(name=name, type=kind)
        for numbers in values:
            blob = layer.blobs.add()
            blob.data.extend(numbers)
            blob.shape.dim.extend([len(numbers)])
    tensors = read_tensors(write("bn.caffemodel", net.SerializeToString())).tensors
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {
        "bn_a.running_mean": [1.0, 2.0], "bn_a.running_var": [3.0, 4.0],
        "scale_a.weight": [3.0, 5.0], "scale_a.bias": [0.5, 0.25],
    }  # fmt: skip
