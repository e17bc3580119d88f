"""The rows of a probe (features, targets, weights), and their division into fitted and held-out rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from multistream.training.linear_classifier import Array, LinearClassifier

Rows = NDArray[np.int64]

DEAD = 1e-6
"""A feature whose standard deviation is below this fraction of its mean is constant, as in `Tap.fit`."""


@dataclass(frozen=True)
class Standardisation:
    """`mean` and `scale` (D,) of a stream's features: (x - mean) * scale has mean 0 and variance 1.

    Constant features become 0.
    """

    mean: Array
    scale: Array

    @classmethod
    def of(cls, features_ND: Array, weights_N: Array) -> Standardisation:
        """Fits the standardisation on training rows, whose weights sum to 1."""
        mean = weights_N @ features_ND
        deviation = np.sqrt(weights_N @ np.square(features_ND - mean))
        alive = deviation > DEAD * (np.abs(mean) + DEAD)
        return cls(mean, np.where(alive, 1 / np.where(alive, deviation, 1), 0.0))

    def __call__(self, features_ND: ArrayLike) -> Array:
        """Standardises features, (M, D) -> (M, D)."""
        standardised: Array = (np.asarray(features_ND, np.float64) - self.mean) * self.scale
        return standardised


@dataclass(frozen=True)
class ProbeData:
    """All rows: features {key: (N, D)}, targets (N, K), weights (N,)."""

    features: Mapping[str, Array]
    targets: Array
    weights: Array
    label_sets: bool

    @classmethod
    def of(
        cls,
        features: Mapping[str, ArrayLike],
        targets: Array,
        sample_weights: ArrayLike | None,
        *,
        label_sets: bool,
    ) -> ProbeData:
        blocks = {key: np.asarray(block, np.float64) for key, block in features.items()}
        weights = np.ones(len(targets)) if sample_weights is None else np.asarray(sample_weights, np.float64)
        if not blocks:
            raise ValueError("features: no stream is given.")
        for key, block in blocks.items():
            _check_block(key, block, rows=len(targets))
        if weights.shape != (len(targets),) or not (weights >= 0).all():
            raise ValueError(f"sample_weights are {weights.shape}; they must be ({len(targets)},), none below 0.")
        return cls(blocks, targets, weights, label_sets)


def _check_block(key: str, block: Array, *, rows: int) -> None:
    if block.ndim != 2 or len(block) != rows:
        raise ValueError(f"features of {key} are {block.shape}; they must be ({rows}, D).")
    if not np.isfinite(block).all():
        raise ValueError(f"features of {key} are not all finite.")


@dataclass(frozen=True)
class FittedRows:
    """The rows of a fit, standardised by their own mean and variance."""

    standardisation: Mapping[str, Standardisation]
    regression: LinearClassifier

    @classmethod
    def of(cls, data: ProbeData, rows: Rows) -> FittedRows:
        total = data.weights[rows].sum()
        if not total > 0:
            raise ValueError("sample_weights: all rows to fit have weight 0.")
        weights, standardisation, blocks = data.weights[rows] / total, {}, {}
        for key, features in data.features.items():
            own = features[rows]
            standardisation[key] = Standardisation.of(own, weights)
            blocks[key] = standardisation[key](own)
        return cls(standardisation, LinearClassifier(blocks, data.targets[rows], weights, label_sets=data.label_sets))

    def subset(self, keys: Sequence[str]) -> FittedRows:
        """Returns the same rows with some of the streams."""
        return FittedRows({key: self.standardisation[key] for key in keys}, self.regression.subset(keys))


@dataclass(frozen=True)
class HeldOut:
    """The rows that score a fit: standardised features {key: (M, D)}, targets (M, K), weights (M,)."""

    rows: Rows
    features: Mapping[str, Array]
    targets: Array
    weights: Array

    @classmethod
    def of(cls, data: ProbeData, rows: Rows, fit: FittedRows) -> HeldOut:
        features = {key: fit.standardisation[key](x[rows]) for key, x in data.features.items()}
        return cls(rows, features, data.targets[rows], data.weights[rows])


def as_distributions(targets: ArrayLike, *, classes: int = 0) -> Array:
    """Converts classes (N,) or distributions (N, K) to distributions (N, K) whose rows sum to 1. Raises ValueError.

    >>> as_distributions([0, 1]).tolist(), as_distributions([[1.0, 3.0]]).tolist()
    ([[1.0, 0.0], [0.0, 1.0]], [[0.25, 0.75]])
    """
    given = np.asarray(targets)
    if given.ndim == 2:
        rows: Array = given.astype(np.float64)
        totals = rows.sum(1, keepdims=True)
        if not (np.isfinite(rows).all() and (rows >= 0).all() and (totals > 0).all()):
            raise ValueError("targets: a distribution has a negative or infinite entry, or sums to 0.")
        normalised: Array = rows / totals
        return normalised
    found: Array = np.eye(max(classes, int(given.max(initial=-1)) + 1))[given.astype(np.int64)]
    return found


def as_label_sets(targets: ArrayLike) -> Array:
    """Returns label sets (N, K) of 0 and 1 as float64. Raises ValueError for other values."""
    rows = np.asarray(targets, np.float64)
    if rows.ndim != 2 or not np.isin(rows, (0, 1)).all():
        raise ValueError("targets: label sets are (N, K) of 0 and 1.")
    return rows


def inner_folds(targets_NK: Array, folds: int | ArrayLike) -> Iterator[tuple[Rows, Rows]]:
    """Yields (rows to fit, rows held out) for every fold.

    If `folds` is a number, each class is spread evenly over the folds, in the order of the rows.
    """
    if isinstance(folds, int):
        if not 2 <= folds <= len(targets_NK):
            raise ValueError(f"folds={folds}: it must be between 2 and the number of rows, {len(targets_NK)}.")
        order = np.argsort(targets_NK.argmax(1), kind="stable")
        numbers = np.empty(len(order), np.int64)
        numbers[order] = np.arange(len(order)) % folds
    else:
        numbers = np.asarray(folds, np.int64)
        if numbers.shape != (len(targets_NK),) or len(np.unique(numbers)) < 2:
            raise ValueError("folds: every row needs a fold number, and there must be at least two folds.")
    for number in np.unique(numbers):
        yield np.flatnonzero(numbers != number), np.flatnonzero(numbers == number)
