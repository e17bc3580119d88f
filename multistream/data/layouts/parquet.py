"""parquet: photos as bytes in a column, as in data sets on Hugging Face; and folders that `datasets` saved to disk."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multistream.data.layouts.assemble import PARTS, Entry, part_in
from multistream.data.layouts.label_sets import LabelColumn, LabelColumns, label_column
from multistream.data.layouts.unpacked import Packed, packed_files, unpacked
from multistream.data.table import Table
from multistream.errors import DataError, extra, readable

IMAGES = ("image", "img", "bytes", "photo", "picture")
BATCH = 256
"""Rows that are in memory at a time."""

_ENDING = re.compile(r"\.\w{1,5}\Z")


@dataclass(frozen=True)
class _File:
    """One file of rows: its split, the names of its columns, and the names of its classes by column."""

    path: Path
    part: str | None
    columns: tuple[str, ...]
    names: Mapping[str, tuple[str, ...]]
    rows: Callable[[], Iterable[Mapping[str, Any]]]


def parquet(path: Path, *, label: str = "") -> Table:
    """A .parquet file with photos and labels, or a folder of them; train-00000-of-00002.parquet is in the split train.

    The photos are unpacked once into the user's cache folder, because all other code reads files. `label` names the
    column.
    """
    arrow = pyarrow_for("data")
    files = packed_files(path, ".parquet")
    described = [_described(arrow, file, path) for file in files]
    return _table(path, described, files, label=label, error=arrow.ArrowException)


def huggingface(path: Path, *, label: str = "") -> Table:
    """A folder that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` of Hugging Face's `datasets` wrote."""
    with extra("datasets", "data", "datasets is not installed."):
        import datasets
    with readable(path, Exception):  # its readers may raise any exception on a damaged folder
        loaded = datasets.load_from_disk(str(path))
    splits = dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {"": loaded}
    described = [_of_split(datasets, path, name, split) for name, split in splits.items()]
    return _table(path, described, sorted(path.rglob("*.arrow")), label=label, error=ValueError)


def _of_split(datasets: Any, path: Path, name: str, split: Any) -> _File:
    """A split of a saved data set, with its photos as encoded bytes."""
    for column in [name for name, feature in split.features.items() if isinstance(feature, datasets.Image)]:
        split = split.cast_column(column, datasets.Image(decode=False))
    labels = {c: getattr(f, "feature", f) for c, f in split.features.items()}  # for a list, its element type
    names = {c: tuple(f.names) for c, f in labels.items() if isinstance(f, datasets.ClassLabel)}
    return _File(path / name, PARTS.get(name.lower()), tuple(split.column_names), names, lambda: split)


def pyarrow_for(where: str | Path) -> Any:
    """The module pyarrow; PluginError if it is not installed."""
    with extra("datasets", where, "parquet needs pyarrow, which is not installed."):
        import pyarrow
        import pyarrow.parquet
    return pyarrow


def _described(arrow: Any, file: Path, root: Path) -> _File:
    """A file's split, columns and classes; DataError if it is not valid parquet."""

    def rows() -> Iterator[dict[str, Any]]:
        for batch in arrow.parquet.ParquetFile(file).iter_batches(batch_size=BATCH):
            yield from batch.to_pylist()

    with readable(file, arrow.ArrowException, OSError, what="it is not valid parquet"):
        schema = arrow.parquet.read_schema(file)
    part = part_in(str(file.relative_to(root)) if root.is_dir() else file.name)
    return _File(file, part, tuple(schema.names), _class_names(schema.metadata or {}), rows)


def _class_names(metadata: Mapping[bytes, bytes]) -> dict[str, tuple[str, ...]]:
    """The names of the classes by column, from the metadata of `datasets`; {} if there is none."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        labels = {
            c: f.get("feature", f) for c, f in features.items() if isinstance(f, dict)
        }  # for a list, its element type
        return {c: tuple(f["names"]) for c, f in labels.items() if "names" in f}
    except (ValueError, LookupError, AttributeError, TypeError):
        return {}


def _table(path: Path, files: Sequence[_File], held: Sequence[Path], *, label: str, error: type[Exception]) -> Table:
    """The table of these files, whose paths are `held`; `error` is the exception that reading them may raise."""
    columns = files[0].columns
    image = next((name for name in IMAGES if name in columns), None)
    if image is None:
        right = f"One must be called {', '.join(IMAGES)}."
        raise DataError(path, f"no column of photos is among {', '.join(columns)}.", right=right)
    known = sorted((name for name in columns if name != image), key=lambda name: (name != "label", name != "labels"))
    if not known:
        raise DataError(path, "there is no column of labels.", right="One must be called label.")
    column = label_column(label, known, "parquet")
    about, photos = [image, label or known[0]], _photos(files, image, column, error)
    return unpacked(path, held, about, photos, known=column.classes)


def _photos(
    files: Sequence[_File], image: str, column: LabelColumn | LabelColumns, error: type[Exception]
) -> Iterator[Packed]:
    """The photo of each row, with its label or labels."""
    for number, file in enumerate(files):
        with readable(file.path, error, KeyError, OSError):
            for row_number, row in enumerate(file.rows()):
                where = f"{file.path}, row {row_number}"
                content, ending = _photo(row[image], where, image)
                first, labels = column.of(row, where, file.names)
                name = f"{file.part or 'all'}-{number:04d}/{row_number:07d}{ending}"
                yield Entry(name, first, file.part, labels=labels), content


def _photo(value: Any, where: str, column: str) -> tuple[bytes, str]:
    """The bytes of a photo, and its suffix, ".img" if it has none: formats are recognised by content."""
    held = value if isinstance(value, Mapping) else {"bytes": value}
    content, ending = held.get("bytes"), _ENDING.search(str(held.get("path")))
    if not isinstance(content, bytes) or not content:
        right = f"{column} must hold the bytes of a file, or {{bytes, path}}."
        raise DataError(where, "there is no photo.", right=right)
    return content, ending[0].lower() if ending else ".img"
