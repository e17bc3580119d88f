"""How one row differs from another: on the photos that both tested, each of which counts once, whoever tested it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multistream.comparison.run_results import Result
from multistream.records import JsonRecord
from multistream.runs.predictions_file import PhotoKey, pair_keys, photo_keys
from multistream.statistics import Agreement, Interval, agreement, corrected_t, paired_test, tested_interval


@dataclass(frozen=True)
class PhotoScores:
    """N photos by key: the label of each, in how many tests of all runs it was, the sum of its scores in them, (N,).

    By accuracy, that sum is in how many of its tests the photo was right.
    """

    labels: dict[PhotoKey, str]
    total: NDArray[np.float64]
    tested: NDArray[np.int64]

    @property
    def ci95(self) -> Interval:
        """Of the mean: Wilson's interval where each photo was right or wrong once, else a bootstrap of photos."""
        return tested_interval(self.total, self.tested)


def score_photos(results: Sequence[Result], measure: str = "accuracy") -> PhotoScores:
    """The scores of all runs of a row together."""
    labels: dict[PhotoKey, str] = {}
    total: dict[PhotoKey, float] = defaultdict(float)
    tested: Counter[PhotoKey] = Counter()
    for result in results:
        assert result.predictions.labels is not None  # read_result refuses runs without labels
        keys = list(photo_keys(result.predictions))
        labels |= dict(zip(keys, result.predictions.labels, strict=True))
        tested.update(keys)
        for key, score in zip(keys, result.scores(measure).tolist(), strict=True):
            total[key] += score
    return PhotoScores(
        labels,
        np.array([total[key] for key in labels]),
        np.array([tested[key] for key in labels], dtype=np.int64),
    )


def shared_photos(first: PhotoScores, second: PhotoScores) -> tuple[NDArray[np.int64], NDArray[np.int64]] | str:
    """Indices into both of the photos that both tested; or, in words, why they cannot be paired."""
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
    """Mean score of a row less that of the reference; what could not be tested has no p value, and a note says why."""

    value: float
    measure: str = "accuracy"
    """What the photos were scored by: one of `run_results.MEASURES`."""
    ci95: Interval | None = None
    test: str = ""
    """mcnemar (exact; each photo tested once), photos (t over photos; several runs tested them); empty: no test."""
    p_value: float | None = None
    p_holm: float | None = None
    p_resampled: float | None = None
    """Of the corrected resampled t test, where both rows have the same several splits."""
    n: int | None = None
    """Photos on which both rows were tested."""
    agreement: Agreement | None = None
    smallest_detectable: float | None = None
    """The true difference that so many photos would show in 8 of 10 cases, at the disagreement seen."""
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: the agreement's numbers next to the others."""
        values = super().to_dict()
        if agreed := values.pop("agreement"):
            names = ("only_first", "only_second", "disagreement", "double_fault", "oracle")
            values |= {name: getattr(agreed, name) for name in names}
        return values


def difference(reference: Sequence[Result], other: Sequence[Result], *, measure: str = "accuracy") -> Difference:
    """What separates two rows, each of one run or of several that are equal but for seeds."""
    first, second = score_photos(reference, measure), score_photos(other, measure)
    rows = shared_photos(first, second)
    if isinstance(rows, str):
        apart = mean_score(other, measure) - mean_score(reference, measure)
        return Difference(apart, measure, note=f"not paired: {rows}")
    total, tested = (first.total[rows[0]], second.total[rows[1]]), (first.tested[rows[0]], second.tested[rows[1]])
    if np.array_equal(*tested):
        found = paired_test(*total, tested_N=tested[0])
    else:  # one row has more runs: the mean of each photo's tests
        found = paired_test(total[0] / tested[0], total[1] / tested[1])
    everything = len(rows[0]) == len(first.labels) == len(second.labels)
    return Difference(
        value=found.difference,
        measure=measure,
        ci95=found.ci95,
        test=found.test,
        p_value=found.p_value,
        p_resampled=_resampled(reference, other, measure),
        n=found.n,
        agreement=agreement(total[0] > 0, total[1] > 0) if found.test == "mcnemar" else None,
        smallest_detectable=found.smallest_detectable,
        note="" if everything else f"paired on the {found.n:,} photos tested by both",
    )


def _resampled(reference: Sequence[Result], other: Sequence[Result], measure: str) -> float | None:
    """The corrected resampled t test, one difference a split; None unless both rows have the same several splits."""
    first, second = _by_split(reference, measure), _by_split(other, measure)
    if len(first) < 2 or first.keys() != second.keys():
        return None
    differences = [second[split] - first[split] for split in first]
    return corrected_t(differences, test_to_train=float(np.mean([result.test_to_train for result in reference])))


def _by_split(results: Sequence[Result], measure: str) -> dict[int, float]:
    """Mean score by split seed."""
    by_split: dict[int, list[Result]] = defaultdict(list)
    for result in results:
        by_split[result.recipe.data.split_seed].append(result)
    return {split: mean_score(group, measure) for split, group in by_split.items()}


def mean_score(group: Sequence[Result], measure: str) -> float:
    """The mean over runs of each run's mean score."""
    return float(np.mean([result.scores(measure).mean() for result in group]))
