"""Localisation: how well a map points to the known object: the pointing game, and the energy in a mask.

Masks are boxes in a CSV, or images in a folder. The chance level of both measures is the mask's fraction of the pixels.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from multistream.bootstrap import Interval, paired_bootstrap
from multistream.data.maps import find_maps, fit_map, read_map
from multistream.data.table import Table
from multistream.errors import DataError
from multistream.records import JsonRecord
from multistream.statistics import wilson

COLUMNS = ("path", "left", "top", "right", "bottom")
"""The columns of a CSV of boxes, in pixels of the photo; right and bottom are exclusive. A photo may have several."""

Mask = NDArray[np.bool_]
ReadMask = Callable[[int], Mask]
"""The row of a photo -> its mask (S, S)."""

Box = tuple[float, float, float, float]


def points_into(maps_Bhw: Tensor, masks_Bhw: Tensor) -> Tensor:
    """Returns whether each map's largest pixel is in its mask, (B,) bool.

    >>> points_into(torch.tensor([[[0.0, 2.0]]]), torch.tensor([[[False, True]]])).tolist()
    [True]
    """
    _check(maps_Bhw, masks_Bhw)
    return masks_Bhw.flatten(1).gather(1, maps_Bhw.flatten(1).argmax(1, keepdim=True))[:, 0]


def energy_in(maps_Bhw: Tensor, masks_Bhw: Tensor) -> Tensor:
    """Returns the fraction of each map's positive sum inside its mask, (B,) float64; NaN if no pixel is positive.

    This is the energy-based pointing game of Wang et al. (Score-CAM, 2020). Unlike the pointing game, it uses the whole
    map.

    >>> energy_in(torch.tensor([[[3.0, 1.0, -5.0]]]), torch.tensor([[[True, False, True]]])).tolist()
    [0.75]
    """
    _check(maps_Bhw, masks_Bhw)
    positive = maps_Bhw.double().clamp_min(0)
    return (positive * masks_Bhw).sum((1, 2)) / positive.sum((1, 2))


def _check(maps_Bhw: Tensor, masks_Bhw: Tensor) -> None:
    if maps_Bhw.shape != masks_Bhw.shape:
        raise ValueError(f"maps {tuple(maps_Bhw.shape)} and masks {tuple(masks_Bhw.shape)} must have one shape.")


@dataclass(frozen=True)
class Localisation(JsonRecord):
    """The pointing game and the energy in masks of one stream's maps, over `n` photos.

    `pointing` is the fraction of photos whose largest pixel is in the mask. `energy` is the mean fraction of the
    positive contributions inside the mask, over the `positive` photos that have any. `chance` is the masks' mean
    fraction of the pixels, which a noise map reaches in both.
    """

    stream: str
    n: int
    chance: float
    pointing: float
    pointing_ci95: Interval
    energy: float
    energy_ci95: Interval
    positive: int


class LocalisationMeter:
    """Collects the pointing game and the energy in masks, batch by batch."""

    def __init__(self) -> None:
        self.parts: dict[str, list[Tensor]] = {}

    def add(self, key: str, maps: Tensor, masks: Tensor) -> None:
        """Adds the maps and masks (B, S, S) of a stream."""
        fractions = masks.double().mean((1, 2))
        rows = torch.stack([points_into(maps, masks).double(), energy_in(maps, masks), fractions], dim=1)
        self.parts.setdefault(key, []).append(rows)

    def results(self) -> tuple[Localisation, ...]:
        """Returns one result for each stream."""
        results = []
        for key, parts in self.parts.items():
            table = torch.cat(parts).numpy()
            n, hits = len(table), int(table[:, 0].sum())
            energy = table[~np.isnan(table[:, 1]), 1]
            nothing = (float("nan"), float("nan"))
            results.append(
                Localisation(
                    stream=key,
                    n=n,
                    chance=float(table[:, 2].mean()),
                    pointing=hits / n,
                    pointing_ci95=wilson(hits, n),
                    energy=float(energy.mean()) if len(energy) else float("nan"),
                    energy_ci95=paired_bootstrap(energy) if len(energy) else nothing,
                    positive=len(energy),
                )
            )
        return tuple(results)


def masks_of(table: Table, source: str | Path, *, size: int, resize: str) -> ReadMask:
    """Returns a function that reads the mask of a photo, resized or cropped like the network's input.

    `source` is a folder of images that mirrors the photos (pixels that are not black are in the mask), or a CSV of
    boxes. Raises DataError for photos without a mask (with counts), and for a mask or box that contains no pixel.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        files = find_maps(table, str(path))
        return lambda index: _fitted(read_map(files[index]).max(0) > 0, size, resize, files[index])
    boxes = _read_boxes(path)
    missing = [name for name in table.ids if name not in boxes]
    if missing:
        what = f"{len(missing):,} of {len(table):,} photos have no box, for example {missing[0]}."
        raise DataError(path, what, right="The column path must hold the photos' ids, as in predictions.csv.")

    def read(index: int) -> Mask:
        with Image.open(table.path(index)) as image:
            width, height = ImageOps.exif_transpose(image).size if image.getexif().get(0x0112, 1) > 4 else image.size
        mask = np.zeros((height, width), dtype=bool)
        for left, top, right, bottom in boxes[table.ids[index]]:
            mask[max(0, round(top)) : max(0, round(bottom)), max(0, round(left)) : max(0, round(right))] = True
        return _fitted(mask, size, resize, table.path(index))

    return read


def _fitted(mask: Mask, size: int, resize: str, path: Path) -> Mask:
    """Resizes or crops the mask like the network's input; a pixel is in the mask if at least half of it is."""
    fitted: Mask = fit_map(mask[None].astype(np.float32), size, resize)[0] >= 0.5
    if not fitted.any():
        raise DataError(path, "its mask is empty after resizing to the network's input.")
    return fitted


def _read_boxes(path: Path) -> dict[str, list[Box]]:
    boxes: dict[str, list[Box]] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if missing := set(COLUMNS) - set(reader.fieldnames or ()):
                what = f"the columns {', '.join(sorted(missing))} are missing."
                raise DataError(path, what, right=f"Columns: {', '.join(COLUMNS)}.")
            for row in reader:
                boxes.setdefault(row["path"], []).append(_box(row, f"{path}, line {reader.line_num}"))
    except OSError as error:
        raise DataError(path, f"it cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DataError(path, "it is not text in UTF-8.") from error
    return boxes


def _box(row: dict[str, str], where: str) -> Box:
    try:
        left, top, right, bottom = (float(row[name]) for name in COLUMNS[1:])
    except (TypeError, ValueError) as error:
        raise DataError(where, "a box coordinate is not a number.") from error
    if not (left < right and top < bottom and np.isfinite([left, top, right, bottom]).all()):
        raise DataError(where, f"the box {left:g} {top:g} {right:g} {bottom:g} contains no pixel.")
    return left, top, right, bottom
