"""Localisation: does a map point to where the object is known to lie? The pointing game, and the energy in a mask.

Masks are boxes in a CSV or a folder of pictures. Chance for both measures is the mask's fraction of the pixels.
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
"""Of a CSV of boxes, in the photo's own pixels; right and bottom are exclusive. A photo may have several rows."""

Mask = NDArray[np.bool_]
ReadMask = Callable[[int], Mask]
"""The index of a photo -> its mask (S, S)."""

Box = tuple[float, float, float, float]


def points_into(maps_Bhw: Tensor, masks_Bhw: Tensor) -> Tensor:
    """Whether each map's largest pixel lies in its mask, (B,) bool.

    >>> points_into(torch.tensor([[[0.0, 2.0]]]), torch.tensor([[[False, True]]])).tolist()
    [True]
    """
    _check(maps_Bhw, masks_Bhw)
    return masks_Bhw.flatten(1).gather(1, maps_Bhw.flatten(1).argmax(1, keepdim=True))[:, 0]


def energy_in(maps_Bhw: Tensor, masks_Bhw: Tensor) -> Tensor:
    """The fraction of each map's positive sum that lies in its mask, (B,) float64; NaN where nothing is positive.

    After the energy-based pointing game of Wang et al. (Score-CAM, 2020): unlike the largest pixel alone, it
    counts the rest of the map too.

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
    """Of `n` photos: how often the largest pixel of a stream's map lies in the mask, and the energy there.

    `energy` is the fraction of the positive contributions that lies in the mask, over the `positive` photos that have
    any. `chance` is the masks' mean fraction of the pixels, which a map of noise reaches in both.
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
    """Collects the pointing game and the energy in masks."""

    def __init__(self) -> None:
        self.parts: dict[str, list[Tensor]] = {}

    def add(self, key: str, maps: Tensor, masks: Tensor) -> None:
        """Maps and masks (B, S, S) of a stream."""
        fractions = masks.double().mean((1, 2))
        rows = torch.stack([points_into(maps, masks).double(), energy_in(maps, masks), fractions], dim=1)
        self.parts.setdefault(key, []).append(rows)

    def results(self) -> tuple[Localisation, ...]:
        """One for each stream."""
        made = []
        for key, parts in self.parts.items():
            table = torch.cat(parts).numpy()
            n, hits = len(table), int(table[:, 0].sum())
            energy = table[~np.isnan(table[:, 1]), 1]
            nothing = (float("nan"), float("nan"))
            made.append(
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
        return tuple(made)


def masks_of(table: Table, source: str | Path, *, size: int, resize: str) -> ReadMask:
    """Reads the masks of a table's photos, brought to the square that the network sees.

    `source` is a folder that mirrors the photos (what is not black is inside), or a CSV of boxes. DataError for a
    photo without a mask, with counts; for a mask or box that contains no pixel.
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
    """The mask as the network sees the photo: a pixel belongs to it that lies in it by half."""
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
