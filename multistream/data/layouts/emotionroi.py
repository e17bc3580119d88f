"""EmotionROI (Peng et al., ICIP 2016): `images/<class>/` and the lists of its predefined split."""

from __future__ import annotations

from pathlib import Path

from multistream.data.image_files import list_images
from multistream.data.layouts.assemble import Entry, assemble, counted, emotion, folder_of, part_files
from multistream.data.layouts.delimited_text import read_lines
from multistream.data.layouts.folders import folders
from multistream.data.table import Table
from multistream.errors import DataError

LISTS = "training_testing_split"


def emotionroi(path: Path, *, allow_outside: bool = False) -> Table:
    """EmotionROI with the splits in `training_testing_split/{training,testing}.txt`, which have lines class/file.

    Without these lists, reads its class folders.
    """
    root = folder_of(path, "images")
    part_of = _listed_parts(path / LISTS)
    if not part_of:
        return folders(root, allow_outside=allow_outside, name="emotionroi")
    listing = list_images(root, allow_outside=allow_outside)
    entries = [Entry(i, emotion(i.split("/")[0]), part_of[i]) for i in listing.ids if i in part_of and "/" in i]
    counts = {
        f"images ignored: not in {LISTS}": len(listing.ids) - len(entries),
        "images left out: listed, but not in the folder": len(set(part_of) - set(listing.ids)),
    }
    return assemble("emotionroi", root, entries, notes=(*listing.notes, *counted(counts)))


def _listed_parts(folder: Path) -> dict[str, str]:
    """{image: split}; DataError for an image in two splits."""
    part_of: dict[str, str] = {}
    for file, part in part_files(folder, "*.txt"):
        for row in read_lines(file):
            name = row.cells[0].replace("\\", "/")
            if part_of.setdefault(name, part) != part:
                raise DataError(row.where, f"{name!r} is already in {part_of[name]}.", do="Keep one of them.")
    return part_of
