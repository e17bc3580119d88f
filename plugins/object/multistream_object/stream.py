"""MobileNets as a stream: the blocks of each resolution are a stage, which ends before the next downsampling."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import ClassVar

import timm
from torch import nn

from multistream import Image, MultistreamError, Source, Stream

HALF = (127.5, 127.5, 127.5)
"""Mean and standard deviation that scale 0-255 to [-1, 1]."""

MODELS = {"mobilenetv2": "mobilenetv2_100", "mobilenetv1": "mobilenetv1_100"}
INPUTS = {"mobilenetv2": Image(size=224), "mobilenetv1": Image(size=224, mean=HALF, std=HALF)}
ENDS = {"mobilenetv2": (320, 1280), "mobilenetv1": (1024,)}
HEAD = ("conv_head", "bn2")
CUTS: dict[str, dict[str, tuple[str, ...]]] = {
    "mobilenetv2": {
        "block1": ("conv_stem", "bn1", "blocks.0"),
        "block2": ("blocks.1",),
        "block3": ("blocks.2",),
        "block4": ("blocks.3", "blocks.4"),
        "block5": ("blocks.5", "blocks.6"),
    },
    "mobilenetv1": {
        "block1": ("conv_stem", "bn1", "blocks.0"),
        "block2": ("blocks.1",),
        "block3": ("blocks.2",),
        "block4": ("blocks.3",),
        "block5": ("blocks.4",),
    },
}
"""timm's modules in each stage, by variant: every stage except the first starts with a stride of 2."""

CHANNELS = {"mobilenetv2": (16, 24, 32, 96), "mobilenetv1": (64, 128, 256, 512)}
"""Channels of the first four maps; the fifth has `end` channels."""

FIRST_BLOCK = {"0.0": "conv_dw", "0.1": "bn1", "1": "conv_pw", "2": "bn2"}
BLOCK = {"0.0": "conv_pw", "0.1": "bn1", "1.0": "conv_dw", "1.1": "bn2", "2": "conv_pwl", "3": "bn3"}
DEPTHS = (1, 2, 3, 4, 3, 3, 1)
"""MobileNetV2's number of blocks per width; torchvision numbers all blocks (features.1 to 17), timm per width."""


def _torchvision() -> dict[str, str]:
    """torchvision's names of MobileNetV2's modules -> timm's."""
    names = {"features.0.0": "conv_stem", "features.0.1": "bn1", "features.18.0": "conv_head", "features.18.1": "bn2"}
    places = [(width, block) for width, depth in enumerate(DEPTHS) for block in range(depth)]
    for number, (width, block) in enumerate(places, start=1):
        layers = FIRST_BLOCK if number == 1 else BLOCK
        names |= {f"features.{number}.conv.{a}": f"blocks.{width}.{block}.{b}" for a, b in layers.items()}
    return names


TORCHVISION = _torchvision()


class Object(Stream):
    """A MobileNet pretrained on ImageNet, with maps at strides 2, 4, 8, 16 and 32 (paper section 1; fig. 2).

    `mobilenetv2`: 16, 24, 32, 96, 320 channels; `end=1280` adds the last 1x1 convolution to the last stage.
    `mobilenetv1`: 64, 128, 256, 512, 1024 channels, at [-1, 1] as its weights were trained.
    The random initialisation is timm's: with torchvision's, maps are about 3e-9 in eval mode.

    >>> Object(end=1280).channels
    {'block1': 16, 'block2': 24, 'block3': 32, 'block4': 96, 'block5': 1280}
    """

    variants: ClassVar[tuple[str, ...]] = tuple(MODELS)
    weights: ClassVar[Mapping[str, Source]] = {
        "mobilenetv2": Source(
            file="torchvision's mobilenet_v2-b0353104.pth, or timm's mobilenetv2_100.ra_in1k",
            size="14 MB",
            hub="timm/mobilenetv2_100.ra_in1k",
            trained_on="ImageNet-1k",
            licence="Apache-2.0 (timm), BSD-3-Clause (torchvision)",
            preprocessing="RGB 224, ImageNet mean and standard deviation",
        ),
        "mobilenetv1": Source(
            file="timm's mobilenetv1_100.ra4_e3600_r224_in1k",
            size="17 MB",
            hub="timm/mobilenetv1_100.ra4_e3600_r224_in1k",
            trained_on="ImageNet-1k",
            licence="Apache-2.0",
            preprocessing="RGB 224, [-1, 1]",
        ),
    }
    ignored_weights: ClassVar[tuple[str, ...]] = ("classifier.",)

    def __init__(self, *, variant: str = "mobilenetv2", end: int | None = None) -> None:
        if variant not in MODELS:
            raise MultistreamError("streams.object", f"{variant!r} is unknown.", right=f"Known: {', '.join(MODELS)}.")
        ends = ENDS[variant]
        end = ends[0] if end is None else end
        if end not in ends:
            right = f"{variant} ends with {' or '.join(map(str, ends))} channels."
            raise MultistreamError("streams.object.end", f"{end} is impossible.", right=right)
        model = timm.create_model(MODELS[variant], pretrained=False, num_classes=0)
        cuts = dict(CUTS[variant])
        if end == 1280:
            cuts["block5"] += HEAD
        stages = {stage: _chain(model, names) for stage, names in cuts.items()}
        channels = dict(zip(cuts, (*CHANNELS[variant], end), strict=True))
        super().__init__(stages, channels=channels, input=INPUTS[variant])
        self.variant = variant
        self.modules_by_name = {name: _here(stage, name) for stage, names in cuts.items() for name in names}

    def rename(self, key: str) -> str | None:
        """Maps torchvision's and timm's names to this stream's; ignores the last 1x1 convolution with `end=320`."""
        module, _, tensor = key.rpartition(".")
        key = f"{TORCHVISION.get(module, module)}.{tensor}"
        for name, here in self.modules_by_name.items():
            if key.startswith(f"{name}."):
                return here + key.removeprefix(name)
        return None if key.rpartition(".")[0] in HEAD else key


def _here(stage: str, name: str) -> str:
    """The name of timm's module `name` in this stream's state dict."""
    return f"stages.{stage}.{name.replace('.', '')}"


def _chain(model: nn.Module, names: tuple[str, ...]) -> nn.Sequential:
    """These modules of the model in sequence, under their own names without dots."""
    return nn.Sequential(OrderedDict((name.replace(".", ""), model.get_submodule(name)) for name in names))
