"""What N photos can show: intervals, paired tests, corrections, and how streams complement each other.

NumPy alone, in float64. Vectors `correct` are boolean, (N,) for one classifier or (S, N) for S on the same photos.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Interval = tuple[float, float]

DRAWS = 1000
"""Resamples of a bootstrap: the ends of a 95 % interval then move by some 2 % of its width from seed to seed."""

_NORMAL = NormalDist()
_CELLS = 2_000_000
"""Numbers drawn at a time: 16 MB."""


def wilson(successes: int, n: int, *, level: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion: near its nominal coverage also at few photos and near 0 or 1.

    >>> [round(100 * end, 2) for end in wilson(2147, 3339)]  # the paper's 64.30 %
    [62.66, 65.91]
    """
    z = _NORMAL.inv_cdf(0.5 + level / 2)
    p, spread = successes / n, z * z / n
    centre = (p + spread / 2) / (1 + spread)
    half = math.sqrt(p * (1 - p) * spread + spread * spread / 4) / (1 + spread)
    low = 0.0 if successes == 0 else centre - half  # exact at the ends, where rounding would leave 1e-17
    return low, 1.0 if successes == n else centre + half


def resampled_means(values_NC: Floats, *, draws: int = DRAWS, seed: int = 0) -> Floats:
    """Column means (draws, C) of bootstrap resamples of the N rows; the columns of a draw share their rows."""
    n = len(values_NC)
    rng = np.random.default_rng(seed)
    at_a_time = max(1, _CELLS // n)
    means = []
    for start in range(0, draws, at_a_time):
        rows = min(at_a_time, draws - start)
        drawn = rng.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
        means.append(counts.astype(np.float64) @ values_NC / n)
    return np.concatenate(means)


def resampled_counts(counts: NDArray[np.int64], *, draws: int = DRAWS, seed: int = 0) -> NDArray[np.int64]:
    """Bootstrap resamples (draws, *shape) of a table of counts, a confusion matrix say.

    Drawing N photos with replacement and counting their cells is one multinomial draw, whatever N is.
    """
    flat = counts.ravel()
    drawn = np.random.default_rng(seed).multinomial(int(flat.sum()), flat / flat.sum(), size=draws)
    return drawn.reshape(draws, *counts.shape)


def percentile_interval(draws: NDArray[Any], *, level: float = 0.95) -> Interval:
    """The middle `level` of a statistic's bootstrap draws; draws in which it is not defined (NaN) are left out."""
    low, high = np.nanquantile(draws, [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)


def paired_bootstrap(differences_N: Floats, *, draws: int = DRAWS, seed: int = 0, level: float = 0.95) -> Interval:
    """Interval of the mean difference of two classifiers' scores on the same N photos."""
    means = resampled_means(np.asarray(differences_N, dtype=np.float64)[:, None], draws=draws, seed=seed)
    return percentile_interval(means, level=level)


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p of McNemar's test, from the photos that only one of two classifiers gets right.

    >>> round(mcnemar(10, 2), 4)
    0.0386
    """
    n, fewer = only_first + only_second, min(only_first, only_second)
    if n == 0:
        return 1.0
    whole = math.lgamma(n + 1) - n * math.log(2)
    tail = math.fsum(math.exp(whole - math.lgamma(k + 1) - math.lgamma(n - k + 1)) for k in range(fewer + 1))
    return min(1.0, 2 * tail)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Holm's adjusted p values, in the order given: below .05 means shown, with all of the table in view.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return tuple(adjusted)


def smallest_detectable(n: int, *, discordance: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest true difference of accuracies that McNemar's test finds with n photos in `power` of all cases.

    `discordance` is the share of photos that exactly one of the two classifiers gets right; no difference can be
    larger, so where the result is, n photos are too few. Normal approximation of Connor (Biometrics, 1987), solved.

    >>> round(100 * smallest_detectable(3339, discordance=0.25), 2)  # in points
    2.42
    """
    z_alpha, z_power = _NORMAL.inv_cdf(1 - alpha / 2), _NORMAL.inv_cdf(power)
    root = math.sqrt(max(0.0, n - z_alpha**2 + z_power**2))
    return math.sqrt(discordance) * (z_alpha * math.sqrt(n) + z_power * root) / (n + z_power**2)


@dataclass(frozen=True)
class Spread:
    """A measure over several seeds: mean, standard deviation (n - 1) and Student's interval of the mean."""

    mean: float
    deviation: float
    ci95: Interval
    n: int


def over_seeds(values: Sequence[float]) -> Spread:
    """Mean and deviation of what two or more seeds gave.

    >>> spread = over_seeds([0.60, 0.62, 0.64])
    >>> round(spread.mean, 3), round(spread.deviation, 3), [round(end, 3) for end in spread.ci95]
    (0.62, 0.02, [0.57, 0.67])
    """
    if len(values) < 2:
        raise ValueError(f"a deviation needs two values or more, not {len(values)}.")
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    half = student_quantile(0.975, freedom=len(values) - 1) * deviation / math.sqrt(len(values))
    return Spread(mean, deviation, (mean - half, mean + half), len(values))


def paired_t(differences: Sequence[float]) -> float:
    """Two-sided p of Student's test that differences, one a seed, have mean 0."""
    spread = over_seeds(differences)
    return _p_of_t(spread.mean, spread.deviation / math.sqrt(spread.n), freedom=spread.n - 1)


def welch_t(first: Sequence[float], second: Sequence[float]) -> float:
    """Two-sided p of Welch's test for seeds that are not paired; degrees of freedom rounded down, the safe side."""
    a, b = over_seeds(first), over_seeds(second)
    errors = a.deviation**2 / a.n, b.deviation**2 / b.n
    weights = errors[0] ** 2 / (a.n - 1) + errors[1] ** 2 / (b.n - 1)
    freedom = int(sum(errors) ** 2 / weights) if weights else 1
    return _p_of_t(a.mean - b.mean, math.sqrt(sum(errors)), freedom=max(1, freedom))


def _p_of_t(difference: float, error: float, *, freedom: int) -> float:
    if error == 0:
        return 1.0 if difference == 0 else 0.0
    return max(0.0, 1 - student_within(abs(difference) / error, freedom=freedom))


def student_within(t: float, *, freedom: int) -> float:
    """P(|T| < t) of Student's distribution with a whole number of degrees of freedom (Abramowitz, Stegun 26.7.3-4)."""
    angle = math.atan2(t, math.sqrt(freedom))
    cosine_squared, odd = math.cos(angle) ** 2, freedom % 2
    term = total = math.cos(angle) if odd else 1.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= cosine_squared * (k - 1) / k
        total += term
    if not odd:
        return math.sin(angle) * total
    return 2 / math.pi * (angle + (math.sin(angle) * total if freedom > 1 else 0.0))


def student_quantile(probability: float, *, freedom: int) -> float:
    """The t below which `probability` (at least one half) of Student's distribution lies.

    >>> round(student_quantile(0.975, freedom=4), 3)
    2.776
    """
    low, high, wanted = 0.0, 1.0, 2 * probability - 1
    while student_within(high, freedom=freedom) < wanted:
        high *= 2
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if student_within(middle, freedom=freedom) < wanted else (low, middle)
    return middle


@dataclass(frozen=True)
class Agreement:
    """How two classifiers do on the same photos: how many both, only one of them, or neither got right."""

    both: int
    only_first: int
    only_second: int
    neither: int

    @property
    def n(self) -> int:
        """All photos."""
        return self.both + self.only_first + self.only_second + self.neither

    @property
    def difference(self) -> float:
        """Accuracy of the second less that of the first."""
        return (self.only_second - self.only_first) / self.n

    @property
    def disagreement(self) -> float:
        """The share of photos that exactly one got right."""
        return (self.only_first + self.only_second) / self.n

    @property
    def double_fault(self) -> float:
        """The share of photos that both got wrong: what no choice between them can mend."""
        return self.neither / self.n

    @property
    def oracle(self) -> float:
        """The share of photos that at least one got right."""
        return 1 - self.double_fault


def agreement(first_N: Bools, second_N: Bools) -> Agreement:
    """Counts, from two classifiers' `correct` on the same N photos."""
    cells = np.bincount(2 * first_N.astype(np.int64) + second_N.astype(np.int64), minlength=4)
    neither, only_second, only_first, both = (int(count) for count in cells)
    return Agreement(both, only_first, only_second, neither)


def oracle_any(correct_SN: Bools) -> float:
    """The share of photos that at least one of S classifiers gets right: the ceiling of every choice among them."""
    return float(correct_SN.any(axis=0).mean())


def leave_one_out(probabilities_SNK: Floats) -> Floats:
    """The mean probabilities (S, N, K) of all classifiers but one: late fusion without that stream. S >= 2."""
    count = len(probabilities_SNK)
    if count < 2:
        raise ValueError("nothing is left when one of one classifier is left out.")
    without: Floats = (probabilities_SNK.sum(axis=0) - probabilities_SNK) / (count - 1)
    return without
