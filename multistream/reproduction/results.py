"""Results of a reproduction: our table rows, curves, confusion matrix and galleries, next to the published numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from multistream.comparison.compare import ComparedRow


@dataclass(frozen=True)
class ReproducedRow:
    """A row of table 1: ours, compared with our best single stream, next to the published accuracy on FI."""

    key: str
    measured: ComparedRow
    published: float | None
    """A fraction."""


@dataclass(frozen=True)
class ReproducedCurve:
    """Accuracy and 95 % interval with 1 to n stages, next to the published accuracies on FI (fractions)."""

    name: str
    stages: tuple[str, ...]
    accuracies: tuple[float, ...]
    intervals: tuple[tuple[float, float], ...]
    published: tuple[float, ...]


@dataclass(frozen=True)
class ReproducedConfusion:
    """Counts [label][predicted] of the early fusion over all test predictions; published recalls where known."""

    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    published_recalls: dict[str, float]


@dataclass(frozen=True)
class ReproducedGallery:
    """Figure 5 of n test photos: how many all, some or none of the streams get right, and the names of its files."""

    n: int
    outcomes: Mapping[str, int]
    files: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"n": self.n, "outcomes": dict(self.outcomes), "files": list(self.files)}


@dataclass(frozen=True)
class Reproduction:
    """The results of a reproduction; targets that were not requested are empty."""

    data: str
    n: int
    rows: tuple[ReproducedRow, ...]
    reference: str
    """The best single stream, which the other rows are compared with."""
    curves: tuple[ReproducedCurve, ...]
    confusion: ReproducedConfusion | None
    gallery: ReproducedGallery | None
    trained: int
    """Trainings that were made now; the others were there."""
    seconds: float
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """What `reproduce --json` prints."""
        return {
            "data": self.data,
            "n": self.n,
            "reference": self.reference,
            "rows": [{"key": r.key, "published": r.published, **r.measured.to_dict()} for r in self.rows],
            "curves": [
                {
                    "name": curve.name,
                    "stages": list(curve.stages),
                    "accuracies": list(curve.accuracies),
                    "intervals": [list(interval) for interval in curve.intervals],
                    "published": list(curve.published),
                }
                for curve in self.curves
            ],
            "confusion": self.confusion
            and {"classes": list(self.confusion.classes), "counts": [list(row) for row in self.confusion.counts]},
            "gallery": self.gallery and self.gallery.to_dict(),
            "trained": self.trained,
            "seconds": self.seconds,
            "notes": list(self.notes),
        }
