"""Folds: every photo is a test photo once, and never in training at that time."""

from __future__ import annotations

import warnings
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multistream.data.stratified import fold_numbers, two_parts
from multistream.data.table import Table
from multistream.errors import UsageError

Indices = NDArray[np.int64]


def fold_rows(
    table: Table, *, folds: int, fold: int, seed: int, validation: Fraction, groups: Indices | None = None
) -> dict[str, Indices]:
    """Row numbers of train, val and test where fold `fold` (1 to `folds`) is the test split; class by class.

    `validation` is the fraction of the other folds that is held back. Photos of one group stay together: sizes are
    then right to within a group. The order of files does not matter. Drawn as scikit-learn draws.
    """
    if not 1 <= fold <= folds:
        raise UsageError("data.fold", f"{fold} is none of {folds} folds.", right=f"It must be 1 to {folds}.")
    order = np.argsort(np.array(table.ids))
    _check_classes(table, folds)
    rest, test = _pieces(table, order, folds, seed, groups)[fold - 1]
    train, val = _held_back(table, rest, validation, seed, groups)
    return {"train": np.sort(train), "val": np.sort(val), "test": np.sort(test)}


def _check_classes(table: Table, folds: int) -> None:
    counts = np.bincount(table.labels, minlength=len(table.classes)).tolist()
    few = [(name, count) for name, count in zip(table.classes, counts, strict=True) if 0 < count < folds]
    if few:
        what = f"{folds} folds need {folds} photos of every class; {few[0][0]} has {few[0][1]}."
        raise UsageError("data.folds", what, do="Ask for fewer folds, or leave the class out.")


def _pieces(
    table: Table, rows: Indices, count: int, seed: int, groups: Indices | None
) -> list[tuple[Indices, Indices]]:
    """(the others, the piece) for each of `count` pieces of these rows."""
    labels = table.labels[rows]
    if groups is None:
        numbers = fold_numbers(labels, folds=count, seed=seed)
        return [(rows[numbers != number], rows[numbers == number]) for number in range(count)]
    from sklearn.model_selection import StratifiedGroupKFold  # two seconds of import, for groups alone

    own = groups[rows]
    if len(np.unique(own)) < count:
        what = f"there are {len(np.unique(own))} groups."
        raise UsageError("data.groups", what, right=f"{count} folds need {count}.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of classes with fewer members than pieces, in validation
        maker: Any = StratifiedGroupKFold
        drawn = list(maker(count, shuffle=True, random_state=seed).split(rows, labels, own))
    return [(rows[others], rows[piece]) for others, piece in drawn]


def _held_back(
    table: Table, rows: Indices, fraction: Fraction, seed: int, groups: Indices | None
) -> tuple[Indices, Indices]:
    """(training, validation) of these rows."""
    if not fraction:
        return rows, rows[:0]
    if groups is not None:
        pieces = min(max(2, round(1 / fraction)), len(np.unique(groups[rows])))
        return _pieces(table, rows, pieces, seed, groups)[0]
    size = max(1, round(len(rows) * fraction))
    return stratified_cut(table, rows, len(rows) - size, seed=seed, name="val", notes=[])


def stratified_cut(
    table: Table, rows: Indices, size: int, *, seed: int, name: str, notes: list[str]
) -> tuple[Indices, Indices]:
    """`size` of these rows and the others, drawn class by class where each side has room for every class."""
    others = len(rows) - size
    if not size or not others:
        return rows[:size], rows[size:]
    labels = table.labels[rows]
    counts = np.unique(labels, return_counts=True)[1]
    by_class = min(size, others) >= len(counts) and counts.min() >= 2
    if not by_class:
        notes.append(f"too few images for a stratified {name} split: {size:,} and {others:,} are drawn at random")
    return two_parts(rows, labels if by_class else None, first=size, seed=seed)
