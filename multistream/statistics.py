"""Statistics over N photos: intervals, paired tests, corrections, and how streams complement each other.

Tests use SciPy's distributions, imported inside the functions: the import takes a third of the time of importing torch.
Vectors `correct` are boolean, (N,) for one classifier or (S, N) for S on the same photos. A photo counts once for any
number of runs: runs on the same photos are not independent samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multistream.bootstrap import Floats, Interval, paired_bootstrap, percentile_interval, resampled_means

Bools = NDArray[np.bool_]

_Z_95, _Z_POWER = NormalDist().inv_cdf(0.975), NormalDist().inv_cdf(0.8)
"""Quantiles of the normal distribution, for a two-sided test at 5 % and for a power of 80 %."""
_DETECTABLE = _Z_95 + _Z_POWER
"""The true difference, in standard errors, that a test at 5 % detects in 8 of 10 cases."""


def wilson(successes: int, n: int) -> Interval:
    """Wilson's 95 % score interval of a proportion: near its nominal coverage even with few photos and near 0 or 1.

    >>> [round(100 * end, 2) for end in wilson(2147, 3339)]  # the paper's 64.30 %
    [62.66, 65.91]
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} of {n} is not a proportion.")
    z = _Z_95
    center = (2 * successes + z**2) / (2 * (n + z**2))
    margin = z * math.sqrt(4 * successes * (n - successes) / n + z**2) / (2 * (n + z**2))
    low = 0.0 if successes == 0 else center - margin  # exact, without a rounding error of 1e-17
    return low, 1.0 if successes == n else center + margin


def tested_interval(total_N: NDArray[Any], tested_N: NDArray[np.int64]) -> Interval:
    """95 % interval of a mean over tests, from the sum of each photo's scores and the number of its tests.

    Wilson's interval if each photo was tested once and is right or wrong; otherwise a bootstrap over photos.
    """
    if tested_N.max() <= 1 and bool(np.isin(total_N, (0, 1)).all()):
        return wilson(int(total_N.sum()), int(tested_N.sum()))
    means = resampled_means(np.stack([total_N, tested_N], axis=1).astype(np.float64))
    return percentile_interval(means[:, 0] / means[:, 1])


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p of McNemar's test, from the counts of photos that only one of two classifiers gets right.

    >>> round(mcnemar(10, 2), 4)
    0.0386
    """
    from scipy import stats  # lazy: the module's docstring says why

    n = only_first + only_second
    return float(stats.binomtest(only_first, n).pvalue) if n else 1.0


@dataclass(frozen=True)
class PairedTest:
    """Mean score of a second classifier minus that of a first on the same N photos, each of which counts once."""

    difference: float
    ci95: Interval
    """From a bootstrap over photos, each with all the runs that tested it."""
    test: str
    """`mcnemar` (exact) if each photo was tested once; `photos`, Student's t over photos; or `bootstrap`."""
    p_value: float
    n: int
    smallest_detectable: float | None
    """The true difference that n photos detect in 8 of 10 cases; None if the two never differ on a photo."""
    agreement: Agreement | None = None
    """Only for `mcnemar`."""


def paired_test(first_N: NDArray[Any], second_N: NDArray[Any], *, tested_N: NDArray[Any] | None = None) -> PairedTest:
    """Compares two classifiers photo by photo.

    `first_N` and `second_N` hold, per photo, the number of the `tested_N` runs in which the classifier was right, or
    the sum of its scores in them. Without `tested_N` each photo counts as tested once.

    Several runs on one photo (seeds, repeated folds, overlapping splits) are one number of that photo, because they are
    not independent samples. `compare` and `ablate` both use this.

    >>> found = paired_test(np.array([1, 1, 0, 0, 0, 1]), np.array([1, 1, 1, 1, 0, 1]))
    >>> round(found.difference, 3), found.test, found.p_value
    (0.333, 'mcnemar', 0.5)
    """
    tested = np.ones(len(first_N)) if tested_N is None else np.asarray(tested_N, dtype=np.float64)
    net = np.asarray(second_N, dtype=np.float64) - np.asarray(first_N, dtype=np.float64)
    n, difference = len(net), float(net.sum() / tested.sum())
    if tested.max() <= 1 and bool(np.isin(net, (-1, 0, 1)).all()):
        better, worse = int((net > 0).sum()), int((net < 0).sum())
        detectable = smallest_detectable(n, discordance=(better + worse) / n) if better + worse else None
        interval = paired_bootstrap(net)
        agreed = agreement(np.asarray(first_N) > 0, np.asarray(second_N) > 0)
        return PairedTest(difference, interval, "mcnemar", mcnemar(worse, better), n, detectable, agreed)
    from scipy import stats  # lazy: the module's docstring says why

    means = resampled_means(np.stack([net, tested], axis=1))
    error = float(net.std(ddof=1)) / math.sqrt(n) / float(tested.mean()) if n > 1 else 0.0
    return PairedTest(
        difference=difference,
        ci95=percentile_interval(means[:, 0] / means[:, 1]),
        test="photos",
        p_value=float(stats.ttest_1samp(net, 0.0).pvalue) if error else 1.0,
        n=n,
        smallest_detectable=_DETECTABLE * error or None,
    )


def bootstrap_test(difference: float, draws_R: Floats, *, n: int) -> PairedTest:
    """Compares two classifiers by a statistic of n photos, from R draws of its difference in a bootstrap of photos."""
    error = float(draws_R.std(ddof=1))
    interval, p_value = percentile_interval(draws_R), normal_p(difference, error)
    return PairedTest(difference, interval, "bootstrap", p_value, n, _DETECTABLE * error or None)


def normal_p(difference: float, error: float) -> float:
    """Two-sided p of a difference with this standard error, by the normal approximation.

    >>> round(normal_p(-0.0196, 0.01), 3)
    0.05
    """
    if error == 0:
        return 1.0 if difference == 0 else 0.0
    return math.erfc(abs(difference) / error / math.sqrt(2))


def corrected_t(differences: Sequence[float], *, test_to_train: float) -> float:
    """Two-sided p of the corrected resampled t test (Nadeau, Bengio 2003) of differences, one per split.

    Repeated random splits overlap, so that a plain t test over them understates p: the variance of the mean of J
    differences is (1/J + n_test/n_train) times the variance of one. `test_to_train` = 0 gives Student's paired t.

    >>> round(corrected_t([0.01, 0.03, 0.02, 0.04, 0.02], test_to_train=15 / 80), 3)
    0.028
    """
    if len(differences) < 2:
        raise ValueError(f"a t test needs two differences or more, not {len(differences)}.")
    mean, deviation = float(np.mean(differences)), float(np.std(differences, ddof=1))
    if deviation == 0:
        return 1.0 if mean == 0 else 0.0
    from scipy import stats  # lazy: the module's docstring says why

    t = mean / (deviation * math.sqrt(1 / len(differences) + test_to_train))
    return float(2 * stats.t.sf(abs(t), len(differences) - 1))


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Holm's adjusted p values, in the order of the input: below .05 is significant, corrected for all tests.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return tuple(adjusted)


def smallest_detectable(n: int, *, discordance: float) -> float:
    """The smallest true difference of accuracies that McNemar's test finds with n photos in 8 of 10 cases.

    `discordance` is the fraction of photos that exactly one of the two classifiers gets right. A difference cannot be
    larger, so if the result is, n photos are too few. Normal approximation of Connor (Biometrics, 1987), solved for the
    difference.

    >>> round(100 * smallest_detectable(3339, discordance=0.25), 2)  # in points
    2.42
    """
    root = math.sqrt(max(0.0, n - _Z_95**2 + _Z_POWER**2))
    return math.sqrt(discordance) * (_Z_95 * math.sqrt(n) + _Z_POWER * root) / (n + _Z_POWER**2)


@dataclass(frozen=True)
class Agreement:
    """Counts of photos that both of two classifiers, only one of them, or neither classified correctly."""

    both: int
    only_first: int
    only_second: int
    neither: int

    @property
    def n(self) -> int:
        """The number of photos."""
        return self.both + self.only_first + self.only_second + self.neither

    @property
    def difference(self) -> float:
        """Accuracy of the second minus that of the first."""
        return (self.only_second - self.only_first) / self.n

    @property
    def disagreement(self) -> float:
        """The fraction of photos that exactly one got right."""
        return (self.only_first + self.only_second) / self.n

    @property
    def double_fault(self) -> float:
        """The fraction of photos that both got wrong, which no combination of the two can correct."""
        return self.neither / self.n

    @property
    def oracle(self) -> float:
        """The fraction of photos that at least one got right."""
        return 1 - self.double_fault


def agreement(first_N: Bools, second_N: Bools) -> Agreement:
    """Counts the agreement of two classifiers' `correct` vectors on the same N photos."""
    cells = np.bincount(2 * first_N.astype(np.int64) + second_N.astype(np.int64), minlength=4)
    neither, only_second, only_first, both = (int(count) for count in cells)
    return Agreement(both, only_first, only_second, neither)


def oracle_any(correct_SN: Bools) -> float:
    """The fraction of photos that at least one of S classifiers gets right: the upper bound of any selection."""
    return float(correct_SN.any(axis=0).mean())


def leave_one_out(probabilities_SNK: Floats) -> Floats:
    """The mean probabilities (S, N, K) of all classifiers but one: late fusion without that stream. S >= 2."""
    count = len(probabilities_SNK)
    if count < 2:
        raise ValueError("nothing is left when one of one classifier is left out.")
    without: Floats = (probabilities_SNK.sum(axis=0) - probabilities_SNK) / (count - 1)
    return without


def macro_f1(confusion: NDArray[np.int64]) -> Any:
    """The mean F1 of the classes that occur, from confusion matrices (..., K, K)."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    return _mean_ratio(2 * hits, confusion.sum(axis=-1) + confusion.sum(axis=-2))


def balanced_accuracy(confusion: NDArray[np.int64]) -> Any:
    """The mean recall of the classes that occur, from confusion matrices (..., K, K)."""
    return _mean_ratio(np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(axis=-1))


def _mean_ratio(numerators: NDArray[np.int64], denominators: NDArray[np.int64]) -> Any:
    """The mean over the last axis of numerators / denominators, leaving out 0/0."""
    occurs = denominators > 0
    ratios = np.divide(numerators, denominators, out=np.zeros(denominators.shape), where=occurs)
    return ratios.sum(axis=-1) / occurs.sum(axis=-1)


def pareto(accuracy: Sequence[float], cost: Sequence[float]) -> list[bool]:
    """Whether each row is on the Pareto front: no other row is at least as accurate and cheap, and better in one.

    >>> pareto([0.5, 0.6, 0.55], [10, 20, 30])
    [True, True, False]
    """
    points = list(zip(accuracy, cost, strict=True))
    return [not any(a >= own and c <= price and (a, c) != (own, price) for a, c in points) for own, price in points]
