"""Sheets: a CSV file with a path and a label for each image, and perhaps its part and the paths of its maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from multistream.data.filenames import unescape
from multistream.data.layouts.assemble import PARTS, Entry, assemble
from multistream.data.layouts.delimited_text import Row, read_rows
from multistream.data.layouts.image_paths import BadPlace, Root
from multistream.data.layouts.label_sets import LabelColumns
from multistream.data.layouts.votes import shares, winners
from multistream.data.table import Table
from multistream.errors import DataError, UsageError, printable

PATH = ("path", "image", "file", "filename", "file_name", "file_path", "filepath", "image_path", "file_link", "img")
LABEL = ("label", "class", "emotion", "category", "target", "class_name")
PART = ("part", "split", "subset", "fold")
"""What the columns are called, in any case; the first that a sheet has is taken."""

SPLIT_HEADER = ("path", "label", "part", "sha256")
"""The columns of a split.csv, and of what `data split` writes."""

VOTES = "votes_"
"""Columns `votes_CLASS` hold how many people gave an image each class, as numbers or fractions."""

_SHOWN = 3


@dataclass(frozen=True)
class CsvRecord:
    """One row of a sheet, checked: the line, the image, and its cells by column."""

    line: int
    entry: Entry
    cells: Mapping[str, str]


def sheet(path: Path, *, label: str = "", allow_outside: bool = False, strict: bool = False) -> Table:
    """A Table of the images that a CSV names; paths are relative to the folder it lies in.

    `label` may name the column of the labels. With columns `votes_CLASS` the label is the class with the most votes,
    and `label="votes"` may be asked for. With a `label` that names several columns, or one and its separator, an image
    may have several labels (`label_sets`).

    Faulty lines are a DataError that names the first of them and counts the others. Files that are missing are left
    out and reported, unless `strict`. A further column in which every cell is the path of a file holds Maps.
    """
    rows = read_rows(path)
    sets = LabelColumns.parse(label)
    columns = _columns(path, rows, label=label)
    known = [column.removeprefix(VOTES) for column in columns if column.startswith(VOTES)] if label == "votes" else []
    if sets is not None:
        sets.check(columns)
        known = list(sets.classes)
    root = Root(path.parent, allow_outside=allow_outside)
    reading = _Reading(path, root, columns, label, sets)
    numbered = reading.leave_out_numbers(rows[1:])
    records = reading.records(rows[1:])
    present = [record for record in records if root.exists(record.entry.id)]
    notes = _missing(path, records, present, strict=strict)
    roles = [*_roles(columns, label).values(), *(sets.names if sets else ())]
    further = [name for name in columns if name and name not in roles and not name.startswith(VOTES)]
    maps, on_maps = _maps(root, present, further)
    entries = [record.entry for record in present]
    cells = {name: tuple(record.cells[name] for record in present) for name in further if name not in maps}
    notes = (*numbered, *notes, *on_maps)
    return assemble(printable(path.stem), path.parent, entries, notes=notes, known=known, maps=maps, columns=cells)


def _roles(columns: Sequence[str], label: str) -> dict[str, str]:
    """Which column is the path, the label and the part: {role: column}; `label` may be the name of the label's."""
    named = {column.strip().lower(): column for column in reversed(columns)}
    labels = (label.lower(),) if label in columns else LABEL
    roles = {"path": PATH, "label": labels, "part": PART}
    return {
        role: named[next(n for n in names if n in named)] for role, names in roles.items() if set(names) & set(named)
    }


def _columns(path: Path, rows: Sequence[Row], *, label: str) -> tuple[str, ...]:
    """The header's names; DataError where it lacks a path or a label, or names a column twice.

    UsageError for a label that is asked for and that it lacks.
    """
    if not rows:
        raise DataError(path, "it is empty.", right="It needs a header line: path,label.")
    columns = tuple(cell.strip() for cell in rows[0].cells)
    where = f"{printable(str(path))}:{rows[0].line}"
    has_votes, sets = any(column.startswith(VOTES) for column in columns), LabelColumns.parse(label)
    if label and sets is None and label not in columns and not (label == "votes" and has_votes):
        what = f"{path!s} has no column {label!r}."
        right = f"votes needs columns {VOTES}CLASS; several labels are COLUMN,COLUMN,... or COLUMN[SEPARATOR]."
        raise UsageError("data.label", what, right=right)
    needs_label = sets is None and not has_votes
    for role, names in (("path", PATH), ("label", LABEL)):
        if role not in _roles(columns, label) and (role == "path" or needs_label):
            shown = ", ".join(map(printable, columns))
            right = f"A column must be called {names[0]} (or {', '.join(names[1:4])}...)."
            do = "If the first line is already an image, add the header path,label above it."
            raise DataError(where, f"none of the columns {shown} is the {role}.", right=right, do=do)
    twice = sorted({name for name in columns if columns.count(name) > 1 and name})
    if twice:
        raise DataError(where, f"two columns are called {twice[0]!r}.", do="Rename one.")
    return columns


class _Reading:
    """The rows of a sheet read one by one, faults gathered."""

    def __init__(self, path: Path, root: Root, columns: Sequence[str], label: str, sets: LabelColumns | None) -> None:
        self.path, self.root, self.columns, self.sets = path, root, columns, sets
        self.roles = _roles(columns, label)
        self.is_ours = tuple(columns) == SPLIT_HEADER
        self.lines: dict[str, int] = {}
        self.faults: list[tuple[int, str, str]] = []

    def leave_out_numbers(self, rows: Sequence[Row]) -> tuple[str, ...]:
        """Takes a column of numbers for no part (folds of a cross-validation), and says so."""
        column = self.roles.get("part")
        if column is None or column.strip().lower() == PART[0]:
            return ()
        place = self.columns.index(column)
        cells = {row.cells[place].strip() for row in rows if len(row.cells) == len(self.columns)}
        if not cells or not all(cell.isdecimal() for cell in cells):
            return ()
        del self.roles["part"]
        return (f"column {column!r} holds numbers instead of train, val or test, and is ignored",)

    def records(self, rows: Sequence[Row]) -> list[CsvRecord]:
        """The checked records; DataError with the first faulty line and the numbers of some others."""
        records = [record for row in rows if (record := self._record(row))]
        if self.faults:
            line, what, do = self.faults[0]
            others = [str(other) for other, _, _ in self.faults[1:]]
            more = f" {len(others):,} other lines have errors too: {', '.join(others[:_SHOWN])}." if others else ""
            raise DataError(f"{self.path!s}:{line}", what, do=f"{do}{more}")
        return records

    def _record(self, row: Row) -> CsvRecord | None:
        try:
            if len(row.cells) != len(self.columns):
                what = f"{len(row.cells)} cells for {len(self.columns)} columns."
                raise BadPlace(what, "Quote cells that contain the delimiter with double quotes.")
            cells = dict(zip(self.columns, row.cells, strict=True))
            if self.is_ours:  # written by `data split`, which escapes what a spreadsheet would run
                cells = {name: unescape(cell) for name, cell in cells.items()}
            if self.sets is not None:
                labels = tuple(map(_utf8, self.sets.of(cells)))
                entry = Entry(self._image(row, cells), labels[0], self._part(cells), labels=labels)
                return CsvRecord(row.line, entry, cells)
            votes = self._votes(row, cells)
            entry = Entry(self._image(row, cells), self._label(cells, votes), self._part(cells), votes)
            return CsvRecord(row.line, entry, cells)
        except BadPlace as fault:
            self.faults.append((row.line, fault.what, fault.do))
            return None

    def _image(self, row: Row, cells: Mapping[str, str]) -> str:
        image_id = self.root.image_id(cells[self.roles["path"]])
        first = self.lines.setdefault(image_id, row.line)
        if first != row.line:
            raise BadPlace(f"{image_id!r} already occurs on line {first}.", "Keep one line per image.")
        return image_id

    def _votes(self, row: Row, cells: Mapping[str, str]) -> dict[str, float] | None:
        """The votes of each class; DataError where a cell is not a number."""
        names = [name for name in self.columns if name.startswith(VOTES)]
        if not names:
            return None
        classes = [name.removeprefix(VOTES) for name in names]
        return dict(zip(classes, shares(self.path, row, [cells[name] for name in names], classes=classes), strict=True))

    def _label(self, cells: Mapping[str, str], votes: Mapping[str, float] | None) -> str:
        best = winners([*votes.values()], [*votes]) if votes else []
        if best and "label" not in self.roles:
            return best[0]
        label = cells[self.roles["label"]].strip()
        if best and label not in best:
            raise BadPlace(
                f"the label is {label!r}, and most votes are for {best[0]!r}.", "Leave the label column out."
            )
        if not label:
            raise BadPlace("the label is empty.", "Fill it in, or remove the line.")
        return _utf8(label)

    def _part(self, cells: Mapping[str, str]) -> str | None:
        if "part" not in self.roles:
            return None
        part = cells[self.roles["part"]].strip()
        if part.lower() not in PARTS:
            raise BadPlace(f"{part!r} is not a part.", "Write train, val or test.")
        return PARTS[part.lower()]


def _utf8(label: str) -> str:
    """The label; BadPlace where it holds bytes that are not text."""
    if any("\udc80" <= character <= "\udcff" for character in label):
        raise BadPlace(f"the label {label!r} is not UTF-8.", "Save the file as UTF-8.")
    return label


def _missing(
    path: Path, records: Sequence[CsvRecord], present: Sequence[CsvRecord], *, strict: bool
) -> tuple[str, ...]:
    """A note on files that are not there; DataError if `strict`, or if none is."""
    if len(present) == len(records):
        return ()
    there = {record.line for record in present}
    first = next(record for record in records if record.line not in there)
    name, count = printable(first.entry.id), len(records) - len(present)
    if strict or not present:
        what = f"{name!r} is not a file below {path.parent!s}; {count:,} of {len(records):,} are missing."
        do = "Paths are relative to the folder of the CSV."
        raise DataError(f"{path}:{first.line}", what, do=do)
    return (
        f"left out {count:,} of {len(records):,} images whose files are missing, {name!r} (line {first.line}) first",
    )


def _maps(
    root: Root, records: Sequence[CsvRecord], columns: Sequence[str]
) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """The columns whose every cell is the path of a file, as ids; and notes on columns of which only some are."""
    maps: dict[str, tuple[str, ...]] = {}
    notes = []
    for column in columns:
        found = [_file(root, record.cells[column]) for record in records[:1]]
        if not any(found):
            continue
        found = [_file(root, record.cells[column]) for record in records]
        if all(found):
            maps[column] = tuple(name for name in found if name)
        else:
            line = records[found.index(None)].line
            count = found.count(None)
            notes.append(f"column {column!r} holds no maps: {count:,} files are missing, first on line {line} first")
    return maps, tuple(notes)


def _file(root: Root, cell: str) -> str | None:
    """The id of the file that a cell names; None if it names none that may be used."""
    try:
        name = root.image_id(cell)
    except BadPlace:
        return None
    return name if root.exists(name) else None
