"""EmoSet (Yang et al., ICCV 2023): `{train,val,test}.json` and `image/<class>/`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from multistream.data.image_files import Root
from multistream.data.layouts.assemble import Entry, add_entry, assemble, counted, folder_of, part_files
from multistream.data.layouts.delimited_text import read_text
from multistream.data.layouts.folders import folders
from multistream.data.table import Table
from multistream.errors import DataError, readable


def emoset(path: Path, *, allow_outside: bool = False) -> Table:
    """EmoSet with its predefined splits, from rows [label, id, image, annotation] or [label, image, annotation].

    Without the JSON files, reads the class folders in `image/`.
    """
    files = part_files(folder_of(path), "*.json")
    if not files:
        return folders(folder_of(path, "image"), allow_outside=allow_outside, name="emoset")
    root = Root(path, allow_outside=allow_outside)
    entries: dict[str, Entry] = {}
    for file, part in files:
        for number, row in enumerate(_rows(file), 1):
            where = f"{file}, row {number}"
            label, image = _label_and_image(row, where)
            add_entry(entries, Entry(root.image_id(image, where), label, part), where)
    present = [entry for entry in entries.values() if root.exists(entry.id)]
    counts = {"images left out: missing files": len(entries) - len(present)}
    return assemble("emoset", path, present, notes=counted(counts))


def _rows(file: Path) -> list[Any]:
    with readable(file, ValueError, RecursionError, what="it is not valid JSON"):
        rows = json.loads(read_text(file))
    if not isinstance(rows, list):
        raise DataError(file, "it is not a list of rows.", right="It must be [[label, id, image, ...], ...].")
    return rows


def _label_and_image(row: Any, where: str) -> tuple[str, str]:
    match row:
        case [str(label), _, str(image), _] | [str(label), str(image), _]:
            return label.strip(), image
    right = "It must be [label, id, image, annotation] or [label, image, annotation]."
    raise DataError(where, f"{str(row)[:80]} is not a row of EmoSet.", right=right)
