"""predictions.csv: a run's predictions for every photo of its test split, with the photo's sha256."""

from __future__ import annotations

import csv
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from sys import intern
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multistream.checksums import check_checksum
from multistream.data.file_hashes import digests_of
from multistream.data.filenames import escape, unescape
from multistream.data.table import Table
from multistream.errors import DataError, printable
from multistream.files import replacing_text
from multistream.label_set_metrics import THRESHOLD

COLUMNS = ("path", "sha256", "label", "predicted")
PROBABILITY = "p_"
VOTES = "votes_"
LABEL_SETS = "y_"
SEPARATOR = "|"
"""Separates the classes of an image that may have several."""
SHA256 = re.compile(r"[0-9a-f]{64}")

PhotoKey = tuple[str, int]
"""The sha256 of a photo's bytes, and the number of its copy: copies at several paths count as several photos."""


@dataclass(frozen=True)
class Predictions:
    """Probabilities (N, K) of N photos: `labels` are names of classes, or None if they are unknown.

    `votes` (N, K) are the fractions of annotators' votes for each class, if there are any. `label_sets` (N, K) are the
    classes of each photo, if it may have several; `labels` are then their joined names.
    """

    paths: tuple[str, ...]
    sha256: tuple[str, ...]
    labels: tuple[str, ...] | None
    probabilities: NDArray[np.floating]
    classes: tuple[str, ...]
    votes: NDArray[np.floating] | None = None
    label_sets: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        n, k = len(self.paths), len(self.classes)
        lengths = {len(self.sha256), n if self.labels is None else len(self.labels)}
        if lengths != {n}:
            raise ValueError(f"{n} paths and {k} classes need as many sha256 and labels, not {sorted(lengths)}.")
        for noun in ("probabilities", "votes", "label_sets"):
            array = getattr(self, noun)
            if array is not None and array.shape != (n, k):
                raise ValueError(f"{n} paths and {k} classes need {noun} of as many, not {array.shape}.")

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def predicted(self) -> tuple[str, ...]:
        """The most probable class of each photo, the first if several are equal; all predicted ones for label sets."""
        if self.label_sets is not None:
            return joined_names(self.probabilities >= THRESHOLD, self.classes)
        return tuple(self.classes[k] for k in self.probabilities.argmax(axis=1)) if self.classes else ()

    @property
    def label_indices(self) -> NDArray[np.int64]:
        """The index of each label among the classes, (N,); -1 if it is none of them."""
        place_of = {name: k for k, name in enumerate(self.classes)}
        return np.array([place_of.get(label, -1) for label in self.labels or ()], dtype=np.int64)

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each prediction equals the label, or the whole label set, (N,). Raises ValueError without labels."""
        if self.labels is None:
            raise ValueError("predictions without labels are neither right nor wrong.")
        if self.label_sets is not None:
            exact: NDArray[np.bool_] = ((self.probabilities >= THRESHOLD) == self.label_sets).all(axis=1)
            return exact
        return np.array([a == b for a, b in zip(self.labels, self.predicted, strict=True)], dtype=np.bool_)


def write_predictions(path: str | Path, predictions: Predictions) -> None:
    """Writes predictions.csv atomically. Raises DiskFull.

    Each number has enough digits to be read back bit for bit. Names of files and classes that a spreadsheet would
    execute, or that contain line breaks, are escaped (`multistream.data.filenames`).
    """
    blocks = {PROBABILITY: predictions.probabilities, VOTES: predictions.votes, LABEL_SETS: predictions.label_sets}
    arrays = {  # float32 is written with the digits of its float64, label sets as 0 and 1
        prefix: block.astype(np.float64 if block.dtype.kind == "f" else np.int64)
        for prefix, block in blocks.items()
        if block is not None
    }
    labels = map(escape, predictions.labels or ("",) * len(predictions))
    paths, predicted = map(escape, predictions.paths), map(escape, predictions.predicted)
    numbers = zip(*arrays.values(), strict=True)
    with replacing_text(path) as text:
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow([*COLUMNS, *(prefix + escape(name) for prefix in arrays for name in predictions.classes)])
        for *cells, own in zip(paths, predictions.sha256, labels, predicted, numbers, strict=True):
            rows.writerow([*cells, *map(repr, chain.from_iterable(block.tolist() for block in own))])


def read_predictions(path: str | Path) -> Predictions:
    """Reads predictions.csv, probabilities as float64. Raises DataError with the line number.

    The column `predicted` is not read, because it follows from the probabilities.
    """
    file, where = Path(path), printable(str(path))
    if not file.is_file():
        raise DataError(where, "no such file.", right="Runs with a test split have one.")
    check_checksum(file)
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            reader = csv.reader(text, strict=True)
            classes, further = _classes(next(reader, []), where)
            lines = _Lines(classes, further)
            for cells in filter(None, reader):
                lines.take(cells, f"{where}:{reader.line_num}")
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise DataError(where, f"it cannot be read: {error}.", do="Evaluate the run again.") from error
    return lines.predictions()


class _Lines:
    """What was read of predictions, line by line; `further` begins the names of the last columns."""

    def __init__(self, classes: tuple[str, ...], further: str) -> None:
        self.classes, self.further = classes, further
        self._columns = len(COLUMNS) + len(classes) * (2 if further else 1)
        self._paths: list[str] = []
        self._sha256: list[str] = []
        self._labels: list[str] = []
        self._without_label = ""
        self._numbers = array("d")  # 8 bytes a number, of which there may be millions

    def take(self, cells: Sequence[str], where: str) -> None:
        """Checks and keeps the line at `where`."""
        if len(cells) != self._columns:
            raise DataError(where, f"it has {len(cells)} cells.", right=f"The first line has {self._columns}.")
        name, digest, label, _, *decimals = cells
        if not SHA256.fullmatch(digest):
            raise DataError(where, f"{digest[:80]!r} is not a sha256.", right="A sha256 has 64 hexadecimal digits.")
        try:
            numbers = list(map(float, decimals))
        except ValueError as error:
            raise DataError(where, f"{error}.", right="Probabilities must be decimal numbers.") from error
        _check_numbers(numbers, len(self.classes), self.further, where)
        self._paths.append(unescape(name))
        self._sha256.append(digest)
        self._labels.append(intern(unescape(label)))
        self._numbers.extend(numbers)
        if not label:
            self._without_label = self._without_label or where

    def predictions(self) -> Predictions:
        """All lines; DataError where some have a label and some have none."""
        is_labelled = any(self._labels)
        if is_labelled and self._without_label:
            right = "Either all photos have a label, or none."
            raise DataError(self._without_label, "the label is missing.", right=right)
        k = len(self.classes)
        numbers = np.array(self._numbers).reshape(len(self._paths), self._columns - len(COLUMNS))
        return Predictions(
            paths=tuple(self._paths),
            sha256=tuple(self._sha256),
            labels=tuple(self._labels) if is_labelled else None,
            probabilities=numbers[:, :k],
            classes=self.classes,
            votes=numbers[:, k:] if self.further == VOTES else None,
            label_sets=numbers[:, k:] > THRESHOLD if self.further == LABEL_SETS else None,
        )


def _check_numbers(numbers: Sequence[float], k: int, further: str, where: str) -> None:
    """The numbers of a line over k classes: probabilities, and what follows them."""
    first, others = numbers[:k], numbers[k:]
    if further != LABEL_SETS:
        _check_fractions(first, "probabilities", where)
        if further:
            _check_fractions(others, "fractions of votes", where)
    elif not (all(0 <= number <= 1 for number in first) and {*others} <= {0, 1}):
        right = f"{PROBABILITY}CLASS must be between 0 and 1, {LABEL_SETS}CLASS 0 or 1."
        raise DataError(where, "these are not probabilities and labels.", right=right)


def _check_fractions(numbers: Sequence[float], noun: str, where: str) -> None:
    # A sum with a NaN is a NaN, which is not close to 1.
    if not (abs(sum(numbers) - 1) <= 1e-3 and min(numbers) >= 0 and max(numbers) <= 1 + 1e-6):
        raise DataError(where, f"these are not {noun}.", right="They must be between 0 and 1, and sum to 1.")


def _classes(header: Sequence[str], where: str) -> tuple[tuple[str, ...], str]:
    """Returns the classes of the probabilities, and the prefix of the columns after them (of the same classes)."""
    names = [name.removeprefix(PROBABILITY) for name in header if name.startswith(PROBABILITY)]
    others = header[len(COLUMNS) + len(names) :]
    further = next((prefix for prefix in (VOTES, LABEL_SETS) if others and others[0].startswith(prefix)), "")
    if further and others != [further + name for name in names]:
        right = f"After the columns {PROBABILITY}CLASS there is one {further}CLASS for each, in the same order."
        raise DataError(f"{where}:1", f"{further} columns are of other classes than the probabilities.", right=right)
    if not names or bool(others) != bool(further) or header[: len(COLUMNS)] != list(COLUMNS):
        right = f"It must be {','.join(COLUMNS)},{PROBABILITY}CLASS,..."
        raise DataError(f"{where}:1", "this is not the first line of a predictions.csv.", right=right)
    classes = tuple(map(unescape, names))
    (most, count), *_ = Counter(classes).most_common(1)
    if count > 1:
        raise DataError(f"{where}:1", f"the class {most!r} has two columns.", right="Each class has one column.")
    return classes, further


def joined_names(sets: NDArray[np.bool_], classes: Sequence[str]) -> tuple[str, ...]:
    """Joins the names of each photo's classes.

    >>> joined_names(np.array([[True, False, True], [False, False, False]]), ["awe", "fear", "joy"])
    ('awe|joy', '')
    """
    return tuple(SEPARATOR.join(name for name, has in zip(classes, row, strict=True) if has) for row in sets.tolist())


def photo_keys(predictions: Predictions) -> Iterator[PhotoKey]:
    """Yields the key of each row. An equal path (in repeated folds) is the same photo; another path is a copy."""
    copies: dict[str, dict[str, int]] = defaultdict(dict)
    for path, digest in zip(predictions.paths, predictions.sha256, strict=True):
        seen = copies[digest]
        yield digest, seen.setdefault(path, len(seen))


def pair_photos(first: Predictions, second: Predictions) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the rows of the photos that both have, (n,) and (n,), in the order of the first."""
    return pair_keys(photo_keys(first), photo_keys(second))


def pair_keys(first: Iterable[PhotoKey], second: Iterable[PhotoKey]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the positions of the keys that both have, (n,) and (n,), in the order of the first."""
    places = {key: i for i, key in enumerate(second)}
    found = [(i, places[key]) for i, key in enumerate(first) if key in places]
    rows = np.array(found, dtype=np.int64).reshape(-1, 2)
    return rows[:, 0], rows[:, 1]


def as_predictions(
    table: Table,
    rows: NDArray[np.int64],
    probabilities: NDArray[np.floating],
    *,
    classes: Sequence[str],
    digests: Mapping[int, str] | None = None,
) -> Predictions:
    """Builds predictions for some rows of a table: probabilities (len(rows), K) over `classes`.

    `digests` are the photos' sha256 by index; without them every file is read once.
    """
    places = rows.tolist()
    digests = digests or digests_of(table, places)
    sets = over_classes(table.label_sets, rows, classes=len(classes))
    labels = tuple(table.classes[k] for k in table.labels[rows])
    return Predictions(
        paths=tuple(table.ids[i] for i in places),
        sha256=tuple(digests[i] for i in places),
        labels=labels if sets is None else joined_names(sets, classes),
        probabilities=probabilities,
        classes=tuple(classes),
        votes=over_classes(table.votes, rows, classes=len(classes)),
        label_sets=sets,
    )


def over_classes(array: NDArray[Any] | None, rows: NDArray[np.int64], *, classes: int) -> NDArray[Any] | None:
    """Returns rows of a table's array (N, K), padded with 0 to `classes` >= K columns; None if there is no array."""
    return None if array is None else np.pad(array[rows], ((0, 0), (0, classes - array.shape[1])))
