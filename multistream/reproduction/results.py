"""The results of a reproduction with the published numbers: rows, curves, confusion matrix and galleries, and table 1
as Markdown and LaTeX.
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
    """A row of table 1: the measured row, compared with the best single stream, and the published accuracy on FI."""

    key: str
    measured: ComparedRow
    published: float | None
    """The published accuracy as a fraction; None if no comparable number was published."""

    def to_dict(self) -> dict[str, Any]:
        """Returns the JSON object: the measures, and the published number."""
        return {"key": self.key, "published": self.published, **self.measured.to_dict()}


@dataclass(frozen=True)
class ReproducedCurve(JsonRecord):
    """The scores and their 95 % intervals with 1 to n stages, and the published accuracies on FI, as fractions.

    `measure` is `accuracy` or, if photos may have several labels, `map` (the mean average precision).
    """

    name: str
    stages: tuple[str, ...]
    measure: str
    scores: tuple[float, ...]
    intervals: tuple[tuple[float, float], ...]
    published: tuple[float, ...]


@dataclass(frozen=True)
class ReproducedConfusion(JsonRecord):
    """Counts [label][predicted] of the early fusion over all test predictions, and published recalls by class.

    `totals` are the denominators of the cells: the photos with the label or, if photos may have several, off the
    diagonal the photos with the label and without the predicted one. `published_recalls` is empty for other classes
    than FI's.
    """

    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    totals: tuple[tuple[int, ...], ...]
    predicted: str
    """The meaning of a column, in words."""
    published_recalls: dict[str, float]


@dataclass(frozen=True)
class ReproducedGallery(JsonRecord):
    """Figure 5 of n test photos: how many of them all, some or no streams classify correctly, and its file names."""

    n: int
    outcomes: Mapping[str, int]
    files: tuple[str, ...]


@dataclass(frozen=True)
class Reproduction(JsonRecord):
    """The results of a reproduction; targets that were not requested are empty."""

    data: str
    n: int
    reference: str
    """The name of the best single stream, with which the other rows are compared."""
    rows: tuple[ReproducedRow, ...]
    curves: tuple[ReproducedCurve, ...]
    confusion: ReproducedConfusion | None
    gallery: ReproducedGallery | None
    trained: int
    """The number of runs trained in this call; the others were already finished."""
    seconds: float
    notes: tuple[str, ...]


COLUMNS = (
    *("macro_f1", "micro_f1", "balanced_accuracy"),
    *("difference", "difference_interval", "p", "p_holm", "detectable"),
)
"""The columns of `compare` that the table includes if they are not empty."""
TESTS = {
    "mcnemar": "p: McNemar's exact test over photos",
    "photos": "p: t test over photos; each photo counts once",
    "bootstrap": "p: difference over its standard error in a bootstrap of photos; each photo counts once",
}


def as_markdown(found: Reproduction) -> str:
    """Formats a title, the table, and the notes."""
    title = f"Table 1 on {found.data}, {found.n:,} test photos"
    return "\n\n".join([title, piped(_lines(found)), "\n".join(f"- {note}" for note in notes(found))]) + "\n"


def as_latex(found: Reproduction) -> str:
    """Formats a tabular for the package booktabs, with the best measured score in bold; the notes are comments."""
    lines = _lines(found)
    best, column = max(row.measured.score for row in found.rows), lines[0].index(_heading(found))
    bold = [(i, column) for i, row in enumerate(found.rows, 1) if row.measured.score == best]
    comments = [f"% {note}" for note in (f"Table 1 on {found.data}, {found.n:,} test photos", *notes(found))]
    return "\n".join([*comments, tabular(lines, bold=bold)]) + "\n"


def notes(found: Reproduction) -> tuple[str, ...]:
    """Returns the notes below the table."""
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
    """Returns the table's cells with its headings; columns that are empty in all rows are left out."""
    columns = [MEASURES[name] for name in COLUMNS]
    lines = [["", "published %", _heading(found), "95 %", *(column.heading for column in columns)]]
    for row in found.rows:
        own = [percent(row.published), percent(row.measured.score), interval_text(row.measured.score_ci95)]
        lines.append([row.measured.name, *own, *(column.text(row.measured) for column in columns)])
    filled = [column for column in zip(*lines, strict=True) if any(column[1:])]
    return [list(line) for line in zip(*filled, strict=True)]
