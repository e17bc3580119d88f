"""Table 1 as Markdown and LaTeX: the published accuracy, if it compares, next to ours."""

from __future__ import annotations

from multistream.comparison.columns import MEASURES, interval_text, percent
from multistream.comparison.run_results import MEASURES as NAMES_OF_MEASURES
from multistream.comparison.tables import Lines, piped, tabular
from multistream.reproduction.results import Reproduction

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
