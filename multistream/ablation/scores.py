"""How good each variant is over all seeds and splits: what every metric must offer, and the accuracy."""

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
    """Collects what the training runs predict for their test photos."""

    def add(self, rows: Counts, probabilities_VNK: NDArray[np.floating]) -> None:
        """One seed of one split: each variant's probabilities for these photos."""

    def scores(self) -> RowScores:
        """All of it."""


@dataclass(frozen=True)
class RowScores(ABC):
    """The metric of V variants, and how often each was right on each photo: in `right` (V, N) of `tried` (N,) runs.

    `scores` (V, R) are those of the single training runs, seeds within splits.
    """

    metric: ClassVar[Metric]
    right: Counts
    tried: Counts
    scores: Floats

    @property
    @abstractmethod
    def score(self) -> Floats:
        """(V,) over all test predictions pooled."""

    @abstractmethod
    def interval(self, v: int) -> Interval:
        """95 %, over photos."""

    @abstractmethod
    def p_value(self, v: int, reference: int) -> float:
        """Two-sided, of the difference of two variants' scores."""

    @abstractmethod
    def per_class(self, v: int, reference: int, classes: Sequence[str]) -> Mapping[str, Mapping[str, float]]:
        """{class: {"score", "delta"}}, for classes that are tested."""

    @abstractmethod
    def constant(self, split: Parts) -> float:
        """The score on a split's test photos of a classifier that reads nothing."""


@dataclass(frozen=True)
class AccuracyScores(RowScores):
    """The accuracy where each photo has one label, `labels` (N,)."""

    metric = ACCURACY
    labels: Counts

    @property
    def score(self) -> Floats:
        """(V,) over all test predictions pooled."""
        fractions: Floats = self.right.sum(1) / self.tried.sum()
        return fractions

    def interval(self, v: int) -> Interval:
        """95 %: Wilson's where each photo was tested once, else a bootstrap of photos with all their training runs."""
        tested = self.tried > 0
        return tested_interval(self.right[v, tested], self.tried[tested])

    def p_value(self, v: int, reference: int) -> float:
        """Exact McNemar. A photo has one vote however many training runs tested it: for who was right on it more often.

        Seeds are not new photos: to count each as one would find differences where there are none.
        """
        worse = int((self.right[v] < self.right[reference]).sum())
        return mcnemar(worse, int((self.right[v] > self.right[reference]).sum()))

    def per_class(self, v: int, reference: int, classes: Sequence[str]) -> Mapping[str, Mapping[str, float]]:
        """{class: {"score", "delta"}}, for classes that are tested."""
        found = {}
        for k, name in enumerate(classes):
            tried = self.tried[self.labels == k].sum()
            if tried:
                own, other = (self.right[i][self.labels == k].sum() / tried for i in (v, reference))
                found[name] = {"score": float(own), "delta": float(own - other)}
        return found

    def constant(self, split: Parts) -> float:
        """The fraction of the class that is the most frequent in training."""
        return float((self.labels[split.test] == np.bincount(self.labels[split.train]).argmax()).mean())


class AccuracyTally:
    """Counts which variant is right on which photo."""

    def __init__(self, variants: int, labels: Counts) -> None:
        self.labels = labels
        self.right = np.zeros((variants, len(labels)), dtype=np.int64)
        self.tried = np.zeros(len(labels), dtype=np.int64)
        self.accuracies: list[list[float]] = []

    def add(self, rows: Counts, probabilities_VNK: NDArray[np.floating]) -> None:
        """One seed of one split: each variant's probabilities for these photos."""
        correct = probabilities_VNK.argmax(2) == self.labels[rows]
        self.right[:, rows] += correct
        self.tried[rows] += 1
        self.accuracies.append(correct.mean(axis=1).tolist())

    def scores(self) -> AccuracyScores:
        """All of it."""
        return AccuracyScores(self.right, self.tried, np.array(self.accuracies).T, self.labels)
