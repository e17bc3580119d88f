"""Scene networks as streams: the paper's VGG16, and the ResNets that CSAIL publishes for PyTorch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from multistream import Image, MultistreamError, Source, Stream

# Caffe's networks read B, G, R in 0-255 minus a mean. Their weights are loaded as published; `channels` of the input is
# the only place where red and blue are swapped.
CAFFE = Image(size=224, channels="BGR", mean=(104.0, 116.7, 122.7), std=(1.0, 1.0, 1.0))
PAPER_CODE = Image(size=224, channels="RGB", mean=(127.5, 127.5, 127.5), std=(127.5, 127.5, 127.5))
IMAGENET = Image(size=224)

NORMALISATIONS = {
    "vgg16": {"caffe": CAFFE, "paper-code": PAPER_CODE},
    "resnet18": {"imagenet": IMAGENET},
    "resnet50": {"imagenet": IMAGENET},
}
"""The input normalisations of each variant; the first is that of its pretrained weights."""

VGG16 = {"block1": (64, 64), "block2": (128, 128), "block3": (256,) * 3, "block4": (512,) * 3, "block5": (512,) * 3}
"""Channels of the convolutions of each block."""

CHANNELS = {
    "vgg16": {block: widths[-1] for block, widths in VGG16.items()},
    "resnet18": {"stem": 64, "layer1": 64, "layer2": 128, "layer3": 256, "layer4": 512},
    "resnet50": {"stem": 64, "layer1": 256, "layer2": 512, "layer3": 1024, "layer4": 2048},
}
CAFFE_NAMES = [
    f"conv{block}_{index}" for block, widths in enumerate(VGG16.values(), 1) for index in range(1, len(widths) + 1)
]
TORCHVISION_NAMES = [f"features.{n}" for n in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)]
VGG_NAMES = {
    theirs: f"stages.block{name[4]}.{name}"
    for name, torchvision in zip(CAFFE_NAMES, TORCHVISION_NAMES, strict=True)
    for theirs in (name, torchvision)
}
RESNET = {
    "stem": ("conv1", "bn1", "act1"),
    "layer1": ("maxpool", "layer1"),
    "layer2": ("layer2",),
    "layer3": ("layer3",),
    "layer4": ("layer4",),
}
"""A ResNet's modules in each stage."""

RESNET_NAMES = {name: f"stages.{stage}.{name}" for stage, names in RESNET.items() for name in names}
"""The names in this stream for modules in weight files of other libraries."""

PIXEL_DEVIATION = 64
"""The typical standard deviation of a photo's pixels, in 0-255."""

SITE = "http://places2.csail.mit.edu/models_places365"


class ConvReLU(nn.Conv2d):
    """A convolution with ReLU: on a GPU without gradients one cuDNN kernel, 1.5 times as fast as three in bf16."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, D, h, w)."""
        if not _is_fused(input):
            return functional.relu(super().forward(input), inplace=True)  # halves the memory of 64 x 224 x 224 maps
        kind = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else input.dtype
        x, weight = _padded(input.to(kind)), _padded(self.weight.to(kind))
        bias = self.bias.to(kind)  # type: ignore[union-attr]  # there is one
        fused: Tensor = torch.cudnn_convolution_relu(x, weight, bias, (1, 1), (1, 1), (1, 1), groups=1)
        return fused


def _padded(tensor: Tensor) -> Tensor:
    """Images (B, 3, h, w) or filters for them, padded with zeros to 8 channels, which cuDNN's fast kernels require."""
    missing = 8 - tensor.shape[1]
    if missing <= 0:
        return tensor
    return functional.pad(tensor, (0, 0, 0, 0, 0, missing)).contiguous(memory_format=torch.channels_last)


def _is_fused(x: Tensor) -> bool:
    """Whether cuDNN's fused convolution and ReLU, which has no gradient, can be used."""
    return x.is_cuda and torch.version.hip is None and torch.backends.cudnn.enabled and not torch.is_grad_enabled()


class Places(Stream):
    """A network pretrained on Places365, with five maps (paper section 1).

    `vgg16`: conv1_2, 2_2, 3_3, 4_3, 5_3 after ReLU, before the pooling, which is part of the next stage: 64, 128, 256,
    512, 512 channels at strides 1..16. `resnet18`, `resnet50`: the stem and layer1..4, at strides 2..32.
    `normalisation` for VGG16 is `caffe` (B, G, R minus a mean) or `paper-code`, which passes R, G, B in [-1, 1] to the
    same weights, as the authors' code does by mistake (paper section 2); for ResNets it is `imagenet`.

    >>> Places(variant="resnet18").channels
    {'stem': 64, 'layer1': 64, 'layer2': 128, 'layer3': 256, 'layer4': 512}
    """

    variants: ClassVar[tuple[str, ...]] = tuple(NORMALISATIONS)
    weights: ClassVar[Mapping[str, Source]] = {
        "vgg16": Source(
            file=f"{SITE}/vgg16_places365.caffemodel",
            size="543 MB",
            trained_on="Places365",
            licence="CC BY",
            preprocessing="BGR 224, minus (104, 116.7, 122.7)",
        ),
        "resnet18": Source(
            file=f"{SITE}/resnet18_places365.pth.tar",
            size="46 MB",
            trained_on="Places365",
            licence="CC BY",
            preprocessing="RGB 224, ImageNet mean and standard deviation",
        ),
        "resnet50": Source(
            file=f"{SITE}/resnet50_places365.pth.tar",
            size="97 MB",
            trained_on="Places365",
            licence="CC BY",
            preprocessing="RGB 224, ImageNet mean and standard deviation",
        ),
    }
    ignored_weights: ClassVar[tuple[str, ...]] = ("classifier.", "fc.", "fc6.", "fc7.", "fc8a.", "pre_logits.", "head.")

    def __init__(self, *, variant: str = "vgg16", normalisation: str | None = None) -> None:
        if variant not in NORMALISATIONS:
            right = f"Known: {', '.join(NORMALISATIONS)}."
            raise MultistreamError("streams.places", f"{variant!r} is unknown.", right=right)
        known = NORMALISATIONS[variant]
        if normalisation is not None and normalisation not in known:
            what = f"{normalisation!r} is not for {variant}."
            raise MultistreamError("streams.places.normalisation", what, right=f"Known: {', '.join(known)}.")
        image = known[normalisation or next(iter(known))]
        stages = _vgg16() if variant == "vgg16" else _resnet(variant)
        super().__init__(stages, channels=CHANNELS[variant], input=image)
        if variant == "vgg16":
            _initialise(self, PIXEL_DEVIATION / image.std[0])
        self.variant = variant

    def rename(self, key: str) -> str | None:
        """Maps Caffe's, torchvision's, timm's and CSAIL's names to this stream's; its own names stay."""
        key = key.removeprefix("module.")
        module, _, tensor = key.rpartition(".")
        for name, here in (VGG_NAMES if self.variant == "vgg16" else RESNET_NAMES).items():
            if f"{module}.".startswith(f"{name}."):
                return f"{here}{module.removeprefix(name)}.{tensor}"
        return key


def _vgg16() -> dict[str, nn.Module]:
    """VGG16's stages; the pooling after a block is the first module of the next stage."""
    stages: dict[str, nn.Module] = {}
    before = 3
    for number, (block, widths) in enumerate(VGG16.items(), start=1):
        layers: dict[str, nn.Module] = {} if number == 1 else {"pool": nn.MaxPool2d(2)}
        for index, width in enumerate(widths, start=1):
            layers[f"conv{number}_{index}"] = ConvReLU(before, width, 3, padding=1)
            before = width
        stages[block] = nn.Sequential(OrderedDict(layers))
    return stages


def _initialise(vgg16: nn.Module, deviation: float) -> None:
    """He's initialisation, so that maps of a random network are of order 1 for inputs of this standard deviation."""
    convolutions = [module for module in vgg16.modules() if isinstance(module, nn.Conv2d)]
    for convolution in convolutions:
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
    with torch.no_grad():
        convolutions[0].weight.div_(deviation)


def _resnet(variant: str) -> dict[str, nn.Module]:
    """The stages of timm's ResNet, whose random residual blocks start as the identity, so that maps are of order 1."""
    import timm  # importing it takes as long as importing torch, and VGG16 does not need it

    model = timm.create_model(variant, pretrained=False, num_classes=0)
    return {
        stage: nn.Sequential(OrderedDict((name, model.get_submodule(name)) for name in names))
        for stage, names in RESNET.items()
    }
