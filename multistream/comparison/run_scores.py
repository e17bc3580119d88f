"""The scores of a row, one run or several that are equal but for seeds: each photo counts once, whoever tested it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from multistream.bootstrap import Floats, Interval, percentile_interval
from multistream.comparison.run_results import Result
from multistream.label_set_metrics import photo_draws, resampled_map
from multistream.runs.predictions_file import PhotoKey, pair_keys, photo_keys
from multistream.statistics import PairedTest, bootstrap_test, paired_test, tested_interval

Places = NDArray[np.int64]


@dataclass(frozen=True)
class RunScores(ABC):
    """What the runs of a row got by one measure; `labels` are those of its N test photos by key."""

    results: Sequence[Result]
    measure: str
    labels: dict[PhotoKey, str]

    @property
    def mean(self) -> float:
        """The mean over runs of each run's score."""
        return float(np.mean([result.score(self.measure) for result in self.results]))

    @property
    @abstractmethod
    def ci95(self) -> Interval:
        """95 %, over photos."""

    @abstractmethod
    def versus(self, reference: Self, places: Places, reference_places: Places) -> PairedTest:
        """The test of this row against another, on the photos at these places of the two."""


@dataclass(frozen=True)
class PhotoScores(RunScores):
    """Scores of single photos: the sum of each photo's scores in all its tests, and how many tests it had, (N,).

    By accuracy, that sum is in how many of its tests the photo was right.
    """

    total: NDArray[np.float64]
    tested: NDArray[np.int64]

    @classmethod
    def of(cls, results: Sequence[Result], measure: str) -> Self:
        """The scores of all runs together."""
        total: dict[PhotoKey, float] = defaultdict(float)
        tested: Counter[PhotoKey] = Counter()
        for result in results:
            keys = list(photo_keys(result.predictions))
            tested.update(keys)
            for key, score in zip(keys, result.scores(measure).tolist(), strict=True):
                total[key] += score
        labels = _labels(results)
        counts = np.array([tested[key] for key in labels], dtype=np.int64)
        return cls(results, measure, labels, np.array([total[key] for key in labels]), counts)

    @property
    def ci95(self) -> Interval:
        """Of the mean: Wilson's interval where each photo was right or wrong once, else a bootstrap of photos."""
        return tested_interval(self.total, self.tested)

    def versus(self, reference: Self, places: Places, reference_places: Places) -> PairedTest:
        """Photo by photo: exact McNemar, or Student's t."""
        total = reference.total[reference_places], self.total[places]
        tested = reference.tested[reference_places], self.tested[places]
        if np.array_equal(*tested):
            return paired_test(*total, tested_N=tested[0])
        return paired_test(total[0] / tested[0], total[1] / tested[1])  # one row has more runs: each photo's mean


@dataclass(frozen=True)
class RankedPhotos(RunScores):
    """Photos with label sets: their order by each class decides, so they are scored together, by the mAP.

    `places` are those of each run's predictions among the photos.
    """

    places: Sequence[Places]

    @classmethod
    def of(cls, results: Sequence[Result], measure: str) -> Self:
        """All runs together."""
        labels = _labels(results)
        place_of = {key: i for i, key in enumerate(labels)}
        places = [np.array([place_of[key] for key in photo_keys(result.predictions)]) for result in results]
        return cls(results, measure, labels, places)

    @property
    def ci95(self) -> Interval:
        """A bootstrap of photos, each with all its tests."""
        return percentile_interval(self.whole[1:])

    def versus(self, reference: Self, places: Places, reference_places: Places) -> PairedTest:
        """By a bootstrap of photos, whose draws both rows share."""
        differences = self.on(places) - reference.on(reference_places)
        return bootstrap_test(float(differences[0]), differences[1:], n=len(places))

    @cached_property
    def whole(self) -> Floats:
        """The mAP on all photos and in bootstraps of them, as `on` gives it."""
        return self._drawn(np.arange(len(self.labels)))

    def on(self, photos: Places) -> Floats:
        """The mean over runs of the mAP on these n photos, (1 + R,): as they are, then in each bootstrap of them."""
        is_whole = np.array_equal(photos, np.arange(len(self.labels)))
        return self.whole if is_whole else self._drawn(photos)

    def _drawn(self, photos: Places) -> Floats:
        drawn = [self._maps(photos, counts) for counts in photo_draws(len(photos))]
        return np.concatenate([self._maps(photos, np.ones((1, len(photos)), dtype=np.int64)), *drawn])

    def _maps(self, photos: Places, counts_Rn: NDArray[np.int64]) -> Floats:
        """The mean over runs of the mAP where these photos count so often, (R,)."""
        counts_RN = np.zeros((len(counts_Rn), len(self.labels)), dtype=np.int64)
        counts_RN[:, photos] = counts_Rn
        found = []
        for result, places in zip(self.results, self.places, strict=True):
            assert result.predictions.label_sets is not None  # `score` refuses runs without
            kept = np.isin(places, photos)
            if kept.any():
                own = result.predictions.probabilities[kept], result.predictions.label_sets[kept]
                found.append(resampled_map(*own, counts_RN[:, places[kept]]))
        mean: Floats = np.mean(found, axis=0)
        return mean


def score_photos(results: Sequence[Result], measure: str = "accuracy") -> RunScores:
    """The scores of a row's runs by one of `run_results.MEASURES`; UsageError where a run does not have it."""
    for result in results:
        result.score(measure)
    return RankedPhotos.of(results, measure) if measure == "map" else PhotoScores.of(results, measure)


def _labels(results: Sequence[Result]) -> dict[PhotoKey, str]:
    """The labels of all photos that some run tested, by key."""
    labels: dict[PhotoKey, str] = {}
    for result in results:
        assert result.predictions.labels is not None  # read_result refuses runs without labels
        labels |= dict(zip(photo_keys(result.predictions), result.predictions.labels, strict=True))
    return labels


def shared_photos(first: RunScores, second: RunScores) -> tuple[Places, Places] | str:
    """Indices into both of the photos that both tested; or, in words, why they cannot be paired."""
    rows = pair_keys(first.labels, second.labels)
    common = len(rows[0])
    if not common:
        return "they have no test photo in common"
    labels = np.array(list(first.labels.values()))[rows[0]], np.array(list(second.labels.values()))[rows[1]]
    if other := int((labels[0] != labels[1]).sum()):
        return f"{other:,} of {common:,} common photos have different labels"
    return rows
