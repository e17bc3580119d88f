"""Maps made small enough for a page: sums over blocks, which keep the total, in int8 with one scale a stage."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

FINEST, COARSEST = 28, 4
"""Cells a side of the maps that a page stores."""


@dataclass(frozen=True)
class Packed:
    """A stack of maps (K, h, w) as base64 of int8, row by row; a cell is `scale` times its number."""

    rows: int
    columns: int
    scale: float
    data: str
    error: float
    """The largest error of a cell, as a share of the largest cell."""


def pack(maps_Khw: Tensor, *, side: int) -> Packed:
    """Maps at no more than `side` cells a side."""
    cells = block_sums(maps_Khw, side=side)
    largest = float(cells.abs().max())
    scale = largest / 127 or 1.0
    whole = (cells / scale).round().to(torch.int8)
    error = float((whole * scale - cells).abs().max()) / (largest or 1.0)
    data = base64.b64encode(whole.contiguous().numpy().tobytes()).decode("ascii")
    return Packed(cells.shape[1], cells.shape[2], scale, data, error)


def block_sums(maps: Tensor, *, side: int) -> Tensor:
    """Maps (..., h, w) with at most `side` rows and columns, float64; a pixel on a border is shared by its area.

    >>> block_sums(torch.ones(1, 3, 3), side=2).tolist()
    [[[2.25, 2.25], [2.25, 2.25]]]
    """
    height, width = maps.shape[-2:]
    return _shares(height, min(height, side)) @ maps.double().cpu() @ _shares(width, min(width, side)).T


def _shares(pixels: int, cells: int) -> Tensor:
    """(cells, pixels): the share of each pixel that lies in each cell; the columns sum to 1."""
    edges = torch.linspace(0, pixels, cells + 1, dtype=torch.float64)
    low, high = edges[:-1, None], edges[1:, None]
    pixel = torch.arange(pixels, dtype=torch.float64)
    return (torch.minimum(high, pixel + 1) - torch.maximum(low, pixel)).clamp_min(0)


def affordable_side(shapes: Iterable[tuple[int, int]], *, classes: int, budget: int) -> int:
    """The finest side at which maps of these shapes, for so many classes, take at most `budget` bytes."""
    known = list(shapes)
    for side in range(FINEST, COARSEST, -1):
        if classes * sum(min(h, side) * min(w, side) for h, w in known) <= budget:
            return side
    return COARSEST
