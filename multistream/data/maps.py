"""Maps: additional images for each photo (depth, saliency): found, read and resized."""

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
from multistream.data.decoding import BadImage
from multistream.data.file_formats import ALLOWED
from multistream.data.table import Table
from multistream.errors import DataError, did_you_mean, printable

EXTENSIONS = (".png", ".npy", ".tif", ".tiff", ".jpg", ".jpeg", ".webp", ".bmp")
"""Endings of the files that `read_map` reads."""

COLUMN = "column:"

_SHOWN = 3


def find_maps(table: Table, source: str) -> tuple[Path, ...]:
    """As `find_some_maps`, where every image must have its own."""
    return tuple(path for path in find_some_maps(table, source, may_lack=False) if path is not None)


def find_some_maps(table: Table, source: str, *, may_lack: bool) -> tuple[Path | None, ...]:
    """The map of every image: in the folder `source`, which mirrors the images, or by the CSV column of that name.

    In a folder a map has the image's id but for the extension. "column:NAME", or NAME where the table has such a
    column, takes the paths that the CSV names. DataError with counts and names if maps are not unique, or are missing
    and none `may_lack` (then they are None).
    """
    name = source.removeprefix(COLUMN)
    if name in table.maps:
        return _existing([table.root / path for path in table.maps[name]], table, source, may_lack=may_lack)
    if source.startswith(COLUMN):
        what = f"{table.name} has no column of paths called {name!r}."
        raise DataError("maps", what, right=did_you_mean(name, table.maps))
    folder = Path(source).expanduser()
    if not folder.is_dir():
        columns = f", nor a column (there are {', '.join(map(printable, table.maps))})" if table.maps else ""
        do = "Give a folder that mirrors the images: joy/1.png for joy/1.jpg."
        raise DataError("maps", f"{source!r} is not a folder{columns}.", do=do)
    return _mirrored(table, folder, may_lack=may_lack)


def read_map(path: Path) -> NDArray[np.float32]:
    """A map as float32 (C, H, W): whole numbers scaled to 0..1 (grey of 1, 8 or 16 bits, RGB), others as they are.

    An .npy holds (H, W) or (C, H, W). BadImage if the file is damaged, holds NaN or Inf, or has no known scale.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadImage(path, "cannot be read", error.strerror or "") from error
    array = _from_npy(path, data) if path.suffix.lower() == ".npy" else _from_picture(path, data)
    if array.dtype.kind in "ub":
        bits = 1 if array.dtype.kind == "b" else 8 * array.dtype.itemsize
        array = array.astype(np.float32) / np.float32(2**bits - 1)
    elif array.dtype.kind != "f":
        raise BadImage(path, f"{array.dtype} has no known scale")
    if array.ndim not in (2, 3) or not array.size:
        raise BadImage(path, "no map", f"its shape is {array.shape}, it must be (H, W) or (C, H, W)")
    if not np.isfinite(array).all():
        raise BadImage(path, "NaN or Inf", f"{(~np.isfinite(array)).sum():,} of {array.size:,} values")
    return np.ascontiguousarray(array if array.ndim == 3 else array[None], dtype=np.float32)


def fit_map(
    map_CHW: NDArray[np.float32], size: int, resize: Literal["squash", "crop"] | str = "squash"
) -> NDArray[np.float32]:
    """A map (C, H, W) brought to (C, size, size) as photos are: antialiased bilinear, whole or its central square.

    >>> fit_map(np.ones((2, 30, 40), np.float32), 10, "crop").shape
    (2, 10, 10)
    """
    _, height, width = map_CHW.shape
    if resize not in ("squash", "crop"):
        raise ValueError(f"resize={resize!r} is unknown. It must be 'squash' or 'crop'.")
    if height == width == size:
        return np.ascontiguousarray(map_CHW, dtype=np.float32)
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side) if resize == "crop" else (0, 0, width, height)
    channels = [
        Image.fromarray(np.ascontiguousarray(channel, dtype=np.float32)).resize(
            (size, size), Image.Resampling.BILINEAR, box=box
        )
        for channel in map_CHW
    ]
    return np.stack([np.asarray(channel, dtype=np.float32) for channel in channels])


def find_map_files(folder: Path) -> dict[str, list[Path]]:
    """All files that may be maps below `folder`, by their path from there without the extension."""
    held: dict[str, list[Path]] = defaultdict(list)
    for place, _, names in os.walk(folder):  # does not follow links to folders: they may lead round
        for name in names:
            path = Path(place, name)
            if path.suffix.lower() in EXTENSIONS:
                held[path.relative_to(folder).with_suffix("").as_posix()].append(path)
    return dict(held)


def _mirrored(table: Table, folder: Path, *, may_lack: bool) -> tuple[Path | None, ...]:
    """The files below `folder` whose ids are the images' but for the extension."""
    held = find_map_files(folder)
    stems = [(image, _stem(image, held)) for image in table.ids]
    several = [image for image, stem in stems if len(held.get(stem, ())) > 1]
    if several:
        shown = ", ".join(path.name for path in held[_stem(several[0], held)])
        _refuse("have several maps", several, len(table), folder, right=f"The first has {printable(shown)}.")
    counts = Counter(stem for _, stem in stems)
    shared = [image for image, stem in stems if counts[stem] > 1]
    if shared:
        _refuse("share a map with another one of the same name", shared, len(table), folder, right="Rename one.")
    missing = [image for image, stem in stems if stem not in held]
    if missing and not (may_lack and len(missing) < len(table)):
        stem = str(PurePosixPath(missing[0]).with_suffix(""))
        right = f"The first is to be {stem}.png, or another of {', '.join(EXTENSIONS)}."
        _refuse("have no map", missing, len(table), folder, right=right)
    return tuple(held[stem][0] if stem in held else None for _, stem in stems)


def _stem(image: str, held: Mapping[str, object]) -> str:
    """The image's id without extension, or its longest suffix that a map has: photos to predict come with any path."""
    parts = PurePosixPath(image).with_suffix("").parts
    suffixes = ["/".join(parts[start:]) for start in range(len(parts))]
    return next((suffix for suffix in suffixes if suffix in held), str(PurePosixPath(image).with_suffix("")))


def _existing(paths: Sequence[Path], table: Table, source: str, *, may_lack: bool) -> tuple[Path | None, ...]:
    missing = [image for image, path in zip(table.ids, paths, strict=True) if not path.is_file()]
    if missing and not (may_lack and len(missing) < len(table)):
        _refuse("have no map", missing, len(table), Path(source), right="Paths are relative to the folder of the CSV.")
    return tuple(path if path.is_file() else None for path in paths)


def _refuse(what: str, images: Sequence[str], total: int, place: Path, *, right: str) -> None:
    shown = ", ".join(repr(image) for image in images[:_SHOWN])
    more = ", ..." if len(images) > _SHOWN else ""
    raise DataError(place, f"{len(images):,} of {total:,} images {what}: {shown}{more}.", right=right)


def _from_npy(path: Path, data: bytes) -> NDArray[Any]:
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (OSError, EOFError, ValueError, MemoryError) as error:
        raise BadImage(path, "damaged", str(error).partition("\n")[0]) from error
    if not isinstance(array, np.ndarray):
        raise BadImage(path, "no map", "it is an archive of arrays")
    return array


def _from_picture(path: Path, data: bytes) -> NDArray[Any]:
    """(H, W) or (C, H, W) of bool, uint8, uint16 or float32, upright."""
    if wrong := png.fault(data) if data.startswith(png.SIGNATURE) else "":
        raise BadImage(path, wrong)
    try:
        with Image.open(io.BytesIO(data), formats=ALLOWED) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
    # Pillow's decoders raise whatever a damaged file makes them stumble over: struct.error, KeyError, zlib.error...
    except Exception as error:
        raise BadImage(path, "damaged", str(error).partition("\n")[0]) from error
    if upright.mode == "P":
        upright = upright.convert("RGB")
    if upright.mode not in ("1", "L", "RGB", "F") and not upright.mode.startswith("I;16"):
        raise BadImage(path, f"mode {upright.mode} has no known scale", "save it as grey, RGB or .npy")
    array = np.asarray(upright)
    return array.transpose(2, 0, 1) if array.ndim == 3 else array
