"""Deletion and insertion: does the answer go when the pixels go that a map calls important? (Petsiuk et al. 2018).

Pixels are taken away from the largest value of the map to the smallest (deletion), and brought back onto what stands
for their absence in the same order (insertion). A good map makes the deletion curve fall and the insertion curve rise
early: the smaller the area below the one, and the larger below the other, the better.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

Answer = Callable[[Tensor, Tensor], Tensor]
"""Pictures (n, C, H, W), and which rows of the batch they were made of (n,) -> a number for each, (n,)."""

Absent = Literal["blur", "mean"]

BLUR = 1 / 16
"""The blur's deviation as a share of a picture's side: faces and objects go, the light stays."""


@dataclass(frozen=True)
class Curves:
    """Answers at the `fractions` (P,) of changed pixels, (B, P) each."""

    fractions: Tensor
    deletion: Tensor
    insertion: Tensor

    @property
    def deletion_area(self) -> Tensor:
        """The area below the deletion curve, (B,)."""
        return torch.trapezoid(self.deletion, self.fractions, dim=1)

    @property
    def insertion_area(self) -> Tensor:
        """The area below the insertion curve, (B,)."""
        return torch.trapezoid(self.insertion, self.fractions, dim=1)


def without_evidence(pictures_BCHW: Tensor, kind: Absent) -> Tensor:
    """What stands for absent pixels, of the pictures' own type: a strong blur, or each channel's mean.

    >>> without_evidence(torch.tensor([[[[0.0, 4.0]]]]), "mean").tolist()
    [[[[2.0, 2.0]]]]
    """
    pixels = pictures_BCHW.float()
    if kind == "mean":
        gone = pixels.mean((2, 3), keepdim=True).expand_as(pixels)
    else:
        side = min(pixels.shape[-2:])
        deviation = max(0.5, side * BLUR)
        kernel = min(2 * round(2 * deviation) + 1, side - 1 + side % 2)  # odd, and no wider than reflection allows
        gone = gaussian_blur(pixels, [kernel, kernel], [deviation, deviation])
    return gone if pictures_BCHW.is_floating_point() else gone.round().to(pictures_BCHW.dtype)


def perturbation_curves(
    answer: Answer,
    pictures_BCHW: Tensor,
    *,
    maps_BHW: Tensor,
    absent_BCHW: Tensor,
    steps: int = 20,
    chunk: int = 32,
) -> Curves:
    """Deletion and insertion of any maps, in at most `steps` steps of equally many pixels; `chunk` pictures at a time.

    Pixels of equal value go in their own order, row by row. Raises ValueError where shapes differ.

    >>> x = torch.tensor([[[[0.4, 0.3], [0.2, 0.1]]]])
    >>> found = perturbation_curves(lambda p, rows: p.sum((1, 2, 3)), x, maps_BHW=x[:, 0],
    ...                             absent_BCHW=torch.zeros_like(x), steps=2)
    >>> round(found.deletion_area.item(), 4), round(found.insertion_area.item(), 4)
    (0.4, 0.6)
    """
    size, pixels = len(pictures_BCHW), maps_BHW[0].numel()
    if maps_BHW.shape != (size, *pictures_BCHW.shape[2:]) or absent_BCHW.shape != pictures_BCHW.shape:
        raise ValueError(
            f"maps {tuple(maps_BHW.shape)}, pictures {tuple(pictures_BCHW.shape)} and what stands for absence "
            f"{tuple(absent_BCHW.shape)} must have one size."
        )
    device = pictures_BCHW.device
    order = maps_BHW.flatten(1).to(device).argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(pixels, device=device).expand_as(order))
    step = -(-pixels // steps)
    counts = torch.tensor([*range(0, pixels, step), pixels], device=device)
    inner = counts[1:-1].tolist()
    # The whole picture and nothing of it end both curves: each is answered once.
    points = [(True, pixels), (False, pixels), *((False, n) for n in inner), *((True, n) for n in inner)]
    jobs = [(row, *point) for row in range(size) for point in points]
    values = []
    for start in range(0, len(jobs), chunk):
        rows, inserting, limits = (
            torch.tensor(part, device=device) for part in zip(*jobs[start : start + chunk], strict=True)
        )
        kept = ((rank[rows] < limits[:, None]) == inserting[:, None]).view(-1, 1, *pictures_BCHW.shape[2:])
        values.append(answer(torch.where(kept, pictures_BCHW[rows], absent_BCHW[rows]), rows).float().cpu())
    found = torch.cat(values).view(size, -1)
    whole, nothing, deleted, inserted = found.split([1, 1, len(inner), len(inner)], dim=1)
    fractions = counts.cpu().float() / pixels
    return Curves(fractions, torch.cat([whole, deleted, nothing], dim=1), torch.cat([nothing, inserted, whole], dim=1))
