"""Results of a reproduction: our table rows, curves, confusion matrix and galleries, next to the published numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from multistream.comparison.compare import ComparedRow
from multistream.records import JsonRecord


@dataclass(frozen=True)
class ReproducedRow(JsonRecord):
    """A row of table 1: ours, compared with our best single stream, next to the published accuracy on FI."""

    key: str
    measured: ComparedRow
    published: float | None
    """A fraction; None where photos may have several labels."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: the measures next to the published number."""
        return {"key": self.key, "published": self.published, **self.measured.to_dict()}


@dataclass(frozen=True)
class ReproducedCurve(JsonRecord):
    """The score and its 95 % interval with 1 to n stages, next to the published accuracies on FI (fractions).

    `measure` is accuracy or, where photos may have several labels, map (the mean average precision).
    """

    name: str
    stages: tuple[str, ...]
    measure: str
    scores: tuple[float, ...]
    intervals: tuple[tuple[float, float], ...]
    published: tuple[float, ...]


@dataclass(frozen=True)
class ReproducedConfusion(JsonRecord):
    """Counts [label][predicted] of the early fusion over all test predictions; published recalls where known.

    `totals` are the photos that each cell counts among: those with the label or, where photos may have several, off
    the diagonal those that have not the predicted one.
    """

    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    totals: tuple[tuple[int, ...], ...]
    predicted: str
    """What a column means, in words."""
    published_recalls: dict[str, float]


@dataclass(frozen=True)
class ReproducedGallery(JsonRecord):
    """Figure 5 of n test photos: how many all, some or none of the streams get right, and the names of its files."""

    n: int
    outcomes: Mapping[str, int]
    files: tuple[str, ...]


@dataclass(frozen=True)
class Reproduction(JsonRecord):
    """The results of a reproduction; targets that were not requested are empty."""

    data: str
    n: int
    reference: str
    """The best single stream, which the other rows are compared with."""
    rows: tuple[ReproducedRow, ...]
    curves: tuple[ReproducedCurve, ...]
    confusion: ReproducedConfusion | None
    gallery: ReproducedGallery | None
    trained: int
    """Trainings that were made now; the others were there."""
    seconds: float
    notes: tuple[str, ...]
