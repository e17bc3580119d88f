"""Assembling: what layouts have in common once they know their images, labels and parts."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
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
"""What people call the parts."""


_DECIMAL = re.compile(r"[+-]?\d*\.\d+")
_QUOTED = re.compile(r"[\"'].+", re.DOTALL)


class Entry(NamedTuple):
    """One image as a layout has it: id, label, and part where the layout splits."""

    id: str
    label: str
    part: str | None = None
    votes: Mapping[str, float] | None = None
    """How many votes each class got, where people voted."""
    labels: Sequence[str] = ()
    """All classes of the image, where it may have several; `label` is the first."""


def assemble(
    name: str,
    root: Path,
    entries: Iterable[Entry],
    *,
    notes: Iterable[str] = (),
    known: Iterable[str] = (),
    **more: Any,
) -> Table:
    """The Table of these entries, classes alphabetical; DataError if there are none.

    `known` are classes even where no image is theirs: all that people voted on, where votes are the target.
    """
    chosen = list(entries)
    if not chosen:
        detail = f" ({'; '.join(notes)})" if notes else ""
        raise DataError(root, f"no image of {name} can be used{detail}.", do="Check the path and the expected layout.")
    ids, labels, parts, votes, sets = zip(*chosen, strict=True)
    classes = tuple(sorted({*known, *labels, *chain.from_iterable(sets)}))
    place = {label: number for number, label in enumerate(classes)}
    return Table(
        name=name,
        root=root,
        ids=ids,
        labels=np.array([place[label] for label in labels], dtype=np.int64),
        classes=classes,
        votes=_distributions(votes, classes),
        label_sets=_label_sets(sets, place),
        parts=tuple(part or "train" for part in parts) if any(parts) else None,
        notes=(*notes, *doubtful_labels(classes)),
        **more,
    )


def add_entry(entries: dict[str, Entry], entry: Entry, where: str) -> None:
    """Adds an entry under its id; DataError where the image has another label or part already."""
    other = entries.setdefault(entry.id, entry)
    if other != entry:
        given = ", ".join(filter(None, (other.label, other.part)))
        what = f"{entry.id!r} has a different label or split on an earlier line: {given}."
        raise DataError(where, what, do="Keep one of them.")


def _distributions(votes: Sequence[Mapping[str, float] | None], classes: Sequence[str]) -> NDArray[np.float64] | None:
    """The votes of every image as fractions (N, K); None unless all have some, and for these classes alone."""
    known = set(classes)
    counts = [[each.get(name, 0.0) for name in classes] for each in votes if each and known.issuperset(each)]
    if len(counts) < len(votes):
        return None
    fractions: NDArray[np.float64] = counts / np.sum(counts, axis=1, keepdims=True)
    return fractions


def _label_sets(sets: Sequence[Sequence[str]], place: Mapping[str, int]) -> NDArray[np.bool_] | None:
    """Which classes each image has (N, K); None where each has one label."""
    if not any(sets):
        return None
    rows = np.zeros((len(sets), len(place)), dtype=np.bool_)
    for row, labels in zip(rows, sets, strict=True):
        row[[place[label] for label in labels]] = True
    return rows


def doubtful_labels(classes: Sequence[str]) -> tuple[str, ...]:
    """Notes on classes that look like one, or like something else than a class."""
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
    """The label asked for, the first known one if none is; UsageError if it is unknown."""
    chosen = label or known[0]
    check_known([chosen], known, where="data.label", what=f"{layout} has no label {{name!r}}.")
    return chosen


def emotion(name: str) -> str:
    """An emotion as the paper writes it: in small letters, and in full."""
    word = name.strip().strip("'\"").lower()
    return SHORT_NAMES.get(word, word)


def folder_of(path: Path, *names: str) -> Path:
    """The first folder of these names below `path`, else `path` itself; DataError if that is not a folder."""
    folder = next((path / name for name in names if (path / name).is_dir()), path)
    if not folder.is_dir():
        raise DataError(path, "no such folder.", do="Pass the data set's folder.")
    return folder


def part_files(folder: Path, pattern: str) -> list[tuple[Path, str]]:
    """The files that are named after a part, such as train.json, each with that part."""
    return [(file, PARTS[file.stem.lower()]) for file in sorted(folder.glob(pattern)) if file.stem.lower() in PARTS]


def part_in(name: str) -> str | None:
    """The part that a word of a file's name is, such as train-00000-of-00002.parquet; None where none is."""
    return next((PARTS[word] for word in re.split(r"[^a-z]+", name.lower()) if word in PARTS), None)


class Finder:
    """Finds the image that a release's list means, which names it by a URL or by a path from somewhere else.

    It takes the longest end of the name, cut at slashes, that one image alone ends with.
    """

    def __init__(self, listing: Listing) -> None:
        self.listing = listing
        self._by_end: dict[str, str | None] = {}
        for image_id in listing.ids:
            for end in path_ends(image_id):
                self._by_end[end] = None if end in self._by_end else image_id
        self._by_end |= {image_id: image_id for image_id in listing.ids}

    def find(self, name: str) -> str | None:
        """The id of the image, None if there is none or if several end alike."""
        plain = name.split("?")[0] if "://" in name else name
        return next((self._by_end[end] for end in path_ends(plain) if end in self._by_end), None)


def counted(counts: Mapping[str, int]) -> tuple[str, ...]:
    """Notes "N images ...", where N is not 0."""
    return tuple(f"{count:,} {what}" for what, count in counts.items() if count)
