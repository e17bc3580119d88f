"""imagefolder: photos with metadata.csv or metadata.jsonl next to them, as Hugging Face's `imagefolder` has them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from multistream.data.layouts.assemble import PARTS, Entry, assemble, choose, counted, folder_of
from multistream.data.layouts.delimited_text import read_rows, read_text
from multistream.data.layouts.image_paths import Root
from multistream.data.layouts.label_sets import LabelColumns, labels_of
from multistream.data.table import Table
from multistream.errors import DataError, printable

METADATA = ("metadata.csv", "metadata.jsonl")
FILE = "file_name"
NOT_LABELS = (FILE, "id", "width", "height", "split")


def imagefolder(path: Path, *, label: str = "", allow_outside: bool = False) -> Table:
    """The photos that metadata files name, in `path` or in its folders train, val and test; paths start from each.

    `label` chooses the column; `label` or else the only one is taken. With a `label` that names several columns, or one
    and its separator (`tags[;]`, `tags[]` for a list), an image may have several labels (`label_sets`).
    """
    sets = LabelColumns.parse(label)
    root, entries, missing = Root(folder_of(path), allow_outside=allow_outside), [], 0
    for file, part in _metadata_files(path):
        for where, record in _records(file):
            if FILE not in record:
                raise DataError(where, f"there is no {FILE}, but {', '.join(record)}.")
            image_id = _image_id(root, file.parent, record, where)
            if not root.exists(image_id):
                missing += 1
                continue
            if sets:
                sets.check(list(record))
            labels = labels_of(sets or _label_column(record, label, where), record, where)
            entries.append(Entry(image_id, labels[0], part, labels=labels if sets else ()))
    notes = counted({"images left out: missing files": missing})
    known = sets.classes if sets else ()
    return assemble(printable(path.resolve().name), path, entries, notes=notes, known=known)


def _metadata_files(path: Path) -> list[tuple[Path, str | None]]:
    """The metadata files in `path`, and in its folders that are named after parts, with that part."""
    folders: list[tuple[Path, str | None]] = [(path, None)]
    folders += [(each, PARTS[each.name.lower()]) for each in sorted(path.iterdir()) if each.name.lower() in PARTS]
    found = [(folder / name, part) for folder, part in folders for name in METADATA if (folder / name).is_file()]
    if not found:
        right = f"It needs {' or '.join(METADATA)} with {FILE} and a label, in this folder or in train, val and test."
        raise DataError(path, "there is no metadata file.", right=right)
    return found


def _records(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each entry with where it stands; DataError for a line that is none."""
    if file.suffix == ".jsonl":
        for number, line in enumerate(read_text(file).split("\n"), 1):
            if line.strip():
                yield f"{file}:{number}", _json_record(line, f"{file}:{number}")
        return
    rows = read_rows(file)
    for row in rows[1:]:
        yield row.where, dict(row.by_column([cell.strip() for cell in rows[0].cells]))


def _json_record(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(where, f"the line is not valid JSON: {error}.") from error
    if not isinstance(record, dict):
        raise DataError(where, "the line is not a JSON object.", right='{"file_name": "1.jpg", ...}')
    return record


def _label_column(record: dict[str, Any], label: str, where: str) -> str:
    known = [name for name in record if name not in NOT_LABELS]
    if not known:
        raise DataError(where, "there is no label.", right="A column must hold it, for example label.")
    if label:
        return choose("imagefolder", label, known)
    if len(known) > 1 and "label" not in known:
        raise DataError(
            where, f"several columns could be the label: {', '.join(known)}.", do="Choose one: --label NAME."
        )
    return "label" if "label" in known else known[0]


def _image_id(root: Root, folder: Path, record: dict[str, Any], where: str) -> str:
    try:
        path = (folder / str(record[FILE])).relative_to(root.folder).as_posix()
    except ValueError as error:
        raise DataError(where, str(error)) from error
    return root.image_id(path, where)
