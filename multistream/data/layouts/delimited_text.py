"""Reads delimited text with line numbers, for any common delimiter, byte order mark and line end."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO, TypeVar

from multistream.errors import DataError, readable, some_of

R = TypeVar("R")
T = TypeVar("T")

_MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_DELIMITERS = (",", ";", "\t", "|")


@dataclass(frozen=True)
class Row:
    """The cells of one record of a file, and the line on which it begins (1 is the first)."""

    path: Path
    line: int
    cells: tuple[str, ...]

    @property
    def where(self) -> str:
        """FILE:LINE, for messages."""
        return f"{self.path}:{self.line}"

    def by_column(self, columns: Sequence[str]) -> dict[str, str]:
        """{column: cell}; DataError if there are more or fewer cells than columns."""
        if len(self.cells) != len(columns):
            what = f"{len(self.cells)} cells for {len(columns)} columns."
            raise DataError(self.where, what, do="Quote cells that contain the delimiter with double quotes.")
        return dict(zip(columns, self.cells, strict=True))


@contextmanager
def opened(path: Path) -> Iterator[TextIO]:
    r"""The file as text with "\n" line ends; bytes that are not UTF-8 are kept as surrogates (PEP 383)."""
    with readable(path, OSError), path.open("rb") as file:
        start = file.read(3)
        mark = next((mark for mark in _MARKS if start.startswith(mark)), b"")
        encoding = _MARKS.get(mark, "utf-8")
        file.seek(len(mark))
        try:
            yield io.TextIOWrapper(file, encoding, "surrogateescape" if encoding == "utf-8" else "strict")
        except UnicodeDecodeError as error:
            what = f"it starts with a {encoding} byte order mark but is not {encoding}."
            raise DataError(path, what, do="Save the file as UTF-8.") from error


def read_text(path: Path) -> str:
    """The whole text of a file, decoded by `opened`."""
    with opened(path) as file:
        return file.read()


def read_lines(path: Path) -> Iterator[Row]:
    """The lines of a file that are not blank, each as a row of one stripped cell."""
    with opened(path) as file:
        for line, text in enumerate(file, 1):
            if cell := text.strip():
                yield Row(path, line, (cell,))


def delimiter_of(line: str) -> str:
    """The delimiter of a header line: the one of `, ; tab |` that occurs most often outside quotes."""
    unquoted = "".join(line.split('"')[::2])
    return max(_DELIMITERS, key=unquoted.count)


def read_rows(path: Path, *, delimiter: str = "") -> Iterator[Row]:
    """The records of a delimited file, without blank lines; by default the delimiter is that of the first line."""
    with opened(path) as file:
        first = next((line for line in file if line != "\n"), "")
    line = 1
    with opened(path) as file:
        reader = csv.reader(file, delimiter=delimiter or delimiter_of(first), strict=True)
        try:
            for cells in reader:
                if any(map(str.strip, cells)):
                    yield Row(path, line, tuple(cells))
                line = reader.line_num + 1
        except csv.Error as error:
            do = "Look for an unclosed quote, or a quote inside a cell that is not doubled."
            raise DataError(f"{path}:{line}", f"the line cannot be read: {error}.", do=do) from error


def read_table(path: Path, *, delimiter: str = "") -> tuple[Row, list[Row]]:
    """The header, with stripped column names, and the other rows. The header of an empty file has no cells."""
    header, *rows = [*read_rows(path, delimiter=delimiter)] or [Row(path, 1, ())]
    return replace(header, cells=tuple(map(str.strip, header.cells))), rows


def read_columns(path: Path, columns: Sequence[str]) -> Iterator[tuple[Row, list[str]]]:
    """Each record with its cells in these columns; DataError if the header lacks one. Ignores the case of names."""
    first, rows = read_table(path)
    header = [*map(str.lower, first.cells)]
    if not set(columns) <= set(header):
        right = f"The first line must name the columns {' and '.join(columns)}."
        raise DataError(f"{path}:1", f"the columns are {', '.join(header) or 'missing'}.", right=right)
    for row in rows:
        cells = row.by_column(header)
        yield row, [cells[column].strip() for column in columns]


def words(path: Path) -> Iterator[Row]:
    """The lines of a file, each split at whitespace, without blank lines."""
    return (replace(row, cells=tuple(row.cells[0].split())) for row in read_lines(path))


def read_each(rows: Iterable[R], read: Callable[[R], T]) -> list[T]:
    """The results of `read` for each row; raises the DataError of the first faulty row, with the lines of others."""
    found, faults = [], []
    for row in rows:
        try:
            found.append(read(row))
        except DataError as fault:
            faults.append(fault)
    if faults:
        first, *others = faults
        lines = some_of(fault.where.rpartition(":")[2] for fault in others)
        more = f" {len(others):,} other lines have errors too: {lines}." if others else ""
        raise DataError(first.where, first.what, right=first.right, do=f"{first.do}{more}".strip()) from first
    return found
