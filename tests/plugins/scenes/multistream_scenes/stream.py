"""SqueezeNet v1.1 on Places365, as a stream."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from multistream import Image, Source, Stream

CAFFE = Image(size=224, mean=(104.05, 112.51, 116.68), std=(255.0, 255.0, 255.0), channels="BGR")
FIRES = {"fire2": (64, 16, 64), "fire3": (128, 16, 64), "fire4": (128, 32, 128), "fire5": (256, 32, 128)} | {
    "fire6": (256, 48, 192), "fire7": (384, 48, 192), "fire8": (384, 64, 256), "fire9": (512, 64, 256)
}  # fmt: skip
"""Channels in, squeezed, and of each expansion."""


class Convolution(nn.Module):
    """Convolution, batch norm, leaky ReLU of slope 0.55."""

    def __init__(self, inside: int, outside: int, size: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, size, stride=stride, padding=size // 2)
        self.bn = nn.BatchNorm2d(outside, eps=1e-4)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.leaky_relu(self.bn(self.conv(x)), 0.55)


class Fire(nn.Module):
    """A squeeze of 1x1, and two expansions side by side."""

    def __init__(self, inside: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = Convolution(inside, squeezed, 1)
        self.expand1x1 = Convolution(squeezed, expanded, 1)
        self.expand3x3 = Convolution(squeezed, expanded, 3)

    def forward(self, x: Tensor) -> Tensor:
        squeezed = self.squeeze(x)
        return torch.cat([self.expand1x1(squeezed), self.expand3x3(squeezed)], dim=1)


class Scenes(Stream):
    """Five maps at strides 2, 4, 8, 16 and 16; a pooling opens the stage after it."""

    weights: ClassVar[Mapping[str, Source]] = {
        "": Source(
            file="squeezenet_places365.safetensors",
            trained_on="Places365",
            licence="as its authors say",
            preprocessing="BGR 224, minus the mean, divided by 255",
            size="4 MB",
        )
    }
    ignored_weights: ClassVar[tuple[str, ...]] = ("conv10.",)

    def __init__(self) -> None:
        fires = {name: Fire(*sizes) for name, sizes in FIRES.items()}
        parts = {
            "conv1": {"conv1": Convolution(3, 64, 3, stride=2)},
            "fire2_3": {"pool": nn.MaxPool2d(3, 2), **{n: fires[n] for n in ("fire2", "fire3")}},
            "fire4_5": {"pool": nn.MaxPool2d(3, 2), **{n: fires[n] for n in ("fire4", "fire5")}},
            "fire6_7": {"pool": nn.MaxPool2d(3, 2), **{n: fires[n] for n in ("fire6", "fire7")}},
            "fire8_9": {n: fires[n] for n in ("fire8", "fire9")},
        }
        channels = {"conv1": 64, "fire2_3": 128, "fire4_5": 256, "fire6_7": 384, "fire8_9": 512}
        super().__init__(
            {stage: nn.Sequential(OrderedDict(members)) for stage, members in parts.items()},
            channels=channels,
            input=CAFFE,
        )
        self.places = {name: f"stages.{stage}.{name}" for stage, members in parts.items() for name in members}

    def rename(self, key: str) -> str | None:
        """`fire2.squeeze.conv.weight` -> ours; our own names stay."""
        name, _, rest = key.partition(".")
        return f"{self.places[name]}.{rest}" if name in self.places else key
