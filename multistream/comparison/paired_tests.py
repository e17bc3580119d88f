"""Paired tests between two rows, on the photos tested by both; each photo counts once, however many runs tested it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np

from multistream.bootstrap import Interval
from multistream.comparison.run_scores import RunScores, shared_photos
from multistream.records import JsonRecord
from multistream.statistics import Agreement, corrected_t


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
