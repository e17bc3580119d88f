"""The published accuracies on FI (paper section 3), which are printed next to measured ones and marked as published."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from multistream.bootstrap import Interval
from multistream.comparison.run_results import Result
from multistream.errors import UsageError
from multistream.records import JsonRecord
from multistream.statistics import wilson

PAPER, BEFORE, LATER = "Lim et al. 2020, table 1", "as Lim et al. 2020 cite it", "later, another split"
PAPER_N = 3339
CLASSES = frozenset(("amusement", "anger", "awe", "contentment", "disgust", "excitement", "fear", "sadness"))
DEMO = "demo"

_PERCENT = (
    (PAPER, "MG Object", 63.70),
    (PAPER, "MG Places", 59.21),
    (PAPER, "MLP ANP", 47.37),
    (PAPER, "MG+Bi-GRU Object", 63.40),
    (PAPER, "MG+Bi-GRU+Att Object", 63.46),
    (PAPER, "MG+Bi-GRU+Att Places", 58.40),
    (PAPER, "MG EF O+P+ANP", 64.30),
    (PAPER, "MG LF O+P+ANP", 63.48),
    (PAPER, "MG LF O+P", 64.00),
    (PAPER, "MG+Bi-GRU+Att LF O+P", 63.76),
    (BEFORE, "You et al.", 58.30),
    (BEFORE, "LiteEmo", 64.87),
    (BEFORE, "MldrNet", 65.23),
    (LATER, "WSCNet", 70.07),
    (LATER, "SOLVER", 72.33),
    (LATER, "Stimuli-aware", 72.42),
    (LATER, "AOCNet", 74.04),
)


@dataclass(frozen=True)
class Published(JsonRecord):
    """An accuracy reported in the literature, with its interval if N is known."""

    name: str
    source: str
    accuracy: float
    accuracy_ci95: Interval | None


def published(results: Iterable[Result]) -> tuple[Published, ...]:
    """Returns the published numbers. Raises UsageError if a run is on the demo set or has other classes than FI."""
    for result in results:
        if result.data == DEMO or set(result.predictions.classes) != CLASSES:
            what = f"{result.name} is on {result.data}."
            raise UsageError("--published", what, right="The published numbers are for FI and its eight classes.")
    return tuple(
        Published(name, source, percent / 100, _interval(percent) if source == PAPER else None)
        for source, name, percent in _PERCENT
    )


def _interval(percent: float) -> Interval:
    return wilson(round(percent / 100 * PAPER_N), PAPER_N)
