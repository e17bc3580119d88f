"""Groups: photos that must stay in one split, for example near-duplicates or photos of one person."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from multistream.data.layouts.delimited_text import read_columns
from multistream.data.table import Table
from multistream.errors import DataError, UsageError, did_you_mean

Groups = NDArray[np.int64]


def photo_groups(table: Table, source: str) -> Groups | None:
    """The group (N,) of each photo; None where `source` is empty.

    `source` is a column of the data set's CSV, or a CSV file of its own with the columns path and group, whose paths
    are the photos' ids. A photo with an empty cell, or without a line, is a group by itself.
    """
    if not source:
        return None
    if source in table.columns:
        cells = table.columns[source]
    elif Path(source).expanduser().is_file():
        rows = read_columns(Path(source).expanduser(), ("path", "group"))
        named = {name: group for _, (name, group) in rows}
        cells = tuple(named.get(name, "") for name in table.ids)
        if not any(cells):
            raise DataError(source, "it contains none of the photos.", right=f"Paths look like {table.ids[0]!r}.")
    else:
        right = did_you_mean(source, table.columns) if table.columns else "The data set has no further columns."
        do = "Pass a column of the CSV, or a CSV file with the columns path and group."
        raise UsageError("data.groups", f"{source!r} is neither a column nor a file.", right=right, do=do)
    keys = [cell.strip() or f"\0{i}" for i, cell in enumerate(cells)]  # no name of a file or a cell holds a NUL
    return np.unique(keys, return_inverse=True)[1].astype(np.int64)
