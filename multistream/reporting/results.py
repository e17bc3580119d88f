"""The run beside what it must beat: the most frequent class, each of its streams alone, other runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from multistream.comparison.run_results import read_result
from multistream.errors import MultistreamError, UsageError
from multistream.inference.metrics import BINS
from multistream.reporting.facts import Facts
from multistream.reporting.markup import join, tag
from multistream.runs.predictions_file import Predictions
from multistream.spec import Spec
from multistream.statistics import Interval, agreement, mcnemar, wilson

ONLY = join(
    [
        "“only …” is this run where every other stream gives what the average training photo gives: what the fusion "
        "makes of that stream, not what a classifier trained on it alone would. ",
        tag("code", "--against RUN"),
        " sets such a one beside it.",
    ]
)


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


Shares = Mapping[str, NDArray[np.float64]]


def lines(
    facts: Facts, *, own: Shares, masked: Shares, against: Sequence[str | Path] = ()
) -> tuple[list[Line], list[str]]:
    """The run, its streams, other runs, the majority; and notes on what the streams' lines mean.

    `own` are the probabilities (N, K) of the streams' own classifiers, where the fusion has them; `masked` those of
    the run where every other stream gives its training mean, which are told where there are no own ones. UsageError
    for a run of `against` that was measured on other photos or classes.
    """
    told = facts.result.predictions
    correct = told.correct
    labels = np.array([told.classes.index(name) for name in told.labels or ()])
    found = [_line("this run", correct, None)]
    notes = []
    if len(facts.result.recipe.network.streams) > 1:
        found += [_line(f"{key} alone", p.argmax(1) == labels, correct) for key, p in own.items()]
    beside, about = _trained_alone(facts, own)
    found += beside
    notes += about
    if not own and masked:
        found += [_line(f"only {key}", p.argmax(1) == labels, correct) for key, p in masked.items()]
        notes.append(ONLY)
    for path in against:
        other = _of_run(Path(path), told)
        if isinstance(other, str):
            raise UsageError("--against", other, right="It must have the same test part; --recipe RUN repeats one.")
        found.append(_line(Path(path).resolve().name, other, correct))
    most = np.bincount(labels).argmax()
    found.append(_line("most frequent class", labels == most, correct))
    return found, notes


def _trained_alone(facts: Facts, own: Shares) -> tuple[list[Line], list[str]]:
    """Streams that came from runs of their own, on these photos; notes where that is not known."""
    told = facts.result.predictions
    found, notes = [], []
    for key, text in facts.result.recipe.network.streams.items():
        spec = Spec.parse(text, key=key)
        if spec.run is None:
            continue
        other = _of_run(Path(spec.run), told)
        if isinstance(other, str):
            notes.append(f"{key}: its own run: {other}")
        elif key not in own:
            found.append(_line(f"{key} alone", other, told.correct))
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
        return f"{path} cannot be read ({error})"
    places = {digest: i for i, digest in enumerate(other.sha256)}
    if set(other.classes) != set(told.classes) or not all(digest in places for digest in told.sha256):
        return f"{path} was measured on other photos or classes"
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
