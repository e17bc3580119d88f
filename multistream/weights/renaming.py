"""Converts tensor names of one architecture between libraries: Caffe, torchvision and timm."""

from __future__ import annotations

import re
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
    "conv5_3": "features.28", "fc6": "classifier.0", "fc7": "classifier.3", "fc8": "classifier.6",
}  # fmt: skip
"""Caffe's names of VGG16's layers -> torchvision's; the last layer may also be named fc8a or similar."""

TIMM_DENSE = {
    "classifier.0": ("pre_logits.fc1", (512, 7, 7)),
    "classifier.3": ("pre_logits.fc2", (4096, 1, 1)),
    "classifier.6": ("head.fc", (4096,)),
}
"""torchvision's dense layers of VGG16 -> timm's, with their input shapes; two are convolutions with the same values."""

TORCHVISION_DENSE = {timm: (torchvision, (-1,)) for torchvision, (timm, _) in TIMM_DENSE.items()}


def is_caffe_vgg16(tensors: Mapping[str, Tensor]) -> bool:
    """Returns whether these tensors have the names of VGG16's convolutions in Caffe."""
    return {f"{layer}.weight" for layer in VGG16_LAYERS if layer.startswith("conv")} <= set(tensors)


def caffe_vgg16(tensors: Mapping[str, Tensor], *, rgb: bool = True) -> dict[str, Tensor]:
    """Renames Caffe's VGG16 to torchvision's names. Caffe's input is B, G, R: `rgb` reverses the first convolution.

    The network still expects 0-255 minus the mean. The mean is not folded into a bias, which would cause an error of up
    to 7.5 at the border, where zeros are padded (paper section 5).
    """
    renamed: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        layer, _, kind = key.rpartition(".")
        layer = re.sub("^fc8.*", "fc8", layer)
        if layer not in VGG16_LAYERS:
            right = f"Its layers are {', '.join(VGG16_LAYERS)}."
            raise WeightsError("weights", f"{key} is not a layer of VGG16.", right=right)
        renamed[f"{VGG16_LAYERS[layer]}.{kind}"] = tensor
    if rgb and "features.0.weight" in renamed:
        renamed["features.0.weight"] = renamed["features.0.weight"].flip(1)
    return renamed


def match_by_order(tensors: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames tensors to the names at the same positions in `reference`; number, shapes and kinds must be the same.

    The kind is the last part of a name (weight, bias, running_mean, ...); it distinguishes tensors of equal shape.
    """
    if len(tensors) != len(reference):
        raise WeightsError("weights", f"{len(tensors)} tensors cannot be matched to {len(reference)} by their order.")
    for (key, tensor), (name, other) in zip(tensors.items(), reference.items(), strict=True):
        if tensor.shape != other.shape or key.rpartition(".")[2] != name.rpartition(".")[2]:
            what = f"{key} {tuple(tensor.shape)} is in the position of {name} {tuple(other.shape)}."
            raise WeightsError("weights", what, right="Both must have the same layers in the same order.")
    return dict(zip(reference, tensors.values(), strict=True))


def to_names(tensors: Mapping[str, Tensor], names: Names) -> dict[str, Tensor]:
    """Renames the tensors of a MobileNetV2, VGG16 or ResNet from torchvision's or timm's names to those of `names`.

    A ResNet has the same names in both libraries. Raises WeightsError for another architecture.
    """
    if "layer4.0.conv1.weight" in tensors:
        return dict(tensors)
    if "features.28.weight" in tensors:
        return _vgg16(tensors, names)
    to_timm = _mobilenet_v2()
    to_torchvision = {timm: torchvision for torchvision, timm in to_timm.items()}
    if not (tensors.keys() <= to_timm.keys() or tensors.keys() <= to_torchvision.keys()):
        right = "Supported: MobileNetV2, VGG16 and ResNet, between the names of torchvision and timm."
        raise WeightsError("weights", "names of this architecture cannot be converted.", right=right)
    renamed = to_timm if names == "timm" else to_torchvision
    return {renamed.get(key, key): tensor for key, tensor in tensors.items()}


@cache
def _mobilenet_v2() -> dict[str, str]:
    """Returns torchvision's names of MobileNetV2's tensors -> timm's, matched by the order of both models."""
    import timm
    from torchvision.models.mobilenetv2 import mobilenet_v2

    with torch.device("meta"):
        theirs, reference = mobilenet_v2().state_dict(), timm.create_model("mobilenetv2_100").state_dict()
    own = {name: torch.empty_like(tensor, device="meta") for name, tensor in theirs.items()}
    matched = match_by_order(own, reference)
    places = {id(tensor): name for name, tensor in own.items()}
    return {places[id(tensor)]: name for name, tensor in matched.items()}


def _vgg16(tensors: Mapping[str, Tensor], names: Names) -> dict[str, Tensor]:
    dense = TIMM_DENSE if names == "timm" else TORCHVISION_DENSE
    renamed: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        layer, _, kind = key.rpartition(".")
        name, shape = dense.get(layer, (layer, ()))
        renamed[f"{name}.{kind}"] = tensor.flatten(1).unflatten(1, shape) if shape and kind == "weight" else tensor
    return renamed
