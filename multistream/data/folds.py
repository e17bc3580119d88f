"""Folds, in which every photo is in the test split once; groups of photos that stay in one split; stratified draws.

The draws are the same rows as scikit-learn's `train_test_split` and `StratifiedKFold`; a test compares them. They are
implemented here because importing scikit-learn at the start of every training takes as long as importing torch.
"""

from __future__ import annotations

import warnings
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multistream.data.layouts.delimited_text import read_columns
from multistream.data.table import Table
from multistream.errors import DataError, UsageError, did_you_mean

Indices = NDArray[np.int64]


def photo_groups(table: Table, source: str) -> Indices | None:
    """The group (N,) of each photo; None if `source` is empty.

    `source` is a column of the data set's CSV, or a separate CSV file with the columns path and group, in which paths
    are the photos' ids. A photo with an empty cell, or without a row, is its own group.
    """
    if not source:
        return None
    path = Path(source).expanduser()
    if source in table.columns:
        cells = table.columns[source]
    elif path.is_file():
        cells = _cells_of_file(table, path)
    else:
        right = did_you_mean(source, table.columns) if table.columns else "The data set has no further columns."
        do = "Pass a column of the CSV, or a CSV file with the columns path and group."
        raise UsageError("data.groups", f"{source!r} is neither a column nor a file.", right=right, do=do)
    keys = [cell.strip() or f"\0{i}" for i, cell in enumerate(cells)]  # a NUL cannot occur in a file name or cell
    return np.unique(keys, return_inverse=True)[1].astype(np.int64)


def _cells_of_file(table: Table, path: Path) -> tuple[str, ...]:
    """The group of each photo in a CSV file, "" for photos without a row."""
    named = {name: group for _, (name, group) in read_columns(path, ("path", "group"))}
    cells = tuple(named.get(name, "") for name in table.ids)
    if not any(cells):
        raise DataError(path, "it contains none of the photos.", right=f"Paths look like {table.ids[0]!r}.")
    return cells


def fold_rows(
    table: Table, *, folds: int, fold: int, seed: int, validation: Fraction, groups: Indices | None = None
) -> dict[str, Indices]:
    """Row numbers of train, val and test, with fold `fold` (1 to `folds`) as the test split; stratified by class.

    `validation` is the fraction of the other folds that is held out. Photos of one group stay together, so that sizes
    are exact to within a group. The result does not depend on the order of files. Draws the same as scikit-learn.
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
    """Splits these rows into `count` folds; returns (the other rows, the fold's rows) for each."""
    labels = table.labels[rows]
    if groups is None:
        numbers = fold_numbers(labels, folds=count, seed=seed)
        return [(rows[numbers != number], rows[numbers == number]) for number in range(count)]
    from sklearn.model_selection import StratifiedGroupKFold  # two seconds to import, only needed for groups

    own = groups[rows]
    if len(np.unique(own)) < count:
        what = f"there are {len(np.unique(own))} groups."
        raise UsageError("data.groups", what, right=f"{count} folds need {count}.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about classes with fewer members than folds, in validation
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
    """Draws `size` of these rows; returns them and the others. Stratified if both sides can hold every class."""
    others = len(rows) - size
    if not size or not others:
        return rows[:size], rows[size:]
    labels = table.labels[rows]
    counts = np.unique(labels, return_counts=True)[1]
    by_class = min(size, others) >= len(counts) and counts.min() >= 2
    if not by_class:
        notes.append(f"too few images for a stratified {name} split: {size:,} and {others:,} are drawn at random")
    return two_parts(rows, labels if by_class else None, first=size, seed=seed)


def two_parts(rows: Indices, labels: Indices | None, *, first: int, seed: int) -> tuple[Indices, Indices]:
    """Draws `first` of these rows, stratified by `labels` if not None; returns them and the others.

    With labels, each class needs at least two rows, and each part must be large enough for a row of each class.
    """
    rng, second = np.random.RandomState(seed), len(rows) - first
    if labels is None:
        order = rng.permutation(len(rows))
        return rows[order[second:]], rows[order[:second]]
    _, of_class, counts = np.unique(labels, return_inverse=True, return_counts=True)
    members = np.split(np.argsort(of_class, kind="stable"), np.cumsum(counts)[:-1])
    sizes = _sizes_by_class(counts, first, rng)
    _sizes_by_class(counts - sizes, second, rng)  # only advances the generator if there are ties, as scikit-learn does
    ones, others = [], []
    for own, size in zip(members, sizes.tolist(), strict=True):
        drawn = own[rng.permutation(len(own))]
        ones.append(drawn[:size])
        others.append(drawn[size:])
    return rows[rng.permutation(np.concatenate(ones))], rows[rng.permutation(np.concatenate(others))]


def fold_numbers(labels: Indices, *, folds: int, seed: int) -> Indices:
    """The fold (from 0) of each row: every class is spread evenly, and the sizes of folds differ by at most one."""
    rng = np.random.RandomState(seed)
    _, first_row, by_name = np.unique(labels, return_index=True, return_inverse=True)
    of_class = np.unique(first_row, return_inverse=True)[1][by_name]  # classes in the order of their first rows
    ordered, classes = np.sort(of_class), len(first_row)
    sizes = np.array([np.bincount(ordered[fold::folds], minlength=classes) for fold in range(folds)])
    numbers = np.empty(len(labels), dtype=np.int64)
    for k in range(classes):
        own = np.arange(folds).repeat(sizes[:, k])
        rng.shuffle(own)
        numbers[of_class == k] = own
    return numbers


def _sizes_by_class(counts: Indices, total: int, rng: np.random.RandomState) -> Indices:
    """The number of rows of each class in a draw of `total`: largest remainders rounded up, ties at random."""
    exact = counts / counts.sum() * total
    sizes = np.floor(exact)
    remainders, missing = exact - sizes, int(total - sizes.sum())
    for remainder in np.unique(remainders)[::-1]:
        if missing == 0:
            break
        tied = np.flatnonzero(remainders == remainder)
        rounded_up = rng.choice(tied, size=min(len(tied), missing), replace=False)
        sizes[rounded_up] += 1
        missing -= len(rounded_up)
    whole: Indices = sizes.astype(np.int64)
    return whole
