"""MobileNets of width 1 in plain torch, with timm's names and timm's random initialisation, number by number.

timm itself would do, but importing it and the torchvision that it imports takes as long as importing torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt

from torch import Tensor, nn
from torch.nn import functional

V1 = ((1, 64), (2, 128), (2, 256), (6, 512), (2, 1024))
"""MobileNet (Howard et al. 2017): blocks and channels of each group; the first block halves the map but in group 1."""

V2 = ((1, 16, 1), (2, 24, 2), (3, 32, 2), (4, 64, 2), (3, 96, 1), (3, 160, 2), (1, 320, 1))
"""MobileNetV2 (Sandler et al. 2018, table 2): blocks, channels and stride of each group."""

STEM = 32
HEAD = 1280
EXPANSION = 6


def mobilenet_v1() -> dict[str, nn.Module]:
    """The modules in their order: conv_stem, bn1, blocks.0 to blocks.4."""
    modules, before = _stem(), STEM
    for number, (depth, width) in enumerate(V1):
        blocks = []
        for index in range(depth):
            stride = 2 if number and not index else 1
            blocks.append(DepthwiseSeparable(before, width, stride, last_activation=True))
            before = width
        modules[f"blocks.{number}"] = nn.Sequential(*blocks)
    return _initialised(modules)


def mobilenet_v2() -> dict[str, nn.Module]:
    """The modules in their order: conv_stem, bn1, blocks.0 to blocks.6, conv_head, bn2."""
    modules, before = _stem(), STEM
    for number, (depth, width, stride) in enumerate(V2):
        blocks: list[nn.Module] = []
        for index in range(depth):
            if number == 0:
                blocks.append(DepthwiseSeparable(before, width, stride, last_activation=False))
            else:
                blocks.append(InvertedResidual(before, width, 1 if index else stride))
            before = width
        modules[f"blocks.{number}"] = nn.Sequential(*blocks)
    modules |= {"conv_head": _convolution(before, HEAD), "bn2": BatchNormReLU6(HEAD)}
    return _initialised(modules)


class BatchNormReLU6(nn.BatchNorm2d):
    """Batch normalisation and ReLU6 as one module: weight files count them as one."""

    def forward(self, input: Tensor) -> Tensor:
        return functional.relu6(super().forward(input), inplace=True)


class DepthwiseSeparable(nn.Module):
    """A 3x3 convolution of each channel and a 1x1 convolution of all."""

    def __init__(self, channels: int, out: int, stride: int, *, last_activation: bool) -> None:
        super().__init__()
        self.conv_dw = _convolution(channels, channels, size=3, stride=stride, groups=channels)
        self.bn1 = BatchNormReLU6(channels)
        self.conv_pw = _convolution(channels, out)
        self.bn2 = BatchNormReLU6(out) if last_activation else nn.BatchNorm2d(out)

    def forward(self, x_BChw: Tensor) -> Tensor:
        x = self.bn1(self.conv_dw(x_BChw))
        out: Tensor = self.bn2(self.conv_pw(x))
        return out


class InvertedResidual(nn.Module):
    """Expansion by 1x1, a 3x3 convolution of each channel, projection by 1x1; added to its input where they fit."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        inner = EXPANSION * channels
        self.conv_pw = _convolution(channels, inner)
        self.bn1 = BatchNormReLU6(inner)
        self.conv_dw = _convolution(inner, inner, size=3, stride=stride, groups=inner)
        self.bn2 = BatchNormReLU6(inner)
        self.conv_pwl = _convolution(inner, out)
        self.bn3 = nn.BatchNorm2d(out)
        self.is_residual = stride == 1 and channels == out

    def forward(self, x_BChw: Tensor) -> Tensor:
        x = self.bn1(self.conv_pw(x_BChw))
        x = self.bn2(self.conv_dw(x))
        out: Tensor = self.bn3(self.conv_pwl(x))
        return out + x_BChw if self.is_residual else out


def _stem() -> dict[str, nn.Module]:
    stem = {"conv_stem": _convolution(3, STEM, size=3, stride=2), "bn1": BatchNormReLU6(STEM)}
    for _ in range(2):  # timm tries an attention layer here and drops it: what it draws keeps our numbers equal to its
        nn.Conv2d(8, 8, 1)
    return stem


def _convolution(channels: int, out: int, *, size: int = 1, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, out, size, stride, padding=size // 2, groups=groups, bias=False)


def _initialised(modules: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Normal weights of variance 2 / fan-out, as TensorFlow's MobileNets have."""
    for module in modules.values():
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d):
                fan_out = layer.kernel_size[0] * layer.kernel_size[1] * layer.out_channels // layer.groups
                nn.init.normal_(layer.weight, 0, sqrt(2 / fan_out))
    return dict(modules)
