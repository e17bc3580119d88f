"""The bootstrap, against SciPy's and against what is known of its spread."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from multistream import bootstrap
from multistream.bootstrap import paired_bootstrap, percentile_interval, resampled_counts, resampled_means


def test_repeated_bootstraps_agree() -> None:
    """10,000 draws: the ends of the interval of 297 photos move by less than a quarter of a point between seeds."""
    values = (np.random.default_rng(0).random(297) < 0.6).astype(float)
    ends = np.array([paired_bootstrap(values, seed=seed) for seed in range(8)])
    assert np.ptp(ends, axis=0).max() < 0.005


def test_many_photos_are_drawn_as_normal_means(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).exponential(size=(2000, 2))
    drawn = resampled_means(values)
    monkeypatch.setattr(bootstrap, "NORMAL_FROM", 2000)
    normal = resampled_means(values)
    assert normal.shape == drawn.shape
    assert np.quantile(normal, [0.025, 0.975], axis=0) == pytest.approx(
        np.quantile(drawn, [0.025, 0.975], axis=0), abs=0.004
    )


def test_bootstrap_is_scipys_within_chance() -> None:
    values = np.random.default_rng(1).exponential(size=400)
    expected = scipy.stats.bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=2)
    ours = paired_bootstrap(values, draws=4000, seed=3)
    width = expected.confidence_interval.high - expected.confidence_interval.low
    assert ours == pytest.approx(tuple(expected.confidence_interval), abs=0.05 * width)


def test_bootstrap_is_a_function_of_its_seed() -> None:
    values = np.random.default_rng(1).normal(size=100)
    assert paired_bootstrap(values, seed=4) == paired_bootstrap(values, seed=4)
    assert paired_bootstrap(values, seed=4) != paired_bootstrap(values, seed=5)


def test_columns_of_one_draw_share_their_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).normal(size=(50, 1))
    monkeypatch.setattr(bootstrap, "_CELLS", 7 * 50)  # 100 draws, 7 at a time
    means = resampled_means(np.hstack([values, 2 * values, np.ones((50, 1))]), draws=100)
    assert means.shape == (100, 3)
    assert means[:, 1] == pytest.approx(2 * means[:, 0])
    assert means[:, 2] == pytest.approx(np.ones(100))
    assert len(np.unique(means[:, 0])) > 90


def test_counts_resample_as_photos_do() -> None:
    """The spread of accuracy from multinomial tables is that from drawn photos: sqrt(p (1 - p) / n)."""
    confusion = np.array([[60, 20], [10, 110]])
    drawn = resampled_counts(confusion, draws=4000)
    assert (drawn.sum(axis=(1, 2)) == 200).all()
    accuracies = np.trace(drawn, axis1=1, axis2=2) / 200
    assert accuracies.std() == pytest.approx(np.sqrt(0.85 * 0.15 / 200), rel=0.05)


def test_percentile_interval_leaves_out_what_is_not_defined() -> None:
    assert percentile_interval(np.array([np.nan, *range(101)])) == pytest.approx((2.5, 97.5))
