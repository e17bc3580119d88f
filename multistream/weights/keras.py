"""Reads Keras' .h5 files; kernels are transposed to torch's order, and tensors get torch's names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import import_module
from itertools import filterfalse, groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from multistream.errors import extra
from multistream.weights.tensors import Contents, Unsupported, expect, malformed

MOST_DATASETS = 100_000

STATE = re.compile("^optimizer/|optimizer_weights|seed_generator")
"""Matches names that belong to an optimizer or a random generator."""

KINDS = {
    "kernel": "weight", "W": "weight", "depthwise_kernel": "weight", "gamma": "weight",
    "bias": "bias", "b": "bias", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var",
}  # fmt: skip
"""Keras' names of a layer's tensors (also old ones) -> torch's."""

FLATTENED = {"fc1": (7, 7, 512)}
"""VGG16's dense layer on a flattened map.

Its inputs are in the order height, width, channels; torch's channels first.
"""

VGG16 = {"fc1": "fc6", "fc2": "fc7", "predictions": "fc8a", "prediction": "fc8a"}
"""Keras' names of VGG16's dense layers -> Caffe's; the weights in these files are Caffe's."""


BY_PLACE: Mapping[tuple[int, ...], tuple[str, ...]] = {
    (1, 1, 1, 1): ("gamma", "beta", "moving_mean", "moving_variance"),
    (1, 1): ("gamma", "beta"),
    (2, 1): ("kernel", "bias"),
    (4, 1): ("kernel", "bias"),
    (2,): ("kernel",),
    (4,): ("kernel",),
}
"""Keras 3 numbers a layer's tensors. Their dimensions show its type: batch norm, layer norm, dense, convolution."""

MOST_COMPRESSED = 2 * 2**30
"""Maximum number of bytes of compressed tensors."""


def read_keras(path: Path) -> Contents:
    """Reads {"LAYER.weight", ...}: HWIO becomes OIHW, (in, out) becomes (out, in), VGG16 gets Caffe's names.

    Keras 2 names each tensor. Keras 3 (.weights.h5) numbers those of a layer: {"block1.conv2d.weight", ...}.
    """
    with extra("keras", path, "reading Keras files needs h5py."):
        h5py: Any = import_module("h5py")  # it has no types of its own
    # h5py passes on any error of the HDF5 library and NumPy on a damaged file.
    with malformed("h5py cannot read it", Exception), h5py.File(path, "r", locking=False) as file:
        found = _datasets(file, h5py.Dataset)
        compressed = any(dataset.compression for dataset in found.values())
        tensors = _tensors(found)
    notes = ["kernels transposed from Keras' order to torch's"]
    if {"block1_conv1.weight", "block5_conv3.weight"} <= set(tensors):
        tensors = {_caffe_name(name): tensor for name, tensor in tensors.items()}
        notes.append("VGG16 in Caffe's names")
    return Contents(tensors, notes=tuple(notes), compressed=compressed)


def _tensors(found: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns the tensors of these data sets under torch's names."""
    tensors: dict[str, Tensor] = {}
    for name, (layer, kind) in ({name: _names(name) for name in found} | _numbered(found)).items():
        expect(f"{layer}.{kind}" not in tensors, f"two tensors are {layer}.{kind}")
        tensors[f"{layer}.{kind}"] = _turned(found[name], layer, name)
    return tensors


def _datasets(file: Any, kind: type[Any]) -> dict[str, Any]:
    """Returns the data sets of layers.

    A plain one cannot claim more than its bytes; compressed ones are limited in total.
    """
    found = {name: file[name] for name in filterfalse(STATE.search, _names_in(file))}
    found = {name: dataset for name, dataset in found.items() if isinstance(dataset, kind) and dataset.shape != ()}
    for name, dataset in found.items():
        _check_dataset(name, dataset)
    compressed = sum(dataset.nbytes for dataset in found.values() if dataset.chunks is not None)
    expect(compressed <= MOST_COMPRESSED, f"its compressed tensors have more than {MOST_COMPRESSED:,} bytes")
    return found


def _names_in(file: Any) -> list[str]:
    """Lists the names of groups and data sets, without links to other files."""
    names: list[str] = []

    def visit(name: str) -> bool | None:
        names.append(name)
        return True if len(names) > MOST_DATASETS else None  # any value other than None ends the visit

    file.visit(visit)
    return names


def _check_dataset(name: str, dataset: Any) -> None:
    """Refuses tensors in other files, tensors that are not floating-point, or that claim more bytes than are stored."""
    name = repr(name[:80])
    is_plain = dataset.dtype.kind == "f" and not (dataset.is_virtual or dataset.external)
    expect(is_plain, f"{name} is stored in another file, or holds no floating-point numbers")
    if dataset.compression not in (None, "gzip", "lzf"):
        raise Unsupported(f"{name} is compressed by {str(dataset.compression)[:20]}; gzip and lzf are read")
    is_whole = dataset.chunks is not None or dataset.id.get_storage_size() == dataset.nbytes
    expect(is_whole, f"{name} is smaller than its header claims")


def _numbered(found: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Maps Keras 3's tensors, by their paths `.../LAYER/vars/NUMBER`, to (layer, torch's name); empty for Keras 2."""
    paths = [name for name in sorted(found, key=_place) if re.search(r"(^|/)vars/\d+$", name)]
    words: dict[str, tuple[str, str]] = {}
    for layer, group in groupby(paths, key=lambda name: name.rpartition("/vars/")[0]):
        names = list(group)
        dimensions = tuple(found[name].ndim for name in names)
        kinds = BY_PLACE.get(dimensions, tuple(f"vars.{i}" for i in range(len(names))))
        plain = ".".join(part for part in layer.split("/") if part not in ("layers", "_layer_checkpoint_dependencies"))
        words |= {name: (plain, KINDS.get(kind, kind)) for name, kind in zip(names, kinds, strict=True)}
    return words


def _place(name: str) -> tuple[str, int]:
    layer, _, number = name.rpartition("/")
    return layer, int(number) if number.isdecimal() else 0


def _names(name: str) -> tuple[str, str]:
    """Returns (layer, torch's name) of a data set such as model_weights/conv1/conv1/kernel:0 or fc1/fc1_W_1:0."""
    *groups, last = name.split("/")
    layer = groups[-1] if groups else last
    word = re.sub(r"_\d+$", "", last.partition(":")[0]).removeprefix(f"{layer}_")
    return layer, KINDS.get(word, word)


def _turned(dataset: Any, layer: str, name: str) -> Tensor:
    value = torch.from_numpy(dataset[()].astype(dataset.dtype.newbyteorder("=")))
    if value.ndim == 4 and "depthwise" in name:  # height, width, in, multiplier -> in x multiplier, 1, height, width
        return value.permute(2, 3, 0, 1).flatten(0, 1).unsqueeze(1).contiguous()
    if value.ndim == 4:
        return value.permute(3, 2, 0, 1).contiguous()
    if value.ndim != 2:
        return value
    value = value.T
    if layer in FLATTENED and value.shape[1] == 7 * 7 * 512:
        value = value.unflatten(1, FLATTENED[layer]).permute(0, 3, 1, 2).flatten(1)
    return value.contiguous()


def _caffe_name(name: str) -> str:
    layer, _, kind = name.rpartition(".")
    layer = re.sub(r"^block([1-5])_conv([1-3])$", r"conv\1_\2", VGG16.get(layer, layer))
    return f"{layer}.{kind}"
