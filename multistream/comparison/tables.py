"""A comparison as text: a plain table, Markdown, LaTeX or CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from multistream.comparison.columns import (
    FOR_LATEX,
    MEASURES,
    SETTINGS,
    WITHOUT_TEST_NAME,
    Column,
    chosen_columns,
    filled,
    interval_text,
    percent,
)
from multistream.comparison.compare import Comparison
from multistream.comparison.published_numbers import Published
from multistream.comparison.run_results import MEASURES as NAMES_OF_MEASURES
from multistream.errors import printable

Lines = list[list[str]]


def as_table(comparison: Comparison, columns: Sequence[str] = ()) -> str:
    """Formats aligned columns, then the published numbers (if any) and the notes."""
    notes = "\n".join(all_notes(comparison))
    return "\n\n".join(filter(None, [*map(aligned, _tables(comparison, columns)), notes]))


def as_markdown(comparison: Comparison, columns: Sequence[str] = ()) -> str:
    """Formats a pipe table, a second one of published numbers (if any), and the notes as a list."""
    notes = "\n".join(f"- {_for_markdown(note)}" for note in all_notes(comparison))
    return "\n\n".join(filter(None, [*map(piped, _tables(comparison, columns)), notes]))


def as_latex(comparison: Comparison, columns: Sequence[str] = ()) -> str:
    """Formats a tabular for the package booktabs, with the best values in bold; the notes are comments."""
    columns = columns or FOR_LATEX
    notes = [f"% {printable(note)}" for note in all_notes(comparison)]
    own, *others = _tables(comparison, columns)
    best = _best(comparison, _columns(comparison, columns))
    return "\n".join([*notes, tabular(own, bold=best), *map(tabular, others)])


def as_csv(comparison: Comparison, columns: Sequence[str] = ()) -> str:
    """Formats one line per row, with unrounded fractions; it has no notes and no published numbers."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    shown = chosen_columns(columns or (SETTINGS, *MEASURES), comparison.rows)
    values = [{k: v for each in shown.values() for k, v in each.values(row).items()} for row in comparison.rows]
    skipped = 0 if any(row.name not in row.runs for row in comparison.rows) else 1  # names only if some are given
    writer.writerow(["name", "run", *values[0]][skipped:])
    for row, numbers in zip(comparison.rows, values, strict=True):
        writer.writerow([*map(_csv_cell, (row.name, " ".join(row.runs), *numbers.values()))][skipped:])
    return text.getvalue().rstrip("\n")


FORMATS: Mapping[str, Callable[[Comparison, Sequence[str]], str]] = {
    "table": as_table,
    "markdown": as_markdown,
    "latex": as_latex,
    "csv": as_csv,
}


def cells(comparison: Comparison, columns: Sequence[str] = ()) -> Lines:
    """Returns the table's cells as text, the headings first; columns that are empty in all rows are left out."""
    shown = _columns(comparison, columns)
    head = ["run", *(column.heading for column in shown.values())]
    return [head, *([row.name, *(column.text(row) for column in shown.values())] for row in comparison.rows)]


def _tables(comparison: Comparison, columns: Sequence[str]) -> list[Lines]:
    """Returns the table of rows and, if the comparison has them, that of the published numbers."""
    own = cells(comparison, columns)
    return [own, _published(comparison.published)] if comparison.published else [own]


def _columns(comparison: Comparison, columns: Sequence[str]) -> dict[str, Column]:
    shown = filled(chosen_columns(columns or (SETTINGS, *WITHOUT_TEST_NAME), comparison.rows), comparison.rows)
    if "score" in shown:
        shown["score"] = replace(shown["score"], heading=NAMES_OF_MEASURES[comparison.measure])
    return shown


def _best(comparison: Comparison, columns: Mapping[str, Column]) -> list[tuple[int, int]]:
    """Returns (row, column) of the largest values of columns with a best value; row 0 and column 0 are headings."""
    if len(comparison.rows) < 2:
        return []
    bold_cells = []
    for place, column in enumerate(columns.values(), 1):
        if column.bold:
            values = [next(iter(column.values(row).values())) for row in comparison.rows]
            bold_cells += [(i, place) for i, value in enumerate(values, 1) if value == max(values)]
    return bold_cells


def all_notes(comparison: Comparison) -> tuple[str, ...]:
    """Returns the notes, and the fraction of photos that at least one run classifies correctly."""
    if comparison.oracle is None:
        return comparison.notes
    n = comparison.rows[0].n[0]
    return (
        *comparison.notes,
        f"at least one of the runs is correct on {percent(comparison.oracle)} % of the {n:,} photos",
    )


def _published(rows: Sequence[Published]) -> Lines:
    lines = [["published on FI, not measured here", "source", "accuracy %", "95 %"]]
    for each in rows:
        lines.append([each.name, each.source, percent(each.accuracy), interval_text(each.accuracy_ci95)])
    return lines


def aligned(lines: Lines) -> str:
    """Aligns columns: texts to the left, numbers to the right."""
    columns = [_justified(column) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(line).rstrip() for line in zip(*columns, strict=True))


def _justified(column: Sequence[str]) -> list[str]:
    width, mark = max(map(len, column)), ">" if _is_number(column) else "<"
    return [f"{cell:{mark}{width}}" for cell in column]


def _is_number(column: Sequence[str]) -> bool:
    return all(cell.lstrip("<+-[.")[:1].isdigit() for cell in column[1:] if cell.strip("-"))


def piped(lines: Lines) -> str:
    """Formats a Markdown table."""
    marks = ["---:" if _is_number(column) else ":---" for column in zip(*lines, strict=True)]
    safe = [list(map(_for_markdown, line)) for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in (safe[0], marks, *safe[1:]))


def tabular(lines: Lines, *, bold: Sequence[tuple[int, int]] = ()) -> str:
    """Formats a LaTeX tabular for booktabs; `bold` are (row, column) of the cells in bold."""
    letters = "".join("r" if _is_number(column) else "l" for column in zip(*lines, strict=True))
    texts = [[cell.translate(_LATEX) for cell in line] for line in lines]
    for row, column in bold:
        texts[row][column] = rf"\textbf{{{texts[row][column]}}}"
    head, *rows = (" & ".join(line) + r" \\" for line in texts)
    return "\n".join(
        [rf"\begin{{tabular}}{{{letters}}}", r"\toprule", head, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}"]
    )


_LATEX = str.maketrans(
    {c: f"\\{c}" for c in "#$%&_{}"}
    | {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": "$<$",
        ">": "$>$",
        "±": r"$\pm$",
    }
)
_MARKDOWN = str.maketrans({"<": "&lt;", ">": "&gt;"} | {c: f"\\{c}" for c in "\\|*_`["})


def _for_markdown(cell: str) -> str:
    """Escapes a cell, so that it cannot end early, be emphasised or be HTML."""
    return cell.translate(_MARKDOWN)


def _csv_cell(value: object) -> object:
    """Escapes text that a spreadsheet would run as a formula; csv writes None as an empty cell."""
    is_formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@")) and len(value) > 1
    return f"'{value}" if is_formula else value
