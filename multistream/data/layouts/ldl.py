"""Flickr-LDL and Twitter-LDL (Yang et al., AAAI 2017): one line of votes, `name v0 .. v7`, per image."""

from __future__ import annotations

from pathlib import Path

from multistream.data.image_files import list_images
from multistream.data.layouts.assemble import Finder, choose, folder_of
from multistream.data.layouts.delimited_text import words
from multistream.data.layouts.votes import LABELS, voted_table, votes_of
from multistream.data.table import Table
from multistream.errors import DataError

CLASSES = ("amusement", "awe", "contentment", "excitement", "anger", "disgust", "fear", "sadness")
"""The classes in the order of the votes, which is not alphabetical."""


def ldl(path: Path, *, label: str = "", allow_outside: bool = False) -> Table:
    """An LDL data set: each image has the emotion with the most votes; tied ones are left out.

    With `label="votes"` the training targets are the distributions of votes, and tied images are kept: their label is
    the first of the tied emotions. `path` is the folder, with one text file of votes, or that file.
    """
    chosen = choose("ldl", label, LABELS)
    file = path if path.is_file() else _votes_file(folder_of(path))
    finder = Finder(list_images(folder_of(file.parent, "images"), allow_outside=allow_outside))
    votes = ((row.cells[0], votes_of(row, row.cells[1:], CLASSES)) for row in words(file))
    return voted_table("ldl", votes, finder, label=chosen, classes=CLASSES)


def _votes_file(folder: Path) -> Path:
    """The only text file whose first line has a name and eight numbers; DataError if there is not exactly one."""
    found = [file for file in sorted(folder.glob("*.txt")) if _starts_with_votes(file)]
    if len(found) == 1:
        return found[0]
    what = f"{len(found)} text files with votes were found." if found else "there is no text file with votes."
    do = "Pass the file itself: ldl:FOLDER/FILE.txt."
    raise DataError(folder, what, right="Each line must be: name v0 .. v7, without a header.", do=do)


def _starts_with_votes(file: Path) -> bool:
    first = next((row.cells for row in words(file)), ())
    return len(first) == len(CLASSES) + 1 and all(cell.replace(".", "", 1).isdigit() for cell in first[1:])
