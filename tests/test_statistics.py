"""Intervals, tests and corrections, against SciPy and against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from multistream import statistics
from multistream.statistics import (
    Agreement,
    agreement,
    holm,
    leave_one_out,
    mcnemar,
    oracle_any,
    over_seeds,
    paired_bootstrap,
    paired_t,
    percentile_interval,
    resampled_counts,
    resampled_means,
    smallest_detectable,
    student_quantile,
    student_within,
    welch_t,
    wilson,
)

FEW = settings(max_examples=60, deadline=None)


@st.composite
def proportions(draw: st.DrawFn) -> tuple[int, int]:
    n = draw(st.integers(1, 5000))
    return draw(st.integers(0, n)), n


@FEW
@given(proportions())
def test_wilson_is_scipys(counts: tuple[int, int]) -> None:
    expected = scipy.stats.binomtest(*counts).proportion_ci(method="wilson")
    assert wilson(*counts) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_of_the_papers_result() -> None:
    low, high = wilson(round(0.6430 * 3339), 3339)
    assert (round(100 * low, 2), round(100 * high, 2)) == (62.66, 65.91)
    assert low < 0.6370 < high, "the paper's best single stream lies inside"


def test_wilson_ends_at_0_and_1_exactly() -> None:
    assert wilson(0, 7)[0] == 0.0
    assert wilson(7, 7)[1] == 1.0


@pytest.mark.parametrize(
    ("b", "c"), [(0, 0), (1, 0), (0, 6), (10, 2), (7, 7), (8, 7), (300, 351), (0, 2000), (5000, 5200)]
)
def test_mcnemar_is_the_exact_binomial_test(b: int, c: int) -> None:
    expected = scipy.stats.binomtest(b, b + c).pvalue if b + c else 1.0
    assert mcnemar(b, c) == pytest.approx(expected, rel=1e-8)
    assert mcnemar(b, c) == mcnemar(c, b)


@FEW
@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    for alpha in (0.01, 0.05, 0.3):
        rejected = set()
        for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
            if (len(p_values) - rank) * p_values[i] > alpha:
                break
            rejected.add(i)
        assert {i for i, p in enumerate(adjusted) if p <= alpha} == rejected


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 9, 24, 101])
def test_student_is_scipys(freedom: int) -> None:
    for t in (0.0, 0.3, 1.0, 2.776, 40.0):
        expected = scipy.stats.t.cdf(t, freedom) - scipy.stats.t.cdf(-t, freedom)
        assert student_within(t, freedom=freedom) == pytest.approx(expected, abs=1e-12)
    for probability in (0.5, 0.9, 0.975, 0.999):
        expected = scipy.stats.t.ppf(probability, freedom)
        assert student_quantile(probability, freedom=freedom) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_over_seeds_is_scipys() -> None:
    values = [0.612, 0.634, 0.629, 0.641, 0.620]
    spread = over_seeds(values)
    expected = scipy.stats.t.interval(0.95, 4, np.mean(values), scipy.stats.sem(values))
    assert spread.ci95 == pytest.approx(expected, rel=1e-10)
    assert spread.deviation == pytest.approx(np.std(values, ddof=1))
    with pytest.raises(ValueError, match="two values"):
        over_seeds([0.5])


def test_t_tests_are_scipys() -> None:
    a, b = [0.61, 0.63, 0.62, 0.64, 0.60], [0.65, 0.66, 0.61, 0.68, 0.66]
    paired = scipy.stats.ttest_rel(a, b)
    assert paired_t([y - x for x, y in zip(a, b, strict=True)]) == pytest.approx(paired.pvalue, rel=1e-9)
    welch = scipy.stats.ttest_ind(a, b, equal_var=False)
    rounded = 2 * scipy.stats.t.sf(abs(welch.statistic), int(welch.df))
    assert welch_t(a, b) == pytest.approx(rounded, rel=1e-9)
    assert welch_t(a, b) >= welch.pvalue, "rounding the degrees of freedom down is the safe side"


def test_t_tests_without_any_spread() -> None:
    assert paired_t([0.0, 0.0]) == 1.0
    assert paired_t([0.1, 0.1]) == pytest.approx(0.0, abs=1e-12)
    assert welch_t([0.5, 0.5], [0.5, 0.5]) == 1.0


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
    monkeypatch.setattr(statistics, "_CELLS", 7 * 50)  # 100 draws, 7 at a time
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


@pytest.mark.parametrize(("n", "discordance"), [(400, 0.2), (3339, 0.25), (3339, 0.05)])
def test_smallest_detectable_is_found_in_8_of_10_simulations(n: int, discordance: float) -> None:
    difference = smallest_detectable(n, discordance=discordance)
    rng = np.random.default_rng(0)
    shares = [(discordance + difference) / 2, (discordance - difference) / 2, 1 - discordance]
    draws = rng.multinomial(n, shares, size=1500)
    found = np.mean([mcnemar(int(b), int(c)) < 0.05 for b, c, _ in draws])
    assert 0.74 < found < 0.83  # the exact test is a little stricter than the approximation


def test_agreement_counts() -> None:
    first = np.array([1, 1, 0, 0, 1, 0], dtype=bool)
    second = np.array([1, 0, 1, 1, 1, 0], dtype=bool)
    counts = agreement(first, second)
    assert counts == Agreement(both=2, only_first=1, only_second=2, neither=1)
    assert counts.difference == pytest.approx(second.mean() - first.mean())
    assert counts.disagreement == pytest.approx((first != second).mean())
    assert counts.double_fault == pytest.approx((~first & ~second).mean())
    assert counts.oracle == pytest.approx((first | second).mean()) == oracle_any(np.stack([first, second]))


def test_leave_one_out_is_the_mean_of_the_others() -> None:
    probabilities = np.random.default_rng(0).dirichlet(np.ones(4), size=(3, 5))
    without = leave_one_out(probabilities)
    for i in range(3):
        assert without[i] == pytest.approx(np.delete(probabilities, i, axis=0).mean(axis=0))
    with pytest.raises(ValueError, match="nothing is left"):
        leave_one_out(probabilities[:1])
