"""The accuracy of a run next to those of the most frequent class, its single streams and other runs.

If images may have several labels, a prediction is correct if it has exactly these labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from multistream.bootstrap import Interval
from multistream.comparison.run_results import read_result
from multistream.errors import MultistreamError, UsageError
from multistream.inference.metrics import BINS
from multistream.reporting.run_details import RunDetails
from multistream.runs.predictions_file import Predictions, pair_photos
from multistream.spec import Spec
from multistream.statistics import agreement, mcnemar, wilson

Probabilities = Mapping[str, NDArray[np.float64]]
"""{key of a stream: probabilities (N, K)}"""


@dataclass(frozen=True)
class ResultRow:
    """One classifier on the run's test split; `p_value` is from the exact two-sided McNemar test against the run."""

    name: str
    accuracy: float
    ci95: Interval
    n: int
    p_value: float | None
    difference: float | None
    """The accuracy of this row minus that of the run, on the same images."""


@dataclass(frozen=True)
class CalibrationBin:
    """The mean confidence and the accuracy of the images whose highest probability is in one bin."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float
    ci95: Interval


@dataclass(frozen=True)
class ResultTable:
    """All rows; `masked`: whether rows "KEY, others at mean" are included; `notes` say which are missing and why."""

    rows: Sequence[ResultRow]
    masked: bool
    notes: Sequence[str]


def result_table(
    details: RunDetails, *, streams: Probabilities, masked: Probabilities, against: Sequence[str | PathLike[str]] = ()
) -> ResultTable:
    """Compares the run with its streams, other runs and the most frequent class.

    `streams` are the probabilities of each stream's own classifier, if the fusion has them. `masked` are those of the
    run with all other streams at their training mean, shown only if `streams` is empty. Raises UsageError for a run of
    `against` that was evaluated on other images or classes.
    """
    predictions, labels = details.result.predictions, details.labels
    correct = predictions.correct
    rows = [_row("this run", correct, None)]
    if len(details.result.recipe.network.streams) > 1:
        rows += [_row(f"{key} alone", _right(predictions, p), correct) for key, p in streams.items()]
    trained_alone, notes = _source_runs(details, streams)
    rows += trained_alone
    show_masked = bool(masked and not streams)
    if show_masked:
        rows += [_row(f"{key}, others at mean", _right(predictions, p), correct) for key, p in masked.items()]
    for path in against:
        other = _correct_of(Path(path), predictions)
        if isinstance(other, str):
            raise UsageError("--against", other, right="It needs the same test split; train --recipe RUN repeats it.")
        rows.append(_row(Path(path).resolve().name, other, correct))
    most_frequent = "most frequent class" if predictions.label_sets is None else "most frequent labels"
    rows.append(_row(most_frequent, labels == np.bincount(labels).argmax(), correct))
    return ResultTable(rows, show_masked, notes)


def _source_runs(details: RunDetails, streams: Probabilities) -> tuple[list[ResultRow], list[str]]:
    """Returns rows of the streams that were taken from runs, on the same images, and notes if that is impossible."""
    predictions = details.result.predictions
    rows, notes = [], []
    for key, text in details.result.recipe.network.streams.items():
        spec = Spec.parse(text, key=key)
        if spec.run is None:
            continue
        other = _correct_of(Path(spec.run), predictions)
        if isinstance(other, str):
            notes.append(f"{key} was trained in another run: {other}")
        elif key not in streams:
            rows.append(_row(f"{key} alone", other, predictions.correct))
    return rows, notes


def _right(predictions: Predictions, probabilities: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Returns whether other probabilities (N, K) of the same images predict their labels, (N,)."""
    return replace(predictions, probabilities=probabilities).correct


def _row(name: str, correct: NDArray[np.bool_], run: NDArray[np.bool_] | None) -> ResultRow:
    n, hits = len(correct), int(correct.sum())
    if run is None:
        return ResultRow(name, hits / n, wilson(hits, n), n, None, None)
    counts = agreement(run, correct)
    p_value = mcnemar(counts.only_first, counts.only_second)
    return ResultRow(name, hits / n, wilson(hits, n), n, p_value, counts.difference)


def _correct_of(path: Path, predictions: Predictions) -> NDArray[np.bool_] | str:
    """Returns which of the run's test images another run classifies correctly, or the reason if it is not known."""
    try:
        other = read_result(path.expanduser()).predictions
    except MultistreamError as error:
        return f"{path} cannot be read ({error})"
    own_rows, other_rows = pair_photos(predictions, other)
    if set(other.classes) != set(predictions.classes) or len(own_rows) < len(predictions):
        return f"{path} was evaluated on other images or classes"
    return other.correct[other_rows]


def calibration_bins(predictions: Predictions) -> list[CalibrationBin]:
    """Returns the non-empty bins of the expected calibration error; there are 15 bins of equal width."""
    confidence, correct = predictions.probabilities.max(axis=1), predictions.correct
    edges = np.linspace(0, 1, BINS + 1)
    bin_of_image = np.searchsorted(edges[1:-1], confidence, side="left")
    bins = []
    for b in np.unique(bin_of_image):
        inside = bin_of_image == b
        n, hits = int(inside.sum()), int(correct[inside].sum())
        mean = float(confidence[inside].mean())
        bins.append(CalibrationBin(float(edges[b]), float(edges[b + 1]), n, mean, hits / n, wilson(hits, n)))
    return bins
