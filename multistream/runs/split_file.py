"""split.csv: path, label, part and sha256 of every image, so that a result can be reproduced elsewhere."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from multistream.checksums import check_checksum
from multistream.data.filenames import escape, unescape
from multistream.data.table import Table
from multistream.errors import DataError, printable
from multistream.files import sha256_file, write_atomic

HEADER = ("path", "label", "part", "sha256")
ALLOW = "to train with it, pass --set data.allow_outside=true, or write it next to them."


@dataclass(frozen=True)
class SplitRow:
    """One image of a split; `path` is its id in the table."""

    path: str
    label: str
    part: str
    sha256: str


class NamedSplits(Protocol):
    """Row indices by part name, as in `multistream.data.splits.Parts`."""

    def named(self) -> dict[str, NDArray[np.int64]]: ...


def sha256_of_files(paths: Iterable[Path]) -> tuple[str, ...]:
    """Returns the sha256 of each file's bytes, in hexadecimal and in order. Raises DataError if one cannot be read."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # hashing releases the GIL
        return tuple(pool.map(_sha256, paths))


def digests_of(table: Table, indices: Sequence[int]) -> dict[int, str]:
    """Returns {index: sha256} of these photos; every file is read once."""
    return dict(zip(indices, sha256_of_files([table.path(i) for i in indices]), strict=True))


def _sha256(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise DataError(path, f"it cannot be read: {error.strerror}.") from error


def split_rows(table: Table, parts: NamedSplits, *, digests: Mapping[int, str] | None = None) -> tuple[SplitRow, ...]:
    """Returns a row for every image in a part, in the table's order.

    `digests` are the photos' sha256 by index; without them every file is read once.
    """
    part_of = {int(i): name for name, rows in parts.named().items() for i in rows}
    chosen = sorted(part_of)
    digests = digests or digests_of(table, chosen)
    return tuple(SplitRow(table.ids[i], table.classes[table.labels[i]], part_of[i], digests[i]) for i in chosen)


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
    if as_data_set:
        folder = os.path.abspath(path.parent)
        rows = tuple(replace(row, path=os.path.relpath(os.path.abspath(table.root / row.path), folder)) for row in rows)
        if any(row.path.startswith(f"..{os.sep}") for row in rows):
            notes += (f"the photos lie outside the folder of {path}: {ALLOW}",)
    write_rows(path, rows)
    return notes


def check_parts(rows: Sequence[SplitRow], *, strict: bool) -> tuple[str, ...]:
    """Returns notes on images that occur in two parts. Raises DataError if `strict`."""
    notes = shared_between_parts(rows)
    if notes and strict:
        raise DataError("data", notes[0], do="Remove one of each pair, or set data.strict to false.")
    return notes


def write_rows(path: Path, rows: Sequence[SplitRow]) -> None:
    """Writes split.csv atomically. Raises DiskFull."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows((escape(row.path), escape(row.label), row.part, row.sha256) for row in rows)
    write_atomic(path, text.getvalue())


def read_split(path: Path) -> tuple[SplitRow, ...]:
    """Reads the rows of a split.csv. Raises DataError with the line number if it is not one."""
    check_checksum(path)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            records = list(csv.reader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(path, f"it cannot be read: {error}.") from error
    if records[:1] != [list(HEADER)]:
        raise DataError(f"{path}:1", "this is not a split file.", right=f"The header must be {','.join(HEADER)}.")
    for line, record in enumerate(records[1:], 2):  # escaped names contain no line ends, so each record is one line
        if len(record) != len(HEADER) or record[2] not in ("train", "val", "test"):
            right = "It must be path,label,part,sha256 with part train, val or test."
            raise DataError(f"{path}:{line}", f"{','.join(record)!r} is not a row of a split file.", right=right)
    return tuple(SplitRow(unescape(p), unescape(label), part, digest) for p, label, part, digest in records[1:])


def shared_between_parts(rows: Sequence[SplitRow]) -> tuple[str, ...]:
    """Returns one note, with the first pair, if files with equal bytes are in different parts; else none."""
    first: dict[str, SplitRow] = {}
    pairs = []
    for row in rows:
        other = first.setdefault(row.sha256, row)
        if other.part != row.part:
            pairs.append((other, row))
    if not pairs:
        return ()
    one, two = pairs[0]
    named = f"{printable(one.path)} ({one.part}) and {printable(two.path)} ({two.part})"
    return (f"{len(pairs):,} images are in two splits, for example {named}.",)
