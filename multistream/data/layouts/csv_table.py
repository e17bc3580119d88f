"""CSV data sets: a file with a path and a label for each image, and optionally its split and the paths of its maps."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from multistream.data.filenames import unescape
from multistream.data.image_files import Root
from multistream.data.layouts.assemble import PARTS, Entry, Votes, assemble
from multistream.data.layouts.delimited_text import Row, read_each, read_table
from multistream.data.layouts.label_sets import LabelColumns
from multistream.data.layouts.votes import votes_of, winners
from multistream.data.table import Table
from multistream.errors import DataError, UsageError, printable

PATH = ("path", "image", "file", "filename", "file_name", "file_path", "filepath", "image_path", "file_link", "img")
LABEL = ("label", "class", "emotion", "category", "target", "class_name")
PART = ("part", "split", "subset", "fold")
"""The names of the columns for path, label and split, in upper or lower case; the first that exists is used."""

SPLIT_HEADER = ("path", "label", "part", "sha256")
"""The columns of a split.csv, which `data split` writes."""

VOTES = "votes_"
"""The prefix of columns `votes_CLASS`, which hold the votes for each class, as numbers or fractions."""

_NOT_UTF8 = re.compile("[\udc80-\udcff]")
"""Matches bytes that `read_table` could not decode (PEP 383)."""


@dataclass(frozen=True)
class CsvRecord:
    """One checked row of a CSV: the line, the image, and its cells by column."""

    line: int
    entry: Entry
    cells: Mapping[str, str]


@dataclass(frozen=True)
class _Header:
    """The columns of a CSV, with the roles of those for path, label and split, and those for votes and label sets."""

    where: str
    columns: tuple[str, ...]
    roles: Mapping[str, str]
    votes: Mapping[str, str]
    """{column: class}"""
    sets: LabelColumns
    """Has no names if each image has one label."""

    @classmethod
    def of(cls, row: Row, label: str) -> _Header:
        """The header in this row, for this value of `data.label`."""
        votes = {column: column.removeprefix(VOTES) for column in row.cells if column.startswith(VOTES)}
        sets = LabelColumns.parse(label) or LabelColumns(())
        return cls(row.where, row.cells, _roles(row.cells, label), votes, sets)

    @property
    def further(self) -> list[str]:
        """The columns that are neither path, label, split nor votes."""
        known = {"", *self.roles.values(), *self.votes, *self.sets.names}
        return [name for name in self.columns if name not in known]

    def check(self, path: Path, label: str) -> None:
        """Raises UsageError if there is no column for the requested label, DataError for a faulty header."""
        self._check_label(path, label)
        self._check_roles()
        if twice := sorted(name for name, times in Counter(self.columns).items() if name and times > 1):
            raise DataError(self.where, f"two columns are called {twice[0]!r}.", do="Rename one.")
        self.sets.check(self.columns)

    def _check_label(self, path: Path, label: str) -> None:
        known = {"", *self.columns, *(["votes"] if self.votes else [])}
        if not self.sets.names and label not in known:
            right = f"votes needs columns {VOTES}CLASS; several labels are COLUMN,COLUMN,... or COLUMN[SEPARATOR]."
            raise UsageError("data.label", f"{path} has no column {label!r}.", right=right)

    def _check_roles(self) -> None:
        """Raises DataError if there is no column of paths, or no column with labels."""
        needed = {"path": PATH} if self.sets.names or self.votes else {"path": PATH, "label": LABEL}
        if lacking := [role for role in needed if role not in self.roles]:
            what = f"none of the columns {', '.join(self.columns)} is the {lacking[0]}."
            names = needed[lacking[0]]
            right = f"A column must be called {names[0]} (or {', '.join(names[1:4])}...)."
            do = "If the first line is already an image, add the header path,label above it."
            raise DataError(self.where, what, right=right, do=do)


def _roles(columns: Sequence[str], label: str) -> dict[str, str]:
    """The columns for path, label and split: {role: column}; `label` may name the label's column."""
    named = {column.lower(): column for column in reversed(columns)}
    labels = (label.lower(),) if label and label in columns else LABEL
    roles = {"path": PATH, "label": labels, "part": PART}
    return {role: named[name] for role, names in roles.items() for name in reversed(names) if name in named}


def sheet(path: Path, *, label: str = "", allow_outside: bool = False, strict: bool = False) -> Table:
    """Reads a Table of the images in a CSV; paths are relative to its folder.

    `label` may name the column of labels. With columns `votes_CLASS` the label is the class with the most votes, and
    `label="votes"` is possible. With a `label` that names several columns, or one and its separator, an image may have
    several labels (`label_sets`).

    Faulty lines raise a DataError that names the first and counts the others. Missing files are left out and reported,
    unless `strict`. Another column in which every cell is the path of a file holds Maps.
    """
    first, rows = read_table(path)
    if not first.cells:
        raise DataError(path, "it is empty.", right="It needs a header line: path,label.")
    header = _Header.of(first, label)
    header.check(path, label)
    root = Root(path.parent, allow_outside=allow_outside)
    part, numbered = _part_column(header, rows)
    records = read_each(rows, _Reading(root, header, part).record)
    missing = {record.line: record.entry.id for record in records if not root.exists(record.entry.id)}
    present = [record for record in records if record.line not in missing]
    maps, on_maps = _maps(root, present, header.further)
    notes = (*numbered, *_on_missing(path, missing, len(records), strict=strict), *on_maps)
    entries = [record.entry for record in present]
    cells = {name: tuple(record.cells[name] for record in present) for name in header.further if name not in maps}
    known = (*header.sets.classes, *(header.votes.values() if label == "votes" else ()))
    return assemble(printable(path.stem), path.parent, entries, notes=notes, known=known, maps=maps, columns=cells)


def _part_column(header: _Header, rows: Sequence[Row]) -> tuple[str | None, tuple[str, ...]]:
    """The column of splits; None, with a note, if it holds numbers (folds of a cross-validation)."""
    column = header.roles.get("part", PART[0])
    if column.lower() == PART[0]:
        return header.roles.get("part"), ()
    place = header.columns.index(column)
    cells = {row.cells[place].strip() for row in rows if len(row.cells) == len(header.columns)}
    if not cells or not all(map(str.isdecimal, cells)):
        return column, ()
    return None, (f"column {column!r} holds numbers instead of train, val or test, and is ignored",)


class _Reading:
    """Reads the rows of a CSV one at a time, and checks for repeated images."""

    def __init__(self, root: Root, header: _Header, part: str | None) -> None:
        self.root, self.header, self.part = root, header, part
        self.is_ours = header.columns == SPLIT_HEADER
        self.lines: dict[str, int] = {}

    def record(self, row: Row) -> CsvRecord:
        """The checked record of a row."""
        header, cells = self.header, row.by_column(self.header.columns)
        if self.is_ours:  # written by `data split`, which escapes formulas
            cells = {name: unescape(cell) for name, cell in cells.items()}
        image_id = self.root.image_id(cells[header.roles["path"]], row.where)
        first = self.lines.setdefault(image_id, row.line)
        if first != row.line:
            raise DataError(row.where, f"{image_id!r} already occurs on line {first}.", do="Keep one line per image.")
        given, classes = [cells[name] for name in header.votes], [*header.votes.values()]
        votes = votes_of(row, given, classes) if given else None
        if header.sets.names:
            label, labels = header.sets.of(cells, row.where, {})
        else:
            label, labels = self._label(row, cells, votes), ()
        if _NOT_UTF8.search("".join((label, *labels))):
            raise DataError(row.where, f"the label {label!r} is not UTF-8.", do="Save the file as UTF-8.")
        return CsvRecord(row.line, Entry(image_id, label, self._part(row, cells), votes, labels), cells)

    def _label(self, row: Row, cells: Mapping[str, str], votes: Votes | None) -> str:
        column = self.header.roles.get("label")
        label = cells[column].strip() if column else ""
        best = winners(votes) if votes else [label]
        if column is None:
            return best[0]
        if label not in best:
            what = f"the label is {label!r}, and most votes are for {best[0]!r}."
            raise DataError(row.where, what, do="Leave the label column out.")
        if not label:
            raise DataError(row.where, "the label is empty.", do="Fill it in, or remove the line.")
        return label

    def _part(self, row: Row, cells: Mapping[str, str]) -> str | None:
        if self.part is None:
            return None
        part = cells[self.part].strip()
        if part.lower() not in PARTS:
            raise DataError(row.where, f"{part!r} is not a split.", do="Write train, val or test.")
        return PARTS[part.lower()]


def _on_missing(path: Path, missing: Mapping[int, str], total: int, *, strict: bool) -> tuple[str, ...]:
    """A note on missing files, {line: image}; DataError if `strict`, or if all are missing."""
    if not missing:
        return ()
    (line, name), count = next(iter(missing.items())), len(missing)
    if strict or count == total:
        what = f"{name!r} is not a file below {path.parent}; {count:,} of {total:,} are missing."
        raise DataError(f"{path}:{line}", what, do="Paths are relative to the folder of the CSV.")
    return (f"left out {count:,} of {total:,} images whose files are missing, {name!r} (line {line}) first",)


def _maps(
    root: Root, records: Sequence[CsvRecord], columns: Sequence[str]
) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """The columns in which all cells are paths of files, as ids; and notes on columns in which only some are."""
    of_files = [column for column in columns if any(_file(root, record, column) for record in records[:1])]
    files = {column: tuple(_file(root, record, column) for record in records) for column in of_files}
    notes = [
        f"column {column!r} holds no maps: {ids.count(''):,} files are missing, "
        f"first on line {records[ids.index('')].line}"
        for column, ids in files.items()
        if "" in ids
    ]
    return {column: ids for column, ids in files.items() if "" not in ids}, notes


def _file(root: Root, record: CsvRecord, column: str) -> str:
    """The id of the file in a cell; "" if it is not the path of a usable file."""
    try:
        name = root.image_id(record.cells[column], column)
    except DataError:
        return ""
    return name if root.exists(name) else ""
