"""Compact encoding of maps and images for the page: block sums in int8, thumbnails in WebP, both as base64."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor

from multistream.data.decoding import Decoder

FINEST, COARSEST = 28, 4
"""Cells per side of the maps that a page stores."""
THUMBNAIL_SIDE = 224
THUMBNAIL_BYTES = 12_000
"""The quality of a thumbnail is reduced until it fits in this size (or is at its lowest)."""


@dataclass(frozen=True)
class EncodedMaps:
    """A stack of maps (K, h, w) as base64 of int8, row by row; a cell's value is `scale` times its integer."""

    rows: int
    columns: int
    scale: float
    data: str
    error: float
    """The largest error of a cell, as a fraction of the largest cell value."""


def encode_maps(maps_Khw: Tensor, *, side: int) -> EncodedMaps:
    """Encodes maps as block sums with at most `side` rows and columns, in int8 with a common scale."""
    cells = block_sums(maps_Khw, side=side)
    largest = float(cells.abs().max())
    scale = largest / 127 or 1.0
    integers = (cells / scale).round().to(torch.int8)
    error = float((integers * scale - cells).abs().max()) / (largest or 1.0)
    data = base64.b64encode(integers.contiguous().numpy().tobytes()).decode("ascii")
    return EncodedMaps(cells.shape[1], cells.shape[2], scale, data, error)


def block_sums(maps: Tensor, *, side: int) -> Tensor:
    """Sums maps (..., h, w) over blocks to at most `side` rows and columns, float64; border pixels are split by area.

    >>> block_sums(torch.ones(1, 3, 3), side=2).tolist()
    [[[2.25, 2.25], [2.25, 2.25]]]
    """
    height, width = maps.shape[-2:]
    return _overlaps(height, min(height, side)) @ maps.double().cpu() @ _overlaps(width, min(width, side)).T


def _overlaps(pixels: int, cells: int) -> Tensor:
    """Returns (cells, pixels): the fraction of each pixel inside each cell; the columns sum to 1."""
    edges = torch.linspace(0, pixels, cells + 1, dtype=torch.float64)
    low, high = edges[:-1, None], edges[1:, None]
    pixel = torch.arange(pixels, dtype=torch.float64)
    return (torch.minimum(high, pixel + 1) - torch.maximum(low, pixel)).clamp_min(0)


def affordable_side(shapes: Iterable[tuple[int, int]], *, classes: int, budget: int) -> int:
    """Returns the largest side at which maps of these shapes for all classes need at most `budget` bytes."""
    sizes = list(shapes)
    for side in range(FINEST, COARSEST, -1):
        if classes * sum(min(h, side) * min(w, side) for h, w in sizes) <= budget:
            return side
    return COARSEST


@dataclass(frozen=True)
class Thumbnail:
    """An image as a data URI, with its size in pixels on the page."""

    uri: str
    width: int
    height: int


def thumbnail(decoder: Decoder, path: Path) -> Thumbnail:
    """Makes a thumbnail of the network's input; a squashed image is restored to its own aspect ratio."""
    seen = Image.fromarray(decoder.read(path).transpose(1, 2, 0))
    width, height = _shape(decoder, path)
    shown = seen.resize((width, height), Image.Resampling.BICUBIC) if max(seen.size) > 96 else seen
    for quality in (95 if shown is seen else 80, 65, 50, 35, 20):
        data = io.BytesIO()
        shown.save(data, "WEBP", quality=quality, method=4)
        if data.tell() <= THUMBNAIL_BYTES:
            break
    return Thumbnail("data:image/webp;base64," + base64.b64encode(data.getvalue()).decode("ascii"), width, height)


def _shape(decoder: Decoder, path: Path) -> tuple[int, int]:
    """Returns width and height on the page; the longer side is THUMBNAIL_SIDE."""
    if decoder.resize == "crop":
        return THUMBNAIL_SIDE, THUMBNAIL_SIDE
    with Image.open(path) as image:
        size = ImageOps.exif_transpose(image).size if image.getexif().get(0x0112, 1) > 4 else image.size
    factor = THUMBNAIL_SIDE / max(size)
    return max(1, round(factor * size[0])), max(1, round(factor * size[1]))
