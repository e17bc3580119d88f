"""Stratified draws: the same rows as scikit-learn's `train_test_split` and `StratifiedKFold`; a test compares them.

Implemented here because importing scikit-learn at the start of every training takes as long as importing torch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


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
