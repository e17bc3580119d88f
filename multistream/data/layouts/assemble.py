"""Assembling: what layouts have in common once they know their images, labels and parts."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multistream.data.filenames import path_ends
from multistream.data.image_files import Listing
from multistream.data.table import Table
from multistream.errors import DataError, UsageError, did_you_mean

MIKELS = ("amusement", "anger", "awe", "contentment", "disgust", "excitement", "fear", "sadness")
"""The eight emotions of FI, EmoSet, ArtPhoto, Abstract and LDL, alphabetical (paper section 2)."""

SHORT_NAMES = {"sad": "sadness", "content": "contentment", "amuse": "amusement", "excite": "excitement"}

PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What people call the parts."""


@dataclass(frozen=True)
class Entry:
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
    own = {entry.label for entry in chosen}.union(*(entry.labels for entry in chosen))
    classes = tuple(sorted({*known, *own}))
    place = {label: number for number, label in enumerate(classes)}
    parts = tuple(entry.part or "train" for entry in chosen)
    return Table(
        name=name,
        root=root,
        ids=tuple(entry.id for entry in chosen),
        labels=np.array([place[entry.label] for entry in chosen], dtype=np.int64),
        classes=classes,
        votes=_distributions(chosen, classes),
        label_sets=_label_sets(chosen, place),
        parts=parts if any(entry.part for entry in chosen) else None,
        notes=(*notes, *doubtful_labels(classes)),
        **more,
    )


def add_entry(entries: dict[str, Entry], entry: Entry, where: str) -> None:
    """Adds an entry under its id; DataError where the image has another label or part already."""
    other = entries.setdefault(entry.id, entry)
    if other != entry:
        what = f"{entry.id!r} has a different label or split on an earlier line: {other.label}, {other.part}."
        raise DataError(where, what, do="Keep one of them.")


def _distributions(entries: Sequence[Entry], classes: Sequence[str]) -> NDArray[np.float64] | None:
    """The votes of every image as fractions (N, K); None unless all have some, and for these classes alone."""
    votes = [entry.votes for entry in entries if entry.votes is not None and set(entry.votes) <= set(classes)]
    if len(votes) < len(entries):
        return None
    counts = np.array([[each.get(name, 0.0) for name in classes] for each in votes])
    fractions: NDArray[np.float64] = counts / counts.sum(1, keepdims=True)
    return fractions


def _label_sets(entries: Sequence[Entry], place: Mapping[str, int]) -> NDArray[np.bool_] | None:
    """Which classes each image has (N, K); None where each has one label."""
    if not any(entry.labels for entry in entries):
        return None
    sets = np.zeros((len(entries), len(place)), dtype=np.bool_)
    for row, entry in enumerate(entries):
        sets[row, [place[label] for label in entry.labels]] = True
    return sets


def doubtful_labels(classes: Sequence[str]) -> tuple[str, ...]:
    """Notes on classes that look like one, or like something else than a class."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name in classes:
        alike[" ".join(unicodedata.normalize("NFKC", name).casefold().split())].append(name)
    notes = [f"classes {' and '.join(map(repr, names))} look the same" for names in alike.values() if len(names) > 1]
    joined = [name for name in classes if set(re.split(r"\s*[,;|]\s*", name)) & set(classes) - {name}]
    decimals = [name for name in classes if re.fullmatch(r"[+-]?\d*\.\d+", name)]
    quoted = [name for name in classes if name[:1] in "\"'" and len(name) > 1]
    doubts = (
        (joined, "{count:,} classes look like several labels joined together: {first!r}"),
        (decimals, "{count:,} classes are numbers with decimals, such as {first}: are these scores?"),
        (quoted, "class {first!r} begins with a quote: is there a space before it in the file?"),
    )
    notes += [text.format(count=len(names), first=names[0]) for names, text in doubts if names]
    return tuple(notes)


def choose(layout: str, label: str, known: Sequence[str]) -> str:
    """The label asked for, the first known one if none is; UsageError if it is unknown."""
    if label and label not in known:
        raise UsageError("data.label", f"{layout} has no label {label!r}.", right=did_you_mean(label, known))
    return label or known[0]


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
