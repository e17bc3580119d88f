"""What lies beside the photos: the Vectors and Maps of a composition, found, joined by image id, and counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multistream.data.maps import find_maps, fit_map
from multistream.data.table import Table, VectorTable
from multistream.data.vectors import MissingPolicy, align, join, read_vectors
from multistream.errors import DataError, did_you_mean
from multistream.inputs import Input, Map, Vector
from multistream.registry import Spec, build, find, signature

ReadMap = Callable[[int], NDArray[np.float32]]


@dataclass(frozen=True)
class MapReader:
    """Reads the maps of all images, by index, as the input `wanted` asks for them."""

    paths: tuple[Path, ...]
    wanted: Map
    resize: str

    def __call__(self, index: int) -> NDArray[np.float32]:
        """The map of one image, (C, size, size)."""
        array = self.wanted.read(self.paths[index])
        if array.ndim != 3 or array.shape[0] != self.wanted.channels:
            right = f"{self.wanted.name} needs (C, H, W) with C={self.wanted.channels}."
            raise DataError(str(self.paths[index]), f"the map has shape {array.shape}.", right=right)
        return fit_map(array, self.wanted.size, self.resize)


@dataclass(frozen=True)
class SideInputs:
    """Vectors (N, D) and map readers by stream key, row i for image i; `usable` (N,) is False for rows to leave out."""

    vectors: Mapping[str, NDArray[np.float32]]
    maps: Mapping[str, ReadMap]
    usable: NDArray[np.bool_]
    notes: tuple[str, ...]


def gather(
    table: Table,
    inputs: Mapping[str, Input],
    sources: Mapping[str, str],
    *,
    missing: MissingPolicy = "error",
    resize: str = "squash",
) -> SideInputs:
    """Finds and joins all Vectors and Maps that these inputs ask for; `sources` are paths by key or input name."""
    names = {name for key, each in inputs.items() if not _is_photo(each) for name in (key, each.name)}
    for name in sources:
        if name not in names:
            raise DataError(f"input.{name}", "no stream of this network reads it.", right=did_you_mean(name, names))
    vectors: dict[str, NDArray[np.float32]] = {}
    maps: dict[str, ReadMap] = {}
    notes: list[str] = []
    usable = np.ones(len(table), dtype=bool)
    for key, each in inputs.items():
        if isinstance(each, Vector):
            found = align(
                find_vectors(table, sources, key, each.name), each.vocabulary, width=each.width, where=f"input.{key}"
            )
            joined = join(table.ids, found, missing=missing)
            vectors[key] = joined.rows
            usable &= joined.present if missing == "drop" else True
            notes += [f"{key}: {note}" for note in joined.notes]
        elif isinstance(each, Map):
            maps[key] = MapReader(find_maps(table, _source(sources, key, each.name, table)), each, resize)
            notes.append(f"{key}: {len(table):,} maps found")
    return SideInputs(vectors, maps, usable, tuple(notes))


def known_of_vectors(
    streams: Mapping[str, str],
    table: Table,
    sources: Mapping[str, str],
    *,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, dict[str, object]]:
    """What the data tell of each stream that reads a Vector: {key: {"width", "vocabulary"}}."""
    known: dict[str, dict[str, object]] = {}
    for key, text in streams.items():
        spec = Spec.parse(text, key=key)
        if spec.run is None and not spec.is_instance and _asks_for_vectors(spec, (options or {}).get(key, {})):
            vectors = find_vectors(table, sources, key, spec.name)
            known[key] = {"width": vectors.features.shape[1], "vocabulary": vectors.vocabulary}
    return known


def _asks_for_vectors(spec: Spec, options: Mapping[str, Any]) -> bool:
    """Whether a stream reads a Vector whose width the data tell.

    Its input says so. An option called `width` alone does not: an image stream may have one too.
    """
    part = find("stream", spec.name, distribution=spec.distribution)
    width = signature(part, part.resolve()).parameters.get("width")
    if width is None:
        return False
    if width.default is width.empty and "width" not in options:
        return True  # nothing else could tell its width
    return isinstance(getattr(build("stream", spec, options=options), "input", None), Vector)


def find_vectors(table: Table, sources: Mapping[str, str], key: str, name: str) -> VectorTable:
    """The vectors of a stream: from the file given for its key or its input's name, or from the data set itself."""
    for label in (key, name):
        if label in sources:
            return read_vectors(Path(sources[label]).expanduser())
        if label in table.vectors:
            return table.vectors[label]
    raise DataError(
        f"input.{key}", "the stream reads vectors, and none are given.", do=f"Give them: --input {key}=FILE."
    )


def _source(sources: Mapping[str, str], key: str, name: str, table: Table) -> str:
    for label in (key, name):
        if label in sources:
            return sources[label]
        if label in table.maps:
            return f"column:{label}"
    raise DataError(
        f"input.{key}", "the stream reads maps, and none are given.", do=f"Give them: --input {key}=FOLDER."
    )


def _is_photo(each: Input) -> bool:
    return not isinstance(each, Vector | Map)
