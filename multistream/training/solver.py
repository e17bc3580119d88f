"""The convex probe: a linear classifier on pooled features, fitted to its optimum with a penalty for each stream.

For equal weights the objective is scikit-learn's `LogisticRegression(C=1 / (penalty * N))` on standardised features.
(For two classes C is twice that, because scikit-learn has one weight vector and a softmax has two.) For label sets it
is one such LogisticRegression for each class.

The penalties are selected from a grid by the loss on held-out rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import nan

import numpy as np
import torch
from numpy.typing import ArrayLike

from multistream.training.lbfgs import probabilities_of
from multistream.training.linear_classifier import GRADIENT, ROUGH_GRADIENT, Array, Optimum
from multistream.training.probe_data import (
    FittedRows,
    HeldOut,
    ProbeData,
    Rows,
    Standardisation,
    as_distributions,
    as_label_sets,
    inner_folds,
)

FIRST = 1.0
"""The penalty at which the grid search starts."""
ROUNDS = 3
"""The maximum number of passes over the streams."""


class Judge:
    """A fit and the held-out rows that score its penalties; each fit starts from that of the nearest penalties."""

    def __init__(self, fit: FittedRows, held_out: HeldOut, start: Optimum | None) -> None:
        self.fit, self.held_out, self.start = fit, held_out, start
        self.found: dict[tuple[float, ...], Optimum] = {}

    def losses(self, candidates: Sequence[Mapping[str, float]]) -> list[float]:
        """Returns the summed loss on the held-out rows for each candidate's penalties."""
        optima = self.fit.regression.solve(candidates, self._nearest(candidates[0]), gradient=ROUGH_GRADIENT)
        self.found |= {tuple(each.values()): optimum for each, optimum in zip(candidates, optima, strict=True)}
        return [self._loss(self.logits(each)) for each in candidates]

    def _nearest(self, penalties: Mapping[str, float]) -> Optimum | None:
        """Returns the optimum of the nearest penalties on the grid, or the start if none was fitted yet."""
        wanted = np.log([*penalties.values()])
        nearest = min(self.found, key=lambda tried: float(np.abs(np.log(tried) - wanted).sum()), default=None)
        return self.start if nearest is None else self.found[nearest]

    def logits(self, penalties: Mapping[str, float]) -> Array:
        """Returns the held-out rows' logits (M, K) for penalties that were fitted."""
        optimum = self.found[tuple(penalties.values())]
        terms = [self.held_out.features[key] @ weight for key, weight in optimum.weight.items()]
        total: Array = np.sum(terms, axis=0) + optimum.bias
        return total

    def _loss(self, logits_MK: Array) -> float:
        targets = self.held_out.targets
        if self.fit.regression.label_sets:
            each = (targets * np.logaddexp(0, -logits_MK) + (1 - targets) * np.logaddexp(0, logits_MK)).sum(1)
        else:
            each = (targets * (np.logaddexp.reduce(logits_MK, axis=1, keepdims=True) - logits_MK)).sum(1)
        return float(self.held_out.weights @ each)


class PenaltySearch:
    """Selects penalties on a grid: one for all streams, then one per stream."""

    def __init__(self, judges: Sequence[Judge], groups: Mapping[str, str], grid: Sequence[float]) -> None:
        self.judges, self.groups, self.grid = judges, groups, grid
        self.names = list(dict.fromkeys(groups.values()))
        self.total = max(sum(float(judge.held_out.weights.sum()) for judge in judges), 1e-300)
        self.losses: dict[tuple[int, ...], float] = {}

    @property
    def fits(self) -> int:
        """The number of fits."""
        return len(self.losses) * len(self.judges)

    def run(self, first: Mapping[str, float], *, per_stream: bool) -> tuple[dict[str, float], float]:
        """Returns ({key: penalty}, held-out loss); starts at the grid points nearest to `first`."""
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
        """Moves these streams' penalties along the grid together as long as the loss decreases."""

        def neighbour(steps: tuple[int, ...], direction: int) -> tuple[int, ...]:
            return tuple(step + direction * (place in moved) for place, step in enumerate(steps))

        around = [best, neighbour(best, 1), neighbour(best, -1)]
        self._try([steps for steps in around if self._on_grid(steps)])
        for direction in (1, -1):
            while self._on_grid(now := neighbour(best, direction)):
                self._try([now])
                if self.losses[now] >= self.losses[best]:
                    break
                best = now
        return best

    def _on_grid(self, steps: tuple[int, ...]) -> bool:
        return min(steps) >= 0 and max(steps) < len(self.grid)

    def _try(self, points: Sequence[tuple[int, ...]]) -> None:
        """Computes the losses of those of these points that have none yet, all in one fit."""
        new = [steps for steps in points if steps not in self.losses]
        if not new:
            return
        penalties = [self._penalties(steps) for steps in new]
        sums = np.sum([judge.losses(penalties) for judge in self.judges], axis=0)
        self.losses |= dict(zip(new, (sums / self.total).tolist(), strict=True))

    def _penalties(self, steps: tuple[int, ...]) -> dict[str, float]:
        chosen = dict(zip(self.names, steps, strict=True))
        return {key: self.grid[chosen[name]] for key, name in self.groups.items()}


PENALTIES: tuple[float, ...] = tuple(10.0 ** (half / 2) for half in range(4, -9, -1))
"""100 to 1e-4, in steps of half a decade."""
FOLDS = 5


@dataclass(frozen=True)
class FittedProbe:
    """A fitted classifier: `weight` {key: (D, K)} acts on standardised features, `bias` (K,) is added."""

    standardisation: Mapping[str, Standardisation]
    optimum: Optimum
    penalties: Mapping[str, float]
    """The penalty of each stream, fixed or selected."""
    held_out_loss: float = nan
    """The mean cross entropy that selected the penalties; NaN if they were fixed."""
    fits: int = 1
    """The number of fits."""
    out_of_fold: Array | None = field(default=None, repr=False, compare=False)
    """Logits (N, K) of each row by the inner fold that held it out; None if no inner folds selected penalties."""
    label_sets: bool = False
    """Whether a row may have several classes; the `probabilities` of classes are then independent."""
    rows: ProbeRows | None = field(default=None, repr=False, compare=False)
    """The rows of the fit, on which probes of fewer streams can be fitted too."""

    @property
    def weight(self) -> Mapping[str, Array]:
        """{key: (D, K)}"""
        return self.optimum.weight

    @property
    def bias(self) -> Array:
        """(K,)"""
        return self.optimum.bias

    def logits(self, features: Mapping[str, ArrayLike]) -> Array:
        """Returns logits, {key: (M, D)} -> (M, K)."""
        terms = [self.standardisation[key](features[key]) @ weight for key, weight in self.weight.items()]
        total: Array = np.sum(terms, axis=0) + self.bias
        return total

    def probabilities(self, features: Mapping[str, ArrayLike]) -> Array:
        """Returns probabilities, {key: (M, D)} -> (M, K); rows sum to 1 unless the targets were label sets."""
        logits = torch.from_numpy(self.logits(features))
        found: Array = probabilities_of(logits, label_sets=self.label_sets, axis=1).numpy()
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
    label_sets: bool = False,
    start: FittedProbe | None = None,
) -> FittedProbe:
    """Fits a linear classifier to `features` {key: (N, D)} and selects a penalty for each stream.

    `targets` are classes (N,) or distributions over classes (N, K); `classes` is K if the targets do not determine it.
    With `label_sets` they are (N, K), 1 for each class that a row has and 0 for the others, and each class has its own
    logistic regression. `penalties` is a grid to select from, or {key: penalty}, which is used unchanged.

    Penalties are selected by the mean loss of held-out rows. `validation` lists these rows, which are not fitted.
    Without it each of `folds` is held out in turn (a number of folds, or a fold number for every row, so that groups
    stay together), and the result is fitted to all rows. First one penalty is selected for all streams, then, with
    `per_stream`, one for each stream in turn. Features with equal `groups` {key: name} share a penalty. The search
    starts at `start`, a fit of these or more streams. Raises ValueError.

    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(60, 4)), np.arange(60) % 3
    >>> x[:, 0] += y
    >>> fit_probe({"toy": x}, y, penalties={"toy": 0.1}).probabilities({"toy": x}).shape
    (60, 3)
    """
    shares = as_label_sets(targets) if label_sets else as_distributions(targets, classes=classes)
    data = ProbeData.of(features, shares, sample_weights, label_sets=label_sets)
    rows = ProbeRows(data, validation=validation, folds=folds)
    return rows.fit(tuple(features), penalties=penalties, per_stream=per_stream, groups=groups, start=start)


class ProbeRows:
    """The rows of probes, which are standardised and multiplied once for all subsets of streams."""

    def __init__(self, data: ProbeData, *, validation: ArrayLike | None, folds: int | ArrayLike) -> None:
        """Takes the same arguments as `fit_probe`."""
        self.data = data
        self.held_out = None if validation is None else np.asarray(validation, np.int64)
        self._folds = folds

    @cached_property
    def all_rows(self) -> FittedRows:
        """The rows of all splits except validation."""
        return FittedRows.of(self.data, np.setdiff1d(np.arange(len(self.data.targets)), self._validation))

    @cached_property
    def parts(self) -> list[tuple[FittedRows, HeldOut]]:
        """The fits that select the penalties, each with its held-out rows."""
        if self.held_out is not None:
            return [(self.all_rows, HeldOut.of(self.data, self.held_out, self.all_rows))]
        parts = []
        for rows, held_out in inner_folds(self.data.targets, self._folds):
            fit = FittedRows.of(self.data, rows)
            parts.append((fit, HeldOut.of(self.data, held_out, fit)))
        return parts

    @property
    def _validation(self) -> Rows:
        return np.zeros(0, np.int64) if self.held_out is None else self.held_out

    def fit(
        self,
        keys: Sequence[str],
        *,
        penalties: Sequence[float] | Mapping[str, float] = PENALTIES,
        per_stream: bool = True,
        groups: Mapping[str, str] | None = None,
        start: FittedProbe | None = None,
    ) -> FittedProbe:
        """Fits a probe of these streams, as `fit_probe` does."""
        first = start.optimum if start is not None and set(start.weight) >= set(keys) else None
        _check_penalties(penalties, keys)
        if isinstance(penalties, Mapping):
            return replace(_solved(self.all_rows.subset(keys), dict(penalties), first), rows=self)
        judges = [Judge(fit.subset(keys), held_out, first) for fit, held_out in self.parts]
        search = PenaltySearch(judges, groups or {key: key for key in keys}, sorted(penalties, reverse=True))
        chosen, loss = search.run(start.penalties if start else {}, per_stream=per_stream)
        probe = _solved(self.all_rows.subset(keys), chosen, judges[0].found[tuple(chosen.values())])
        out = _out_of_fold(judges, chosen) if self.held_out is None else None
        return replace(probe, held_out_loss=loss, fits=search.fits + 1, out_of_fold=out, rows=self)


def _check_penalties(penalties: Sequence[float] | Mapping[str, float], keys: Sequence[str]) -> None:
    if isinstance(penalties, Mapping):
        if set(penalties) != set(keys):
            raise ValueError(f"penalties are given for {sorted(penalties)}, and the streams are {sorted(keys)}.")
    elif min(penalties, default=0) <= 0:
        raise ValueError(f"penalties={list(penalties)}: at least one is needed, and each must be above 0.")


def _out_of_fold(judges: Sequence[Judge], penalties: Mapping[str, float]) -> Array:
    """Returns every row's logits by the fit that held it out, (N, K); each row is held out exactly once."""
    back = np.argsort(np.concatenate([judge.held_out.rows for judge in judges]))
    logits: Array = np.concatenate([judge.logits(penalties) for judge in judges])[back]
    return logits


def _solved(fit: FittedRows, penalties: Mapping[str, float], start: Optimum | None) -> FittedProbe:
    (optimum,) = fit.regression.solve([penalties], start, gradient=GRADIENT)
    return FittedProbe(fit.standardisation, optimum, penalties, label_sets=fit.regression.label_sets)
