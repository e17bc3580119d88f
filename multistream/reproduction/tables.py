"""Table 1 as Markdown and LaTeX: the published accuracy next to ours."""

from __future__ import annotations

from multistream.comparison.columns import interval_text, p_text, percent
from multistream.comparison.tables import Lines, piped, tabular
from multistream.reproduction.results import ReproducedRow, Reproduction

HEAD = (
    "",
    "published %",
    "ours %",
    "95 %",
    "macro-F1 %",
    "balanced %",
    "difference",
    "95 %",
    "p",
    "p Holm",
    "detectable",
)


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
    return [list(HEAD), *(_line(row) for row in found.rows)]


def _line(row: ReproducedRow) -> list[str]:
    measured, difference = row.measured, row.measured.difference
    return [
        measured.name,
        percent(row.published),
        percent(measured.accuracy),
        interval_text(measured.accuracy_ci95),
        percent(measured.macro_f1),
        percent(measured.balanced_accuracy),
        percent(difference.value, sign=True) if difference else "",
        interval_text(difference.ci95, sign=True) if difference else "",
        p_text(difference.p_value) if difference else "",
        p_text(difference.p_holm) if difference else "",
        percent(difference.smallest_detectable) if difference else "",
    ]
