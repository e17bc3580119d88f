"""The convex probe: a linear classifier on pooled features, fitted to its optimum with a penalty for each stream.

For equal weights the objective is scikit-learn's `LogisticRegression(C=1 / (penalty * N))` on standardised features.
(For two classes C is twice that, because scikit-learn has one weight vector and a softmax has two.) For label sets it
is one such LogisticRegression for each class.
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
from multistream.training.linear_classifier import GRADIENT, Array, Optimum
from multistream.training.penalty_search import Judge, PenaltySearch
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
