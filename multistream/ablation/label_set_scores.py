"""The mean average precision of each variant, for images with several labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from multistream.ablation.results import MAP
from multistream.ablation.scores import Counts, RowScores
from multistream.bootstrap import Floats, Interval, percentile_interval
from multistream.data.splits import Parts
from multistream.label_set_metrics import (
    THRESHOLD,
    average_precisions,
    mean_average_precision,
    photo_draws,
    resampled_map,
)
from multistream.statistics import normal_p

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
        return percentile_interval(self.drawn[v])

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
