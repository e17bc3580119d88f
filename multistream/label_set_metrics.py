"""Metrics for images with several classes: average precision, F1 at a threshold of .5, and exact matches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multistream.bootstrap import Interval, fraction_interval, percentile_interval, resampled_means
from multistream.errors import DataError
from multistream.records import JsonRecord
from multistream.statistics import wilson

THRESHOLD = 0.5
"""A class is predicted if its probability is at least this."""
DRAWS = 1000
"""Resamples of the bootstrap of average precisions."""
CELLS = 4_000_000
"""Counts that a bootstrap holds in memory at a time: 32 MB."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class LabelSetMetrics(JsonRecord):
    """Metrics of independent probabilities of K classes on n photos, each of which may have several classes.

    Intervals are Wilson's for accuracy and bootstraps over photos for the other metrics. Means over classes
    leave out classes that no photo has; a class that is never predicted has a precision of 0.
    """

    map: float
    """Mean average precision over the classes, as in scikit-learn's `average_precision_score`."""
    map_ci95: Interval
    micro_f1: float
    """F1 over all photos and classes together."""
    micro_f1_ci95: Interval
    macro_f1: float
    """Mean of the classes' F1."""
    macro_f1_ci95: Interval
    accuracy: float
    """The fraction of photos for which exactly their classes are predicted (exact match)."""
    accuracy_ci95: Interval
    nll: float
    """Mean over photos and classes of the binary cross entropy; a probability of 0 counts as 2.2e-16."""
    labels_per_photo: float
    n: int
    classes: tuple[str, ...]
    per_class: Mapping[str, Mapping[str, Any]]
    """{class: {n, average_precision, precision, recall, f1}}"""


def label_set_metrics(
    probabilities: NDArray[np.floating], sets: Bools, classes: Sequence[str], *, seed: int = 0
) -> LabelSetMetrics:
    """Measures probabilities (N, K) against label sets (N, K); `seed` draws the bootstraps.

    Raises DataError if there is no photo, ValueError for arrays of other shapes or values that are not finite.
    """
    exact = np.asarray(probabilities, np.float64)
    if not len(sets):
        raise DataError("metrics", "no photo is left to evaluate.")
    if exact.shape != (len(sets), len(classes)) or sets.shape != exact.shape or not np.isfinite(exact).all():
        raise ValueError(f"{len(classes)} classes need finite probabilities {sets.shape}, not {exact.shape}.")
    predicted, occurs = exact >= THRESHOLD, _occurring(sets)
    cells = np.concatenate([sets & predicted, sets, predicted], axis=1).astype(np.float64)  # hits, labelled, predicted
    drawn, hits = resampled_means(cells, seed=seed), int((predicted == sets).all(axis=1).sum())
    precisions = average_precisions(exact, sets)
    tiny = np.finfo(np.float64).eps
    return LabelSetMetrics(
        map=float(precisions[occurs].mean()),
        map_ci95=_interval_of_map(float(precisions[occurs].mean()), exact[:, occurs], sets[:, occurs], seed=seed),
        micro_f1=float(micro_f1(cells.mean(0))),
        micro_f1_ci95=percentile_interval(micro_f1(drawn)),
        macro_f1=float(_macro_f1(cells.mean(0), occurs)),
        macro_f1_ci95=percentile_interval(_macro_f1(drawn, occurs)),
        accuracy=hits / len(sets),
        accuracy_ci95=wilson(hits, len(sets)),
        nll=float(-np.log(np.maximum(np.where(sets, exact, 1 - exact), tiny)).mean()),
        labels_per_photo=float(sets.sum(axis=1).mean()),
        n=len(sets),
        classes=tuple(classes),
        per_class=_per_class(cells, precisions, classes),
    )


def mean_average_precision(probabilities: NDArray[np.floating], sets: Bools) -> float:
    """The mean average precision over the classes that some photo has, from probabilities and label sets (N, K)."""
    return float(average_precisions(probabilities, sets)[_occurring(sets)].mean())


def average_precisions(probabilities: NDArray[np.floating], sets: Bools) -> Floats:
    """Average precision of each class, (K,), as in scikit-learn's `average_precision_score`; 0 if no photo has it."""
    precisions: Floats = _average_precisions(probabilities, sets, np.ones((1, len(sets))))[0]
    return precisions


def resampled_map(probabilities: NDArray[np.floating], sets: Bools, counts_RN: NDArray[np.int64]) -> Floats:
    """The mean average precision (R,) of R resamples, given how often each photo occurs in each, (R, N).

    A class that no photo of a resample has is left out of its mean.
    """
    counts = counts_RN.astype(np.float64)
    present = counts @ sets > 0
    drawn = _average_precisions(probabilities, sets, counts)
    means: Floats = (drawn * present).sum(1) / np.maximum(present.sum(1), 1)
    return means


def photo_draws(n: int, *, seed: int = 0) -> Iterator[NDArray[np.int64]]:
    """How often each of n photos occurs in DRAWS bootstrap resamples: blocks (R, n) of at most CELLS counts."""
    chance, at_a_time = np.random.default_rng(seed), max(1, CELLS // n)
    for start in range(0, DRAWS, at_a_time):
        yield chance.multinomial(n, np.full(n, 1 / n), size=min(at_a_time, DRAWS - start))


def micro_f1(means: Floats) -> Any:
    """F1 over all classes together, (...,), from the means of true positives, labels and predictions, (..., 3K)."""
    hits, labelled, predicted = (part.sum(-1) for part in np.split(means, 3, axis=-1))
    return _ratio(2 * hits, labelled + predicted)


def label_set_f1(probabilities: NDArray[np.floating], sets: Bools) -> tuple[float, float]:
    """(micro-F1, macro-F1) at the threshold."""
    predicted = probabilities >= THRESHOLD
    means = np.concatenate([sets & predicted, sets, predicted], axis=1).mean(0)
    return float(micro_f1(means)), float(_macro_f1(means, _occurring(sets)))


def label_set_cells(probabilities: NDArray[np.floating], sets: Bools) -> NDArray[np.int64]:
    """(2, K, K): how many photos with label i (rows) get class j predicted, and the number of photos counted.

    Off the diagonal only photos without label j count: the cell counts wrong predictions of j on photos with label i.
    """
    predicted, others = probabilities >= THRESHOLD, ~np.eye(sets.shape[1], dtype=np.bool_)
    has = sets.astype(np.int64)
    lacks = has.T @ ~sets * others + np.diag(has.sum(axis=0))
    wrong = has.T @ (predicted & ~sets) * others + np.diag((predicted & sets).sum(axis=0))
    return np.stack([wrong, lacks])


def _occurring(sets: Bools) -> Bools:
    """Whether any photo has the class, (K,)."""
    occurs: Bools = np.asarray(sets.any(axis=0))
    return occurs


def _macro_f1(means: Floats, occurs: Bools) -> Any:
    hits, labelled, predicted = np.split(means, 3, axis=-1)
    return _ratio(2 * hits, labelled + predicted)[..., occurs].mean(-1)


def _ratio(numerators: Any, denominators: Any) -> Any:
    return np.divide(numerators, denominators, out=np.zeros_like(numerators), where=denominators > 0)


def _interval_of_map(measured: float, probabilities: Floats, sets: Bools, *, seed: int) -> Interval:
    """Bootstrap interval of the mean average precision; a class without a photo in a resample is left out of it."""
    drawn = [resampled_map(probabilities, sets, counts) for counts in photo_draws(len(sets), seed=seed)]
    return fraction_interval(measured, np.concatenate(drawn))


def _average_precisions(probabilities: NDArray[np.floating], sets: Bools, counts_RN: Floats) -> Floats:
    """The average precision of each class in R resamples, (R, K), from photo counts (R, N); 0 if no photo has it.

    This is the mean, over the photos that have the class, of the precision among all photos with at least their score,
    as in scikit-learn's `average_precision_score`.
    """
    precisions = np.zeros((len(counts_RN), sets.shape[1]))
    counts_NR = np.ascontiguousarray(counts_RN.T)  # contiguous, because rows are gathered below
    for k in range(sets.shape[1]):
        order = np.argsort(-probabilities[:, k], kind="stable")
        last = np.append(np.flatnonzero(np.diff(probabilities[order, k])), len(order) - 1)
        positives = np.flatnonzero(sets[order, k])
        ends = last[np.searchsorted(last, positives)]  # photos of equal score share a threshold
        own_PR = counts_NR[order[positives]]
        hits = np.cumsum(own_PR, axis=0)[np.searchsorted(ends, ends, side="right") - 1]
        shown = np.cumsum(counts_NR[order], axis=0)[ends]
        precisions[:, k] = (own_PR * _ratio(hits, shown)).sum(0) / np.maximum(own_PR.sum(0), 1)
    return precisions


def _per_class(cells: Floats, precisions: Floats, classes: Sequence[str]) -> dict[str, dict[str, Any]]:
    rows = zip(classes, *np.split(cells.sum(0), 3), precisions, strict=True)
    return {
        name: {
            "n": int(labelled),
            "average_precision": float(average),
            "precision": float(_ratio(hits, predicted)),
            "recall": float(_ratio(hits, labelled)),
            "f1": float(_ratio(2 * hits, labelled + predicted)),
        }
        for name, hits, labelled, predicted, average in rows
    }
