"""Splits of a data set into training, validation and test images.

Stratified draws, the same as scikit-learn's: training first, then validation from the rest, with images in the order of
their ids. With 80/5/15 and seed 18 this is the split of the authors' code (paper section 2). The order of files does
not matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import compress
from math import floor

import numpy as np
from numpy.typing import NDArray

from multistream.data.folds import fold_rows, photo_groups, stratified_cut
from multistream.data.table import Table
from multistream.errors import UsageError, some_of

Indices = NDArray[np.int64]
NAMES = ("train", "val", "test")


@dataclass(frozen=True)
class Parts:
    """Row numbers (int64, ascending) of a table for training, validation and test, and `notes` to print."""

    train: Indices
    val: Indices
    test: Indices
    notes: tuple[str, ...] = ()

    def named(self) -> dict[str, Indices]:
        """The three parts by name."""
        return {"train": self.train, "val": self.val, "test": self.test}


def split(
    table: Table, *, fractions: str = "80/5/15", seed: int = 18, groups: str = "", folds: int = 0, fold: int = 0
) -> Parts:
    """Splits a table, stratified by class, into fractions train/val/test (paper section 2: 80/5/15, seed 18).

    If the layout has predefined splits, they are kept; a missing one is drawn from its training split.
    The total sizes are exact (largest remainder; a split with a fraction above 0 is not empty if there are enough
    images); each class gets its fraction to within an image.

    With `folds`, the test split is fold number `fold` (the first if it is 0) of all photos, and validation is a
    fraction of the others. `groups` defines photos that must stay together (`multistream.data.folds`).
    """
    shares = _shares(fractions)
    together = photo_groups(table, groups)
    if folds or together is not None:
        return _whole(table, shares, seed=seed, groups=together, folds=folds, fold=fold)
    chosen = np.array(table.parts or ["train"] * len(table), dtype="U5")
    wanted = {name: share for name, share in shares.items() if name == "train" or name not in chosen}
    pool = np.flatnonzero(chosen == "train")
    notes = [_on_predefined(wanted if len(pool) else {})] if table.parts else []
    for name, rows in _drawn(table, pool[np.argsort(np.array(table.ids)[pool])], wanted, seed, notes).items():
        chosen[rows] = name
    parts = {name: np.flatnonzero(chosen == name).astype(np.int64) for name in NAMES}
    return Parts(**parts, notes=(*notes, *_missing_classes(table, parts)))


def _on_predefined(wanted: Mapping[str, Fraction]) -> str:
    """A note that the data set has predefined splits, and which splits are drawn in addition."""
    drawn = " and ".join(name for name in wanted if name != "train")
    return "predefined by the data set" + (f", {drawn} drawn from its training split" if drawn else "")


def _whole(
    table: Table, shares: Mapping[str, Fraction], *, seed: int, groups: Indices | None, folds: int, fold: int
) -> Parts:
    """Draws folds, or a split that keeps groups together, from all photos; ignores predefined splits."""
    if not folds and "test" not in shares:
        raise UsageError("data.split", "groups need a test split.", right="Write, for example, 80/5/15.")
    count, val = folds or max(2, round(1 / shares["test"])), shares.get("val", Fraction(0))
    validation = val / (shares["train"] + val)
    rows = fold_rows(table, folds=count, fold=max(fold, 1), seed=seed, validation=validation, groups=groups)
    notes = ["the predefined splits are not used: folds and groups are drawn from all photos"] if table.parts else []
    if groups is not None:
        notes.append(f"{len(np.unique(groups)):,} groups of photos stay together")
    return Parts(**rows, notes=(*notes, *_missing_classes(table, rows)))


def _shares(fractions: str) -> dict[str, Fraction]:
    """The fractions of a text such as 80/5/15, by split, with sum 1; a split with fraction 0 is left out."""
    try:
        train, val, test = map(Fraction, fractions.split("/"))
    except (ValueError, ZeroDivisionError) as error:
        right = "It must be three numbers for train/val/test, such as 80/5/15."
        raise UsageError("data.split", f"{fractions!r} cannot be read.", right=right) from error
    if min(train, val, test) < 0 or train == 0:
        right = "Write, for example, 80/5/15."
        raise UsageError("data.split", f"{fractions!r} leaves no training images.", right=right)
    total = train + val + test
    return {name: share / total for name, share in zip(NAMES, (train, val, test), strict=True) if share}


def _sizes(n: int, shares: Mapping[str, Fraction]) -> dict[str, int]:
    """The sizes of the splits of n images, test first and train last: largest remainder, at least 1 if n allows."""
    total = sum(shares.values())
    exact = {name: n * shares[name] / total for name in reversed(NAMES) if name in shares}
    sizes = dict(zip(exact, map(floor, exact.values()), strict=True))
    for name in sorted(sizes, key=lambda name: sizes[name] - exact[name])[: n - sum(sizes.values())]:
        sizes[name] += 1
    for name in [name for name in sizes if not sizes[name] and n >= len(sizes)]:
        sizes[name] += 1
        sizes[max(sizes, key=lambda other: sizes[other])] -= 1
    return sizes


def _drawn(
    table: Table, rows: Indices, wanted: Mapping[str, Fraction], seed: int, notes: list[str]
) -> dict[str, Indices]:
    """Rows for each split: training is drawn first, then validation from the rest, both stratified.

    A class of fewer than three images stays in training. If a split would be smaller than the number of classes, the
    draw is not stratified, and a note says so.
    """
    sizes = _sizes(len(rows), wanted)
    labels = table.labels[rows]
    rare = np.isin(labels, np.flatnonzero(np.bincount(labels) < 3))
    rare &= rare.sum() < sizes["train"]  # if nearly all are rare, none is kept back
    aside, rows = rows[rare], rows[~rare]
    train, rest = stratified_cut(table, rows, sizes["train"] - len(aside), seed=seed, name="train", notes=notes)
    val, test = stratified_cut(table, rest, sizes.get("val", 0), seed=seed, name="val", notes=notes)
    return {"train": np.concatenate([train, aside]), "val": val, "test": test}


def _missing_classes(table: Table, parts: Mapping[str, Indices]) -> list[str]:
    """Notes on classes without images in a split, with the total number of images of each."""
    counts = {name: np.bincount(table.labels[rows], minlength=len(table.classes)) for name, rows in parts.items()}
    whole = np.sum([*counts.values()], axis=0)
    known = [f"{name} (has {count:,})" for name, count in zip(table.classes, whole, strict=True)]
    lacking = {name: [*compress(known, (count == 0) & (whole > 0))] for name, count in counts.items() if count.any()}
    return [f"the {name} split has no image of {some_of(k, shown=5)}" for name, k in lacking.items() if k]
