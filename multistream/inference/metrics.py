"""Metrics of predicted probabilities against labels, each with a 95 % interval (paper section 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multistream.bootstrap import Interval, percentile_interval, resampled_counts, resampled_means
from multistream.errors import DataError
from multistream.inference.class_maps import polarities
from multistream.label_set_metrics import LabelSetMetrics, label_set_metrics
from multistream.records import JsonRecord
from multistream.statistics import balanced_accuracy, macro_f1, wilson
from multistream.vote_distances import vote_metrics

BINS = 15
"""Bins of equal width for the calibration error."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Metrics(JsonRecord):
    """Metrics of probabilities over K classes on n photos; fractions are between 0 and 1, all in float64.

    Intervals are Wilson's for fractions of photos, and percentile bootstraps for the rest. Means over classes leave out
    classes that do not occur: for recall (`balanced_accuracy`) those without a photo, for F1 those without a photo and
    without a prediction. A precision, recall or F1 that is 0/0 is reported as 0, together with its n.
    """

    accuracy: float
    accuracy_ci95: Interval
    macro_f1: float
    macro_f1_ci95: Interval
    balanced_accuracy: float
    balanced_accuracy_ci95: Interval
    nll: float
    """Mean negative log-likelihood in nats; a probability of 0 counts as 2.2e-16."""
    nll_ci95: Interval
    brier: float
    """Mean squared distance between probabilities and one-hot labels, summed over the classes: 0 to 2."""
    brier_ci95: Interval
    ece: float
    """Expected calibration error of the most probable class, with 15 bins of equal width."""
    ece_ci95: Interval
    majority: float
    """The accuracy of always predicting the most frequent class."""
    n: int
    classes: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    """[label][predicted]"""
    per_class: Mapping[str, Mapping[str, Any]]
    """{class: {n, precision, recall, recall_ci95, f1}}"""
    polarity_accuracy: float | None = None
    """The fraction of photos whose predicted class has the label's polarity; None unless all classes are emotions."""
    polarity_accuracy_ci95: Interval | None = None
    votes: Mapping[str, Any] | None = None
    """Distances to the votes, if the data have votes (`multistream.vote_distances`)."""
    ece_before: float | None = None
    """The calibration error before temperature scaling; None if there was none."""
    ece_before_ci95: Interval | None = None
    nll_before: float | None = None
    nll_before_ci95: Interval | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns the metrics for JSON, without those that are None."""
        return {name: value for name, value in super().to_dict().items() if value is not None}


def metrics(
    probabilities: NDArray[np.floating],
    labels: Integers,
    classes: Sequence[str],
    *,
    votes: NDArray[np.floating] | None = None,
    uncalibrated: NDArray[np.floating] | None = None,
    seed: int = 0,
) -> Metrics:
    """Computes the metrics of probabilities (N, K) against labels (N,), which index the K classes.

    `votes` (N, K) are the distributions of the annotators' votes, if there are any; `uncalibrated` (N, K) are the
    probabilities before temperature scaling; `seed` is that of the bootstraps. Raises DataError if there are no photos,
    ValueError for arrays whose shapes or values do not fit.
    """
    exact = np.asarray(probabilities, dtype=np.float64)
    _check(exact, labels, classes)
    predicted, k = exact.argmax(axis=1), len(classes)
    confusion = np.bincount(labels * k + predicted, minlength=k * k).reshape(k, k).astype(np.int64)
    n, right = len(labels), int(np.trace(confusion))
    return Metrics(
        accuracy=right / n,
        accuracy_ci95=wilson(right, n),
        **_over_classes(confusion, seed=seed),
        **_of_probabilities(exact, labels, predicted, seed=seed),
        majority=float(confusion.sum(axis=1).max()) / n,
        **_polarity(confusion, classes),
        n=n,
        classes=tuple(classes),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        per_class=_per_class(confusion, classes),
        **_before(uncalibrated, labels, seed=seed),
        votes=None if votes is None else vote_metrics(exact, np.asarray(votes, np.float64), seed=seed),
    )


Measures = Metrics | LabelSetMetrics
"""The metrics of images with one label each, or with label sets."""


def measures(
    probabilities: NDArray[np.floating],
    labels: Integers,
    classes: Sequence[str],
    *,
    votes: NDArray[np.floating] | None = None,
    label_sets: NDArray[np.bool_] | None = None,
    uncalibrated: NDArray[np.floating] | None = None,
) -> Measures:
    """Computes the metrics of `label_sets` (N, K) if images may have several classes, else of their labels."""
    if label_sets is not None:
        return label_set_metrics(probabilities, label_sets, classes)
    return metrics(probabilities, labels, classes, votes=votes, uncalibrated=uncalibrated)


def _check(probabilities: Floats, labels: Integers, classes: Sequence[str]) -> None:
    n, k = len(labels), len(classes)
    if n == 0:
        raise DataError("metrics", "no photo is left to evaluate.")
    if probabilities.shape != (n, k):
        raise ValueError(f"{n} labels and {k} classes need probabilities of shape {(n, k)}, not {probabilities.shape}.")
    if not np.isfinite(probabilities).all():
        raise ValueError(f"{int((~np.isfinite(probabilities)).sum())} probabilities are not finite.")
    if not 0 <= labels.min() <= labels.max() < k:
        raise ValueError(f"labels run from {labels.min()} to {labels.max()}; {k} classes are 0 to {k - 1}.")


def _over_classes(confusion: Integers, *, seed: int) -> dict[str, Any]:
    """Returns macro_f1 and balanced_accuracy with intervals, by resampling the confusion matrix.

    Resampling its counts is equivalent to resampling the photos.
    """
    resampled = resampled_counts(confusion, seed=seed)
    return {
        "macro_f1": float(macro_f1(confusion)),
        "macro_f1_ci95": percentile_interval(macro_f1(resampled)),
        "balanced_accuracy": float(balanced_accuracy(confusion)),
        "balanced_accuracy_ci95": percentile_interval(balanced_accuracy(resampled)),
    }


def _of_probabilities(probabilities: Floats, labels: Integers, predicted: Integers, *, seed: int) -> dict[str, Any]:
    """Returns nll, brier and ece with intervals, from one bootstrap: all are functions of the same column means."""
    n, k = probabilities.shape
    scores_NC = np.empty((n, 2 + BINS))
    own = probabilities[np.arange(n), labels]
    scores_NC[:, 0] = -np.log(np.maximum(own, np.finfo(np.float64).eps))
    scores_NC[:, 1] = ((probabilities - np.eye(k)[labels]) ** 2).sum(axis=1)
    scores_NC[:, 2:] = _calibration_gaps(probabilities.max(axis=1), predicted == labels)
    means, resampled = scores_NC.mean(axis=0), resampled_means(scores_NC, seed=seed)
    ece, drawn = float(np.abs(means[2:]).sum()), np.abs(resampled[:, 2:]).sum(axis=1)
    # Resampling adds noise to every bin, which abs() does not average out.
    low, high = percentile_interval(drawn + ece - drawn.mean())
    return {
        "nll": float(means[0]),
        "nll_ci95": percentile_interval(resampled[:, 0]),
        "brier": float(means[1]),
        "brier_ci95": percentile_interval(resampled[:, 1]),
        "ece": ece,
        "ece_ci95": (max(0.0, low), high),
    }


def _before(uncalibrated: NDArray[np.floating] | None, labels: Integers, *, seed: int) -> dict[str, Any]:
    """Returns calibration error and likelihood before calibration."""
    if uncalibrated is None:
        return {}
    exact = np.asarray(uncalibrated, dtype=np.float64)
    found = _of_probabilities(exact, labels, exact.argmax(axis=1), seed=seed)
    names = {"ece": "ece_before", "ece_ci95": "ece_before_ci95", "nll": "nll_before", "nll_ci95": "nll_before_ci95"}
    return {name: found[own] for own, name in names.items()}


def without_temperature(probabilities: NDArray[np.floating], temperature: float) -> Floats | None:
    """Undoes temperature scaling of softmax(logits / temperature), (N, K); None if the temperature is 1."""
    if temperature == 1:
        return None
    logs = temperature * np.log(np.maximum(probabilities.astype(np.float64), np.finfo(np.float64).tiny))
    raw: Floats = np.exp(logs - logs.max(axis=1, keepdims=True))
    raw /= raw.sum(axis=1, keepdims=True)
    return raw


def _calibration_gaps(confidences: Floats, correct: NDArray[np.bool_]) -> Floats:
    """Returns (N, BINS): correctness minus confidence of each photo, in the column of its bin (low, high].

    A bin's mean over all N photos is its fraction of photos times (accuracy - confidence); the ECE sums the absolute
    means.
    """
    gaps = np.zeros((len(confidences), BINS))
    bins = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], confidences, side="left")
    gaps[np.arange(len(confidences)), bins] = correct - confidences
    return gaps


def _polarity(confusion: Integers, classes: Sequence[str]) -> dict[str, Any]:
    """Returns the fraction of photos whose prediction has the label's polarity; empty if a polarity is unknown."""
    positive = polarities(classes)
    if positive is None:
        return {}
    signs = np.array(positive)
    n, right = int(confusion.sum()), int(confusion[signs[:, None] == signs[None, :]].sum())
    return {"polarity_accuracy": right / n, "polarity_accuracy_ci95": wilson(right, n)}


def _per_class(confusion: Integers, classes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Returns precision, recall and F1 of each class; 0 if one is 0/0."""
    hits, labelled, predicted = np.diagonal(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    rows = zip(classes, hits.tolist(), labelled.tolist(), predicted.tolist(), strict=True)
    return {
        name: {
            "n": n,
            "precision": _ratio(right, predictions),
            "recall": _ratio(right, n),
            "recall_ci95": wilson(right, n) if n else (0.0, 1.0),
            "f1": _ratio(2 * right, n + predictions),
        }
        for name, right, n, predictions in rows
    }


def _ratio(count: int, total: int) -> float:
    return count / total if total else 0.0
