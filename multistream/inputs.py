"""Inputs of a stream: Image, Map and Vector. Does not import torch, because recipes and data use them too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Image:
    """The photo, (B, 3, size, size) uint8 RGB in the batch; the stream converts it to the order of `channels`.

    `mean` and `std` are on the 0-255 scale and in the order of `channels`. Streams with the same input name share
    one decoded photo, even if their normalisation differs.

    >>> Image(size=64).name
    'image'
    """

    size: int = 224
    _: KW_ONLY
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    channels: Literal["RGB", "BGR"] = "RGB"
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    name: ClassVar[str] = "image"

    def __post_init__(self) -> None:
        if self.channels not in ("RGB", "BGR"):
            raise ValueError(f"Image: channels={self.channels!r} is not a channel order. It must be 'RGB' or 'BGR'.")
        if self.size < 1 or len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f"Image: {self} is impossible. size and std must be positive, mean and std have 3 values.")


@dataclass(frozen=True)
class Map:
    """An additional input image for each photo (depth, saliency), (B, channels, size, size) float32 in the batch.

    `read(path)` returns float32 (C, H, W). Geometric augmentation is applied to it together with the photo.
    """

    name: str
    _: KW_ONLY
    channels: int
    size: int
    read: Callable[[Path], NDArray[np.float32]]

    @property
    def shape(self) -> tuple[int, ...]:
        """(channels, size, size), the shape for one photo."""
        return self.channels, self.size, self.size


@dataclass(frozen=True)
class Vector:
    """A feature vector for each image id (ANP scores, another network's features), (B, width) float32 in the batch."""

    name: str
    _: KW_ONLY
    width: int
    vocabulary: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.vocabulary and len(self.vocabulary) != self.width:
            raise ValueError(
                f"Vector {self.name!r}: the vocabulary has {len(self.vocabulary)} names but width={self.width}. "
                "They must be equal."
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """(width,), the shape for one photo."""
        return (self.width,)


Input = Image | Map | Vector


def side_inputs_of(inputs: Mapping[str, Input]) -> dict[str, Map | Vector]:
    """The inputs, by stream key, that are read in addition to the photo."""
    return {key: entry for key, entry in inputs.items() if not isinstance(entry, Image)}


def names_of(inputs: Mapping[str, Input]) -> set[str]:
    """The names by which a user may refer to these inputs: the streams' keys and the inputs' own names."""
    return {*inputs, *(entry.name for entry in inputs.values())}
