"""Maps, additional images for each photo (depth, saliency): finding, reading and resizing them."""

from __future__ import annotations

import io
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from multistream.data import png
from multistream.data.decoding import BOXES, BadImage, bad_image
from multistream.data.file_formats import ALLOWED
from multistream.data.filenames import path_ends
from multistream.data.table import Table
from multistream.errors import DataError, did_you_mean, said_by, some_of

EXTENSIONS = (".png", ".npy", ".tif", ".tiff", ".jpg", ".jpeg", ".webp", ".bmp")
"""Suffixes of the files that `read_map` reads."""

COLUMN = "column:"

_MODES = ("1", "L", "RGB", "F", "I;16", "I;16B", "I;16L", "I;16N")
"""Pillow's modes whose values have a known scale."""


def find_maps(table: Table, source: str) -> tuple[Path, ...]:
    """As `find_some_maps`; raises DataError if an image has no map."""
    return tuple(path for path in find_some_maps(table, source, may_lack=False) if path is not None)


def find_some_maps(table: Table, source: str, *, may_lack: bool) -> tuple[Path | None, ...]:
    """The map of every image, from the folder `source`, which mirrors the images, or from the CSV column of that name.

    In a folder, a map has the image's id with another extension. "column:NAME", or NAME if the table has such a column,
    uses the paths in the CSV. An image without a map gets None if `may_lack`. Raises DataError, with counts and names,
    if maps are not unique, if some are missing without `may_lack`, or if all are missing.
    """
    name = source.removeprefix(COLUMN)
    if name in table.maps:
        found = [file if (file := table.root / path).is_file() else None for path in table.maps[name]]
        return _checked(found, table, source, may_lack=may_lack, right="Paths are relative to the folder of the CSV.")
    if source.startswith(COLUMN):
        what = f"{table.name} has no column of paths called {name!r}."
        raise DataError("maps", what, right=did_you_mean(name, table.maps))
    folder = Path(source).expanduser()
    if not folder.is_dir():
        columns = f", nor a column (there are {', '.join(table.maps)})" if table.maps else ""
        do = "Pass a folder that mirrors the images: joy/1.png for joy/1.jpg."
        raise DataError("maps", f"{source!r} is not a folder{columns}.", do=do)
    right = f"A map is called like its image, but ends in {', '.join(EXTENSIONS)}."
    return _checked(_mirrored(table, folder), table, str(folder), may_lack=may_lack, right=right)


def read_map(path: Path) -> NDArray[np.float32]:
    """Reads a map as float32 (C, H, W): integers are scaled to 0..1 (grey of 1, 8 or 16 bits, RGB), floats are not.

    An .npy file holds (H, W) or (C, H, W). BadImage if the file is damaged, holds NaN or Inf, or has no known scale.
    """
    with bad_image(path, lambda _: "cannot be read"):
        data = path.read_bytes()
    array = _from_npy(path, data) if path.suffix.lower() == ".npy" else _from_picture(path, data)
    if array.dtype.kind not in "ubf":
        raise BadImage(path, f"{array.dtype} has no known scale")
    if array.ndim not in (2, 3) or not array.size:
        raise BadImage(path, "no map", f"its shape is {array.shape}, it must be (H, W) or (C, H, W)")
    if count := (~np.isfinite(array)).sum():
        raise BadImage(path, "NaN or Inf", f"{count:,} of {array.size:,} values")
    if array.dtype.kind == "u":
        array = array.astype(np.float32) / np.float32(np.iinfo(array.dtype).max)
    return np.ascontiguousarray(array.reshape(-1, *array.shape[-2:]), dtype=np.float32)


def fit_map(
    map_CHW: NDArray[np.float32], size: int, resize: Literal["squash", "crop"] | str = "squash"
) -> NDArray[np.float32]:
    """Resizes a map (C, H, W) to (C, size, size) like photos: antialiased bilinear, whole or its central square.

    >>> fit_map(np.ones((2, 30, 40), np.float32), 10, "crop").shape
    (2, 10, 10)
    """
    _, height, width = map_CHW.shape
    if resize not in BOXES:
        raise ValueError(f"resize={resize!r} is unknown. It must be 'squash' or 'crop'.")
    if height == width == size:
        return np.ascontiguousarray(map_CHW, dtype=np.float32)
    box = BOXES[resize](width, height)
    channels = map(Image.fromarray, np.ascontiguousarray(map_CHW, dtype=np.float32))
    resized = (channel.resize((size, size), Image.Resampling.BILINEAR, box=box) for channel in channels)
    return np.stack([*map(np.asarray, resized)])


def find_map_files(folder: Path) -> dict[str, list[Path]]:
    """All files with a map's suffix below `folder`, by relative path without the extension."""
    held: dict[str, list[Path]] = defaultdict(list)
    for place, _, names in os.walk(folder):  # does not follow links to folders, which may form loops
        for name in names:
            path = Path(place, name)
            if path.suffix.lower() in EXTENSIONS:
                held[path.relative_to(folder).with_suffix("").as_posix()].append(path)
    return dict(held)


def _mirrored(table: Table, folder: Path) -> list[Path | None]:
    """The files below `folder` with the images' ids, except the extension; DataError if they are not unique."""
    held = find_map_files(folder)
    stems = {image: _stem(image, held) for image in table.ids}
    counts = Counter(stems.values())
    several = [image for image, stem in stems.items() if len(held.get(stem, ())) > 1]
    _refuse(several, "have several maps", len(table), folder, right="Keep one of each.")
    shared = [image for image, stem in stems.items() if counts[stem] > 1]
    _refuse(shared, "share a map with another one of the same name", len(table), folder, right="Rename one.")
    return [held.get(stem, [None])[0] for stem in stems.values()]


def _stem(image: str, held: Mapping[str, object]) -> str:
    """The image's id without extension, or its longest suffix that a map has; photos to predict may have any path."""
    whole = PurePosixPath(image).with_suffix("").as_posix()
    return next((end for end in path_ends(whole) if end in held), whole)


def _checked(
    found: Sequence[Path | None], table: Table, place: str, *, may_lack: bool, right: str
) -> tuple[Path | None, ...]:
    """Returns the maps; DataError if some are missing without `may_lack`, or if all are missing."""
    missing = [image for image, path in zip(table.ids, found, strict=True) if path is None]
    if not may_lack or len(missing) == len(table):
        _refuse(missing, "have no map", len(table), place, right=right)
    return tuple(found)


def _refuse(images: Sequence[str], what: str, total: int, place: Path | str, *, right: str) -> None:
    """Raises DataError if there are such images."""
    if images:
        shown = some_of(map(repr, images))
        raise DataError(place, f"{len(images):,} of {total:,} images {what}: {shown}.", right=right)


def _from_npy(path: Path, data: bytes) -> NDArray[Any]:
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (OSError, EOFError, ValueError, MemoryError) as error:
        raise BadImage(path, "damaged", said_by(error)) from error
    if not isinstance(array, np.ndarray):
        raise BadImage(path, "no map", "it is an archive of arrays")
    return array


def _from_picture(path: Path, data: bytes) -> NDArray[Any]:
    """(C, H, W) of bool, uint8, uint16 or float32, upright."""
    if wrong := png.fault(data):
        raise BadImage(path, wrong)
    with bad_image(path, lambda _: "damaged"), Image.open(io.BytesIO(data), formats=ALLOWED) as image:
        image.load()
        upright = ImageOps.exif_transpose(image)
    if upright.mode == "P":
        upright = upright.convert("RGB")
    if upright.mode not in _MODES:
        raise BadImage(path, f"mode {upright.mode} has no known scale", "save it as grey, RGB or .npy")
    return np.atleast_3d(np.asarray(upright)).transpose(2, 0, 1)
