"""How often each photo was tested by the runs of a row, and how often it was named rightly: a photo counts once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from multistream.comparison.run_results import Result
from multistream.runs.predictions_file import PhotoKey, pair_keys, photo_keys
from multistream.statistics import Interval, tested_interval


@dataclass(frozen=True)
class PhotoCounts:
    """N photos by key: the label of each, in how many tests of all runs it was, and in how many of them right, (N,)."""

    labels: dict[PhotoKey, str]
    right: NDArray[np.int64]
    tested: NDArray[np.int64]

    @property
    def accuracy_ci95(self) -> Interval:
        """Wilson's interval where each photo was tested once, else a bootstrap of photos with all their tests."""
        return tested_interval(self.right, self.tested)


def count_photos(results: Sequence[Result]) -> PhotoCounts:
    """The counts of all runs of a row together."""
    labels: dict[PhotoKey, str] = {}
    right: dict[PhotoKey, int] = defaultdict(int)
    tested: dict[PhotoKey, int] = defaultdict(int)
    for result in results:
        assert result.predictions.labels is not None  # read_result refuses runs without labels
        for key, label, correct in zip(
            photo_keys(result.predictions), result.predictions.labels, result.correct, strict=True
        ):
            labels.setdefault(key, label)
            right[key] += int(correct)
            tested[key] += 1
    return PhotoCounts(
        labels,
        np.array([right[key] for key in labels], dtype=np.int64),
        np.array([tested[key] for key in labels], dtype=np.int64),
    )


def shared_photos(first: PhotoCounts, second: PhotoCounts) -> tuple[NDArray[np.int64], NDArray[np.int64]] | str:
    """Indices into both of the photos that both tested; or, in words, why they cannot be paired."""
    rows = pair_keys(first.labels, second.labels)
    common = len(rows[0])
    if not common:
        return "they have no test photo in common"
    labels = np.array(list(first.labels.values()))[rows[0]], np.array(list(second.labels.values()))[rows[1]]
    if other := int((labels[0] != labels[1]).sum()):
        return f"{other:,} of {common:,} common photos have different labels"
    return rows
