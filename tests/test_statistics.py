"""Intervals, tests and corrections, against SciPy and against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from multistream import statistics
from multistream.statistics import (
    Agreement,
    agreement,
    corrected_t,
    holm,
    leave_one_out,
    mcnemar,
    oracle_any,
    paired_test,
    smallest_detectable,
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


def test_holm_is_statsmodels() -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p_values = np.random.default_rng(0).uniform(0, 0.2, size=9)
    assert holm(list(p_values)) == pytest.approx(multitest.multipletests(p_values, method="holm")[1])


def test_mcnemar_is_statsmodels() -> None:
    tables = pytest.importorskip("statsmodels.stats.contingency_tables")
    for b, c in [(3, 9), (40, 61), (0, 4)]:
        assert mcnemar(b, c) == pytest.approx(tables.mcnemar([[7, b], [c, 5]], exact=True).pvalue)


def test_wilson_is_statsmodels() -> None:
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    assert wilson(37, 90) == pytest.approx(proportion.proportion_confint(37, 90, method="wilson"))


@pytest.mark.parametrize("kind", ["macro_f1", "balanced_accuracy"])
def test_means_over_classes_are_scikit_learns(kind: str) -> None:
    rng = np.random.default_rng(3)
    labels, predicted = rng.integers(4, size=200), rng.integers(4, size=200)
    confusion = sklearn.metrics.confusion_matrix(labels, predicted)
    expected = {
        "macro_f1": sklearn.metrics.f1_score(labels, predicted, average="macro"),
        "balanced_accuracy": sklearn.metrics.balanced_accuracy_score(labels, predicted),
    }
    assert getattr(statistics, kind)(confusion) == pytest.approx(expected[kind])


def test_corrected_t_without_overlap_is_students() -> None:
    a, b = [0.61, 0.63, 0.62, 0.64, 0.60], [0.65, 0.66, 0.61, 0.68, 0.66]
    differences = [y - x for x, y in zip(a, b, strict=True)]
    assert corrected_t(differences, test_to_train=0) == pytest.approx(scipy.stats.ttest_rel(a, b).pvalue, rel=1e-9)
    assert corrected_t([0.0, 0.0], test_to_train=0.2) == 1.0
    assert corrected_t([0.1, 0.1], test_to_train=0.2) == pytest.approx(0.0, abs=1e-12)
    with pytest.raises(ValueError, match="two differences"):
        corrected_t([0.5], test_to_train=0.2)


def test_corrected_t_is_the_formula_of_nadeau_and_bengio() -> None:
    differences, ratio = np.array([0.02, -0.01, 0.03, 0.015, 0.01]), 15 / 80
    t = differences.mean() / np.sqrt((1 / 5 + ratio) * differences.var(ddof=1))
    assert corrected_t(list(differences), test_to_train=ratio) == pytest.approx(2 * scipy.stats.t.sf(abs(t), 4))


def test_one_test_a_photo_is_mcnemars() -> None:
    first, second = np.array([1, 1, 0, 0, 0, 1, 0, 0]), np.array([1, 0, 1, 1, 1, 1, 1, 0])
    found = paired_test(first, second)
    assert (found.test, found.n) == ("mcnemar", 8)
    assert found.p_value == pytest.approx(mcnemar(1, 4))
    assert found.difference == pytest.approx(3 / 8)


def test_ten_runs_of_the_same_difference_are_no_more_evidence_than_one() -> None:
    """Ten seeds that agree on every photo: p stays near that of one, where a count of predictions shrinks it."""
    rng = np.random.default_rng(0)
    first, second = (rng.random((2, 300)) < np.array([[0.5], [0.56]])).astype(int)
    once = paired_test(first, second)
    often = paired_test(10 * first, 10 * second, tested_N=np.full(300, 10))
    assert often.test == "photos"
    assert often.difference == pytest.approx(once.difference)
    assert often.p_value == pytest.approx(once.p_value, abs=0.03)
    assert often.ci95 == pytest.approx(once.ci95)
    assert often.smallest_detectable == pytest.approx(once.smallest_detectable, rel=0.05)


def test_photos_are_students_t_over_their_net_counts() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.binomial(3, 0.5, 100), rng.binomial(3, 0.6, 100)
    found = paired_test(first, second, tested_N=np.full(100, 3))
    assert found.p_value == pytest.approx(scipy.stats.ttest_rel(second, first).pvalue)
    assert found.difference == pytest.approx((second - first).mean() / 3)


def test_a_test_without_any_disagreement_shows_nothing() -> None:
    for tested in (None, np.full(4, 2)):
        found = paired_test(np.array([1, 0, 1, 1]), np.array([1, 0, 1, 1]), tested_N=tested)
        assert (found.difference, found.p_value, found.smallest_detectable) == (0.0, 1.0, None)


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
