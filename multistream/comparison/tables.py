"""A comparison as text: a table for people, Markdown, LaTeX, CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from multistream.comparison.compare import Comparison, Row
from multistream.comparison.published_numbers import Published
from multistream.data.filenames import printable
from multistream.statistics import Interval

Lines = list[list[str]]


def as_table(comparison: Comparison) -> str:
    """Columns in line; below them the published numbers, if any, and the notes."""
    head, *rows = cells(comparison)
    parts = [_aligned([head, *rows])]
    if comparison.published:
        parts.append(_aligned(_published(comparison.published)))
    return "\n\n".join([*parts, *(["\n".join(told(comparison))] if told(comparison) else [])])


def as_markdown(comparison: Comparison) -> str:
    """A pipe table, a second one of published numbers, and the notes as a list."""
    parts = [_piped(cells(comparison))]
    if comparison.published:
        parts.append(_piped(_published(comparison.published)))
    if notes := told(comparison):
        parts.append("\n".join(f"- {_for_markdown(note)}" for note in notes))
    return "\n\n".join(parts)


def as_latex(comparison: Comparison) -> str:
    """A tabular for the package booktabs; the notes are comments."""
    parts = [f"% {printable(note)}" for note in told(comparison)] + [_tabular(cells(comparison))]
    return "\n".join(parts + ([_tabular(_published(comparison.published))] if comparison.published else []))


def as_csv(comparison: Comparison) -> str:
    """One line a row, numbers in full (shares, not percent); notes and published numbers are not in it."""
    text = io.StringIO()
    names = list(comparison.rows[0].settings)
    writer = csv.writer(text, lineterminator="\n")
    numbers = [_numbers(row) for row in comparison.rows]
    writer.writerow(["run", *names, *numbers[0]])
    for row, values in zip(comparison.rows, numbers, strict=True):
        runs, settings = " ".join(row.runs), [shown(row.settings[name]) for name in names]
        writer.writerow([*map(_for_spreadsheet, (runs, *settings)), *("" if v is None else v for v in values.values())])
    return text.getvalue().rstrip("\n")


FORMATS: Mapping[str, Callable[[Comparison], str]] = {
    "table": as_table,
    "markdown": as_markdown,
    "latex": as_latex,
    "csv": as_csv,
}


def cells(comparison: Comparison) -> Lines:
    """The table as texts, its head first; columns in which no row says anything are left out."""
    rows = comparison.rows
    head = ["run", *(heading(name) for name in rows[0].settings)]
    head += ["n", "accuracy %", "95 %", "difference", "95 %", "p", "p Holm", "detectable", "parameters"]
    lines = [[row.name, *map(shown, row.settings.values()), *_measured(row)] for row in rows]
    used = [i for i, column in enumerate(zip(*lines, strict=True)) if any(column)]
    return [[line[i] for i in used] for line in (head, *lines)]


def told(comparison: Comparison) -> tuple[str, ...]:
    """The notes, and what the best choice for each photo would reach."""
    if comparison.oracle is None:
        return comparison.notes
    n = comparison.rows[0].n[0]
    return (*comparison.notes, f"at least one row is right on {percent(comparison.oracle)} % of the {n:,} photos")


def heading(name: str) -> str:
    """A setting's name without its section.

    >>> heading("training.learning_rate"), heading("streams")
    ('learning_rate', 'streams')
    """
    return name.partition(".")[2] or name


def shown(value: Any) -> str:
    """A setting's value as a cell shows it.

    >>> shown((0, 1)), shown(True), shown(None), shown("")
    ('0, 1', 'true', '-', '-')
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value)) or "-"
    return "-" if value in (None, "") else printable(str(value))


def percent(share: float, *, sign: bool = False) -> str:
    """A share in percent with two decimals.

    >>> percent(0.643), percent(-0.0012, sign=True)
    ('64.30', '-0.12')
    """
    return f"{100 * share:{'+' if sign else ''}.2f}"


def p_text(p: float | None) -> str:
    """A p value in three digits; what is smaller than .0001 is said to be so."""
    return "" if p is None else "<.0001" if p < 0.0001 else f"{p:.4f}"


def _interval(interval: Interval | None, *, sign: bool = False) -> str:
    return f"[{percent(interval[0], sign=sign)}, {percent(interval[1], sign=sign)}]" if interval else ""


def _measured(row: Row) -> list[str]:
    """The cells that every row has, empty where there is nothing to say."""
    spread = "" if row.deviation is None else f" ± {percent(row.deviation)} ({len(row.runs)} seeds)"
    found = row.difference
    detectable = found.smallest_detectable if found else None
    return [
        ", ".join(f"{n:,}" for n in dict.fromkeys(row.n)),
        f"{percent(row.accuracy)}{spread}",
        _interval(row.accuracy_ci95),
        percent(found.value, sign=True) if found else "",
        _interval(found.ci95, sign=True) if found else "",
        p_text(found.p_value) if found else "",
        p_text(found.p_holm) if found else "",
        percent(detectable) if detectable else "",
        f"{row.parameters['total']:,}",
    ]


def _numbers(row: Row) -> dict[str, Any]:
    """The same in full digits, by name."""
    found = row.difference
    low, high = found.ci95 if found and found.ci95 else (None, None)
    return {
        "n": " ".join(map(str, dict.fromkeys(row.n))),
        "seeds": len(row.runs),
        "accuracy": row.accuracy,
        "accuracy_low": row.accuracy_ci95[0],
        "accuracy_high": row.accuracy_ci95[1],
        "deviation": row.deviation,
        "difference": found.value if found else None,
        "difference_low": low,
        "difference_high": high,
        "test": found.test if found else None,
        "p_value": found.p_value if found else None,
        "p_holm": found.p_holm if found else None,
        "smallest_detectable": found.smallest_detectable if found else None,
        "parameters": row.parameters["total"],
        "trainable": row.parameters["trainable"],
    }


def _published(rows: Sequence[Published]) -> Lines:
    head = ["published on FI, not ours", "source", "accuracy %", "95 %"]
    return [head, *([each.name, each.source, percent(each.accuracy), _interval(each.accuracy_ci95)] for each in rows)]


def _aligned(lines: Lines) -> str:
    """Texts to the left, numbers to the right."""
    columns = list(zip(*lines, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [_is_number(column) for column in columns]
    return "\n".join(
        "  ".join(
            cell.rjust(w) if number else cell.ljust(w) for cell, w, number in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    )


def _is_number(column: Sequence[str]) -> bool:
    return all(cell.lstrip("<+-[.")[:1].isdigit() for cell in column[1:] if cell.strip("-"))


def _piped(lines: Lines) -> str:
    marks = ["---:" if _is_number(column) else ":---" for column in zip(*lines, strict=True)]
    safe = [[_for_markdown(cell) for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in (safe[0], marks, *safe[1:]))


def _tabular(lines: Lines) -> str:
    letters = "".join("r" if _is_number(column) else "l" for column in zip(*lines, strict=True))
    head, *rows = (" & ".join(map(_for_latex, line)) + r" \\" for line in lines)
    return "\n".join(
        [rf"\begin{{tabular}}{{{letters}}}", r"\toprule", head, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}"]
    )


_LATEX = {c: f"\\{c}" for c in "#$%&_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "±": r"$\pm$",
}


def _for_latex(cell: str) -> str:
    return "".join(_LATEX.get(c, c) for c in cell)


def _for_markdown(cell: str) -> str:
    """A cell that cannot end itself, be emphasis or be HTML."""
    return "".join({"<": "&lt;", ">": "&gt;"}.get(c, f"\\{c}" if c in "\\|*_`[" else c) for c in cell)


def _for_spreadsheet(cell: str) -> str:
    """A cell that no spreadsheet runs as a formula."""
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@")) and len(cell) > 1 else cell
