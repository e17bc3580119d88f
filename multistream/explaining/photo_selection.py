"""Which photos are explained: files and folders, a labelled set, or the run's test split; their labels and inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path

import numpy as np

from multistream.data.given_photos import given_photos
from multistream.data.layouts.data_source import open_table
from multistream.data.table import Table
from multistream.errors import DataError, UsageError
from multistream.inference.measured_photos import own_part
from multistream.inference.model import Model
from multistream.inputs import side_inputs_of


@dataclass(frozen=True)
class PhotoSelection:
    """A table whose labels are the run's classes, -1 where unknown; `names` to call the photos by; inputs' sources."""

    table: Table
    names: tuple[str, ...]
    sources: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.table)

    def labels(self, place: int) -> tuple[str, ...]:
        """The classes of a photo; none where they are unknown."""
        if self.table.label_sets is not None:
            return tuple(compress(self.table.classes, self.table.label_sets[place]))
        label = int(self.table.labels[place])
        return (self.table.classes[label],) if label >= 0 else ()


def find_photos(
    model: Model,
    images: Sequence[str | Path] | None,
    *,
    data: str = "",
    label: str = "",
    inputs: Mapping[str, str] | None = None,
    labelled: bool = False,
) -> PhotoSelection:
    """The photos to explain, with labels where they are known and the vectors and maps that the recipe names.

    Photos that are named and lie in the run's own data set have its labels and inputs too. `labelled` asks for labels:
    UsageError where there are none.
    """
    given = dict(inputs or {})
    if images is not None and data:
        raise UsageError("--data", "PATHS were given too.", right="Pass only one of the two.")
    if images is not None:
        return _named_photos(model, images, given, label=label, labelled=labelled)
    if data:
        table = open_table(data, label=label, allow_outside=model.recipe.data.allow_outside)
        return _selection(model, table, table.ids, given, labelled=labelled)
    table, _ = own_part(model, "explain", label=label)
    return _selection(model, table, table.ids, {**model.recipe.network.inputs, **given}, labelled=labelled)


def _named_photos(
    model: Model, images: Sequence[str | Path], given: Mapping[str, str], *, label: str, labelled: bool
) -> PhotoSelection:
    paths = tuple(Path(photo.path) for photo in given_photos(images, limit=0))
    names = tuple(map(str, paths))
    own = _own_photos(model, paths, label) if labelled or _lacks_inputs(model, given) else None
    if own is not None:
        return _selection(model, own, names, {**model.recipe.network.inputs, **given}, labelled=labelled)
    if labelled:
        what = "the target true needs labels, but these photos have none."
        raise UsageError("--target", what, do="Omit PATHS, or give --data.")
    unknown = np.full(len(paths), -1, dtype=np.int64)
    return PhotoSelection(Table("photos", Path(), names, unknown, model.classes), names, given)


def _selection(
    model: Model, table: Table, names: tuple[str, ...], sources: Mapping[str, str], *, labelled: bool
) -> PhotoSelection:
    """The photos of a table in the run's classes; refuses those without a label that it knows, where it is needed."""
    ours, unknown = _in_our_classes(table, model.classes)
    if labelled and unknown:
        right = f"It knows {', '.join(model.classes)}."
        raise DataError(table.name, f"{unknown:,} labels are not classes of the run.", right=right)
    return PhotoSelection(ours, names, sources)


def _in_our_classes(table: Table, classes: tuple[str, ...]) -> tuple[Table, int]:
    """The table with labels that index the run's classes, by name, -1 for others; and how many labels are others."""
    column = np.array([classes.index(name) if name in classes else -1 for name in table.classes], dtype=np.int64)
    labels, sets, known = column[table.labels], None, column >= 0
    unknown = int((labels < 0).sum())
    if table.label_sets is not None:
        sets = np.zeros((len(table), len(classes)), dtype=np.bool_)
        sets[:, column[known]] = table.label_sets[:, known]
        unknown = int(table.label_sets[:, ~known].sum())
    return replace(table, labels=labels, classes=classes, label_sets=sets), unknown


def _lacks_inputs(model: Model, given: Mapping[str, str]) -> bool:
    """Whether a stream reads vectors or maps that no option names."""
    return any(key not in given and each.name not in given for key, each in side_inputs_of(model.inputs).items())


def _own_photos(model: Model, paths: Sequence[Path], label: str) -> Table | None:
    """The rows of the run's own data set that these files are; None if one of them is not, or the set is gone."""
    settings = model.recipe.data
    try:
        table = open_table(settings.source, label=label or settings.label, allow_outside=settings.allow_outside)
    except DataError:  # the set need not be here: then the photos are from elsewhere
        return None
    rows = {table.path(i).resolve(): i for i in range(len(table))}
    found = [rows.get(path.resolve()) for path in paths]
    return None if None in found else table.select([row for row in found if row is not None])
