"""Is the evidence where it is known to be? The pointing game (Zhang et al. 2016), and the energy in a mask.

Both speak of a map (B, h, w) and a mask of the same size; chance is the mask's share of the pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def density(maps: Sequence[Tensor], *, size: int) -> Tensor:
    """Maps (B, h, w) of several stages as one (B, size, size): each is evidence by area, interpolated, and they add.

    A cell of a coarse map stands for more pixels than one of a fine map; per area, both speak of the same thing.
    """
    total = torch.zeros(len(maps[0]), size, size, dtype=torch.float64)
    for each in maps:
        by_area = each.double().cpu() * (each.shape[-2] * each.shape[-1])
        total += functional.interpolate(by_area[:, None], (size, size), mode="bilinear", align_corners=False)[:, 0]
    return total


def points_into(maps_Bhw: Tensor, masks_Bhw: Tensor) -> Tensor:
    """Whether each map's largest pixel lies in its mask, (B,) bool.

    >>> points_into(torch.tensor([[[0.0, 2.0]]]), torch.tensor([[[False, True]]])).tolist()
    [True]
    """
    _check(maps_Bhw, masks_Bhw)
    return masks_Bhw.flatten(1).gather(1, maps_Bhw.flatten(1).argmax(1, keepdim=True))[:, 0]


def energy_in(maps_Bhw: Tensor, masks_Bhw: Tensor) -> Tensor:
    """The share of each map's positive evidence that lies in its mask, (B,) float64; NaN where nothing is positive.

    After the energy-based pointing game of Wang et al. (Score-CAM, 2020): unlike the largest pixel alone, it sees
    what else the map calls evidence.

    >>> energy_in(torch.tensor([[[3.0, 1.0, -5.0]]]), torch.tensor([[[True, False, True]]])).tolist()
    [0.75]
    """
    _check(maps_Bhw, masks_Bhw)
    positive = maps_Bhw.double().clamp_min(0)
    return (positive * masks_Bhw).sum((1, 2)) / positive.sum((1, 2))


def _check(maps_Bhw: Tensor, masks_Bhw: Tensor) -> None:
    if maps_Bhw.shape != masks_Bhw.shape:
        raise ValueError(f"maps {tuple(maps_Bhw.shape)} and masks {tuple(masks_Bhw.shape)} must have one shape.")
