"""Vectors as lines of text: an id and D numbers, under a header with their names or under none."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from multistream.data.layouts.csv_table import PATH
from multistream.data.layouts.delimited_text import delimiter_of, read_each
from multistream.data.table import VectorTable
from multistream.errors import DataError

ID_COLUMNS = ("", "id", "ids", "name", "image_id", "index", *PATH)
"""What the first column is called, in small letters; "" is how pandas writes an index."""

_RIGHT = "Each line must be an id and the same D numbers."


def from_lines(path: Path) -> VectorTable:
    """A .csv or .tsv: an id and D numbers a line. Empty cells are NaN; DataError names and counts the faulty lines.

    The first line is a header if its first cell is called like an id, or if a further one is not a number. Numbers
    0 to D - 1 as names are what pandas writes where there are none.
    """
    records = _records(path)
    first = next(records, (0, [""]))  # an empty file is a header without names
    has_header, width = _is_header(first[1]), len(first[1]) - 1

    def read(record: tuple[int, list[str]]) -> tuple[str, NDArray[np.float32]]:
        (line, cells), values = record, _numbers(record[1][1:])
        if len(cells) - 1 != width or width < 1:
            what = f"{len(cells) - 1:,} numbers after the id, {width:,} on the first line."
            raise DataError(f"{path}:{line}", what, right=_RIGHT)
        if isinstance(values, str):
            raise DataError(f"{path}:{line}", f"{values!r} is not a number.", right=_RIGHT)
        return cells[0].strip(), values

    rows = read_each(records if has_header else chain([first], records), read)
    if not rows:
        raise DataError(path, "it holds no vectors.", right=_RIGHT)
    ids, numbers = zip(*rows, strict=True)
    vocabulary = tuple(map(str.strip, first[1][1:])) if has_header else ()
    is_counted = vocabulary == tuple(map(str, range(width)))
    return VectorTable(ids, np.stack(numbers), () if is_counted else vocabulary)


def first_column(path: Path) -> tuple[str, ...]:
    """The first cell of each line, without a header that is called like an id."""
    cells = [cells[0].strip() for _, cells in _records(path)]
    return tuple(cells[1:] if cells and cells[0].lower() in ID_COLUMNS else cells)


def _records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and cells, blank lines left out; a line at a time, for such files are large."""
    line = 0
    try:
        with path.open(encoding=_encoding(path), errors="surrogateescape", newline="") as file:
            delimiter = "\t" if path.suffix.lower() == ".tsv" else delimiter_of(file.readline())
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            for cells in reader:
                line = reader.line_num
                if any(cell.strip() for cell in cells):
                    yield line, cells
    except (OSError, UnicodeError, csv.Error) as error:
        raise DataError(f"{path}:{line + 1}", f"the line cannot be read: {error}.") from error


def _encoding(path: Path) -> str:
    """By the byte order mark, which these encodings take away."""
    with path.open("rb") as file:
        start = file.read(3)
    return "utf-16" if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def _is_header(cells: Sequence[str]) -> bool:
    return cells[0].strip().lower() in ID_COLUMNS or isinstance(_numbers(cells[1:]), str)


def _numbers(cells: Sequence[str]) -> NDArray[np.float32] | str:
    """The cells as float32, or the first that is not a number."""
    try:
        return np.array(cells, dtype=np.float64).astype(np.float32)
    except ValueError:
        filled = [cell if cell.strip() else "nan" for cell in cells]
    wrong = next((cell for cell in filled if not _is_number(cell)), None)
    return np.array(filled, dtype=np.float64).astype(np.float32) if wrong is None else wrong


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
