"""Keras' files, written by h5py in Keras' own layouts."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from multistream import streams
from multistream.errors import PluginError, WeightsError
from multistream.weights import caffe_vgg16, keras, read_tensors

h5py = pytest.importorskip("h5py")

Arrays = dict[str, NDArray[Any]]


def keras_file(path: Path, arrays: Arrays, **options: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, **options)
    return path


def draw(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(sum(shape)).standard_normal(shape, dtype=np.float32)


def convolved(image_HWC: NDArray[Any], kernel_HWIO: NDArray[Any]) -> NDArray[Any]:
    """A convolution without padding in Keras' order, by its definition."""
    height, width = (image_HWC.shape[n] - kernel_HWIO.shape[n] + 1 for n in (0, 1))
    result = np.zeros((height, width, kernel_HWIO.shape[3]))
    for y in range(height):
        for x in range(width):
            patch = image_HWC[y : y + kernel_HWIO.shape[0], x : x + kernel_HWIO.shape[1]]
            result[y, x] = np.tensordot(patch, kernel_HWIO, 3)
    return result


@pytest.mark.parametrize("name", ["c/c/kernel:0", "model_weights/c/c/kernel:0", "c/c_W_1:0", "net/c/kernel:0"])
def test_kernels_are_turned_and_names_found(name: str, tmp_path: Path) -> None:
    kernel, image = draw(3, 2, 4, 5), draw(6, 7, 4)
    file = read_tensors(keras_file(tmp_path / "k.h5", {name: kernel}))
    assert file.format == "Keras"
    got = functional.conv2d(torch.from_numpy(image).permute(2, 0, 1)[None], file.tensors["c.weight"])
    np.testing.assert_allclose(got[0].permute(1, 2, 0).numpy(), convolved(image, kernel), rtol=1e-4, atol=1e-5)


def test_depthwise_kernels_and_batch_norm(tmp_path: Path) -> None:
    kernel, image = draw(3, 3, 4, 2), draw(5, 5, 4)
    norm = {f"bn/bn/{word}:0": draw(n) for n, word in enumerate(("gamma", "beta", "moving_mean", "moving_variance"), 2)}
    tensors = read_tensors(keras_file(tmp_path / "k.h5", {"dw/dw/depthwise_kernel:0": kernel, **norm})).tensors
    got = functional.conv2d(torch.from_numpy(image).permute(2, 0, 1)[None], tensors["dw.weight"], groups=4)[0]
    for channel in range(4):
        for multiple in range(2):
            plane = convolved(
                image[..., channel : channel + 1], kernel[..., channel : channel + 1, multiple : multiple + 1]
            )
            np.testing.assert_allclose(got[2 * channel + multiple], plane[..., 0], rtol=1e-4, atol=1e-5)
    assert {k: v.numel() for k, v in tensors.items() if k.startswith("bn")} == {
        "bn.weight": 2, "bn.bias": 3, "bn.running_mean": 4, "bn.running_var": 5,
    }  # fmt: skip


@pytest.fixture(scope="module")
def vgg16(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Arrays]:
    """A whole VGG16 in Keras' layout; its dense layers have few units, but fc1 all its inputs."""
    arrays: Arrays = {}
    before = 3
    for block, (count, width) in enumerate(((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)), 1):
        for index in range(1, count + 1):
            layer = f"block{block}_conv{index}"
            arrays[f"{layer}/{layer}_W_1:0"], arrays[f"{layer}/{layer}_b_1:0"] = draw(3, 3, before, width), draw(width)
            before = width
    for layer, inputs, units in (("fc1", 7 * 7 * 512, 6), ("fc2", 6, 5), ("predictions", 5, 4)):
        arrays[f"{layer}/{layer}_W_1:0"], arrays[f"{layer}/{layer}_b_1:0"] = draw(inputs, units), draw(units)
    return keras_file(tmp_path_factory.mktemp("keras") / "vgg16-places365.h5", arrays), arrays


def test_fc1_reads_a_map_in_torchs_order(vgg16: tuple[Path, Arrays]) -> None:
    """Keras flattens (7, 7, 512), torch (512, 7, 7): a plain copy has the same shape and gives garbage."""
    path, arrays = vgg16
    tensors = read_tensors(path).tensors
    map_HWC = draw(7, 7, 512)
    expected = map_HWC.reshape(-1) @ arrays["fc1/fc1_W_1:0"]
    got = torch.from_numpy(map_HWC).permute(2, 0, 1).flatten() @ tensors["fc6.weight"].T
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-2)
    assert set(caffe_vgg16(tensors)) >= {"classifier.0.weight", "classifier.3.weight", "classifier.6.weight"}


def test_the_places_stream_takes_it(vgg16: tuple[Path, Arrays]) -> None:
    path, arrays = vgg16
    stream = streams["places"]()
    assert stream.load_weights(read_tensors(path).tensors).loaded == 26
    first = stream.state_dict()["stages.block1.conv1_1.weight"]
    assert torch.equal(first, torch.from_numpy(arrays["block1_conv1/block1_conv1_W_1:0"]).permute(3, 2, 0, 1))


def external(path: Path) -> None:
    secret = path.with_name("secret")
    secret.write_bytes(bytes(40))
    with h5py.File(path, "w") as file:
        file.create_dataset("c/kernel:0", (10,), "f4", external=[(str(secret), 0, 40)])


def elsewhere(path: Path) -> None:
    keras_file(path.with_name("other.h5"), {"c/kernel:0": draw(3)})
    with h5py.File(path, "w") as file:
        file["c"] = h5py.ExternalLink("other.h5", "/c")


def virtual(path: Path) -> None:
    layout = h5py.VirtualLayout((3,), "f4")
    layout[:] = h5py.VirtualSource(keras_file(path.with_name("other.h5"), {"c": draw(3)}), "c", (3,))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("c/kernel:0", layout)


def never_written(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("c/kernel:0", (10**12,), "f4")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: keras_file(path, {"c/kernel:0": np.array([b"abc"])}), "holds no floating-point numbers"),
        (lambda path: keras_file(path, {"c/kernel:0": draw(2), "c/W:0": draw(2)}), "two tensors are c.weight"),
        (lambda path: keras_file(path, {}), "it contains no tensor"),
        (external, "stored in another file"),
        (elsewhere, "it contains no tensor"),
        (virtual, "stored in another file"),
        (never_written, "is smaller than its header claims"),
        (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100)), "h5py cannot read it"),
    ],
)
def test_files_that_claim_more_than_they_hold(make: Callable[[Path], None], says: str, tmp_path: Path) -> None:
    make(tmp_path / "k.h5")
    with pytest.raises(WeightsError, match=says):
        read_tensors(tmp_path / "k.h5")


def test_without_h5py_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = keras_file(tmp_path / "k.h5", {"c/kernel:0": draw(3)})
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(PluginError, match=r"needs h5py\. Install it: pip install 'multistream\[keras\]'"):
        read_tensors(path)


def test_keras_3_numbers_its_tensors(tmp_path: Path) -> None:
    """layers/NAME/vars/N: what each is, its dimensions say; blocks in blocks keep their path."""
    arrays = {
        "layers/conv2d/vars/0": draw(3, 3, 2, 4), "layers/conv2d/vars/1": draw(4), "optimizer/vars/1": draw(7),
        "block1/layers/conv2d/vars/0": draw(1, 1, 4, 6), "layers/dense/vars/0": draw(6, 5),
        "layers/dense/vars/1": draw(5), **{f"layers/norm/vars/{n}": draw(4 + n) for n in range(4)},
    }  # fmt: skip
    tensors = read_tensors(keras_file(tmp_path / "new.weights.h5", arrays)).tensors
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {
        "conv2d.weight": (4, 2, 3, 3), "conv2d.bias": (4,), "block1.conv2d.weight": (6, 4, 1, 1),
        "dense.weight": (5, 6), "dense.bias": (5,), "norm.weight": (4,), "norm.bias": (5,),
        "norm.running_mean": (6,), "norm.running_var": (7,),
    }  # fmt: skip
    np.testing.assert_array_equal(tensors["dense.weight"].numpy(), arrays["layers/dense/vars/0"].T)


def test_gzipped_kernels_are_read_and_bombs_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = draw(3, 3, 3, 8)
    plain = read_tensors(keras_file(tmp_path / "plain.h5", {"c/c/kernel:0": kernel})).tensors["c.weight"]
    path = keras_file(tmp_path / "gzip.h5", {"c/c/kernel:0": kernel}, compression="gzip")
    assert torch.equal(read_tensors(path).tensors["c.weight"], plain)
    monkeypatch.setattr(keras, "MOST_COMPRESSED", 500)
    with pytest.raises(WeightsError, match="its compressed tensors have more than 500 bytes"):
        read_tensors(path)
