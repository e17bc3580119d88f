"""Votes: how many people gave a photo each class, and which class that means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from multistream.data.layouts.delimited_text import Row, where
from multistream.errors import DataError

LABELS = ("vote", "votes")
"""`data.label` of layouts whose labels are votes: the class with the most, or the distribution."""


def shares(path: Path, row: Row, cells: Sequence[str], *, classes: Sequence[str]) -> tuple[float, ...]:
    """The numbers in `cells`, one a class; DataError with the line where they are not that."""
    right = f"There must be {len(classes)} numbers: {', '.join(classes)}."
    try:
        values = tuple(float(cell) for cell in cells)
    except ValueError as error:
        raise DataError(where(path, row), f"the votes cannot be read: {error}.", right=right) from error
    if len(values) != len(classes):
        raise DataError(where(path, row), f"there are {len(values)} votes.", right=right)
    if not all(math.isfinite(value) and value >= 0 for value in values) or not sum(values):
        raise DataError(where(path, row), f"the votes are {values}.", right="They must be 0 or more, and not all 0.")
    return values


def winners(values: Sequence[float], classes: Sequence[str]) -> list[str]:
    """The classes with the most votes: one, or several that share the first place."""
    return [name for name, value in zip(classes, values, strict=True) if value == max(values)]
