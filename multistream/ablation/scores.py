"""Scores: which variant was right on which test photo, over all seeds and splits; and what that shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multistream.statistics import Interval, mcnemar, percentile_interval, resampled_means, wilson

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Scores:
    """How often each variant was right on each photo: `right` (V, N) of `tried` (N,) trainings that tested it.

    `accuracies` (V, R) are those of the single trainings, seeds within splits.
    """

    right: Counts
    tried: Counts
    accuracies: NDArray[np.float64]

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """(V,) over all test predictions pooled."""
        shares: NDArray[np.float64] = self.right.sum(1) / self.tried.sum()
        return shares

    def interval(self, v: int) -> Interval:
        """95 %: Wilson's where each photo was tested once, else a bootstrap of photos with all their trainings."""
        if self.tried.max() <= 1:
            return wilson(int(self.right[v].sum()), int(self.tried.sum()))
        tested = self.tried > 0
        columns = np.stack([self.right[v, tested], self.tried[tested]], axis=1).astype(np.float64)
        means = resampled_means(columns)
        return percentile_interval(means[:, 0] / means[:, 1])

    def p_value(self, v: int, reference: int) -> float:
        """Exact McNemar. A photo has one vote however many trainings tested it: for who was right on it more often.

        Seeds are no new photos: to count each as one would find differences where there are none.
        """
        worse = int((self.right[v] < self.right[reference]).sum())
        return mcnemar(worse, int((self.right[v] > self.right[reference]).sum()))

    def per_class(self, v: int, reference: int, labels: Counts, classes: Sequence[str]) -> dict[str, Any]:
        """{class: {"accuracy", "delta"}}, for classes that are tested."""
        found = {}
        for k, name in enumerate(classes):
            tried = self.tried[labels == k].sum()
            if tried:
                own, other = (self.right[i][labels == k].sum() / tried for i in (v, reference))
                found[name] = {"accuracy": float(own), "delta": float(own - other)}
        return found


class Tally:
    """Collects the trainings' answers."""

    def __init__(self, variants: int, photos: int) -> None:
        self.right = np.zeros((variants, photos), dtype=np.int64)
        self.tried = np.zeros(photos, dtype=np.int64)
        self.accuracies: list[list[float]] = []

    def add(self, rows: NDArray[np.int64], correct_VN: NDArray[np.bool_]) -> None:
        """One seed of one split: who was right on these photos."""
        self.right[:, rows] += correct_VN
        self.tried[rows] += 1
        self.accuracies.append(correct_VN.mean(axis=1).tolist())

    def scores(self) -> Scores:
        """All of it."""
        return Scores(self.right, self.tried, np.array(self.accuracies).T)


def pareto(accuracy: Sequence[float], macs: Sequence[int]) -> list[bool]:
    """Which rows no other beats: at least as accurate for no more multiply-adds, and better in one of the two.

    >>> pareto([0.5, 0.6, 0.55], [10, 20, 30])
    [True, True, False]
    """
    points = list(zip(accuracy, macs, strict=True))
    return [not any(a >= own and m <= cost and (a, m) != (own, cost) for a, m in points) for own, cost in points]
