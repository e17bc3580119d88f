"""Selection of the photos to explain: given photos, a data set, or the run's test split; with labels and inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path

import numpy as np

from multistream.data.given_photos import IN_MEMORY, GivenPhoto, PhotoLike, given_photos
from multistream.data.layouts.data_source import open_table
from multistream.data.loading import make_decoder
from multistream.data.side_inputs import check_sources
from multistream.data.side_lookup import SideSource, equal_vectors
from multistream.data.table import Table, VectorTable
from multistream.errors import DataError, UsageError
from multistream.inference.measured_photos import own_part
from multistream.inference.model import Model
from multistream.inference.predict import MAX_BYTES
from multistream.inputs import Vector, side_inputs_of


@dataclass(frozen=True)
class PhotoSelection:
    """A table of photos with labels in the run's classes (-1 if unknown), their display `names`, and inputs' `sources`.

    `given` are the photos that the caller passed; it is empty if the photos are the files of a data set.
    """

    table: Table
    names: tuple[str, ...]
    sources: Mapping[str, str]
    given: tuple[GivenPhoto, ...] = ()

    def __len__(self) -> int:
        return len(self.table)

    def labels(self, place: int) -> tuple[str, ...]:
        """Returns the classes of a photo; empty if they are unknown."""
        if self.table.label_sets is not None:
            return tuple(compress(self.table.classes, self.table.label_sets[place]))
        label = int(self.table.labels[place])
        return (self.table.classes[label],) if label >= 0 else ()

    def aspect(self, place: int) -> float:
        """Returns a photo's width divided by its height, after EXIF rotation."""
        path = self.table.path(place)
        photo = self.given[place] if self.given else GivenPhoto(str(path), (), path)
        return photo.aspect(limit=MAX_BYTES)


def find_photos(
    model: Model,
    images: PhotoLike | Iterable[PhotoLike | GivenPhoto] | None,
    *,
    data: str = "",
    label: str = "",
    inputs: Mapping[str, SideSource] | None = None,
    labelled: bool = False,
) -> PhotoSelection:
    """Returns the photos to explain, with known labels and the vectors and maps that the recipe names.

    Files that belong to the run's data set get its labels and inputs. `labelled` requires labels: raises UsageError if
    there are none. `inputs` are paths, or vectors as {id: array} or as an array in the order of the photos.
    """
    inputs = inputs or {}
    files = {name: str(source) for name, source in inputs.items() if isinstance(source, str | Path)}
    arrays = {name: source for name, source in inputs.items() if name not in files}
    if images is not None and data:
        raise UsageError("--data", "PATHS were given too.", right="Pass only one of the two.")
    if images is not None:
        selection = _given_photos(model, images, files, arrays, label=label, labelled=labelled)
    elif data:
        table = open_table(data, label=label, allow_outside=model.recipe.data.allow_outside)
        selection = _selection(model, table, table.ids, files, labelled=labelled)
    else:
        table, _ = own_part(model, "explain", label=label)
        selection = _selection(model, table, table.ids, {**model.recipe.network.inputs, **files}, labelled=labelled)
    return _with_arrays(selection, model, arrays) if arrays else selection


def _given_photos(
    model: Model,
    images: PhotoLike | Iterable[PhotoLike | GivenPhoto],
    given: Mapping[str, str],
    arrays: Mapping[str, SideSource],
    *,
    label: str,
    labelled: bool,
) -> PhotoSelection:
    decoder = make_decoder(model.inputs, model.recipe.data)
    photos = tuple(given_photos(images, limit=decoder.max_bytes if decoder else MAX_BYTES))
    names = tuple(photo.path for photo in photos)
    is_known = labelled or _lacks_inputs(model, {**given, **arrays})
    own_table = _own_photos(model, [Path(name) for name in names], label) if is_known else None
    if own_table is not None:
        sources = {**model.recipe.network.inputs, **given}
        return replace(_selection(model, own_table, names, sources, labelled=labelled), given=photos)
    if labelled:
        what = "the target true needs labels, but these photos have none."
        raise UsageError("--target", what, do="Omit PATHS, or give --data.")
    # All photos in memory have the same name, but the ids of a table must be distinct.
    ids = tuple(f"{name} {place}" if name == IN_MEMORY else name for place, name in enumerate(names))
    unknown = np.full(len(photos), -1, dtype=np.int64)
    return PhotoSelection(Table("photos", Path(), ids, unknown, model.classes), names, given, photos)


def _with_arrays(selection: PhotoSelection, model: Model, arrays: Mapping[str, SideSource]) -> PhotoSelection:
    """Adds vectors given as arrays, by stream key or input name."""
    table, vectors, sources = selection.table, {}, dict(selection.sources)
    for name, source in arrays.items():
        readers = {key: stream_input for key, stream_input in model.inputs.items() if name in (key, stream_input.name)}
        if not all(isinstance(stream_input, Vector) for stream_input in readers.values()):
            raise UsageError(f"inputs[{name!r}]", "maps were given as arrays.", right="It must be a folder of maps.")
        for other in {name, *readers, *(stream_input.name for stream_input in readers.values())}:
            sources.pop(other, None)
        for key in readers or (name,):
            vectors[key] = _vector_table(name, source, table.ids)
    check_sources(arrays, model.inputs)
    return replace(selection, table=replace(table, vectors={**table.vectors, **vectors}), sources=sources)


def _vector_table(name: str, source: SideSource, ids: tuple[str, ...]) -> VectorTable:
    """Builds a table of vectors from {id: array}, or from rows in the order of `ids`."""
    where = f"inputs[{name!r}]"
    if isinstance(source, VectorTable):
        return source
    if isinstance(source, Mapping):
        return VectorTable(tuple(source), equal_vectors(source.values(), where=where))
    assert not isinstance(source, str | Path)  # `find_photos` reads these
    is_one = isinstance(source, np.ndarray) and source.ndim == 1
    rows = equal_vectors([source] if is_one else source, where=where)
    if len(rows) != len(ids):
        what = f"{len(rows):,} rows were given for {len(ids):,} photos."
        raise UsageError(where, what, right="Each photo needs one row, in the order of the photos.")
    if len({(name, row.tobytes()) for name, row in zip(ids, rows, strict=True)}) > len(set(ids)):
        raise UsageError(where, "a photo that is given twice has two different rows.")
    return VectorTable(ids, rows)


def _selection(
    model: Model, table: Table, names: tuple[str, ...], sources: Mapping[str, str], *, labelled: bool
) -> PhotoSelection:
    """Maps a table's labels to the run's classes. If `labelled`, raises DataError for labels of other classes."""
    relabelled, unknown = _in_our_classes(table, model.classes)
    if labelled and unknown:
        right = f"It knows {', '.join(model.classes)}."
        raise DataError(table.name, f"{unknown:,} labels are not classes of the run.", right=right)
    return PhotoSelection(relabelled, names, sources)


def _in_our_classes(table: Table, classes: tuple[str, ...]) -> tuple[Table, int]:
    """Maps labels to the run's classes by name, -1 for other classes; returns also the number of those."""
    column = np.array([classes.index(name) if name in classes else -1 for name in table.classes], dtype=np.int64)
    labels, sets, known = column[table.labels], None, column >= 0
    unknown = int((labels < 0).sum())
    if table.label_sets is not None:
        sets = np.zeros((len(table), len(classes)), dtype=np.bool_)
        sets[:, column[known]] = table.label_sets[:, known]
        unknown = int(table.label_sets[:, ~known].sum())
    return replace(table, labels=labels, classes=classes, label_sets=sets), unknown


def _lacks_inputs(model: Model, given: Mapping[str, SideSource]) -> bool:
    return any(key not in given and each.name not in given for key, each in side_inputs_of(model.inputs).items())


def _own_photos(model: Model, paths: Sequence[Path], label: str) -> Table | None:
    """Selects the rows of the run's data set for these files; None if a file is not in it or it cannot be opened."""
    settings = model.recipe.data
    try:
        table = open_table(settings.source, label=label or settings.label, allow_outside=settings.allow_outside)
    except DataError:  # the run's data set may be missing; the photos are then from elsewhere
        return None
    rows = {table.path(i).resolve(): i for i in range(len(table))}
    matches = [rows.get(path.resolve()) for path in paths]
    return None if None in matches else table.select([row for row in matches if row is not None])
