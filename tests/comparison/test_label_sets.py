"""Rows of photos with several labels: the mean average precision, its bootstrap, and counting of photos."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from multistream.comparison.run_results import Result
from multistream.comparison.run_scores import difference, score_photos
from multistream.recipe import Recipe
from multistream.runs.predictions_file import Predictions, joined_names

CLASSES = ("blue", "green", "red")


def guesses(seed: int, *, signal: float, n: int = 120) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Returns label sets, equal for all seeds, and probabilities that are informative by the fraction `signal`."""
    sets = np.random.default_rng(7).random((n, 3)) < (0.3, 0.5, 0.6)
    return sets, (1 - signal) * np.random.default_rng(seed).random((n, 3)) + signal * sets


def run(sets: NDArray[np.bool_], probabilities: NDArray[np.float64], photos: Sequence[int] | None = None) -> Result:
    rows = np.arange(len(sets)) if photos is None else np.array(photos)
    predictions = Predictions(
        paths=tuple(f"{i}.jpg" for i in rows),
        sha256=tuple(f"{i:064x}" for i in rows),
        labels=joined_names(sets[rows], CLASSES),
        probabilities=probabilities[rows],
        classes=CLASSES,
        label_sets=sets[rows],
    )
    return Result("run", Recipe(), predictions, "tags", {"total": 1, "trainable": 1})


def test_difference_equals_scikit_learn_average_precisions() -> None:
    sets, worse = guesses(0, signal=0.1)
    _, better = guesses(1, signal=0.5)
    photos = list(range(20, 120))
    first, second = score_photos([run(sets, worse)], "map"), score_photos([run(sets, better, photos[::-1])], "map")
    found = difference(first, second)
    own = average_precision_score(sets[20:], better[20:]) - average_precision_score(sets[20:], worse[20:])
    assert found.value == pytest.approx(own)
    assert found.note == "paired on the 100 photos tested by both"
    assert found.p_value is not None
    assert found.p_value < 0.001
    assert found.ci95 is not None
    assert found.ci95[0] > 0
    assert found.smallest_detectable == pytest.approx(0.7 * (found.ci95[1] - found.ci95[0]), rel=0.1), "2.8 of 3.9"


def test_seeds_are_averaged_and_a_photo_counts_once() -> None:
    sets, reference = guesses(0, signal=0.2)
    seeds = [guesses(seed, signal=0.3)[1] for seed in (3, 4)]
    first = score_photos([run(sets, reference)], "map")
    both = score_photos([run(sets, each) for each in seeds], "map")
    assert both.mean == pytest.approx(np.mean([average_precision_score(sets, each) for each in seeds]))
    once, twice = (difference(first, score_photos([run(sets, seeds[0])] * times, "map")) for times in (1, 2))
    assert once == twice, "a second seed is no further photo"
    assert both.ci95[0] < both.mean < both.ci95[1]


def test_difference_of_equal_rows_is_zero() -> None:
    sets, own = guesses(0, signal=0.2)
    found = difference(*(score_photos([run(sets, own)], "map") for _ in range(2)))
    assert (found.value, found.p_value, found.smallest_detectable) == (0.0, 1.0, None)


@pytest.mark.slow
def test_equally_good_rows_are_rejected_in_5_percent() -> None:
    """200 pairs of rows with the same signal and different noise: 95 % of such counts are 4 to 16."""
    rejected = 0
    for pair in range(200):
        sets = np.random.default_rng(pair).random((200, 3)) < (0.3, 0.5, 0.6)
        chance = np.random.default_rng(1000 + pair)
        rows = [score_photos([run(sets, 0.8 * chance.random((200, 3)) + 0.2 * sets)], "map") for _ in range(2)]
        found = difference(*rows)
        assert found.p_value is not None
        rejected += found.p_value < 0.05
    assert 4 <= rejected <= 16
