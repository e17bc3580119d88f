"""Metrics of label sets: whether the interval of the mean average precision contains the true value."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from multistream import label_set_metrics as module
from multistream.bootstrap import fraction_interval, percentile_interval
from multistream.label_set_metrics import label_set_metrics, mean_average_precision, photo_draws, resampled_map

PREVALENCES = (0.1, 0.2, 0.3, 0.4, 0.3, 0.15, 0.05)


def photos(n: int, chance: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    sets = chance.random((n, 7)) < PREVALENCES
    return 1 / (1 + np.exp(-chance.normal(sets.astype(np.float64), 1.0))), sets


def test_the_interval_of_map_contains_the_true_value_about_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """The percentiles of the draws do not: copies of a photo in a resample raise the average precision."""
    monkeypatch.setattr(module, "DRAWS", 200)
    chance = np.random.default_rng(0)
    true = mean_average_precision(*photos(100_000, chance))
    basic, percentiles = [], []
    for _ in range(200):
        scores, sets = photos(100, chance)
        drawn = np.concatenate([resampled_map(scores, sets, counts) for counts in photo_draws(100)])
        for intervals, (low, high) in (
            (basic, fraction_interval(mean_average_precision(scores, sets), drawn)),
            (percentiles, percentile_interval(drawn)),
        ):
            intervals.append(low <= true <= high)
    assert label_set_metrics(scores, sets, "abcdefg").map_ci95 == fraction_interval(
        mean_average_precision(scores, sets), drawn
    )
    assert np.mean(basic) > 0.85
    assert np.mean(percentiles) < 0.75
