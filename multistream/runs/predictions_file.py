"""predictions.csv: what a run said of every photo of its test split, with the photo's sha256."""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from multistream.checksums import check_checksum
from multistream.data.filenames import escape, unescape
from multistream.data.table import Table
from multistream.errors import DataError, printable
from multistream.files import write_atomic
from multistream.label_set_metrics import THRESHOLD
from multistream.runs.split_file import sha256_of_files

COLUMNS = ("path", "sha256", "label", "predicted")
PROBABILITY = "p_"
VOTES = "votes_"
LABEL_SETS = "y_"
SEPARATOR = "|"
"""Between the classes of an image, where it may have several."""
SHA256 = re.compile(r"[0-9a-f]{64}")

PhotoKey = tuple[str, int]
"""The sha256 of a photo's bytes, and which of its copies it is: copies in several places are several photos."""


@dataclass(frozen=True)
class Predictions:
    """Probabilities (N, K) of N photos: `labels` are names of classes, or None if they are unknown.

    `votes` (N, K) are the fractions of votes that people gave each class, where they voted. `label_sets` (N, K) are the
    classes of each photo, where it may have several; `labels` are then their names, joined.
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
        if lengths != {n} or self.probabilities.shape != (n, k):
            what = f"sha256 and labels {sorted(lengths)}, probabilities {self.probabilities.shape}"
            raise ValueError(f"{n} paths and {k} classes need as many rows and columns, but there are {what}.")
        if self.votes is not None and self.votes.shape != (n, k):
            raise ValueError(f"{n} paths and {k} classes need votes of as many; they are {self.votes.shape}.")
        if self.label_sets is not None and self.label_sets.shape != (n, k):
            raise ValueError(f"{n} paths and {k} classes need label sets of as many, not {self.label_sets.shape}.")

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def predicted(self) -> tuple[str, ...]:
        """The most probable class of each photo, the first of equals; or all that are predicted, joined."""
        if self.label_sets is not None:
            return joined_names(self.probabilities >= THRESHOLD, self.classes)
        return tuple(self.classes[k] for k in self.probabilities.argmax(axis=1)) if self.classes else ()

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each prediction is the label, or the whole set of labels, (N,); ValueError without labels."""
        if self.labels is None:
            raise ValueError("predictions without labels are neither right nor wrong.")
        if self.label_sets is not None:
            exact: NDArray[np.bool_] = ((self.probabilities >= THRESHOLD) == self.label_sets).all(axis=1)
            return exact
        return np.array([a == b for a, b in zip(self.labels, self.predicted, strict=True)], dtype=np.bool_)


def write_predictions(path: str | Path, predictions: Predictions) -> None:
    """Writes predictions.csv, whole or not at all (DiskFull).

    Each number has as many digits as it takes to be read back bit for bit. Names of files and classes that a
    spreadsheet would run, or that break a line, are escaped (`multistream.data.filenames`).
    """
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    numbers_NC, prefixes = predictions.probabilities.astype(np.float64), [PROBABILITY]
    if predictions.votes is not None:
        numbers_NC, prefixes = np.hstack([numbers_NC, predictions.votes.astype(np.float64)]), [PROBABILITY, VOTES]
    if predictions.label_sets is not None:
        numbers_NC, prefixes = np.hstack([numbers_NC, predictions.label_sets]), [PROBABILITY, LABEL_SETS]
    rows.writerow([*COLUMNS, *(prefix + escape(name) for prefix in prefixes for name in predictions.classes)])
    labels = predictions.labels or ("",) * len(predictions)
    for place, digest, label, predicted, numbers in zip(
        predictions.paths,
        predictions.sha256,
        labels,
        predictions.predicted,
        numbers_NC.tolist(),
        strict=True,
    ):
        rows.writerow([escape(place), digest, escape(label), escape(predicted), *map(repr, numbers)])
    write_atomic(path, text.getvalue())


def read_predictions(path: str | Path) -> Predictions:
    """Reads predictions.csv, probabilities as float64; DataError with the line of what cannot be.

    `predicted` is not read: it is the largest probability.
    """
    file, where = Path(path), printable(str(path))
    if not file.is_file():
        raise DataError(where, "no such file.", right="Runs with a test split have one.")
    check_checksum(file)
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            reader = csv.reader(text, strict=True)
            header = next(reader, [])
            classes, further = _classes(header, where)
            rows = [_Row(cells, line=reader.line_num, where=where, header=header) for cells in reader if cells]
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise DataError(where, f"it cannot be read: {error}.", do="Evaluate the run again.") from error
    k, columns = len(classes), len(header) - len(COLUMNS)
    numbers = np.array([row.numbers for row in rows], dtype=np.float64).reshape(len(rows), columns)
    return Predictions(
        paths=tuple(row.path for row in rows),
        sha256=tuple(row.sha256 for row in rows),
        labels=_labels(rows, where),
        probabilities=numbers[:, :k],
        classes=classes,
        votes=numbers[:, k:] if further == VOTES else None,
        label_sets=numbers[:, k:] > THRESHOLD if further == LABEL_SETS else None,
    )


class _Row:
    """One line, checked."""

    def __init__(self, cells: Sequence[str], *, line: int, where: str, header: Sequence[str]) -> None:
        self.line, where = line, f"{where}:{line}"
        if len(cells) != len(header):
            raise DataError(where, f"it has {len(cells)} cells.", right=f"The first line has {len(header)}.")
        if not SHA256.fullmatch(cells[1]):
            raise DataError(where, f"{cells[1][:80]!r} is not a sha256.", right="A sha256 has 64 hexadecimal digits.")
        self.path, self.sha256, self.label = unescape(cells[0]), cells[1], unescape(cells[2])
        try:
            self.numbers = [float(cell) for cell in cells[len(COLUMNS) :]]
        except ValueError as error:
            raise DataError(where, f"{error}.", right="Probabilities must be decimal numbers.") from error
        own = sum(name.startswith(PROBABILITY) for name in header[len(COLUMNS) :])
        if any(name.startswith(LABEL_SETS) for name in header[-1:]):
            if not all(0 <= number <= 1 for number in self.numbers) or set(self.numbers[own:]) - {0.0, 1.0}:
                right = f"{PROBABILITY}CLASS must be between 0 and 1, {LABEL_SETS}CLASS 0 or 1."
                raise DataError(where, "these are not probabilities and labels.", right=right)
            return
        for noun, numbers in (("probabilities", self.numbers[:own]), ("fractions of votes", self.numbers[own:])):
            if not all(0 <= number <= 1 + 1e-6 for number in numbers) or (
                numbers and abs(math.fsum(numbers) - 1) > 1e-3
            ):
                raise DataError(where, f"these are not {noun}.", right="They must be between 0 and 1, and sum to 1.")


def _classes(header: Sequence[str], where: str) -> tuple[tuple[str, ...], str]:
    """The classes of the probabilities, and what the columns after them begin with: those are of the same classes."""
    names = header[len(COLUMNS) :]
    further = next((prefix for prefix in (VOTES, LABEL_SETS) if names and names[-1].startswith(prefix)), "")
    others = [name.removeprefix(further) for name in names if further and name.startswith(further)]
    names = names[: len(names) - len(others)]
    if others and [name.removeprefix(PROBABILITY) for name in names] != others:
        right = f"After the columns {PROBABILITY}CLASS there is one {further}CLASS for each, in the same order."
        raise DataError(f"{where}:1", f"{further} columns are of other classes than the probabilities.", right=right)
    if tuple(header[: len(COLUMNS)]) != COLUMNS or not names or not all(n.startswith(PROBABILITY) for n in names):
        right = f"It must be {','.join(COLUMNS)},{PROBABILITY}CLASS,..."
        raise DataError(f"{where}:1", "this is not the first line of a predictions.csv.", right=right)
    classes = tuple(unescape(name.removeprefix(PROBABILITY)) for name in names)
    if twice := [name for name, count in Counter(classes).items() if count > 1]:
        raise DataError(f"{where}:1", f"the class {twice[0]!r} has two columns.", right="Each class has one column.")
    return classes, further


def joined_names(sets: NDArray[np.bool_], classes: Sequence[str]) -> tuple[str, ...]:
    """The names of each photo's classes, joined.

    >>> joined_names(np.array([[True, False, True], [False, False, False]]), ["awe", "fear", "joy"])
    ('awe|joy', '')
    """
    return tuple(SEPARATOR.join(name for name, has in zip(classes, row, strict=True) if has) for row in sets.tolist())


def photo_keys(predictions: Predictions) -> Iterator[PhotoKey]:
    """The key of each row: a path that comes again (repeated folds) is the same photo, another path is a copy."""
    copies: dict[str, dict[str, int]] = defaultdict(dict)
    for path, digest in zip(predictions.paths, predictions.sha256, strict=True):
        seen = copies[digest]
        yield digest, seen.setdefault(path, len(seen))


def pair_photos(first: Predictions, second: Predictions) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of both with the same photo, (n,) and (n,), in the order of the first."""
    return pair_keys(photo_keys(first), photo_keys(second))


def pair_keys(first: Iterable[PhotoKey], second: Iterable[PhotoKey]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places in both of the keys that both have, (n,) and (n,), in the order of the first."""
    places = {key: i for i, key in enumerate(second)}
    found = [(i, places[key]) for i, key in enumerate(first) if key in places]
    rows = np.array(found, dtype=np.int64).reshape(-1, 2)
    return rows[:, 0], rows[:, 1]


def _labels(rows: Sequence[_Row], where: str) -> tuple[str, ...] | None:
    """The labels, or None if no photo has one; some with and some without is a mistake."""
    labels = tuple(row.label for row in rows)
    if any(labels) and not all(labels):
        line = rows[labels.index("")].line
        raise DataError(f"{where}:{line}", "the label is missing.", right="Either all photos have a label, or none.")
    return labels if any(labels) else None


def as_predictions(
    table: Table,
    rows: NDArray[np.int64],
    probabilities: NDArray[np.floating],
    *,
    classes: Sequence[str],
    digests: Mapping[int, str] | None = None,
) -> Predictions:
    """Predictions of some rows of a table: probabilities (len(rows), K) over `classes`.

    `digests` are the photos' sha256 by index; without them every file is read once.
    """
    if digests is None:
        hashes = sha256_of_files([table.path(int(i)) for i in rows])
    else:
        hashes = tuple(digests[int(i)] for i in rows)
    sets = label_sets_over(table, rows, classes=classes)
    labels = tuple(table.classes[table.labels[i]] for i in rows)
    return Predictions(
        paths=tuple(table.ids[i] for i in rows),
        sha256=hashes,
        labels=labels if sets is None else joined_names(sets, classes),
        probabilities=probabilities,
        classes=tuple(classes),
        votes=votes_over(table, rows, classes=classes),
        label_sets=sets,
    )


def label_sets_over(table: Table, rows: NDArray[np.int64], *, classes: Sequence[str]) -> NDArray[np.bool_] | None:
    """The label sets of some rows over `classes`, which begin with the table's own; none has those that it lacks."""
    if table.label_sets is None:
        return None
    return np.pad(table.label_sets[rows], ((0, 0), (0, len(classes) - len(table.classes))))


def votes_over(table: Table, rows: NDArray[np.int64], *, classes: Sequence[str]) -> NDArray[np.float64] | None:
    """The votes of some rows over `classes`, which begin with the table's own; those that it lacks have none."""
    if table.votes is None:
        return None
    return np.pad(table.votes[rows], ((0, 0), (0, len(classes) - len(table.classes))))
