"""The pointing game: does the strongest place of a map lie where the evidence is known to be? (Zhang et al. 2016)."""

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
    """Whether each map's largest pixel lies in its mask, (B,) bool; chance is the mask's share of the pixels.

    >>> points_into(torch.tensor([[[0.0, 2.0]]]), torch.tensor([[[False, True]]])).tolist()
    [True]
    """
    if maps_Bhw.shape != masks_Bhw.shape:
        raise ValueError(f"maps {tuple(maps_Bhw.shape)} and masks {tuple(masks_Bhw.shape)} must have one shape.")
    return masks_Bhw.flatten(1).gather(1, maps_Bhw.flatten(1).argmax(1, keepdim=True))[:, 0]
