"""Planted cues for the self-test: images with a known cue at a known location, and small streams that learn it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from multistream.inputs import Image, Input, Map, Vector
from multistream.interfaces import Stream
from multistream.network.branch import Branch
from multistream.network.compose import build_taps, fusion_factory
from multistream.network.network import MultiStream

SIDE = 48
"""The side of an image in pixels."""
PATCH = 12
"""The side of the planted patch in pixels: 1/16 of the image's area, the chance level of the pointing game."""
FADE = 6 / SIDE
"""The exponential decay of the stripes per pixel from the patch's centre: they fade by half in 5 pixels."""
PERIOD = 4
"""The period of the stripes in pixels."""
CLASSES = ("rows", "columns")
CLOUDS = 4
"""Cells of the clouds' grid: the strongest variation in an image carries no information about the class."""
CHANNELS = 64
"""Channels of a small stage: with 16, two training runs agreed less (rank correlation .64 to .81, not .76 to .93)."""


@dataclass(frozen=True)
class PlantedScenes:
    """A batch by stream key, its labels (B,), and the masks (B, SIDE, SIDE) of the cue in the planted stream."""

    batch: dict[str, Tensor]
    labels: Tensor
    masks: Tensor


def plant(inputs: Mapping[str, Input], key: str, *, count: int, generator: torch.Generator) -> PlantedScenes:
    """Draws `count` scenes: each stream gets independent clouds, and only `key` gets a patch of stripes.

    The class is the direction of the stripes: along rows or along columns. They are strongest at the patch's centre and
    fade with the distance from it. Vectors are random scores that sum to 1 and carry no information.
    """
    labels = torch.randint(0, 2, (count,), generator=generator)
    centres = PATCH / 2 + torch.rand(count, 2, generator=generator) * (SIDE - PATCH)
    batch = {}
    for name, stream_input in inputs.items():
        if isinstance(stream_input, Vector):
            scores = torch.rand(count, stream_input.width, generator=generator) ** 8
            batch[name] = scores / scores.sum(1, keepdim=True)
            continue
        channels = 3 if isinstance(stream_input, Image) else stream_input.channels
        pixels = _clouds(count, channels, generator)
        if name == key:
            pixels = pixels + _stripes(labels, centres)[:, None]
        pixels = pixels.clamp(0, 255)
        batch[name] = pixels.round().to(torch.uint8) if isinstance(stream_input, Image) else pixels / 255
    axis = torch.arange(SIDE) + 0.5
    inside = (axis - centres[..., None]).abs() <= PATCH / 2  # (B, 2, SIDE): of rows, of columns
    return PlantedScenes(batch, labels, inside[:, 0, :, None] & inside[:, 1, None, :])


def _clouds(count: int, channels: int, generator: torch.Generator) -> Tensor:
    """Draws coloured clouds with weak noise, (B, C, SIDE, SIDE) around 128 of 0 to 255, not yet clamped."""
    coarse = torch.randn(count, channels, CLOUDS, CLOUDS, generator=generator) * 25
    clouds = functional.interpolate(coarse, (SIDE, SIDE), mode="bicubic", align_corners=True)
    return 128 + clouds + torch.randn(count, channels, SIDE, SIDE, generator=generator)


def _stripes(labels: Tensor, centres: Tensor) -> Tensor:
    """Returns stripes of +-90 at the patch's centre, (B, SIDE, SIDE)."""
    axis = torch.arange(SIDE) + 0.5
    distances = ((axis[:, None] - centres[:, :1, None]) ** 2 + (axis - centres[:, 1:, None]) ** 2).sqrt()
    wave = 90 * torch.cos(2 * torch.pi / PERIOD * torch.arange(SIDE))
    pattern = torch.where((labels == 0)[:, None, None], wave[:, None], wave[None, :])
    return pattern * torch.exp(-distances * FADE)


class SmallStream(Stream):
    """A small stream with the stages' names and the head of `stream`: two 3 x 3 stages of stride 2, then 1 x 1 stages.

    The receptive field of a map's pixel is at most 7 pixels, so that it corresponds to a location in the image.
    """

    def __init__(self, stream: Stream) -> None:
        stream_input = stream.input
        assert not isinstance(stream_input, Vector)
        stages: dict[str, nn.Module] = {}
        channels = stream_input.channels if isinstance(stream_input, Map) else 3
        for place, name in enumerate(stream.stages):
            wide = place < 2
            convolution = nn.Conv2d(
                channels, CHANNELS, 3 if wide else 1, stride=2 if wide else 1, padding=1 if wide else 0
            )
            nn.init.kaiming_normal_(convolution.weight)
            nn.init.constant_(convolution.get_parameter("bias"), 0)
            stages[name], channels = nn.Sequential(convolution, nn.ReLU()), CHANNELS
        super().__init__(stages, channels=dict.fromkeys(stages, CHANNELS), input=replace(stream_input, size=SIDE))
        self.head_of_original = stream.make_head

    def make_head(self, width: int, classes: int) -> nn.Module:
        """Returns the original stream's head."""
        return self.head_of_original(width, classes)


def with_small_streams(network: MultiStream) -> MultiStream:
    """Returns the network's composition with small streams, newly initialised, with its heads and vectors."""
    branches = {key: _branch(branch) for key, branch in network.branches.items()}
    fusion, options = network.fusion_plan
    return MultiStream(branches, make_fusion=fusion_factory(fusion, options, classes=len(CLASSES)), classes=CLASSES)


def _branch(branch: Branch) -> Branch:
    if branch.plan is None:
        raise ValueError("a Branch that compose did not make has no plan.")
    if branch.is_vector:
        return copy.deepcopy(branch)
    stream = SmallStream(branch.stream)
    taps = build_taps(stream, branch.plan)
    return Branch(stream, taps=taps, make_temporal=branch.make_temporal, plan=branch.plan)
