"""Flickr-LDL and Twitter-LDL (Yang et al., AAAI 2017): a line `name v0 .. v7` of votes for each image."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from multistream.data.image_files import list_images
from multistream.data.layouts.assemble import Entry, Finder, assemble, choose, counted, folder_of
from multistream.data.layouts.delimited_text import Row, words
from multistream.data.layouts.votes import LABELS, shares, winners
from multistream.data.table import Table
from multistream.errors import DataError

CLASSES = ("amusement", "awe", "contentment", "excitement", "anger", "disgust", "fear", "sadness")
"""The order of the votes, which is not the alphabet's."""


def ldl(path: Path, *, label: str = "", allow_outside: bool = False) -> Table:
    """An LDL data set, each image with the emotion of the most votes; tied ones are left out.

    With `label="votes"` training has the distribution of the votes as its target, and tied images stay: their label is
    the first of the tied emotions. `path` is its folder, with one text file of votes, or that file.
    """
    chosen = choose("ldl", label, LABELS)
    file = path if path.is_file() else _votes_file(folder_of(path))
    root = folder_of(file.parent, "images")
    finder = Finder(list_images(root, allow_outside=allow_outside))
    entries: dict[str, Entry] = {}
    counts: Counter[str] = Counter()
    for row in words(file):
        values = shares(file, row, row.cells[1:], classes=CLASSES)
        best, votes = winners(values, CLASSES), dict(zip(CLASSES, values, strict=True))
        image_id = finder.find(row.cells[0])
        if image_id is None:
            counts["images left out: votes but no file"] += 1
        elif len(best) > 1 and chosen == "vote":
            counts["images left out: tied vote"] += 1
        elif entries.setdefault(image_id, Entry(image_id, best[0], votes=votes)).label != best[0]:
            counts["later lines ignored: different label for the same image"] += 1
    notes, known = (*finder.listing.notes, *counted(counts)), CLASSES if chosen == "votes" else ()
    return assemble("ldl", root, entries.values(), notes=notes, known=known)


def _votes_file(folder: Path) -> Path:
    """The text file whose first line holds a name and eight numbers."""
    found = [file for file in sorted(folder.glob("*.txt")) if _is_vote(next(iter(words(file)), None))]
    if len(found) == 1:
        return found[0]
    what = f"{len(found)} text files with votes were found." if found else "there is no text file with votes."
    do = "Give the file itself: ldl:FOLDER/FILE.txt."
    raise DataError(folder, what, right="Each line must be: name v0 .. v7, without a header.", do=do)


def _is_vote(row: Row | None) -> bool:
    if row is None or len(row.cells) != len(CLASSES) + 1:
        return False
    return all(cell.replace(".", "", 1).isdigit() for cell in row.cells[1:])
