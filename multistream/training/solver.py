"""The convex probe: a linear classifier on pooled features at its optimum, with a penalty for each stream.

For equal weights the objective is scikit-learn's `LogisticRegression(C=1 / (penalty * N))` on standardised features.
(For two classes C is twice that: scikit-learn has one weight vector where a softmax has two.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import nan

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_softmax, softmax

from multistream.training.softmax_regression import GRADIENT, ROUGH_GRADIENT, Array, Optimum, SoftmaxRegression

Rows = NDArray[np.int64]

PENALTIES: tuple[float, ...] = tuple(10.0 ** (half / 2) for half in range(4, -9, -1))
"""100 to 1e-4 in half decades."""
FIRST = 1.0
"""Where the search on the grid begins."""
FOLDS = 5
ROUNDS = 3
"""How often each stream's penalty is reconsidered."""
DEAD = 1e-6
"""A feature whose deviation is below this fraction of its mean is constant, as in `Tap.fit`."""


@dataclass(frozen=True)
class Standardisation:
    """`mean` and `scale` (D,) of a stream's features: (x - mean) * scale has mean 0 and variance 1; a constant is 0."""

    mean: Array
    scale: Array

    @classmethod
    def of(cls, features_ND: Array, weights_N: Array) -> Standardisation:
        """From training rows, whose weights sum to 1."""
        mean = weights_N @ features_ND
        deviation = np.sqrt(weights_N @ np.square(features_ND - mean))
        alive = deviation > DEAD * (np.abs(mean) + DEAD)
        return cls(mean, np.where(alive, 1 / np.where(alive, deviation, 1), 0.0))

    def __call__(self, features_ND: ArrayLike) -> Array:
        """(M, D) -> (M, D)"""
        standardised: Array = (np.asarray(features_ND, np.float64) - self.mean) * self.scale
        return standardised


@dataclass(frozen=True)
class FittedProbe:
    """A fitted classifier: `weight` {key: (D, K)} acts on standardised features, `bias` (K,) is added."""

    standardisation: Mapping[str, Standardisation]
    optimum: Optimum
    penalties: Mapping[str, float]
    """The penalty of each stream, as given or as chosen."""
    held_out_loss: float = nan
    """The mean cross entropy by which the penalties were chosen; NaN where they were given."""
    fits: int = 1
    """How many fits were made."""
    out_of_fold: Array | None = field(default=None, repr=False, compare=False)
    """Each row's logits (N, K) by the fit of the inner fold that held it out, where inner folds chose the penalties."""
    regression: SoftmaxRegression | None = field(default=None, repr=False, compare=False)
    """The rows of the fit, of which a fit of fewer features on the same rows takes the products."""

    @property
    def weight(self) -> Mapping[str, Array]:
        """{key: (D, K)}"""
        return self.optimum.weight

    @property
    def bias(self) -> Array:
        """(K,)"""
        return self.optimum.bias

    def logits(self, features: Mapping[str, ArrayLike]) -> Array:
        """{key: (M, D)} -> (M, K)."""
        terms = [self.standardisation[key](features[key]) @ weight for key, weight in self.weight.items()]
        total: Array = np.sum(terms, axis=0) + self.bias
        return total

    def probabilities(self, features: Mapping[str, ArrayLike]) -> Array:
        """{key: (M, D)} -> (M, K), rows that sum to 1."""
        found: Array = softmax(self.logits(features), axis=1)
        return found


def fit_probe(
    features: Mapping[str, ArrayLike],
    targets: ArrayLike,
    *,
    penalties: Sequence[float] | Mapping[str, float] = PENALTIES,
    per_stream: bool = True,
    validation: ArrayLike | None = None,
    folds: int | ArrayLike = FOLDS,
    sample_weights: ArrayLike | None = None,
    classes: int = 0,
    groups: Mapping[str, str] | None = None,
    start: FittedProbe | None = None,
) -> FittedProbe:
    """Fits a linear softmax classifier to `features` {key: (N, D)} and chooses a penalty for each stream.

    `targets` are classes (N,) or distributions over classes (N, K); `classes` is K where they do not show it.
    `penalties` is a grid to choose from, or {key: penalty}, which is taken as it is. The choice is by the mean cross
    entropy of rows that are held out: `validation` lists them, and they are not fitted; without it each of `folds` is
    held out in turn (how many, or a fold number for every row, so that groups stay together), and the result is fitted
    to all rows. First one penalty is chosen for all streams, then, with `per_stream`, each stream's in turn. Features
    whose `groups` {key: name} agree share a penalty. The search begins at `start`, a fit of these or of more streams.
    Raises ValueError.

    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(60, 4)), np.arange(60) % 3
    >>> x[:, 0] += y
    >>> fit_probe({"toy": x}, y, penalties={"toy": 0.1}).probabilities({"toy": x}).shape
    (60, 3)
    """
    data = _Data.of(features, as_distributions(targets, classes=classes), sample_weights)
    first = start.optimum if start is not None and set(start.weight) >= set(features) else None
    everything = np.arange(len(data.targets))
    if isinstance(penalties, Mapping):
        if set(penalties) != set(features):
            raise ValueError(f"penalties are given for {sorted(penalties)}, and the streams are {sorted(features)}.")
        rows = everything if validation is None else np.setdiff1d(everything, np.asarray(validation))
        return _Fit(data, rows).solve(dict(penalties), first)
    if not penalties or min(penalties) <= 0:
        raise ValueError(f"penalties={list(penalties)}: at least one is needed, and each must be above 0.")
    if validation is None:
        parts = list(inner_folds(data.targets, folds))
    else:
        held_out = np.asarray(validation, np.int64)
        parts = [(np.setdiff1d(everything, held_out), held_out)]
    judges = [_HeldOut(data, *part, start if first else None) for part in parts]
    search = _Search(judges, groups or {key: key for key in features}, sorted(penalties, reverse=True))
    chosen, loss = search.run(start.penalties if start else {}, per_stream=per_stream)
    fit = _Fit(data, everything) if validation is None else judges[0].fit
    probe = fit.solve(chosen, judges[0].found.get(tuple(chosen.values()), judges[0].last))
    out = None
    if validation is None:  # the parts hold every row once
        back = np.argsort(np.concatenate([held_out for _, held_out in parts]))
        out = np.concatenate([judge.logits(chosen) for judge in judges])[back]
    return replace(probe, held_out_loss=loss, fits=search.fits + 1, out_of_fold=out)


def as_distributions(targets: ArrayLike, *, classes: int = 0) -> Array:
    """Classes (N,) or distributions (N, K) -> distributions (N, K) whose rows sum to 1; ValueError.

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


def inner_folds(targets_NK: Array, folds: int | ArrayLike) -> Iterator[tuple[Rows, Rows]]:
    """(rows to fit, rows held out) of every fold; a number of folds spreads each class evenly, in the rows' order."""
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


@dataclass(frozen=True)
class _Data:
    """All rows: features {key: (N, D)}, targets (N, K), weights (N,)."""

    features: Mapping[str, Array]
    targets: Array
    weights: Array

    @classmethod
    def of(cls, features: Mapping[str, ArrayLike], targets: Array, sample_weights: ArrayLike | None) -> _Data:
        blocks = {key: np.asarray(block, np.float64) for key, block in features.items()}
        weights = np.ones(len(targets)) if sample_weights is None else np.asarray(sample_weights, np.float64)
        if not blocks:
            raise ValueError("features: no stream is given.")
        for key, block in blocks.items():
            if block.ndim != 2 or len(block) != len(targets):
                raise ValueError(f"features of {key} are {block.shape}; they must be ({len(targets)}, D).")
            if not np.isfinite(block).all():
                raise ValueError(f"features of {key} are not all finite.")
        if weights.shape != (len(targets),) or not (weights >= 0).all():
            raise ValueError(f"sample_weights are {weights.shape}; they must be ({len(targets)},), none below 0.")
        return cls(blocks, targets, weights)


class _Fit:
    """The rows that are fitted, standardised by themselves."""

    def __init__(self, data: _Data, rows: Rows, larger: SoftmaxRegression | None = None) -> None:
        total = data.weights[rows].sum()
        if not total > 0:
            raise ValueError("sample_weights: all rows to fit have weight 0.")
        weights = data.weights[rows] / total
        self.standardisation = {key: Standardisation.of(x[rows], weights) for key, x in data.features.items()}
        blocks = {key: self.standardisation[key](x[rows]) for key, x in data.features.items()}
        self.regression = SoftmaxRegression(blocks, data.targets[rows], weights, larger=larger)

    def solve(
        self, penalties: Mapping[str, float], start: Optimum | None, *, gradient: float = GRADIENT
    ) -> FittedProbe:
        optimum = self.regression.solve(penalties, start, gradient=gradient)
        return FittedProbe(self.standardisation, optimum, penalties, regression=self.regression)


class _HeldOut:
    """A fit and the rows that judge its penalties; each fit starts at the one before."""

    def __init__(self, data: _Data, rows: Rows, held_out: Rows, start: FittedProbe | None) -> None:
        self.fit = _Fit(data, rows, start.regression if start else None)
        self.last = start.optimum if start else None
        self.found: dict[tuple[float, ...], Optimum] = {}
        self.features = {key: x[held_out] for key, x in data.features.items()}
        self.targets, self.weights = data.targets[held_out], data.weights[held_out]

    def loss(self, penalties: Mapping[str, float]) -> tuple[float, float]:
        """(summed cross entropy of the held-out rows, their summed weight)."""
        probe = self.fit.solve(penalties, self.last, gradient=ROUGH_GRADIENT)
        self.last = self.found[tuple(penalties.values())] = probe.optimum
        each = -(self.targets * log_softmax(probe.logits(self.features), axis=1)).sum(1)
        return float(self.weights @ each), float(self.weights.sum())

    def logits(self, penalties: Mapping[str, float]) -> Array:
        """The held-out rows' logits (M, K) under penalties that were tried."""
        optimum = self.found[tuple(penalties.values())]
        return FittedProbe(self.fit.standardisation, optimum, penalties).logits(self.features)


class _Search:
    """The choice of penalties on a grid: one for all streams, then stream by stream."""

    def __init__(self, parts: Sequence[_HeldOut], groups: Mapping[str, str], grid: Sequence[float]) -> None:
        self.parts, self.groups, self.grid = parts, groups, grid
        self.names = list(dict.fromkeys(groups.values()))
        self.losses: dict[tuple[int, ...], float] = {}

    @property
    def fits(self) -> int:
        """How many fits were made."""
        return len(self.losses) * len(self.parts)

    def run(self, first: Mapping[str, float], *, per_stream: bool) -> tuple[dict[str, float], float]:
        """({key: penalty}, the held-out loss), from the grid's points nearest to `first`."""
        logs = np.log(self.grid)
        begin = {name: first.get(key, FIRST) for key, name in self.groups.items()}
        best = tuple(int(np.abs(logs - np.log(begin[name])).argmin()) for name in self.names)
        everything = frozenset(range(len(self.names)))
        best = self._climb(best, everything)
        for _ in range(ROUNDS if per_stream and len(self.names) > 1 else 0):
            before = best
            for place in everything:
                best = self._climb(best, frozenset({place}))
            best = self._climb(best, everything)
            if best == before:
                break
        return self._penalties(best), self.losses[best]

    def _climb(self, best: tuple[int, ...], moved: frozenset[int]) -> tuple[int, ...]:
        """Moves these streams' penalties along the grid together for as long as the loss falls."""
        loss = self._loss(best)
        for direction in (1, -1):
            while True:
                now = tuple(step + direction * (place in moved) for place, step in enumerate(best))
                if min(now) < 0 or max(now) >= len(self.grid) or self._loss(now) >= loss:
                    break
                best, loss = now, self._loss(now)
        return best

    def _loss(self, steps: tuple[int, ...]) -> float:
        if steps not in self.losses:
            sums = [part.loss(self._penalties(steps)) for part in self.parts]
            self.losses[steps] = sum(loss for loss, _ in sums) / max(sum(weight for _, weight in sums), 1e-300)
        return self.losses[steps]

    def _penalties(self, steps: tuple[int, ...]) -> dict[str, float]:
        chosen = dict(zip(self.names, steps, strict=True))
        return {key: self.grid[chosen[name]] for key, name in self.groups.items()}
