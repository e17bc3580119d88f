"""The scores of a row (one run, or several that differ only in seeds), and paired tests between two rows.

Tests are on the photos tested by both rows. Each photo counts once, however many runs tested it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from multistream.bootstrap import Floats, Interval, fraction_interval
from multistream.comparison.run_results import Result
from multistream.label_set_metrics import photo_draws, resampled_map
from multistream.records import JsonRecord
from multistream.runs.predictions_file import PhotoKey, pair_keys, photo_keys
from multistream.statistics import Agreement, PairedTest, bootstrap_test, corrected_t, paired_test, tested_interval

Places = NDArray[np.int64]


@dataclass(frozen=True)
class RunScores(ABC):
    """The scores of a row's runs by one measure; `labels` are those of its N test photos, by the photos' keys."""

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
        """The 95 % interval of the mean score, over photos."""

    @abstractmethod
    def versus(self, reference: Self, places: Places, reference_places: Places) -> PairedTest:
        """Tests this row against another, on the photos at these indices of the two rows."""


@dataclass(frozen=True)
class PhotoScores(RunScores):
    """Scores of single photos: the sum of each photo's scores over all runs, and the number of its tests, (N,).

    For accuracy, the sum is the number of runs that classify the photo correctly.
    """

    total: NDArray[np.float64]
    tested: NDArray[np.int64]

    @classmethod
    def of(cls, results: Sequence[Result], measure: str) -> Self:
        """Collects the scores of all runs."""
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
        """The 95 % interval of the mean: Wilson's if each photo was correct or wrong once, else a bootstrap."""
        return tested_interval(self.total, self.tested)

    def versus(self, reference: Self, places: Places, reference_places: Places) -> PairedTest:
        """Tests the paired photos: exact McNemar, or Student's t."""
        total = reference.total[reference_places], self.total[places]
        tested = reference.tested[reference_places], self.tested[places]
        if np.array_equal(*tested):
            return paired_test(*total, tested_N=tested[0])
        # with different numbers of tests, each photo's means are compared
        return paired_test(total[0] / tested[0], total[1] / tested[1])


@dataclass(frozen=True)
class RankedPhotos(RunScores):
    """Scores of photos with label sets, by the mAP, which depends on the order of all photos.

    `places` are the photo indices of each run's predictions.
    """

    places: Sequence[Places]

    @classmethod
    def of(cls, results: Sequence[Result], measure: str) -> Self:
        """Collects the predictions of all runs."""
        labels = _labels(results)
        place_of = {key: i for i, key in enumerate(labels)}
        places = [np.array([place_of[key] for key in photo_keys(result.predictions)]) for result in results]
        return cls(results, measure, labels, places)

    @property
    def ci95(self) -> Interval:
        """The 95 % interval of a bootstrap over photos, each with all its tests."""
        return fraction_interval(float(self.whole[0]), self.whole[1:])

    def versus(self, reference: Self, places: Places, reference_places: Places) -> PairedTest:
        """Tests by a bootstrap over photos, with the same draws for both rows."""
        differences = self.on(places) - reference.on(reference_places)
        return bootstrap_test(float(differences[0]), differences[1:], n=len(places))

    @cached_property
    def whole(self) -> Floats:
        """The mAP on all photos and in the bootstrap draws, (1 + R,), as from `on`."""
        return self._drawn(np.arange(len(self.labels)))

    def on(self, photos: Places) -> Floats:
        """Returns the mean over runs of the mAP on these n photos, (1 + R,): first the photos, then R bootstraps."""
        is_whole = np.array_equal(photos, np.arange(len(self.labels)))
        return self.whole if is_whole else self._drawn(photos)

    def _drawn(self, photos: Places) -> Floats:
        drawn = [self._maps(photos, counts) for counts in photo_draws(len(photos))]
        return np.concatenate([self._maps(photos, np.ones((1, len(photos)), dtype=np.int64)), *drawn])

    def _maps(self, photos: Places, counts_Rn: NDArray[np.int64]) -> Floats:
        """Returns the mean over runs of the mAP with these counts of the photos, (R,)."""
        counts_RN = np.zeros((len(counts_Rn), len(self.labels)), dtype=np.int64)
        counts_RN[:, photos] = counts_Rn
        maps = []
        for result, places in zip(self.results, self.places, strict=True):
            assert result.predictions.label_sets is not None  # `score` refuses runs without
            kept = np.isin(places, photos)
            if kept.any():
                own = result.predictions.probabilities[kept], result.predictions.label_sets[kept]
                maps.append(resampled_map(*own, counts_RN[:, places[kept]]))
        mean: Floats = np.mean(maps, axis=0)
        return mean


def score_photos(results: Sequence[Result], measure: str = "accuracy") -> RunScores:
    """Scores a row's runs by one of `run_results.MEASURES`. Raises UsageError if a run does not have it."""
    for result in results:
        result.score(measure)
    return RankedPhotos.of(results, measure) if measure == "map" else PhotoScores.of(results, measure)


def _labels(results: Sequence[Result]) -> dict[PhotoKey, str]:
    """Returns the labels of all photos that at least one run tested, by key."""
    labels: dict[PhotoKey, str] = {}
    for result in results:
        assert result.predictions.labels is not None  # read_result refuses runs without labels
        labels |= dict(zip(photo_keys(result.predictions), result.predictions.labels, strict=True))
    return labels


def shared_photos(first: RunScores, second: RunScores) -> tuple[Places, Places] | str:
    """Returns the indices in both rows of the photos tested by both, or the reason why they cannot be paired."""
    rows = pair_keys(first.labels, second.labels)
    common = len(rows[0])
    if not common:
        return "they have no test photo in common"
    labels = np.array(list(first.labels.values()))[rows[0]], np.array(list(second.labels.values()))[rows[1]]
    if other := int((labels[0] != labels[1]).sum()):
        return f"{other:,} of {common:,} common photos have different labels"
    return rows


@dataclass(frozen=True)
class Difference(JsonRecord):
    """The mean score of a row minus that of the reference, with a test; without a test, `note` gives the reason."""

    value: float
    measure: str = "accuracy"
    """The score of the photos: one of `run_results.MEASURES`."""
    ci95: Interval | None = None
    test: str = ""
    """mcnemar (exact; each photo tested once), photos (t over photos; several runs tested them), bootstrap (mAP);
    empty: no test."""
    p_value: float | None = None
    p_holm: float | None = None
    p_resampled: float | None = None
    """The p-value of the corrected resampled t test, if both rows have the same splits and more than one."""
    n: int | None = None
    """The number of photos on which both rows were tested."""
    agreement: Agreement | None = None
    smallest_detectable: float | None = None
    """The true difference that is detected with 80 % power at this number of photos and observed disagreement."""
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Returns the JSON object, with the numbers of the agreement next to the others."""
        values = super().to_dict()
        if agreed := values.pop("agreement"):
            names = ("only_first", "only_second", "disagreement", "double_fault", "oracle")
            values |= {name: getattr(agreed, name) for name in names}
        return values


def difference(reference: RunScores, other: RunScores) -> Difference:
    """Compares two rows on their shared photos."""
    rows, measure = shared_photos(reference, other), reference.measure
    if isinstance(rows, str):
        return Difference(other.mean - reference.mean, measure, note=f"not paired: {rows}")
    found = other.versus(reference, rows[1], rows[0])
    everything = len(rows[0]) == len(reference.labels) == len(other.labels)
    return Difference(
        value=found.difference,
        measure=measure,
        ci95=found.ci95,
        test=found.test,
        p_value=found.p_value,
        p_resampled=_resampled(reference, other),
        n=found.n,
        agreement=found.agreement,
        smallest_detectable=found.smallest_detectable,
        note="" if everything else f"paired on the {found.n:,} photos tested by both",
    )


def _resampled(reference: RunScores, other: RunScores) -> float | None:
    """Returns the p-value of the corrected resampled t test, with one difference per split.

    None unless both rows have the same splits and more than one.
    """
    first, second = _by_split(reference), _by_split(other)
    if len(first) < 2 or first.keys() != second.keys():
        return None
    differences = [second[split] - first[split] for split in first]
    return corrected_t(
        differences, test_to_train=float(np.mean([result.test_to_train for result in reference.results]))
    )


def _by_split(scores: RunScores) -> dict[int, float]:
    """Averages the scores of the runs of each split seed."""
    by_split: dict[int, list[float]] = defaultdict(list)
    for result in scores.results:
        by_split[result.recipe.data.split_seed].append(result.score(scores.measure))
    return {split: float(np.mean(group)) for split, group in by_split.items()}
