"""The columns of a batch of arrays: photos, and the vectors and maps of streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multistream.data.decode_workers import Pool
from multistream.data.given_photos import GivenPhoto, given_photos
from multistream.data.side_lookup import ByOrder, Lookup
from multistream.errors import DataError
from multistream.inference.groups import GROUP, GroupReader, ReadPhoto
from multistream.inputs import Input, names_of, side_inputs_of

PHOTOS = ("bytes", "image", "photo")
"""Columns that may hold photos: file contents, uint8 arrays (H, W, 3), or Hugging Face's {"bytes", "path"}."""

PATH = "path"
STATUS = "status"

Columns = Mapping[str, Any]


def length_of(batch: Columns) -> int:
    """Returns the number of rows of a batch. Raises DataError if its columns differ."""
    lengths = {name: len(column) for name, column in batch.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(
            "batch", f"its columns have {lengths} rows.", right="All columns must have the same number of rows."
        )
    return next(iter(lengths.values()), 0)


def photos_of(batch: Columns, *, limit: int) -> list[GivenPhoto]:
    """Returns one photo per row, from the column of contents or else the paths; its name is its path, if it has one."""
    column = next((batch[name] for name in (*PHOTOS, PATH) if name in batch), None)
    if column is None:
        right = f"One column must be called {', '.join(PHOTOS)} or {PATH}."
        raise DataError("batch", f"it has no photos, but {', '.join(batch) or 'nothing'}.", right=right)
    names = batch.get(PATH, [f"<row {i}>" for i in range(len(column))])
    return [_photo(value, str(name), limit=limit) for value, name in zip(column, names, strict=True)]


def _photo(value: Any, name: str, *, limit: int) -> GivenPhoto:
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, np.str_):
        value = str(value)
    photos = list(given_photos([value], limit=limit))
    # A folder is not accepted, because one row must remain one row.
    content = photos[0].content if len(photos) == 1 else None
    return GivenPhoto.bad(name, "not a photo") if content is None else GivenPhoto(name, (name,), content)


def lookups_of(batch: Columns, inputs: Mapping[str, Input]) -> dict[str, Lookup]:
    """Returns vectors (N, D) and maps (N, C, S, S) by stream key; their columns are named by key or input name."""
    found: dict[str, Lookup] = {}
    for key, each in side_inputs_of(inputs).items():
        if name := next((name for name in (key, each.name) if name in batch), ""):
            found[key] = ByOrder(batch[name], each.shape, f"batch.{name}")
    return found


def read_rows(reader: GroupReader, batch: Columns, *, workers: int) -> tuple[list[ReadPhoto | str], list[str]]:
    """Reads each row; returns its arrays or the reason why it cannot be used, and its status."""
    rows = length_of(batch)
    if reader.decoder is not None:
        photos = photos_of(batch, limit=reader.decoder.max_bytes)
    else:
        photos = [GivenPhoto(str(i), (), b"") for i in range(rows)]
    lookups = lookups_of(batch, reader.inputs)
    reader.check_lookups(lookups)
    with Pool(workers) as pool:
        futures = [pool.submit(reader.read, photo, lookups, i) for i, photo in enumerate(photos)]
        outcomes = reader.finish([future.result() for future in futures])
    return outcomes, [outcome if isinstance(outcome, str) else "ok" for outcome in outcomes]


def in_groups(outcomes: Sequence[ReadPhoto | str]) -> list[tuple[NDArray[np.int64], list[ReadPhoto]]]:
    """Groups the usable rows; returns (row numbers, photos) for each group."""
    usable = [(i, outcome) for i, outcome in enumerate(outcomes) if isinstance(outcome, ReadPhoto)]
    groups = (zip(*usable[start : start + GROUP], strict=True) for start in range(0, len(usable), GROUP))
    return [(np.array(rows), list(photos)) for rows, photos in groups]


def kept_columns(batch: Columns, inputs: Mapping[str, Input]) -> dict[str, NDArray[Any]]:
    """Returns the columns that are passed on: all except photos, vectors and maps."""
    read = {*PHOTOS, *names_of(inputs)}
    return {name: np.asarray(column) for name, column in batch.items() if name not in read}
