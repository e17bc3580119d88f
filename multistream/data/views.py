"""Views: the crops and flips of a photo, and which of them an epoch uses.

Augmentation shows each image in one of a few views, drawn in every epoch. Because they are few, the features of frozen
streams for all of them can be cached: training on cached views equals training on augmented photos.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multistream.data.sampling import draws, flips
from multistream.errors import UsageError, check_known

IDENTITY = "identity"

AXES = {"horizontal": 3, "vertical": 2}
"""The dimension of (B, C, H, W) that each kind of flip reverses."""

FLIPS: Mapping[str, tuple[str, ...]] = {
    "": (),
    "hflip": ("horizontal",),
    "vflip": ("vertical",),
    "hvflip": ("horizontal", "vertical"),
}

CROPS: Mapping[str, tuple[float, float]] = {
    "": (0.0, 0.0),
    "centre": (0.5, 0.5),
    "top_left": (0.0, 0.0),
    "top_right": (0.0, 1.0),
    "bottom_left": (1.0, 0.0),
    "bottom_right": (1.0, 1.0),
}
"""The position of a crop: the fractions of the margin above it and to its left."""

KEPT = 7 / 8
"""The side of a crop as a fraction: 224 of 256 pixels, as in the ten crops of Krizhevsky et al. 2012 (section 4.1)."""

VIEWS: Mapping[str, tuple[str, str]] = {
    "+".join(filter(None, (crop, flip))) or IDENTITY: (crop, flip) for crop in CROPS for flip in FLIPS
}
"""Crop and flip of each of the 24 views, for example identity and top_left+hflip."""


def parse_views(text: str) -> tuple[str, ...]:
    """The views in a text such as `identity,hflip`, each once, in its order.

    >>> parse_views("identity,hflip,centre+hflip")
    ('identity', 'hflip', 'centre+hflip')
    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    check_known(names, VIEWS, where="--views")
    if not names:
        raise UsageError("--views", "none is given.", right=f"They are {', '.join(VIEWS)}.")
    return names


def views_of(*, flips: Collection[str], crops: bool) -> tuple[str, ...]:
    """The views of training with flips along these axes, and with or without crops; the identity is first.

    >>> views_of(flips=["horizontal"], crops=False)
    ('identity', 'hflip')
    """
    return tuple(view for view, (crop, flip) in VIEWS.items() if set(FLIPS[flip]) <= set(flips) and (crops or not crop))


def turn(batch: Mapping[str, Tensor], view: str) -> dict[str, Tensor]:
    """The batch with its images (B, C, H, W) in this view, of the same size; vectors (B, D) are unchanged."""
    return {name: _turned(t, *VIEWS[view]) if t.ndim == 4 else t for name, t in batch.items()}


def drawn(
    indices: NDArray[np.int64], *, flips: Collection[str], crops: bool, seed: int, epoch: int
) -> NDArray[np.int64]:
    """The view of each image in an epoch, as its number in `views_of`: half are flipped, five sixths cropped.

    It depends only on (seed, epoch, index), not on the batch, the workers or the rank.
    """
    views = views_of(flips=flips, crops=crops)
    number = np.zeros(len(indices), dtype=np.int64)
    turned = _flipped(indices, flips, seed=seed, epoch=epoch)
    cut = draws(indices, seed=seed, epoch=epoch, purpose="crop") % np.uint64(len(CROPS))
    for place, view in enumerate(views):
        crop, flip = VIEWS[view]
        number[turned[flip] & (cut == list(CROPS).index(crop) if crops else True)] = place
    return number


def augment(batch: Mapping[str, Tensor], number: NDArray[np.int64], views: Sequence[str]) -> dict[str, Tensor]:
    """Each image, with its Maps, in the view of its `number` (B,) from `drawn`.

    >>> photos = {"image": torch.arange(6).view(2, 1, 1, 3)}
    >>> augment(photos, np.array([0, 1]), ["identity", "hflip"])["image"].flatten().tolist()
    [0, 1, 2, 5, 4, 3]
    """
    augmented = dict(batch)
    for name, pictures in batch.items():
        if pictures.ndim != 4 or not number.any():
            continue
        augmented[name] = pictures.clone()
        for place in np.unique(number[number > 0]).tolist():
            rows = torch.from_numpy(number == place).to(pictures.device)
            augmented[name][rows] = _turned(pictures[rows], *VIEWS[views[place]])
    return augmented


def _flipped(indices: NDArray[np.int64], axes: Collection[str], *, seed: int, epoch: int) -> dict[str, NDArray[Any]]:
    """Whether each flip is drawn for each image, {flip: (B,) bool}."""
    chosen = {axis: flips(indices, seed=seed, epoch=epoch, axis=axis) for axis in axes}
    still = np.zeros(len(indices), dtype=np.bool_)
    return {
        flip: np.logical_and.reduce([chosen.get(axis, still) == (axis in turned) for axis in AXES])
        for flip, turned in FLIPS.items()
    }


def _turned(pictures: Tensor, crop: str, flip: str) -> Tensor:
    """Crops images (B, C, H, W), resizes them to their original size, then flips them."""
    if crop:
        from torchvision.transforms import functional

        height, width = pictures.shape[2:]
        kept_h, kept_w = round(KEPT * height), round(KEPT * width)
        top, left = CROPS[crop]
        corner = round(top * (height - kept_h)), round(left * (width - kept_w))
        pictures = functional.resized_crop(pictures, *corner, kept_h, kept_w, [height, width], antialias=True)
    return pictures.flip([AXES[axis] for axis in FLIPS[flip]]) if flip else pictures
