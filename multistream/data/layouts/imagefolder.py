"""imagefolder: photos with metadata.csv or metadata.jsonl next to them, as Hugging Face's `imagefolder` has them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from multistream.data.layouts.assemble import PARTS, Entry, assemble, choose
from multistream.data.layouts.delimited_text import read_rows, read_text
from multistream.data.layouts.image_paths import BadPlace, Root
from multistream.data.layouts.label_sets import LabelColumns
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
    found = [(folder, folder / name) for folder in _folders(path) for name in METADATA if (folder / name).is_file()]
    if not found:
        right = f"It needs {' or '.join(METADATA)} with {FILE} and a label, in this folder or in train, val and test."
        raise DataError(path, "there is no metadata file.", right=right)
    root, entries = Root(path, allow_outside=allow_outside), []
    missing = 0
    for folder, file in found:
        part = PARTS.get(folder.name.lower()) if folder != path else None
        for where, record in _records(file):
            column = "" if sets else _label_column(record, label, where)
            image_id = _image_id(root, folder, record, where)
            if not root.exists(image_id):
                missing += 1
                continue
            labels = _labels(record, sets, where) if sets else (_label(record[column], where, column),)
            entries.append(Entry(image_id, labels[0], part, labels=labels if sets else ()))
    notes = (f"left out {missing:,} images whose files are missing",) if missing else ()
    known = sets.classes if sets else ()
    return assemble(printable(path.resolve().name), path, entries, notes=notes, known=known)


def _folders(path: Path) -> list[Path]:
    if not path.is_dir():
        raise DataError(path, "no such folder.", do="Give the data set's folder.")
    return [path, *sorted(each for each in path.iterdir() if each.is_dir() and each.name.lower() in PARTS)]


def _records(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each entry with where it stands; DataError for a line that is none."""
    where = printable(str(file))
    if file.suffix == ".jsonl":
        for number, line in enumerate(read_text(file).split("\n"), 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{where}:{number}", f"the line is not valid JSON: {error}.") from error
            if not isinstance(record, dict):
                raise DataError(
                    f"{where}:{number}", "the line is not a JSON object.", right='{"file_name": "1.jpg", ...}'
                )
            yield f"{where}:{number}", record
        return
    rows = read_rows(file)
    header = [cell.strip() for cell in rows[0].cells] if rows else []
    for row in rows[1:]:
        if len(row.cells) != len(header):
            what = f"{len(row.cells)} cells for {len(header)} columns."
            raise DataError(
                f"{where}:{row.line}", what, do="Quote cells that contain the delimiter with double quotes."
            )
        yield f"{where}:{row.line}", dict(zip(header, row.cells, strict=True))


def _label_column(record: dict[str, Any], label: str, where: str) -> str:
    if FILE not in record:
        raise DataError(where, f"there is no {FILE}, but {', '.join(record)}.")
    known = [name for name in record if name not in NOT_LABELS]
    if not known:
        raise DataError(where, "there is no label.", right="A column must hold it, for example label.")
    if label:
        return choose("imagefolder", label, known)
    if "label" in known or len(known) == 1:
        return "label" if "label" in known else known[0]
    shown = ", ".join(map(printable, known))
    raise DataError(where, f"several columns could be the label: {shown}.", do="Choose one: --label NAME.")


def _labels(record: dict[str, Any], sets: LabelColumns, where: str) -> tuple[str, ...]:
    if FILE not in record:
        raise DataError(where, f"there is no {FILE}, but {', '.join(record)}.")
    sets.check(list(record))
    try:
        return sets.of(record)
    except BadPlace as error:
        raise DataError(where, error.what, do=error.do) from error


def _image_id(root: Root, folder: Path, record: dict[str, Any], where: str) -> str:
    try:
        return root.image_id((folder / str(record[FILE])).relative_to(root.folder).as_posix())
    except (BadPlace, ValueError) as error:
        raise DataError(where, str(error) or f"{record[FILE]!r} cannot be used.") from error


def _label(value: Any, where: str, column: str) -> str:
    if isinstance(value, bool | float) or not isinstance(value, str | int) or not str(value).strip():
        raise DataError(where, f"{value!r} is not a label.", right=f"{column} must hold text or an integer.")
    return str(value).strip()
