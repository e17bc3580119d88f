"""Vectors as lines of text: an id and D numbers, with or without a header of their names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from multistream.data.layouts.csv_table import PATH
from multistream.data.layouts.delimited_text import Row, read_each, read_rows
from multistream.data.table import VectorTable
from multistream.errors import DataError

ID_COLUMNS = ("", "id", "ids", "name", "image_id", "index", *PATH)
"""Names of the first column, in lower case; pandas writes "" for an index."""

_RIGHT = "Each line must be an id and the same D numbers."


def from_lines(path: Path) -> VectorTable:
    """Reads a .csv or .tsv: an id and D numbers per line. Empty cells are NaN; DataError counts the faulty lines.

    The first line is a header if its first cell is in ID_COLUMNS, or if another cell is not a number. Names 0 to D - 1
    count as no vocabulary, because pandas writes them for unnamed columns.
    """
    rows = _rows(path)
    first = next(rows, Row(path, 1, ("",)))  # an empty file is a header without names
    has_header, width = _is_header(first.cells), len(first.cells) - 1

    def read(row: Row) -> tuple[str, NDArray[np.float32]]:
        values = _numbers(row.cells[1:])
        if len(row.cells) - 1 != width or width < 1:
            what = f"{len(row.cells) - 1:,} numbers after the id, {width:,} on the first line."
            raise DataError(row.where, what, right=_RIGHT)
        if isinstance(values, str):
            raise DataError(row.where, f"{values!r} is not a number.", right=_RIGHT)
        return row.cells[0].strip(), values

    held = read_each(rows if has_header else chain([first], rows), read)
    if not held:
        raise DataError(path, "it holds no vectors.", right=_RIGHT)
    ids, numbers = zip(*held, strict=True)
    vocabulary = tuple(map(str.strip, first.cells[1:])) if has_header else ()
    is_counted = vocabulary == tuple(map(str, range(width)))
    return VectorTable(ids, np.stack(numbers), () if is_counted else vocabulary)


def first_column(path: Path) -> tuple[str, ...]:
    """The first cell of each line, without a header whose first cell is in ID_COLUMNS."""
    cells = [row.cells[0].strip() for row in _rows(path)]
    return tuple(cells[1:] if cells and cells[0].lower() in ID_COLUMNS else cells)


def _rows(path: Path) -> Iterator[Row]:
    return read_rows(path, delimiter="\t" if path.suffix.lower() == ".tsv" else "")


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
