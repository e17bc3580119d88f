"""EmoSet (Yang et al., ICCV 2023): `{train,val,test}.json` and `image/<class>/`."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from multistream.data.layouts.assemble import PARTS, Entry, assemble, counted, folder_of
from multistream.data.layouts.delimited_text import read_text
from multistream.data.layouts.folders import folders
from multistream.data.layouts.image_paths import BadPlace, Root
from multistream.data.table import Table
from multistream.errors import DataError, printable


def emoset(path: Path, *, allow_outside: bool = False) -> Table:
    """EmoSet with its own parts, from rows [label, id, image, annotation] or [label, image, annotation]; both occur.

    Without the json files, the class folders in `image/`.
    """
    folder_of(path)
    files = [file for file in sorted(path.glob("*.json")) if file.stem.lower() in PARTS]
    if not files:
        return folders(folder_of(path, "image"), allow_outside=allow_outside, name="emoset")
    root = Root(path, allow_outside=allow_outside)
    entries: dict[str, Entry] = {}
    counts: Counter[str] = Counter()
    for file in files:
        part = PARTS[file.stem.lower()]
        for number, row in enumerate(_rows(file), 1):
            entry = _entry(file, number, row, part, root)
            other = entries.setdefault(entry.id, entry)
            if other != entry:
                what = f"{entry.id!r} is {entry.label} in {part}, and was {other.label} in {other.part}."
                raise DataError(f"{file!s}, row {number}", what, do="Keep one row per image.")
    present = [entry for entry in entries.values() if root.exists(entry.id)]
    counts["images left out: missing files"] = len(entries) - len(present)
    return assemble("emoset", path, present, notes=counted(counts))


def _rows(file: Path) -> list[Any]:
    try:
        rows = json.loads(read_text(file))
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(file, f"it is not valid JSON: {error}.") from error
    if not isinstance(rows, list):
        raise DataError(file, "it is not a list of rows.", right="It must be [[label, id, image, ...], ...].")
    return rows


def _entry(file: Path, number: int, row: Any, part: str, root: Root) -> Entry:
    where = f"{printable(str(file))}, row {number}"
    if (
        not isinstance(row, list)
        or len(row) not in (3, 4)
        or not all(isinstance(row[i], str) for i in (0, len(row) - 2))
    ):
        right = "It must be [label, id, image, annotation] or [label, image, annotation]."
        raise DataError(where, f"{printable(str(row))[:80]} is not a row of EmoSet.", right=right)
    try:
        return Entry(root.image_id(row[-2]), row[0].strip(), part)
    except BadPlace as fault:
        raise DataError(where, fault.what, do=fault.do) from fault
