"""Masks: where the evidence of each photo is known to lie, as a folder of pictures or a CSV of boxes."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from multistream.data.filenames import printable
from multistream.data.maps import find_maps, fit_map, read_map
from multistream.data.table import Table
from multistream.errors import DataError

COLUMNS = ("path", "left", "top", "right", "bottom")
"""Of a CSV of boxes, in the photo's own pixels; right and bottom are excluded. A photo may have several rows."""

Mask = NDArray[np.bool_]
ReadMask = Callable[[int], Mask]
"""The index of a photo -> its mask (S, S)."""

Box = tuple[float, float, float, float]


def masks_of(table: Table, source: str | Path, *, size: int, resize: str) -> ReadMask:
    """Reads the masks of a table's photos, brought to the square that the network sees.

    `source` is a folder that mirrors the photos (what is not black is inside), or a CSV of boxes. DataError for a
    photo without a mask, with counts; for a mask or box that holds no pixel.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        files = find_maps(table, str(path))
        return lambda index: _fitted(read_map(files[index]).max(0) > 0, size, resize, files[index])
    boxes = _read_boxes(path)
    missing = [name for name in table.ids if name not in boxes]
    if missing:
        what = f"{len(missing):,} of {len(table):,} photos have no box, {printable(missing[0])} say."
        raise DataError(str(path), what, right="The column path holds the photos' ids, as in predictions.csv.")

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
        raise DataError(printable(str(path)), "its mask is empty in what the network sees.")
    return fitted


def _read_boxes(path: Path) -> dict[str, list[Box]]:
    boxes: dict[str, list[Box]] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if missing := set(COLUMNS) - set(reader.fieldnames or ()):
                what = f"the columns {', '.join(sorted(missing))} are missing."
                raise DataError(str(path), what, right=f"Columns: {', '.join(COLUMNS)}.")
            for row in reader:
                boxes.setdefault(row["path"], []).append(_box(row, f"{path}, line {reader.line_num}"))
    except OSError as error:
        raise DataError(str(path), f"it cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DataError(str(path), "it is no text in UTF-8.") from error
    return boxes


def _box(row: dict[str, str], where: str) -> Box:
    try:
        left, top, right, bottom = (float(row[name]) for name in COLUMNS[1:])
    except (TypeError, ValueError) as error:
        raise DataError(where, "a side of the box is no number.") from error
    if not (left < right and top < bottom and np.isfinite([left, top, right, bottom]).all()):
        raise DataError(where, f"the box {left:g} {top:g} {right:g} {bottom:g} holds no pixel.")
    return left, top, right, bottom
