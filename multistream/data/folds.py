"""Folds: every photo is a test photo once, and never in training at that time."""

from __future__ import annotations

import warnings
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, train_test_split

from multistream.data.table import Table
from multistream.errors import UsageError

Indices = NDArray[np.int64]


def fold_rows(
    table: Table, *, folds: int, fold: int, seed: int, validation: Fraction, groups: Indices | None = None
) -> dict[str, Indices]:
    """Row numbers of train, val and test where fold `fold` (1 to `folds`) is the test split; class by class.

    `validation` is the fraction of the other folds that is held back. Photos of one group stay together: sizes are
    then right to within a group. The order of files does not matter. Drawn by scikit-learn.
    """
    if not 1 <= fold <= folds:
        raise UsageError("data.fold", f"{fold} is none of {folds} folds.", right=f"It must be 1 to {folds}.")
    order = np.argsort(np.array(table.ids))
    _check_classes(table, folds)
    rest, test = _pieces(table, order, folds, seed, groups)[fold - 1]
    train, val = _held_back(table, rest, validation, seed, groups)
    return {"train": np.sort(train), "val": np.sort(val), "test": np.sort(test)}


def _check_classes(table: Table, folds: int) -> None:
    counts = np.bincount(table.labels, minlength=len(table.classes))
    few = [name for name, count in zip(table.classes, counts.tolist(), strict=True) if 0 < count < folds]
    if few:
        what = f"{folds} folds need {folds} photos of every class; {few[0]} has {counts[table.classes.index(few[0])]}."
        raise UsageError("data.folds", what, do="Ask for fewer folds, or leave the class out.")


def _pieces(
    table: Table, rows: Indices, count: int, seed: int, groups: Indices | None
) -> list[tuple[Indices, Indices]]:
    """(the others, the piece) for each of `count` pieces of these rows."""
    maker: Any = StratifiedKFold if groups is None else StratifiedGroupKFold
    own = None if groups is None else groups[rows]
    if own is not None and len(np.unique(own)) < count:
        raise UsageError(
            "data.groups", f"there are {len(np.unique(own))} groups.", right=f"{count} folds need {count}."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of classes with fewer members than pieces, in validation
        drawn = list(maker(count, shuffle=True, random_state=seed).split(rows, table.labels[rows], own))
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
    counts = np.unique(table.labels[rows], return_counts=True)[1]
    stratified = size >= len(counts) and counts.min() >= 2
    train, val = train_test_split(
        rows, test_size=size, random_state=seed, stratify=table.labels[rows] if stratified else None
    )
    return train, val
