"""The run beside what it must beat: always saying the most frequent class, and each of its streams alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from multistream.comparison.results import read_result
from multistream.errors import MultistreamError
from multistream.evaluation.metrics import BINS
from multistream.predictions import Predictions
from multistream.reporting.facts import Facts
from multistream.spec import Spec
from multistream.statistics import Interval, agreement, mcnemar, wilson


@dataclass(frozen=True)
class Line:
    """One classifier on the run's test part; `p_value` is McNemar's against the run, exact and two-sided."""

    name: str
    accuracy: float
    ci95: Interval
    n: int
    p_value: float | None
    difference: float | None
    """Of the run's accuracy less this one's, on the same photos."""


@dataclass(frozen=True)
class Bin:
    """Photos whose highest probability lies in one bin: how sure the run was, and how often it was right."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float
    ci95: Interval


def lines(facts: Facts, own: Mapping[str, NDArray[np.float64]]) -> tuple[list[Line], list[str]]:
    """The run, its streams, the majority; and notes on streams' runs that could not be read or saw other photos.

    `own` are the probabilities (N, K) of the streams' own classifiers, where the fusion has them.
    """
    told = facts.result.predictions
    correct = told.correct
    labels = np.array([told.classes.index(name) for name in told.labels or ()])
    found = [_line("this run", correct, None)]
    notes = []
    if len(facts.result.recipe.network.streams) > 1:
        found += [_line(f"{key} alone", p.argmax(1) == labels, correct) for key, p in own.items()]
    for key, text in facts.result.recipe.network.streams.items():
        spec = Spec.parse(text, key=key)
        if spec.run is None:
            continue
        other = _of_run(Path(spec.run), told)
        if isinstance(other, str):
            notes.append(f"{key}: {other}")
        elif key not in own:
            found.append(_line(f"{key} alone", other, correct))
    most = np.bincount(labels).argmax()
    found.append(_line("most frequent class", labels == most, correct))
    return found, notes


def _line(name: str, right: NDArray[np.bool_], run: NDArray[np.bool_] | None) -> Line:
    n, hits = len(right), int(right.sum())
    if run is None:
        return Line(name, hits / n, wilson(hits, n), n, None, None)
    pair = agreement(right, run)
    return Line(name, hits / n, wilson(hits, n), n, mcnemar(pair.only_first, pair.only_second), pair.difference)


def _of_run(path: Path, told: Predictions) -> NDArray[np.bool_] | str:
    """Which of our photos another run got right, or why that is not known."""
    try:
        other = read_result(path.expanduser()).predictions
    except MultistreamError as error:
        return f"its own run cannot be read ({error})"
    places = {digest: i for i, digest in enumerate(other.sha256)}
    if set(other.classes) != set(told.classes) or not all(digest in places for digest in told.sha256):
        return f"its own run {path} was measured on other photos or classes"
    return other.correct[[places[digest] for digest in told.sha256]]


def reliability(told: Predictions) -> list[Bin]:
    """The bins of the calibration error that hold a photo, 15 of equal width."""
    confidence, correct = told.probabilities.max(axis=1), told.correct
    edges = np.linspace(0, 1, BINS + 1)
    place = np.searchsorted(edges[1:-1], confidence, side="left")
    found = []
    for b in np.unique(place):
        inside = place == b
        n, hits = int(inside.sum()), int(correct[inside].sum())
        mean = float(confidence[inside].mean())
        found.append(Bin(float(edges[b]), float(edges[b + 1]), n, mean, hits / n, wilson(hits, n)))
    return found
