"""Joining: the vector of each image, found by id, with a policy for images that have none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from multistream.data.table import VectorTable
from multistream.data.vectors.path_match import Matched, match
from multistream.errors import DataError, some_of
from multistream.recipe import MissingVectors

_DONE = {"mean": "given the mean of the training split", "zero": "given zeros", "skip": "left out"}


@dataclass(frozen=True)
class Joined:
    """Vectors in the order of the images: `rows` (N, D) float32; `present` (N,) is False where none could be had.

    Such rows hold zeros until they are filled in. `notes` report how many were joined, and what was missing.
    """

    rows: NDArray[np.float32]
    present: NDArray[np.bool_]
    notes: tuple[str, ...]


def join(
    ids: Sequence[str], vectors: VectorTable, *, missing: MissingVectors = "error", where: str = "vectors"
) -> Joined:
    """The vectors of the images `ids`, by id; elsewhere by the longest path suffix that is unique on both sides.

    An image has none if no id ends like its own, or if its numbers are not all finite. `missing` says what then:
    "error" is a DataError with counts and names, and so is any policy if no image has one. DataError also if a join
    could be meant in several ways, and if an id has two vectors that differ.

    >>> table = VectorTable(("set/joy/1.jpg", "set/joy/2.jpg"), np.float32([[1], [2]]))
    >>> join(["joy/2.jpg"], table).rows.tolist()
    [[2.0]]
    """
    repeated = repeated_ids(vectors, where)
    matched = match(ids, vectors.ids, where=where)
    found = matched.rows >= 0
    finite = np.asarray(np.isfinite(vectors.features).all(axis=1))
    present = found & finite[matched.rows]
    faults = (
        _counted(list(compress(ids, ~found)), "without a vector"),
        _counted(list(compress(ids, found & ~present)), "with NaN or Inf in their vector"),
    )
    message = list(filter(None, faults))
    if message and (missing == "error" or not present.any()):
        _refuse(ids, vectors, message, where, some=bool(present.any()))
    rows = np.zeros((len(ids), vectors.features.shape[1]), np.float32)
    rows[present] = vectors.features[matched.rows[present]]
    notes = (_summary(matched, present), *repeated, *(f"{fault}: {_DONE[missing]}" for fault in message))
    return Joined(rows, present, notes)


def _summary(matched: Matched, present: NDArray[np.bool_]) -> str:
    how = f", {matched.by_suffix:,} of them by path suffix" if matched.by_suffix else ""
    return f"vectors found for {present.sum():,} of {len(present):,} images{how}"


def _counted(names: Sequence[str], what: str) -> str:
    """The number of images, what is wrong with them, and the first ones; nothing for none."""
    return f"{len(names):,} images {what} ({some_of(map(repr, names))})" if names else ""


def _refuse(ids: Sequence[str], vectors: VectorTable, message: Sequence[str], where: str, *, some: bool) -> None:
    what = f"of {len(ids):,} images there are {' and '.join(message)}."
    right = f"The {len(vectors.ids):,} ids of the file are paths such as {vectors.ids[0]!r}."
    do = "Set data.missing_vectors to skip, mean or zero to continue with the others." if some else "Check both."
    raise DataError(where, what, right=right, do=do)


def repeated_ids(vectors: VectorTable, where: str) -> tuple[str, ...]:
    """A note on ids that stand there again with the same vector; DataError where it is another."""
    first: dict[str, int] = {}
    again = [(name, row) for row, name in enumerate(vectors.ids) if first.setdefault(name, row) != row]
    features = vectors.features
    unlike = [name for name, row in again if not np.array_equal(features[first[name]], features[row], equal_nan=True)]
    if unlike:
        what = f"{len(unlike):,} ids occur twice with different numbers, {unlike[0]!r} first."
        raise DataError(where, what, do="Keep one vector per image.")
    return (f"{len(again):,} ids occur twice with the same vector",) if again else ()
