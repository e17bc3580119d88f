"""WebEMO (Panda et al., ECCV 2018): 25 emotions, grouped into 7 and into 2 (paper section 4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from multistream.data.image_files import list_images
from multistream.data.layouts.assemble import PARTS, Entry, Finder, add_entry, assemble, choose, counted, folder_of
from multistream.data.layouts.delimited_text import words
from multistream.data.table import Table
from multistream.errors import DataError

SEVEN = {
    "joy": ("cheerfulness", "contentment", "enthrallment", "optimism", "pride", "relief", "zest"),
    "love": ("affection", "gratitude", "lust"),
    "anger": ("disgust", "envy", "exasperation", "irritability", "rage"),
    "fear": ("horror", "nervousness"),
    "sadness": ("disappointment", "neglect", "sadness", "shame", "suffering", "sympathy"),
    "surprise": ("surprise",),
    "confusion": ("confusion",),
}
"""The 25 emotions by the 7 groups."""

POSITIVE = frozenset(("joy", "love", "surprise"))
LEVELS = ("7", "25", "2")
_OF_25 = {fine: coarse for coarse, group in SEVEN.items() for fine in group}
_BY_NAME = {
    **{name: name for name in _OF_25},
    **{"cheerfullness": "cheerfulness", "irritabilty": "irritability"},  # misspelled in the release
    **{str(number): name for number, name in enumerate(sorted(_OF_25))},  # numbered alphabetically
}
"""The 25 emotions by the names and numbers of the release."""


def webemo(path: Path, *, label: str = "", allow_outside: bool = False) -> Table:
    """WebEMO with 7 classes (as in the paper), or, by `label`, with 25 or 2 (negative, positive).

    Reads lines `url label` in `<split>*.txt`, or folders `images/test25/<0..24>/` named by number or emotion.
    """
    level = choose("webemo", label, LEVELS)
    root = folder_of(path, "images")
    listing = list_images(root, allow_outside=allow_outside)
    lists = [file for file in sorted(path.glob("*.txt")) if _part(file.name)]
    counts: Counter[str] = Counter()
    found = _from_lists(lists, Finder(listing), counts) if lists else _from_folders(listing.ids, counts)
    entries = [Entry(each.id, at_level(each.label, level), each.part) for each in found]
    notes = (f"label: {level} classes", *listing.notes, *counted(counts))
    return assemble("webemo", root, entries, notes=notes)


def at_level(fine: str, level: str) -> str:
    """The class of one of the 25 emotions at level 25, 7 or 2.

    >>> at_level("zest", "7"), at_level("zest", "2")
    ('joy', 'positive')
    """
    coarse = _OF_25[fine]
    return {"25": fine, "7": coarse, "2": "positive" if coarse in POSITIVE else "negative"}[level]


def _fine(text: str) -> str | None:
    """The emotion with this number or name; None if there is none."""
    word = text.strip().lower()
    return _BY_NAME.get(str(int(word)) if word.isdecimal() else word)


def _part(name: str) -> str | None:
    """The split that the name of a list or folder starts with, such as train25.txt or test_25; None if none."""
    return next((part for word, part in PARTS.items() if name.lower().startswith(word)), None)


def _from_lists(lists: Iterable[Path], finder: Finder, counts: Counter[str]) -> Iterable[Entry]:
    entries: dict[str, Entry] = {}
    for file in lists:
        for row in words(file):
            fine = _fine(row.cells[-1])
            if len(row.cells) != 2 or fine is None:
                right = "It must be a URL and a label, 0 to 24 or an emotion."
                raise DataError(row.where, f"{' '.join(row.cells)!r} is not a line of WebEMO.", right=right)
            image_id = finder.find(row.cells[0])
            if image_id is None:
                counts["images left out: listed, but no file"] += 1
            else:
                add_entry(entries, Entry(image_id, fine, _part(file.name)), row.where)
    return entries.values()


def _from_folders(ids: Iterable[str], counts: Counter[str]) -> Iterable[Entry]:
    """Images in folders named by number or emotion; the folder above may be named after a split (test25)."""
    for image_id in ids:
        *_, above, folder, _ = ("", "", *image_id.split("/"))
        if fine := _fine(folder):
            yield Entry(image_id, fine, _part(above))
        else:
            counts["images ignored: folder is neither a number 0..24 nor an emotion"] += 1
