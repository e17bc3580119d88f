"""imagefolder: photos with metadata.csv or metadata.jsonl next to them, as in Hugging Face's `imagefolder`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from multistream.data.image_files import Root
from multistream.data.layouts.assemble import PARTS, Entry, add_entry, assemble, counted, folder_of
from multistream.data.layouts.delimited_text import read_lines, read_table
from multistream.data.layouts.label_sets import LabelColumn, LabelColumns, label_column
from multistream.data.table import Table
from multistream.errors import DataError, printable, readable

METADATA = ("metadata.csv", "metadata.jsonl")
"""The names of the metadata files, which hold the labels."""

FILE = "file_name"
NOT_LABELS = (FILE, "id", "width", "height", "split")


def imagefolder(path: Path, *, label: str = "", allow_outside: bool = False) -> Table:
    """The photos in metadata files in `path`, or in its folders train, val and test; paths are relative to the file.

    `label` names the column; by default it is the column `label`, or the only one. If it names several columns, or one
    and its separator (`tags[;]`, `tags[]` for a list), an image may have several labels (`label_sets`).
    """
    root, missing = Root(folder_of(path), allow_outside=allow_outside), 0
    entries: dict[str, Entry] = {}
    classes: tuple[str, ...] = ()
    for file, part in _metadata_files(path):
        folder = file.parent.relative_to(path)
        for where, record in _records(file):
            if FILE not in record:
                raise DataError(where, f"there is no {FILE}, but {', '.join(record)}.")
            image_id = root.image_id(str(folder / str(record[FILE])), where)
            if root.exists(image_id):
                column = _column(record, label, where)
                first, labels = column.of(record, where, {})
                add_entry(entries, Entry(image_id, first, part, labels=labels), where)
                classes = column.classes
            else:
                missing += 1
    notes = counted({"images left out: missing files": missing})
    return assemble(printable(path.resolve().name), path, entries.values(), notes=notes, known=classes)


def _metadata_files(path: Path) -> list[tuple[Path, str | None]]:
    """The metadata files in `path`, and in its folders that are named after splits, with that split."""
    folders: list[tuple[Path, str | None]] = [(path, None)]
    folders += [(each, PARTS[each.name.lower()]) for each in sorted(path.iterdir()) if each.name.lower() in PARTS]
    found = [(folder / name, part) for folder, part in folders for name in METADATA if (folder / name).is_file()]
    if not found:
        right = f"It needs {' or '.join(METADATA)} with {FILE} and a label, in this folder or in train, val and test."
        raise DataError(path, "there is no metadata file.", right=right)
    return found


def _records(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each record with its location FILE:LINE; DataError for a line that is not valid."""
    if file.suffix == ".csv":
        header, rows = read_table(file)
        yield from ((row.where, row.by_column(header.cells)) for row in rows)
    else:
        yield from ((row.where, _json_record(row.cells[0], row.where)) for row in read_lines(file))


def _json_record(line: str, where: str) -> dict[str, Any]:
    with readable(where, ValueError, RecursionError, what="the line is not valid JSON"):
        record = json.loads(line)
    if not isinstance(record, dict):
        raise DataError(where, "the line is not a JSON object.", right='{"file_name": "1.jpg", ...}')
    return record


def _column(record: dict[str, Any], label: str, where: str) -> LabelColumn | LabelColumns:
    known = sorted((name for name in record if name not in NOT_LABELS), key="label".__ne__)
    if not known:
        raise DataError(where, "there is no label.", right="A column must hold it, for example label.")
    if len(known) > 1 and known[0] != "label" and not label:
        what = f"several columns could be the label: {', '.join(known)}."
        raise DataError(where, what, do="Choose one: --label NAME.")
    return label_column(label, known, "imagefolder")
