"""Results of a reproduction next to the published numbers: rows, curves, confusion matrix, galleries; and Table 1 as
Markdown and LaTeX.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from multistream.comparison.columns import MEASURES, interval_text, percent
from multistream.comparison.compare import ComparedRow
from multistream.comparison.run_results import MEASURES as NAMES_OF_MEASURES
from multistream.comparison.tables import Lines, piped, tabular
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


COLUMNS = (
    *("macro_f1", "micro_f1", "balanced_accuracy"),
    *("difference", "difference_interval", "p", "p_holm", "detectable"),
)
"""The columns of `compare` that the table has too, where they apply."""
TESTS = {
    "mcnemar": "p: McNemar's exact test over photos",
    "photos": "p: t test over photos; each photo counts once",
    "bootstrap": "p: difference over its standard error in a bootstrap of photos; each photo counts once",
}


def as_markdown(found: Reproduction) -> str:
    """A title, the table, and the notes."""
    title = f"Table 1 on {found.data}, {found.n:,} test photos"
    return "\n\n".join([title, piped(_lines(found)), "\n".join(f"- {note}" for note in notes(found))]) + "\n"


def as_latex(found: Reproduction) -> str:
    """A tabular for the package booktabs, our best in bold; the notes are comments."""
    lines = _lines(found)
    best, column = max(row.measured.score for row in found.rows), lines[0].index(_heading(found))
    bold = [(i, column) for i, row in enumerate(found.rows, 1) if row.measured.score == best]
    comments = [f"% {note}" for note in (f"Table 1 on {found.data}, {found.n:,} test photos", *notes(found))]
    return "\n".join([*comments, tabular(lines, bold=bold)]) + "\n"


def notes(found: Reproduction) -> tuple[str, ...]:
    """The notes below the table."""
    tests = {row.measured.difference.test for row in found.rows if row.measured.difference}
    own = [
        f"difference: row minus {found.reference}, the best single stream (chosen on these photos, so biased upwards)",
        *(text for test, text in TESTS.items() if test in tests),
        f"Holm: over the table's {sum(row.measured.difference is not None for row in found.rows)} tests",
        "detectable: true difference detected with 80 % power at this number of photos",
    ]
    return (*found.notes, *own)


def _heading(found: Reproduction) -> str:
    return f"{NAMES_OF_MEASURES[found.rows[0].measured.measure]} %"


def _lines(found: Reproduction) -> Lines:
    """The table with its head; columns in which no row says anything are left out."""
    columns = [MEASURES[name] for name in COLUMNS]
    lines = [["", "published %", _heading(found), "95 %", *(column.heading for column in columns)]]
    for row in found.rows:
        own = [percent(row.published), percent(row.measured.score), interval_text(row.measured.score_ci95)]
        lines.append([row.measured.name, *own, *(column.text(row.measured) for column in columns)])
    filled = [column for column in zip(*lines, strict=True) if any(column[1:])]
    return [list(line) for line in zip(*filled, strict=True)]
