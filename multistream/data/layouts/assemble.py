"""Assembling a Table from images, labels and splits: functions that all layouts share."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from sys import intern
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from multistream.data.filenames import path_ends
from multistream.data.image_files import Listing
from multistream.data.table import Table
from multistream.errors import DataError, check_known

MIKELS = ("amusement", "anger", "awe", "contentment", "disgust", "excitement", "fear", "sadness")
"""The eight emotions of FI, EmoSet, ArtPhoto, Abstract and LDL, alphabetical (paper section 2)."""

SHORT_NAMES = {"sad": "sadness", "content": "contentment", "amuse": "amusement", "excite": "excitement"}

PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""The split for each of the usual names."""


_DECIMAL = re.compile(r"[+-]?\d*\.\d+")
_QUOTED = re.compile(r"[\"'].+", re.DOTALL)


Votes = Mapping[str, float]
"""{class: how many people, or which fraction of them, gave it}"""


class Entry(NamedTuple):
    """One image of a layout: its id, its label, and its split if the layout has predefined splits."""

    id: str
    label: str
    part: str | None = None
    votes: Votes | None = None
    """The number of votes for each class, if people voted."""
    labels: Sequence[str] = ()
    """All classes of the image, if it may have several; `label` is the first."""


def assemble(
    name: str,
    root: Path,
    entries: Iterable[Entry],
    *,
    notes: Iterable[str] = (),
    known: Iterable[str] = (),
    **more: Any,
) -> Table:
    """Makes a Table of these entries, with classes in alphabetical order; DataError if there are none.

    `known` are classes to include even if no image has them: all that people voted on, if votes are the target.
    """
    ids, labels, parts, votes, sets = _columns(entries)
    if not ids:
        detail = f" ({'; '.join(notes)})" if notes else ""
        raise DataError(root, f"no image of {name} can be used{detail}.", do="Check the path and the expected layout.")
    classes = tuple(sorted({*known, *labels, *chain.from_iterable(sets)}))
    place = {label: number for number, label in enumerate(classes)}
    return Table(
        name=name,
        root=root,
        ids=tuple(ids),
        labels=np.array([place[label] for label in labels], dtype=np.int64),
        classes=classes,
        votes=_distributions(votes, classes),
        label_sets=_label_sets(sets, place),
        parts=tuple(part or "train" for part in parts) if any(parts) else None,
        notes=(*notes, *doubtful_labels(classes)),
        **more,
    )


def _columns(
    entries: Iterable[Entry],
) -> tuple[list[str], list[str], list[str | None], list[Votes | None], list[Sequence[str]]]:
    """The entries' fields, each as a list; equal labels are one object, which of a million photos saves 60 MB."""
    ids, labels, parts, votes, sets = [], [], [], [], []
    for entry in entries:  # which may be made one by one: as objects they take more memory than these lists
        ids.append(entry.id)
        labels.append(intern(entry.label))
        parts.append(entry.part)
        votes.append(entry.votes)
        sets.append(entry.labels)
    return ids, labels, parts, votes, sets


def add_entry(entries: dict[str, Entry], entry: Entry, where: str) -> None:
    """Adds an entry under its id; DataError if the image already has another label or split."""
    other = entries.setdefault(entry.id, entry)
    if other != entry:
        given = ", ".join(filter(None, (other.label, other.part)))
        what = f"{entry.id!r} has a different label or split on an earlier line: {given}."
        raise DataError(where, what, do="Keep one of them.")


def _distributions(votes: Sequence[Votes | None], classes: Sequence[str]) -> NDArray[np.float64] | None:
    """The votes of every image as fractions (N, K); None unless all images have votes, only for these classes."""
    known = set(classes)
    if not all(each and known.issuperset(each) for each in votes):
        return None
    counts = np.zeros((len(votes), len(classes)))
    for row, each in zip(counts, votes, strict=True):
        row[:] = [(each or {}).get(name, 0.0) for name in classes]
    counts /= counts.sum(axis=1, keepdims=True)
    return counts


def _label_sets(sets: Sequence[Sequence[str]], place: Mapping[str, int]) -> NDArray[np.bool_] | None:
    """Whether each image has each class, (N, K); None if images have one label each."""
    if not any(sets):
        return None
    rows = np.zeros((len(sets), len(place)), dtype=np.bool_)
    for row, labels in zip(rows, sets, strict=True):
        row[[place[label] for label in labels]] = True
    return rows


def doubtful_labels(classes: Sequence[str]) -> tuple[str, ...]:
    """Notes on classes whose names look the same, or do not look like a class."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name in classes:
        alike[" ".join(unicodedata.normalize("NFKC", name).casefold().split())].append(name)
    notes = [f"classes {' and '.join(map(repr, names))} look the same" for names in alike.values() if len(names) > 1]
    known = set(classes)
    doubts = {
        "{count:,} classes look like several labels joined together: {first!r}": [
            name for name in classes if known.intersection(re.split(r"\s*[,;|]\s*", name)) - {name}
        ],
        "{count:,} classes are numbers with decimals, such as {first}: are these scores?": [
            *filter(_DECIMAL.fullmatch, classes)
        ],
        "class {first!r} begins with a quote: is there a space before it in the file?": [
            *filter(_QUOTED.fullmatch, classes)
        ],
    }
    notes += [text.format(count=len(names), first=names[0]) for text, names in doubts.items() if names]
    return tuple(notes)


def choose(layout: str, label: str, known: Sequence[str]) -> str:
    """The requested label, or the first known one for ""; UsageError if it is unknown."""
    chosen = label or known[0]
    check_known([chosen], known, where="data.label", what=f"{layout} has no label {{name!r}}.")
    return chosen


def emotion(name: str) -> str:
    """The name of an emotion as in the paper: in lower case, not abbreviated."""
    word = name.strip().strip("'\"").lower()
    return SHORT_NAMES.get(word, word)


def folder_of(path: Path, *names: str) -> Path:
    """The first existing folder of these names in `path`, else `path` itself; DataError if that is not a folder."""
    folder = next((path / name for name in names if (path / name).is_dir()), path)
    if not folder.is_dir():
        raise DataError(path, "no such folder.", do="Pass the data set's folder.")
    return folder


def part_files(folder: Path, pattern: str) -> list[tuple[Path, str]]:
    """The files that are named after a split, such as train.json, each with that split."""
    return [(file, PARTS[file.stem.lower()]) for file in sorted(folder.glob(pattern)) if file.stem.lower() in PARTS]


def part_in(name: str) -> str | None:
    """The split that a file's name contains as a word, such as train-00000-of-00002.parquet; None if there is none."""
    return next((PARTS[word] for word in re.split(r"[^a-z]+", name.lower()) if word in PARTS), None)


class Finder:
    """Finds images by the names in a release's lists, which are URLs or paths from another folder.

    It looks for the longest suffix of the name, in whole components, that only one image has.
    """

    def __init__(self, listing: Listing) -> None:
        self.listing = listing
        self._by_end: dict[str, str | None] = {}
        for image_id in listing.ids:
            for end in path_ends(image_id):
                self._by_end[end] = None if end in self._by_end else image_id
        self._by_end |= {image_id: image_id for image_id in listing.ids}

    def find(self, name: str) -> str | None:
        """The id of the image; None if no image has a suffix of the name, or several share the longest one."""
        plain = name.split("?")[0] if "://" in name else name
        return next((self._by_end[end] for end in path_ends(plain) if end in self._by_end), None)


def counted(counts: Mapping[str, int]) -> tuple[str, ...]:
    """Notes "N images ...", for each N that is not 0."""
    return tuple(f"{count:,} {what}" for what, count in counts.items() if count)
