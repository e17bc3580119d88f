"""The score of each variant over all seeds and splits: the interface of a metric, and the accuracy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from multistream.ablation.results import ACCURACY, Metric
from multistream.bootstrap import Floats, Interval
from multistream.data.splits import Parts
from multistream.statistics import mcnemar, tested_interval

Counts = NDArray[np.int64]


class Tally(Protocol):
    """Collects the predictions of the training runs for their test photos."""

    def add(self, rows: Counts, probabilities_VNK: NDArray[np.floating]) -> None:
        """Adds one seed of one split: each variant's probabilities for these photos."""

    def scores(self) -> RowScores:
        """Returns the scores over all added training runs."""


@dataclass(frozen=True)
class RowScores(ABC):
    """The metric of V variants, and the number of correct predictions `right` (V, N) in `tried` (N,) runs per photo.

    `scores` (V, R) are those of the single training runs: seeds within splits.
    """

    metric: ClassVar[Metric]
    right: Counts
    tried: Counts
    scores: Floats

    @property
    @abstractmethod
    def score(self) -> Floats:
        """The score (V,) over the pooled test predictions of all training runs."""

    @abstractmethod
    def interval(self, v: int) -> Interval:
        """Returns the 95 % interval of a variant's score, over photos."""

    @abstractmethod
    def p_value(self, v: int, reference: int) -> float:
        """Returns the two-sided p-value of the difference between two variants' scores."""

    @abstractmethod
    def per_class(self, v: int, reference: int, classes: Sequence[str]) -> Mapping[str, Mapping[str, float]]:
        """Returns {class: {"score", "delta"}} of the classes that have test photos."""

    @abstractmethod
    def constant(self, split: Parts) -> float:
        """Returns the score of a classifier without inputs on a split's test photos."""


@dataclass(frozen=True)
class AccuracyScores(RowScores):
    """The accuracy on photos with one label each, `labels` (N,)."""

    metric = ACCURACY
    labels: Counts

    @property
    def score(self) -> Floats:
        """The accuracy (V,) over the pooled test predictions of all training runs."""
        fractions: Floats = self.right.sum(1) / self.tried.sum()
        return fractions

    def interval(self, v: int) -> Interval:
        """Returns the 95 % interval: Wilson's if each photo was tested once, else a bootstrap over photos."""
        tested = self.tried > 0
        return tested_interval(self.right[v, tested], self.tried[tested])

    def p_value(self, v: int, reference: int) -> float:
        """Returns the p-value of the exact McNemar test over photos.

        A photo counts once, for the variant that was correct on it in more training runs. Seeds are not independent
        samples: counting each of them would show differences that do not exist.
        """
        worse = int((self.right[v] < self.right[reference]).sum())
        return mcnemar(worse, int((self.right[v] > self.right[reference]).sum()))

    def per_class(self, v: int, reference: int, classes: Sequence[str]) -> Mapping[str, Mapping[str, float]]:
        """Returns {class: {"score", "delta"}} of the classes that have test photos."""
        found = {}
        for k, name in enumerate(classes):
            tried = self.tried[self.labels == k].sum()
            if tried:
                own, other = (self.right[i][self.labels == k].sum() / tried for i in (v, reference))
                found[name] = {"score": float(own), "delta": float(own - other)}
        return found

    def constant(self, split: Parts) -> float:
        """Returns the fraction of test photos with the most frequent class of the training photos."""
        return float((self.labels[split.test] == np.bincount(self.labels[split.train]).argmax()).mean())


class AccuracyTally:
    """Counts the correct predictions of each variant and photo."""

    def __init__(self, variants: int, labels: Counts) -> None:
        self.labels = labels
        self.right = np.zeros((variants, len(labels)), dtype=np.int64)
        self.tried = np.zeros(len(labels), dtype=np.int64)
        self.accuracies: list[list[float]] = []

    def add(self, rows: Counts, probabilities_VNK: NDArray[np.floating]) -> None:
        """Adds one seed of one split: each variant's probabilities for these photos."""
        correct = probabilities_VNK.argmax(2) == self.labels[rows]
        self.right[:, rows] += correct
        self.tried[rows] += 1
        self.accuracies.append(correct.mean(axis=1).tolist())

    def scores(self) -> AccuracyScores:
        """Returns the scores over all added training runs."""
        return AccuracyScores(self.right, self.tried, np.array(self.accuracies).T, self.labels)
