"""A simulation: out-of-fold predictions with nested selection keep the type I error at 5 %."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from multistream.statistics import paired_test
from multistream.training.probe_data import inner_folds
from multistream.training.solver import fit_probe

REPETITIONS, PHOTOS, CLASSES, WIDTH = 200, 200, 3, 8
GRID = (10.0, 1.0, 0.1, 0.01)
MOST = int(stats.binom.ppf(0.975, REPETITIONS, 0.05))
"""The largest number of rejections of a 5 % test in 97.5 % of such simulations: 16 of 200."""

Streams = dict[str, NDArray[np.float64]]


def right_out_of_fold(streams: Streams, labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Returns whether each photo is correct in its test fold; penalties are chosen on inner folds of the others."""
    right = np.zeros(len(labels), dtype=np.bool_)
    for rows, held_out in inner_folds(np.eye(CLASSES)[labels], 5):
        probe = fit_probe({key: x[rows] for key, x in streams.items()}, labels[rows], penalties=GRID, folds=3)
        chosen = probe.probabilities({key: x[held_out] for key, x in streams.items()}).argmax(1)
        right[held_out] = chosen == labels[held_out]
    return right


def photos(seed: int) -> tuple[NDArray[np.int64], NDArray[np.float64], np.random.Generator]:
    """Returns labels, and a stream that is informative about half of them."""
    chance = np.random.default_rng(seed)
    labels = np.arange(PHOTOS) % CLASSES
    signal = chance.normal(size=(PHOTOS, WIDTH))
    signal[:, :CLASSES] += 0.8 * np.eye(CLASSES)[labels]
    return labels, signal, chance


@pytest.mark.slow
def test_nested_selection_keeps_the_type_1_error() -> None:
    """Two compositions of the same stream with independent noise do not differ, and noise does not help."""
    differ = gains = 0
    for seed in range(REPETITIONS):
        labels, signal, chance = photos(seed)
        first, second = (
            right_out_of_fold({"signal": signal, "noise": chance.normal(size=(PHOTOS, WIDTH))}, labels)
            for _ in range(2)
        )
        alone = right_out_of_fold({"signal": signal}, labels)
        differ += paired_test(first, second).p_value < 0.05
        found = paired_test(alone, first)
        gains += found.p_value < 0.05 and found.difference > 0
    print(f"\nrejections of {REPETITIONS}: equal compositions {differ}, gains by noise {gains}")
    assert differ <= MOST
    assert gains <= MOST
