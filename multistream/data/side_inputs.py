"""Side inputs: finds the Vectors and Maps of a composition, joins them by image id, and counts them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from multistream.data.maps import COLUMN, find_some_maps, fit_map
from multistream.data.table import Table, VectorTable
from multistream.data.vectors import Joined, align, join, read_vectors
from multistream.errors import DataError, did_you_mean
from multistream.inputs import Input, Map, Vector, names_of, side_inputs_of
from multistream.recipe import MissingVectors
from multistream.registry import Spec, build, find, signature

T = TypeVar("T")

ReadMap = Callable[[int], NDArray[np.float32]]


@dataclass(frozen=True)
class MapReader:
    """Reads the maps of all images, by index, for the input `wanted`."""

    paths: tuple[Path | None, ...]
    wanted: Map
    resize: str

    @property
    def present(self) -> NDArray[np.bool_]:
        """Whether each image has a map, (N,)."""
        return np.array([path is not None for path in self.paths])

    def __call__(self, index: int) -> NDArray[np.float32]:
        """The map of one image, (C, size, size); zeros for an image without one."""
        path = self.paths[index]
        if path is None:
            return np.zeros(self.wanted.shape, dtype=np.float32)
        return self.read(path)

    def read(self, path: Path) -> NDArray[np.float32]:
        """The map in this file, (C, size, size)."""
        array = self.wanted.read(path)
        if array.ndim != 3 or array.shape[0] != self.wanted.channels:
            right = f"{self.wanted.name} needs (C, H, W) with C={self.wanted.channels}."
            raise DataError(path, f"the map has shape {array.shape}.", right=right)
        return fit_map(array, self.wanted.size, self.resize)


@dataclass(frozen=True)
class SideInputs:
    """Vectors (N, D) and map readers by stream key, row i for image i; `usable` (N,) is False for rows to leave out.

    `present` (N,), by stream key, is True for images that have the input; the rows of the others are filled.
    """

    vectors: Mapping[str, NDArray[np.float32]]
    maps: Mapping[str, ReadMap]
    usable: NDArray[np.bool_]
    notes: tuple[str, ...]
    present: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)

    def filled(self, means: Mapping[str, NDArray[np.float32]]) -> SideInputs:
        """The same side inputs with these means (D,), by stream key, for images without a vector."""
        rows = {
            key: np.where(self.present[key][:, None], found, means[key]).astype(np.float32) if key in means else found
            for key, found in self.vectors.items()
        }
        return replace(self, vectors=rows)


def gather(
    table: Table,
    inputs: Mapping[str, Input],
    sources: Mapping[str, str],
    *,
    missing: MissingVectors = "error",
    means: Mapping[str, NDArray[np.float32]] | None = None,
    maps_may_lack: bool = False,
    resize: str = "squash",
) -> SideInputs:
    """Finds and joins all Vectors and Maps of these inputs; `sources` are paths by key or input name.

    If `missing` is "mean", images without a vector get `means` (D,), by key, from a trained network. With
    `maps_may_lack`, images without a map get zeros, instead of a DataError.
    """
    check_sources(sources, inputs)
    joined: dict[str, Joined] = {}
    maps: dict[str, MapReader] = {}
    for key, each in inputs.items():
        match each:
            case Vector():
                found = find_vectors(table, sources, key, each.name)
                found = align(found, each.vocabulary, width=each.width, where=f"input.{key}")
                joined[key] = join(table.ids, found, missing=missing)
            case Map():
                paths = find_some_maps(table, _source(sources, key, each.name, table), may_lack=maps_may_lack)
                maps[key] = MapReader(paths, each, resize)
    gathered = SideInputs(
        vectors={key: each.rows for key, each in joined.items()},
        maps=maps,
        usable=_usable(len(table), joined if missing == "skip" else {}),
        notes=tuple(_notes(joined, maps)),
        present={key: each.present for key, each in (joined | maps).items()},
    )
    return gathered.filled(means) if means and missing == "mean" else gathered


def _usable(rows: int, joined: Mapping[str, Joined]) -> NDArray[np.bool_]:
    """Whether each image has all of these vectors, (rows,)."""
    usable = [np.ones(rows, dtype=np.bool_), *(each.present for each in joined.values())]
    return np.asarray(np.all(usable, axis=0))


def _notes(joined: Mapping[str, Joined], maps: Mapping[str, MapReader]) -> Iterator[str]:
    for key, vectors in joined.items():
        yield from (f"{key}: {note}" for note in vectors.notes)
    for key, reader in maps.items():
        yield f"{key}: {reader.present.sum():,} of {len(reader.paths):,} maps found"


def named(entries: Mapping[str, T], *labels: str) -> T | None:
    """The entry under the first of these labels, such as a stream's key and its input's name; None if there is none."""
    return next((entries[label] for label in labels if label in entries), None)


def check_sources(sources: Iterable[str], inputs: Mapping[str, Input]) -> None:
    """Raises DataError for a source whose name is not that of a Vector or Map of these inputs."""
    names = names_of(side_inputs_of(inputs))
    for name in [name for name in sources if name not in names]:
        right = did_you_mean(name, names)
        raise DataError(f"input.{name}", "no stream of this network reads this input.", right=right)


def known_of_vectors(
    streams: Mapping[str, str],
    table: Table,
    sources: Mapping[str, str],
    *,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, dict[str, object]]:
    """The width and vocabulary, from the data, of streams that read a Vector: {key: {"width", "vocabulary"}}."""
    known: dict[str, dict[str, object]] = {}
    for key, text in streams.items():
        spec = Spec.parse(text, key=key)
        if spec.run is None and not spec.is_instance and _asks_for_vectors(spec, (options or {}).get(key, {})):
            vectors = find_vectors(table, sources, key, spec.name)
            known[key] = {"width": vectors.features.shape[1], "vocabulary": vectors.vocabulary}
    return known


def _asks_for_vectors(spec: Spec, options: Mapping[str, Any]) -> bool:
    """Whether a stream reads a Vector whose width is determined by the data.

    An option called `width` is not enough, because an image stream may have one too: the stream's input decides.
    """
    part = find("stream", spec.name, distribution=spec.distribution)
    width = signature(part, part.resolve()).parameters.get("width")
    if width is None:
        return False
    if width.default is width.empty and "width" not in options:
        return True  # only the data determine its width
    return isinstance(getattr(build("stream", spec, options=options), "input", None), Vector)


def find_vectors(table: Table, sources: Mapping[str, str], key: str, name: str) -> VectorTable:
    """The vectors of a stream, from the file for its key or its input's name, or from the data set."""
    if source := named(sources, key, name):
        return read_vectors(Path(source).expanduser())
    found = named(table.vectors, key, name)
    if found is None:
        what = "this stream needs vectors, but none were given."
        raise DataError(f"input.{key}", what, do=f"Pass --input {key}=FILE.")
    return found


def _source(sources: Mapping[str, str], key: str, name: str, table: Table) -> str:
    """The folder or column of a stream's maps."""
    columns = {label: f"{COLUMN}{label}" for label in table.maps}
    source = named(sources, key, name) or named(columns, key, name)
    if source is None:
        what = "this stream needs maps, but none were given."
        raise DataError(f"input.{key}", what, do=f"Pass --input {key}=FOLDER.")
    return source
