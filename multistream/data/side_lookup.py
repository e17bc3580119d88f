"""Vectors and maps of photos that are read one at a time: found by exact id, or by order if they are arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from multistream.data.maps import EXTENSIONS, find_map_files
from multistream.data.side_inputs import MapReader, check_sources, named
from multistream.data.table import Table, VectorTable
from multistream.data.vectors import align, first_rows, read_vectors, repeated_ids
from multistream.errors import DataError, UsageError
from multistream.inputs import Input, Map, Vector, side_inputs_of

SideSource = str | Path | VectorTable | Mapping[str, Any] | NDArray[Any] | Sequence[Any]
"""A source of vectors or maps: a file or folder, {id: array}, or arrays in the order of the photos."""


class Lookup(Protocol):
    """Finds the side input of one stream for a photo."""

    def __call__(self, ids: Sequence[str], index: int) -> NDArray[np.float32] | None:
        """The array for the photo with one of these ids, at position `index`; None if there is none."""


@dataclass(frozen=True)
class ById:
    """Rows (N, D) by photo id; a row that is not finite counts as missing."""

    rows: NDArray[np.float32]
    row_of: Mapping[str, int]

    def __call__(self, ids: Sequence[str], index: int) -> NDArray[np.float32] | None:
        """The row of the first of the ids that has one."""
        del index
        row = named(self.row_of, *ids)
        return None if row is None or not np.isfinite(self.rows[row]).all() else self.rows[row]


@dataclass(frozen=True)
class ByOrder:
    """Arrays in the order of the photos, each of the stream's input `shape`."""

    arrays: Sequence[Any] | NDArray[Any]
    shape: tuple[int, ...]
    where: str

    def __call__(self, ids: Sequence[str], index: int) -> NDArray[np.float32] | None:
        """The array at this position; None beyond the last, for None, and if it is not finite."""
        del ids
        if index >= len(self.arrays) or self.arrays[index] is None:
            return None
        return _finite(self.arrays[index], f"number {index}", shape=self.shape, where=self.where)


@dataclass(frozen=True)
class MapById:
    """Map files, or arrays of the stream's input shape, by the photo's id without its extension."""

    maps: Mapping[str, Any]
    reader: MapReader
    where: str

    def __call__(self, ids: Sequence[str], index: int) -> NDArray[np.float32] | None:
        """The map of the photo; BadImage if the file is damaged."""
        del index
        match named(self.maps, *map(_stem, ids)):
            case None:
                return None
            case str() | Path() as file:
                return self.reader.read(Path(file))
            case array:
                return _finite(array, f"the map of {ids[0]!r}", shape=self.reader.wanted.shape, where=self.where)


def _finite(given: Any, name: str, *, shape: tuple[int, ...], where: str) -> NDArray[np.float32] | None:
    """A caller's array; None if it is not finite. DataError if it has another shape."""
    array = np.asarray(given, dtype=np.float32)
    if array.shape != shape:
        raise DataError(where, f"{name} has the shape {array.shape}.", right=f"It must be {shape}.")
    return array if np.isfinite(array).all() else None


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def side_lookups(
    inputs: Mapping[str, Input], given: Mapping[str, SideSource], *, resize: str, own: Table | None = None
) -> dict[str, Lookup]:
    """A Lookup for each stream that reads vectors or maps and has a source, by key; other streams have no entry.

    `given` are sources by stream key or input name. For streams without one, the vectors and maps of `own`, the run's
    data set, are used.
    """
    check_sources(given, inputs)
    lookups: dict[str, Lookup] = {}
    for key, each in side_inputs_of(inputs).items():
        source = named(given, key, each.name)
        if source is None and own is not None:
            source = _own(own, key, each)
        if source is not None:
            lookups[key] = _vectors(key, each, source) if isinstance(each, Vector) else _maps(key, each, source, resize)
    return lookups


def _own(own: Table, key: str, each: Vector | Map) -> SideSource | None:
    """The vectors of the run's data set, or its map files by image id."""
    if isinstance(each, Vector):
        return named(own.vectors, key, each.name)
    column = named(own.maps, key, each.name)
    return dict(zip(own.ids, map(own.root.joinpath, column), strict=True)) if column else None


def _vectors(key: str, wanted: Vector, source: SideSource) -> Lookup:
    where = f"input.{key}"
    match source:
        case str() | Path():
            source = read_vectors(Path(source).expanduser())
        case Mapping():
            source = VectorTable(tuple(source), equal_vectors(source.values(), where=where))
        case np.ndarray(ndim=1):
            source = source[None]
    if not isinstance(source, VectorTable):
        return ByOrder(source, wanted.shape, where)
    table = align(source, wanted.vocabulary, width=wanted.width, where=where)
    repeated_ids(table, where)
    return ById(table.features, first_rows(table.ids))


def equal_vectors(vectors: Iterable[Any], *, where: str) -> NDArray[np.float32]:
    """A caller's vectors as rows (N, D); DataError if they are not numbers, or differ in length."""
    right = "All vectors must be numbers, (D,) with one D."
    try:
        rows = np.asarray(list(vectors), dtype=np.float32)
    except (TypeError, ValueError) as error:  # NumPy raises these for both
        raise DataError(where, f"these are not vectors: {error}.", right=right) from error
    if rows.ndim != 2:
        raise DataError(where, f"they have the shape {rows.shape} together.", right=right)
    return rows


def _maps(key: str, wanted: Map, source: SideSource, resize: str) -> Lookup:
    where, reader = f"input.{key}", MapReader((), wanted, resize)
    match source:
        case str() | Path():
            folder = Path(source).expanduser()
            if not folder.is_dir():
                do = f"Pass a folder that mirrors the photos: joy/1{EXTENSIONS[0]} for joy/1.jpg."
                raise DataError(where, f"{folder} is not a folder.", do=do)
            files = {stem: found[0] for stem, found in find_map_files(folder).items() if len(found) == 1}
            return MapById(files, reader, where)
        case Mapping():
            return MapById(dict(zip(map(_stem, source), source.values(), strict=True)), reader, where)
        case VectorTable():
            raise UsageError(where, "this stream needs maps, but vectors were given.")
    return ByOrder(source, wanted.shape, where)
