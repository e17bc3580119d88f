"""parquet: photos as bytes in a column, as Hugging Face publishes data sets; and `datasets` folders saved to disk."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multistream.data.layouts.assemble import PARTS, assemble, choose
from multistream.data.layouts.image_paths import BadPlace
from multistream.data.layouts.label_sets import LabelColumns
from multistream.data.layouts.unpacked import Packed, unpacked
from multistream.data.table import Table
from multistream.errors import DataError, PluginError, printable

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


def parquet(path: Path, *, label: str = "") -> Table:
    """A .parquet file, or a folder of them (train-00000-of-00002.parquet names the part), with photos and labels.

    The photos are unpacked once, below the user's cache: everything else works on files. `label` chooses the column.
    """
    arrow = _arrow()
    files = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
    if not files:
        raise DataError(path, "there is no .parquet file.", do="Give one, or a folder of them.")
    described = [_described(arrow, file, path) for file in files]

    def rows(file: _File) -> Iterator[dict[str, Any]]:
        reader = arrow.parquet.ParquetFile(file.path)
        for batch in reader.iter_batches(batch_size=BATCH):
            yield from batch.to_pylist()

    return _table(path, described, rows, label=label, error=arrow.ArrowException)


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
        raise DataError(path, f"it cannot be read: {' '.join(str(error).split())[:200]}.") from error
    splits = dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {"": loaded}
    described, sets = [], {}
    for name, each in splits.items():
        undecoded = {
            column: each.cast_column(column, datasets.Image(decode=False)).features[column]
            for column, feature in each.features.items()
            if isinstance(feature, datasets.Image)
        }
        for column in undecoded:
            each = each.cast_column(column, datasets.Image(decode=False))
        labels = {c: getattr(f, "feature", f) for c, f in each.features.items()}  # of a list, what it lists
        names = {c: tuple(f.names) for c, f in labels.items() if isinstance(f, datasets.ClassLabel)}
        file = _File(path / name, PARTS.get(name.lower()), tuple(each.column_names), names)
        described.append(file)
        sets[file.path] = each
    return _table(path, described, lambda file: iter(sets[file.path]), label=label, error=ValueError)


def _arrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        do = "Install it: pip install 'multistream[datasets]'."
        raise PluginError("data", "parquet needs pyarrow, which is not installed.", do=do) from error
    return pyarrow


def _described(arrow: Any, file: Path, root: Path) -> _File:
    """A file's part, columns and classes; DataError if it is not valid parquet."""
    try:
        schema = arrow.parquet.read_schema(file)
    except (arrow.ArrowException, OSError) as error:
        raise DataError(file, f"it is not valid parquet: {' '.join(str(error).split())[:200]}.") from error
    held = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        features = json.loads(held).get("info", {}).get("features", {})
        # of a column of lists, what they list
        labels = {c: f.get("feature", f) for c, f in features.items() if isinstance(f, dict)}
        named = {c: tuple(f["names"]) for c, f in labels.items() if isinstance(f, dict) and "names" in f}
    except (ValueError, AttributeError, TypeError):
        named = {}  # the note of another program: the column's own values are the labels then
    words = re.split(r"[^a-z]+", "/".join(file.relative_to(root).parts if root.is_dir() else (file.name,)).lower())
    part = next((PARTS[word] for word in words if word in PARTS), None)
    return _File(file, part, tuple(schema.names), named)


def _table(path: Path, files: Sequence[_File], rows: Any, *, label: str, error: type[Exception]) -> Table:
    where = printable(str(path))
    first = files[0]
    image = next((name for name in IMAGES if name in first.columns), None)
    if image is None:
        right = f"One must be called {', '.join(IMAGES)}."
        raise DataError(where, f"no column of photos is among {', '.join(map(printable, first.columns))}.", right=right)
    known = [name for name in first.columns if name != image]
    if not known:
        raise DataError(where, "there is no column of labels.", right="One must be called label.")
    sets, column = LabelColumns.parse(label), ""
    if sets is not None:
        sets.check(known)
    elif label:
        column = choose("parquet", label, known)
    else:
        column = next((name for name in ("label", "labels") if name in known), known[0])
    held = [file.path for file in files] if files[0].path.is_file() else sorted(path.rglob("*.arrow"))
    place, entries = unpacked(
        held, [image, label if sets else column], _photos(files, rows, image, sets or column, error)
    )
    notes = (f"photos are unpacked in {place}",)
    return assemble(printable(path.resolve().stem), place, entries, notes=notes, known=sets.classes if sets else ())


def _photos(
    files: Sequence[_File], rows: Any, image: str, column: str | LabelColumns, error: type[Exception]
) -> Iterator[Packed]:
    """Each row's photo, with the label in its column or the labels in its columns."""
    for number, file in enumerate(files):
        try:
            for row_number, row in enumerate(rows(file)):
                where = f"{printable(str(file.path))}, row {row_number}"
                name = f"{file.part or 'all'}-{number:04d}/{row_number:07d}{_ending(row[image])}"
                content = _content(row[image], where, image)
                if isinstance(column, LabelColumns):
                    labels = _labels(row, column, file.names, where)
                    yield Packed(name, content, labels[0], file.part, labels)
                else:
                    label = _label(row[column], file.names.get(column, ()), where, column)
                    yield Packed(name, content, label, file.part)
        except (error, KeyError, OSError) as problem:
            if isinstance(problem, DataError):
                raise
            message = " ".join(str(problem).split())[:200]
            raise DataError(file.path, f"it cannot be read: {message}.") from problem


def _labels(
    row: Mapping[str, Any], sets: LabelColumns, names: Mapping[str, Sequence[str]], where: str
) -> tuple[str, ...]:
    try:
        return sets.of(row, names.get(sets.names[0], ()))
    except BadPlace as error:
        raise DataError(where, error.what, do=error.do) from error


def _content(value: Any, where: str, column: str) -> bytes:
    if isinstance(value, Mapping):
        value = value.get("bytes")
    if not isinstance(value, bytes) or not value:
        right = f"{column} must hold the bytes of a file, or {{bytes, path}}."
        raise DataError(where, "there is no photo.", right=right)
    return value


def _ending(value: Any) -> str:
    """The file's extension if it is given; photos are recognised by their content."""
    name = str(value.get("path") or "") if isinstance(value, Mapping) else ""
    return Path(name).suffix.lower() if re.fullmatch(r"\.\w{1,5}", Path(name).suffix) else ".img"


def _label(value: Any, names: Sequence[str], where: str, column: str) -> str:
    if isinstance(value, int) and names:
        if not 0 <= value < len(names):
            raise DataError(where, f"label {value} is none of {len(names)} classes.")
        return names[value]
    if isinstance(value, bool | float) or not isinstance(value, str | int) or not str(value).strip():
        raise DataError(where, f"{value!r} is not a label.", right=f"{column} must hold text or an integer.")
    return str(value).strip()
