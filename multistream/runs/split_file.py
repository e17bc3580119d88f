"""split.csv: path, label, part and sha256 of every image, so that a result can be reproduced elsewhere."""

from __future__ import annotations

import csv
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from sys import intern
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from multistream.checksums import check_checksum
from multistream.data.file_hashes import digests_of
from multistream.data.filenames import escape, unescape
from multistream.data.table import Table
from multistream.errors import DataError, printable
from multistream.files import replacing_text

PARTS = ("train", "val", "test")
HEADER = ("path", "label", "part", "sha256")
ALLOW = "to train with it, pass --set data.allow_outside=true, or write it next to them."


@dataclass(frozen=True, slots=True)
class SplitRow:
    """One image of a split; `path` is its id in the table."""

    path: str
    label: str
    part: str
    sha256: str


class NamedSplits(Protocol):
    """Row indices by part name, as in `multistream.data.splits.Parts`."""

    def named(self) -> dict[str, NDArray[np.int64]]: ...


class SplitRows(Collection[SplitRow]):
    """Returns the sha256 of each file's bytes, in hexadecimal and in order. Raises DataError if one cannot be read."""

    def __init__(self, table: Table, parts: NamedSplits, digests: Mapping[int, str]) -> None:
        self.table, self.digests = table, digests
        self._parts = np.full(len(table), -1, dtype=np.int8)
        for number, name in enumerate(PARTS):
            self._parts[parts.named()[name]] = number

    def __iter__(self) -> Iterator[SplitRow]:
        ids, classes, labels = self.table.ids, self.table.classes, self.table.labels.tolist()
        for i, part in enumerate(self._parts.tolist()):
            if part >= 0:
                yield SplitRow(ids[i], classes[labels[i]], PARTS[part], self.digests[i])

    def __len__(self) -> int:
        return int((self._parts >= 0).sum())

    def __contains__(self, row: object) -> bool:
        return any(row == own for own in self)


def split_rows(table: Table, parts: NamedSplits, *, digests: Mapping[int, str] | None = None) -> SplitRows:
    """Returns a row for every image in a part, in the table's order.

    `digests` are the photos' sha256 by index; without them every file is hashed.
    """
    return SplitRows(table, parts, digests or digests_of(table, np.concatenate(list(parts.named().values()))))


def write_split(
    path: Path, table: Table, parts: NamedSplits, *, strict: bool = False, as_data_set: bool = False
) -> tuple[str, ...]:
    """Writes split.csv atomically, and returns notes on images that occur in two parts.

    Such images are a DataError if `strict`. Names are escaped (`multistream.data.filenames`), so that each is on one
    line. Paths are the ids of the table; with `as_data_set` they are relative to the CSV's folder, and `open_table` can
    read it.
    """
    rows = split_rows(table, parts)
    notes = check_parts(rows, strict=strict)
    if not as_data_set:
        write_rows(path, rows)
        return notes
    folder, root = os.path.abspath(path.parent), os.path.abspath(table.root)
    write_rows(path, (replace(row, path=os.path.relpath(os.path.join(root, row.path), folder)) for row in rows))
    if any(os.path.relpath(os.path.join(root, row.path), folder).startswith(f"..{os.sep}") for row in rows):
        notes += (f"the photos lie outside the folder of {path}: {ALLOW}",)
    return notes


def check_parts(rows: Collection[SplitRow], *, strict: bool) -> tuple[str, ...]:
    """Returns notes on images that occur in two parts. Raises DataError if `strict`."""
    notes = shared_between_parts(rows)
    if notes and strict:
        raise DataError("data", notes[0], do="Remove one of each pair, or set data.strict to false.")
    return notes


def write_rows(path: Path, rows: Iterable[SplitRow]) -> None:
    """Writes split.csv atomically. Raises DiskFull."""
    with replacing_text(path) as text:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(HEADER)
        writer.writerows((escape(row.path), escape(row.label), row.part, row.sha256) for row in rows)


def read_split(path: Path, *, parts: Sequence[str] = PARTS) -> tuple[SplitRow, ...]:
    """Reads the rows of a split.csv, or of some parts of it. Raises DataError with the line number if it is not one."""
    check_checksum(path)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return tuple(row for row in _rows(path, csv.reader(file, strict=True)) if row.part in parts)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(path, f"it cannot be read: {error}.") from error


def _rows(path: Path, records: Iterator[list[str]]) -> Iterator[SplitRow]:
    if next(records, None) != list(HEADER):
        raise DataError(f"{path}:1", "this is not a split file.", right=f"The header must be {','.join(HEADER)}.")
    for line, record in enumerate(records, 2):  # an escaped name holds no line end, so records are lines
        if len(record) != len(HEADER) or record[2] not in PARTS:
            right = "It must be path,label,part,sha256 with part train, val or test."
            raise DataError(f"{path}:{line}", f"{','.join(record)!r} is not a row of a split file.", right=right)
        name, label, part, digest = record
        yield SplitRow(unescape(name), intern(unescape(label)), intern(part), digest)


def shared_between_parts(rows: Collection[SplitRow]) -> tuple[str, ...]:
    """Returns one note, with the first pair, if files with equal bytes are in different parts; else none."""
    again = _repeated(rows)
    first: dict[str, SplitRow] = {}
    pairs = []
    for row in rows if again else ():
        if int(row.sha256[:16], 16) in again:
            other = first.setdefault(row.sha256, row)
            if other.part != row.part:
                pairs.append((other, row))
    if not pairs:
        return ()
    one, two = pairs[0]
    named = f"{printable(one.path)} ({one.part}) and {printable(two.path)} ({two.part})"
    return (f"{len(pairs):,} images are in two splits, for example {named}.",)


def _repeated(rows: Collection[SplitRow]) -> frozenset[int]:
    """The first 64 bits of each sha256 that several rows have: 8 bytes a row, where a dict of them takes 200."""
    keys = np.sort(np.fromiter((int(row.sha256[:16], 16) for row in rows), np.uint64, len(rows)))
    return frozenset(keys[1:][keys[1:] == keys[:-1]].tolist())
