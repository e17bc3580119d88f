"""Rows: delimited text as people save it (any delimiter, byte order mark, line ends), with the number of each line."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from multistream.errors import DataError

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
        """FILE:LINE, as an error names a row."""
        return f"{self.path}:{self.line}"

    def by_column(self, columns: Sequence[str]) -> dict[str, str]:
        """{column: cell}; DataError where there are more or fewer cells than columns."""
        if len(self.cells) != len(columns):
            what = f"{len(self.cells)} cells for {len(columns)} columns."
            raise DataError(self.where, what, do="Quote cells that contain the delimiter with double quotes.")
        return dict(zip(columns, self.cells, strict=True))


def read_text(path: Path) -> str:
    r"""The file's text with "\n" line ends; bytes that are not UTF-8 survive as file names do (PEP 383)."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(path, f"it cannot be read: {error.strerror}.") from error
    mark = next((mark for mark in _MARKS if data.startswith(mark)), b"")
    encoding = _MARKS.get(mark, "utf-8")
    try:
        text = data[len(mark) :].decode(encoding, "surrogateescape" if encoding == "utf-8" else "strict")
    except UnicodeDecodeError as error:
        what = f"it starts with a {encoding} byte order mark but is not {encoding}."
        raise DataError(path, what, do="Save the file as UTF-8.") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def delimiter_of(line: str) -> str:
    """The delimiter that a header line uses: the one of `, ; tab |` that it holds most often outside quotes."""
    unquoted = "".join(line.split('"')[::2])
    return max(_DELIMITERS, key=unquoted.count)


def read_rows(path: Path, *, delimiter: str = "") -> list[Row]:
    """The records of a delimited file, blank lines left out; without `delimiter` the first line shows it."""
    text = read_text(path)
    first = text.lstrip("\n").split("\n", 1)[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter or delimiter_of(first), strict=True)
    rows = []
    line = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                rows.append(Row(path, line, tuple(cells)))
            line = reader.line_num + 1
    except csv.Error as error:
        do = "Look for an unclosed quote, or a quote inside a cell that is not doubled."
        raise DataError(f"{path}:{line}", f"the line cannot be read: {error}.", do=do) from error
    return rows


def read_columns(path: Path, columns: Sequence[str]) -> Iterator[tuple[Row, list[str]]]:
    """Each record with its cells in these columns, which the first line must name, in any case."""
    rows = read_rows(path)
    header = [cell.strip().lower() for cell in rows[0].cells] if rows else []
    if not set(columns) <= set(header):
        right = f"The first line must name the columns {' and '.join(columns)}."
        raise DataError(f"{path}:1", f"the columns are {', '.join(header) or 'missing'}.", right=right)
    for row in rows[1:]:
        cells = row.by_column(header)
        yield row, [cells[column].strip() for column in columns]


def words(path: Path) -> Iterator[Row]:
    """The lines of a file as words between blanks, blank lines left out."""
    for line, text in enumerate(read_text(path).split("\n"), 1):
        if cells := tuple(text.split()):
            yield Row(path, line, cells)
