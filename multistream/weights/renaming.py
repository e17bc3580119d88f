"""One architecture under several libraries' names: Caffe's, torchvision's and timm's."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from multistream.errors import WeightsError

Names = Literal["torchvision", "timm"]

VGG16_LAYERS = {
    "conv1_1": "features.0", "conv1_2": "features.2", "conv2_1": "features.5", "conv2_2": "features.7",
    "conv3_1": "features.10", "conv3_2": "features.12", "conv3_3": "features.14", "conv4_1": "features.17",
    "conv4_2": "features.19", "conv4_3": "features.21", "conv5_1": "features.24", "conv5_2": "features.26",
    "conv5_3": "features.28", "fc6": "classifier.0", "fc7": "classifier.3",
}  # fmt: skip
"""Caffe's names of VGG16's layers -> torchvision's; the last one, fc8, fc8a, ..., is classifier.6."""

VGG16_DENSE = {
    "classifier.0": ("pre_logits.fc1", (512, 7, 7)),
    "classifier.3": ("pre_logits.fc2", (4096, 1, 1)),
    "classifier.6": ("head.fc", ()),
}
"""torchvision's dense layers -> timm's, which reads the first two as convolutions of these kernels."""


def is_caffe_vgg16(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are a VGG16's convolutions under Caffe's names."""
    return {f"{layer}.weight" for layer in VGG16_LAYERS if layer.startswith("conv")} <= set(tensors)


def caffe_vgg16(tensors: Mapping[str, Tensor], *, rgb: bool = True) -> dict[str, Tensor]:
    """Caffe's VGG16 under torchvision's names. Caffe's reads B, G, R: `rgb` turns the first convolution round.

    Both still expect 0-255 minus the mean. That stays outside: folded into a bias it would be wrong by up to 7.5 at
    the border, where zeros are padded (paper section 5).
    """
    renamed: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        layer, _, kind = key.rpartition(".")
        place = VGG16_LAYERS.get(layer) or ("classifier.6" if layer.startswith("fc8") else "")
        if not place:
            right = f"Its layers are {', '.join(VGG16_LAYERS)}."
            raise WeightsError("weights", f"{key} is not a layer of VGG16.", right=right)
        renamed[f"{place}.{kind}"] = tensor.flip(1) if rgb and key == "conv1_1.weight" else tensor
    return renamed


def match_by_order(tensors: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the names that stand at the same places in `reference`: same number, shapes and kinds.

    The kind is a name's last word (weight, bias, running_mean, ...), so that two of one shape are not confused.
    """
    if len(tensors) != len(reference):
        raise WeightsError("weights", f"{len(tensors)} tensors cannot be matched to {len(reference)} by their order.")
    for (key, tensor), (name, other) in zip(tensors.items(), reference.items(), strict=True):
        if tensor.shape != other.shape or key.rpartition(".")[2] != name.rpartition(".")[2]:
            what = f"{key} {tuple(tensor.shape)} is in the position of {name} {tuple(other.shape)}."
            raise WeightsError("weights", what, right="Both must have the same layers in the same order.")
    return dict(zip(reference, tensors.values(), strict=True))


def to_names(tensors: Mapping[str, Tensor], names: Names) -> dict[str, Tensor]:
    """A MobileNetV2, VGG16 or ResNet under torchvision's or timm's names, whichever of the two it has now.

    A ResNet has the same names in both. WeightsError for another architecture.
    """
    if "layer4.0.conv1.weight" in tensors:
        return dict(tensors)
    if "features.28.weight" in tensors:
        return _vgg16(tensors, names)
    pairs = _mobilenet_v2()
    here: Names = "timm" if "conv_stem.weight" in tensors else "torchvision"
    if here == "timm":
        pairs = {timm: torchvision for torchvision, timm in pairs.items()}
    if not set(tensors) <= set(pairs):
        right = "Supported: MobileNetV2, VGG16 and ResNet, between the names of torchvision and timm."
        raise WeightsError("weights", "names of this architecture cannot be converted.", right=right)
    return dict(tensors) if here == names else {pairs[key]: tensor for key, tensor in tensors.items()}


@cache
def _mobilenet_v2() -> dict[str, str]:
    """torchvision's names of MobileNetV2's tensors -> timm's, matched by the order of both models."""
    import timm
    from torchvision.models.mobilenetv2 import mobilenet_v2

    with torch.device("meta"):
        theirs, reference = mobilenet_v2().state_dict(), timm.create_model("mobilenetv2_100").state_dict()
    own = {name: torch.empty_like(tensor, device="meta") for name, tensor in theirs.items()}
    matched = match_by_order(own, reference)
    places = {id(tensor): name for name, tensor in own.items()}
    return {places[id(tensor)]: name for name, tensor in matched.items()}


def _vgg16(tensors: Mapping[str, Tensor], names: Names) -> dict[str, Tensor]:
    """timm reads the first two dense layers as convolutions: the same numbers in another shape."""
    if names == "torchvision":
        back = {timm: torchvision for torchvision, (timm, _) in VGG16_DENSE.items()}
        return dict(_flattened(key, tensor, back) for key, tensor in tensors.items())
    return dict(_as_convolution(key, tensor) for key, tensor in tensors.items())


def _flattened(key: str, tensor: Tensor, back: Mapping[str, str]) -> tuple[str, Tensor]:
    layer, _, kind = key.rpartition(".")
    if layer not in back:
        return key, tensor
    return f"{back[layer]}.{kind}", tensor.flatten(1) if kind == "weight" else tensor


def _as_convolution(key: str, tensor: Tensor) -> tuple[str, Tensor]:
    layer, _, kind = key.rpartition(".")
    name, kernel = VGG16_DENSE.get(layer, (layer, ()))
    return f"{name}.{kind}", tensor.unflatten(1, kernel) if kernel and kind == "weight" else tensor
