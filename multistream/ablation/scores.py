"""The score of each variant over all seeds and splits: the interface of a metric, accuracy, and mean average
precision for images with several labels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from multistream.ablation.results import ACCURACY, MAP, Metric
from multistream.bootstrap import Floats, Interval, fraction_interval
from multistream.data.splits import Parts
from multistream.label_set_metrics import (
    THRESHOLD,
    average_precisions,
    mean_average_precision,
    photo_draws,
    resampled_map,
)
from multistream.statistics import mcnemar, normal_p, tested_interval

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
        by_class = {}
        for k, name in enumerate(classes):
            tried = self.tried[self.labels == k].sum()
            if tried:
                own, other = (self.right[i][self.labels == k].sum() / tried for i in (v, reference))
                by_class[name] = {"score": float(own), "delta": float(own - other)}
        return by_class

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


Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class LabelSetScores(RowScores):
    """The mean average precision of the M predictions of all training runs, on photos with `label_sets` (N, K).

    A prediction is correct if it has exactly the photo's classes. `photos` (M,) are the predictions' photos.
    """

    metric = MAP
    label_sets: Bools
    photos: Counts
    probabilities: Floats
    """(V, M, K)"""

    @cached_property
    def score(self) -> Floats:
        """The mAP (V,) over the pooled test predictions of all training runs."""
        sets = self.label_sets[self.photos]
        return np.array([mean_average_precision(own, sets) for own in self.probabilities])

    @cached_property
    def drawn(self) -> Floats:
        """The scores (V, draws) in a bootstrap over photos; a drawn photo brings the predictions of all its runs."""
        tested, place = np.unique(self.photos, return_inverse=True)
        sets, found = self.label_sets[self.photos], []
        for counts in photo_draws(len(tested)):
            found.append([resampled_map(own, sets, counts[:, place]) for own in self.probabilities])
        return np.concatenate(found, axis=1)

    def interval(self, v: int) -> Interval:
        """Returns the 95 % interval of the bootstrap over photos."""
        return fraction_interval(float(self.score[v]), self.drawn[v])

    def p_value(self, v: int, reference: int) -> float:
        """Returns the normal p-value of the difference divided by its bootstrap standard error."""
        difference = float(self.score[v] - self.score[reference])
        return normal_p(difference, float((self.drawn[v] - self.drawn[reference]).std(ddof=1)))

    def per_class(self, v: int, reference: int, classes: Sequence[str]) -> Mapping[str, Mapping[str, float]]:
        """Returns {class: {"score", "delta"}}: the average precision of each class that a tested photo has."""
        sets = self.label_sets[self.photos]
        own, other = (average_precisions(self.probabilities[i], sets) for i in (v, reference))
        return {
            name: {"score": float(own[k]), "delta": float(own[k] - other[k])}
            for k, name in enumerate(classes)
            if sets[:, k].any()
        }

    def constant(self, split: Parts) -> float:
        """Returns the mean frequency of the classes: the average precision if all photos get the same score."""
        fractions = self.label_sets[split.test].mean(axis=0)
        return float(fractions[fractions > 0].mean())


class LabelSetTally:
    """Keeps all probabilities, because an average precision depends on the order of all photos."""

    def __init__(self, variants: int, label_sets: Bools) -> None:
        self.label_sets = label_sets
        self.right = np.zeros((variants, len(label_sets)), dtype=np.int64)
        self.tried = np.zeros(len(label_sets), dtype=np.int64)
        self.photos: list[Counts] = []
        self.probabilities: list[Floats] = []

    def add(self, rows: Counts, probabilities_VNK: NDArray[np.floating]) -> None:
        """Adds one seed of one split: each variant's probabilities for these photos."""
        self.right[:, rows] += ((probabilities_VNK >= THRESHOLD) == self.label_sets[rows]).all(2)
        self.tried[rows] += 1
        self.photos.append(rows)
        self.probabilities.append(probabilities_VNK.astype(np.float64))

    def scores(self) -> LabelSetScores:
        """Returns the scores over all added training runs."""
        trainings = zip(self.photos, self.probabilities, strict=True)
        single = [[mean_average_precision(own, self.label_sets[rows]) for own in found] for rows, found in trainings]
        return LabelSetScores(
            self.right,
            self.tried,
            np.array(single).T,
            self.label_sets,
            np.concatenate(self.photos),
            np.concatenate(self.probabilities, axis=1),
        )
