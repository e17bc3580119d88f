"""Planted evidence: pictures in which we know what tells the class and where it lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from multistream.inputs import Image, Input, Vector

SIDE = 48
"""Pixels of a picture's side."""
PATCH = 12
"""Pixels of the planted patch's side: 1/16 of the picture, which is the pointing game's chance."""
FADE = 6 / SIDE
"""How fast stripes fade, for each pixel from the middle of the patch: by half in 5 pixels."""
PERIOD = 4
"""Pixels from stripe to stripe."""
CLASSES = ("rows", "columns")
CLOUDS = 4
"""Cells of the clouds' grid: what varies most in a picture says nothing."""


@dataclass(frozen=True)
class Planted:
    """A batch by stream key, its labels (B,), and where the evidence lies in the planted stream, (B, SIDE, SIDE)."""

    batch: dict[str, Tensor]
    labels: Tensor
    masks: Tensor


def plant(inputs: Mapping[str, Input], key: str, *, count: int, generator: torch.Generator) -> Planted:
    """Draws `count` scenes: each stream has clouds of its own, and `key` alone a patch of stripes.

    The stripes run along rows or along columns: that is the class. They are strongest in the middle of the patch and
    fade with the distance from it. Vectors are like scores that sum to 1, and tell nothing.
    """
    labels = torch.randint(0, 2, (count,), generator=generator)
    centres = PATCH / 2 + torch.rand(count, 2, generator=generator) * (SIDE - PATCH)
    batch = {}
    for name, each in inputs.items():
        if isinstance(each, Vector):
            scores = torch.rand(count, each.width, generator=generator) ** 8
            batch[name] = scores / scores.sum(1, keepdim=True)
            continue
        channels = 3 if isinstance(each, Image) else each.channels
        pixels = _clouds(count, channels, generator)
        if name == key:
            pixels = pixels + _stripes(labels, centres)[:, None]
        pixels = pixels.clamp(0, 255)
        batch[name] = pixels.round().to(torch.uint8) if isinstance(each, Image) else pixels / 255
    axis = torch.arange(SIDE) + 0.5
    inside = (axis - centres[..., None]).abs() <= PATCH / 2  # (B, 2, SIDE): of rows, of columns
    return Planted(batch, labels, inside[:, 0, :, None] & inside[:, 1, None, :])


def _clouds(count: int, channels: int, generator: torch.Generator) -> Tensor:
    """Coloured clouds with a little grain, (B, C, SIDE, SIDE) in 0-255."""
    coarse = torch.randn(count, channels, CLOUDS, CLOUDS, generator=generator) * 25
    clouds = functional.interpolate(coarse, (SIDE, SIDE), mode="bicubic", align_corners=True)
    return 128 + clouds + torch.randn(count, channels, SIDE, SIDE, generator=generator)


def _stripes(labels: Tensor, centres: Tensor) -> Tensor:
    """Stripes of +-90 in the middle of the patch, (B, SIDE, SIDE)."""
    axis = torch.arange(SIDE) + 0.5
    distances = ((axis[:, None] - centres[:, :1, None]) ** 2 + (axis - centres[:, 1:, None]) ** 2).sqrt()
    wave = 90 * torch.cos(2 * torch.pi / PERIOD * torch.arange(SIDE))
    pattern = torch.where((labels == 0)[:, None, None], wave[:, None], wave[None, :])
    return pattern * torch.exp(-distances * FADE)
