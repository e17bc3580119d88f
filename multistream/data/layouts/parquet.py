"""parquet: photos as bytes in a column, as Hugging Face publishes data sets; and `datasets` folders saved to disk."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multistream.data.layouts.assemble import PARTS, Entry, assemble, choose, part_in
from multistream.data.layouts.label_sets import LabelColumns, labels_of
from multistream.data.layouts.unpacked import Packed, unpacked
from multistream.data.table import Table
from multistream.errors import DataError, PluginError, printable, said_by

IMAGES = ("image", "img", "bytes", "photo", "picture")
BATCH = 256
"""Rows that are held in memory at once."""


@dataclass(frozen=True)
class _File:
    """One file of rows: which part it is, what its columns are called, and the names of its classes by column."""

    path: Path
    part: str | None
    columns: tuple[str, ...]
    names: Mapping[str, tuple[str, ...]]
    rows: Callable[[], Iterable[Mapping[str, Any]]]


def parquet(path: Path, *, label: str = "") -> Table:
    """A .parquet file, or a folder of them (train-00000-of-00002.parquet names the part), with photos and labels.

    The photos are unpacked once, below the user's cache: everything else works on files. `label` chooses the column.
    """
    arrow = pyarrow_for("data")
    files = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
    if not files:
        raise DataError(path, "there is no .parquet file.", do="Pass one, or a folder of them.")
    described = [_described(arrow, file, path) for file in files]
    return _table(path, described, files, label=label, error=arrow.ArrowException)


def huggingface(path: Path, *, label: str = "") -> Table:
    """A folder that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` of Hugging Face's `datasets` wrote."""
    try:
        import datasets
    except ImportError as error:
        do = "Install it: pip install 'multistream[datasets]'."
        raise PluginError("data", "datasets is not installed.", do=do) from error
    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:  # its readers raise whatever a damaged folder makes them stumble over
        raise DataError(path, f"it cannot be read: {said_by(error)}.") from error
    splits = dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {"": loaded}
    described = [_of_split(datasets, path, name, split) for name, split in splits.items()]
    return _table(path, described, sorted(path.rglob("*.arrow")), label=label, error=ValueError)


def _of_split(datasets: Any, path: Path, name: str, split: Any) -> _File:
    """A split of a saved data set, its photos as the bytes that they are."""
    for column in [name for name, feature in split.features.items() if isinstance(feature, datasets.Image)]:
        split = split.cast_column(column, datasets.Image(decode=False))
    labels = {c: getattr(f, "feature", f) for c, f in split.features.items()}  # of a list, what it lists
    names = {c: tuple(f.names) for c, f in labels.items() if isinstance(f, datasets.ClassLabel)}
    return _File(path / name, PARTS.get(name.lower()), tuple(split.column_names), names, lambda: split)


def pyarrow_for(where: str | Path) -> Any:
    """The module pyarrow; PluginError where it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        do = "Install it: pip install 'multistream[datasets]'."
        raise PluginError(where, "parquet needs pyarrow, which is not installed.", do=do) from error
    return pyarrow


def _described(arrow: Any, file: Path, root: Path) -> _File:
    """A file's part, columns and classes; DataError if it is not valid parquet."""

    def rows() -> Iterator[dict[str, Any]]:
        for batch in arrow.parquet.ParquetFile(file).iter_batches(batch_size=BATCH):
            yield from batch.to_pylist()

    try:
        schema = arrow.parquet.read_schema(file)
    except (arrow.ArrowException, OSError) as error:
        raise DataError(file, f"it is not valid parquet: {said_by(error)}.") from error
    part = part_in(str(file.relative_to(root)) if root.is_dir() else file.name)
    return _File(file, part, tuple(schema.names), _class_names(schema.metadata or {}), rows)


def _class_names(metadata: Mapping[bytes, bytes]) -> dict[str, tuple[str, ...]]:
    """The names of the classes by column, as `datasets` notes them; {} where the note is another program's."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        labels = {
            c: f.get("feature", f) for c, f in features.items() if isinstance(f, dict)
        }  # of a list, what it lists
        return {c: tuple(f["names"]) for c, f in labels.items() if "names" in f}
    except (ValueError, LookupError, AttributeError, TypeError):
        return {}


def _table(path: Path, files: Sequence[_File], held: Sequence[Path], *, label: str, error: type[Exception]) -> Table:
    """The table of these files, which lie on the disk as `held`; `error` is what reading them raises."""
    columns = files[0].columns
    image = next((name for name in IMAGES if name in columns), None)
    if image is None:
        right = f"One must be called {', '.join(IMAGES)}."
        raise DataError(path, f"no column of photos is among {', '.join(columns)}.", right=right)
    known = [name for name in columns if name != image]
    if not known:
        raise DataError(path, "there is no column of labels.", right="One must be called label.")
    sets = LabelColumns.parse(label)
    if sets is not None:
        sets.check(known)
        column, classes = label, sets.classes
    else:
        common = next(name for name in ("label", "labels", *known) if name in known)
        column, classes = choose("parquet", label, known) if label else common, ()
    place, entries = unpacked(held, [image, column], _photos(files, image, sets or column, error))
    notes = (f"photos are unpacked in {place}",)
    return assemble(printable(path.resolve().stem), place, entries, notes=notes, known=classes)


def _photos(files: Sequence[_File], image: str, column: str | LabelColumns, error: type[Exception]) -> Iterator[Packed]:
    """Each row's photo, with the label in its column or the labels in its columns."""
    for number, file in enumerate(files):
        try:
            for row_number, row in enumerate(file.rows()):
                where = f"{file.path}, row {row_number}"
                content, ending = _photo(row[image], where, image)
                labels = labels_of(column, row, where, file.names)
                name = f"{file.part or 'all'}-{number:04d}/{row_number:07d}{ending}"
                several = labels if isinstance(column, LabelColumns) else ()
                yield Entry(name, labels[0], file.part, labels=several), content
        except (error, KeyError, OSError) as problem:
            raise DataError(file.path, f"it cannot be read: {said_by(problem)}.") from problem


def _photo(value: Any, where: str, column: str) -> tuple[bytes, str]:
    """The bytes of a photo's file, and the ending of its name if it has one: photos are recognised by their content."""
    held = value if isinstance(value, Mapping) else {"bytes": value}
    content, suffix = held.get("bytes"), Path(str(held.get("path") or "")).suffix.lower()
    if not isinstance(content, bytes) or not content:
        raise DataError(
            where, "there is no photo.", right=f"{column} must hold the bytes of a file, or {{bytes, path}}."
        )
    return content, suffix if re.fullmatch(r"\.\w{1,5}", suffix) else ".img"
