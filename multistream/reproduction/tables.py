"""Table 1 as Markdown and LaTeX: the published accuracy next to ours."""

from __future__ import annotations

from multistream.comparison.columns import MEASURES, percent
from multistream.comparison.tables import Lines, piped, tabular
from multistream.reproduction.results import Reproduction

MEASURED = (
    *("interval", "macro_f1", "balanced_accuracy"),
    *("difference", "difference_interval", "p", "p_holm", "detectable"),
)
"""The columns of `compare` that the table has too."""


def as_markdown(found: Reproduction) -> str:
    """A title, the table, and the notes."""
    title = f"Table 1 on {found.data}, {found.n:,} test photos"
    return "\n\n".join([title, piped(_lines(found)), "\n".join(f"- {note}" for note in notes(found))]) + "\n"


def as_latex(found: Reproduction) -> str:
    """A tabular for the package booktabs, our best in bold; the notes are comments."""
    lines = _lines(found)
    best = max(row.measured.accuracy for row in found.rows)
    bold = [(i, 2) for i, row in enumerate(found.rows, 1) if row.measured.accuracy == best]
    comments = [f"% {note}" for note in (f"Table 1 on {found.data}, {found.n:,} test photos", *notes(found))]
    return "\n".join([*comments, tabular(lines, bold=bold)]) + "\n"


def notes(found: Reproduction) -> tuple[str, ...]:
    """The notes below the table."""
    tests = {row.measured.difference.test for row in found.rows if row.measured.difference}
    own = [
        f"difference: row minus {found.reference}, the best single stream (chosen on these photos, so biased upwards)",
        "p: McNemar's exact test over photos"
        if tests == {"mcnemar"}
        else "p: t test over photos; each photo counts once",
        f"Holm: over the table's {sum(row.measured.difference is not None for row in found.rows)} tests",
        "detectable: true difference detected with 80 % power at this number of photos",
    ]
    return (*found.notes, *own)


def _lines(found: Reproduction) -> Lines:
    columns = [MEASURES[name] for name in MEASURED]
    lines = [["", "published %", "ours %", *(column.heading for column in columns)]]
    for row in found.rows:
        own = [row.measured.name, percent(row.published), percent(row.measured.accuracy)]
        lines.append([*own, *(column.text(row.measured) for column in columns)])
    return lines
