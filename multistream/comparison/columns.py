"""The columns of a comparison, by name: as formatted text, and as unrounded numbers for CSV."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from multistream.bootstrap import Interval
from multistream.comparison.compare import ComparedRow
from multistream.comparison.run_results import IN_PERCENT
from multistream.errors import check_known, printable
from multistream.vote_distances import VOTE_MEASURES

SETTINGS = "settings"
"""The name that selects the columns of all settings in which the rows differ."""


@dataclass(frozen=True)
class Column:
    """A column: its heading, the text of a row's cell, and a row's values by name for CSV."""

    heading: str
    text: Callable[[ComparedRow], str]
    values: Callable[[ComparedRow], Mapping[str, Any]]
    bold: bool = False
    """Whether the largest value is the best and is set in bold."""


def percent(fraction: float | None, *, sign: bool = False) -> str:
    """Formats a fraction in percent with two decimals; None gives an empty string.

    >>> percent(0.643), percent(-0.0012, sign=True)
    ('64.30', '-0.12')
    """
    return "" if fraction is None else f"{100 * fraction:{'+' if sign else ''}.2f}"


def p_text(p: float | None) -> str:
    """Formats a p-value with four decimals, or as "<.0001"."""
    return "" if p is None else "<.0001" if p < 0.0001 else f"{p:.4f}"


def interval_text(interval: Interval | None, *, sign: bool = False) -> str:
    """Formats an interval in percent; None gives an empty string."""
    return f"[{percent(interval[0], sign=sign)}, {percent(interval[1], sign=sign)}]" if interval else ""


def heading(name: str) -> str:
    """Returns a setting's name without its section.

    >>> heading("training.learning_rate"), heading("streams")
    ('learning_rate', 'streams')
    """
    return name.partition(".")[2] or name


def shown(value: Any) -> str:
    """Formats a setting's value for a cell.

    >>> shown((0, 1)), shown(True), shown(None), shown("")
    ('0, 1', 'true', '-', '-')
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value)) or "-"
    return "-" if value in (None, "") else printable(str(value))


def _accuracy(row: ComparedRow) -> str:
    spread = "" if row.deviation is None else f" ± {percent(row.deviation)} ({row.repetitions})"
    return f"{percent(row.accuracy)}{spread}"


def _of_measure(measure: str, value: float | None, *, sign: bool = False) -> str:
    """Formats accuracies and mAP in percent, other measures with four decimals; None gives an empty string."""
    if measure in IN_PERCENT or value is None:
        return percent(value, sign=sign)
    return f"{value:{'+' if sign else ''}.4f}"


def _interval_of_measure(measure: str, interval: Interval | None, *, sign: bool = False) -> str:
    return f"[{', '.join(_of_measure(measure, end, sign=sign) for end in interval)}]" if interval else ""


def _of_difference(name: str) -> Callable[[ComparedRow], Any]:
    return lambda row: getattr(row.difference, name, None)


def _of_label_sets(name: str) -> Callable[[ComparedRow], float | None]:
    return lambda row: (row.label_sets or {}).get(name)


def _ends(name: str, interval: Interval | None) -> dict[str, float | None]:
    low, high = interval or (None, None)
    return {f"{name}_low": low, f"{name}_high": high}


def _fraction(title: str, name: str, *, get: Callable[[ComparedRow], Any], bold: bool = False) -> Column:
    return Column(title, lambda row: percent(get(row)), lambda row: {name: get(row)}, bold)


def _probability(title: str, name: str) -> Column:
    get = _of_difference(name)
    return Column(title, lambda row: p_text(get(row)), lambda row: {name: get(row)})


def _distance(name: str, title: str) -> Column:
    """Makes the column of a distance between predictions and votes; its cells are empty if there are no votes."""
    return Column(
        title,
        lambda row: f"{row.votes[name]:.4f}" if row.votes else "",
        lambda row: {name: (row.votes or {}).get(name)},
    )


_difference, _difference_ci95 = _of_difference("value"), _of_difference("ci95")

MEASURES: Mapping[str, Column] = {
    "n": Column(
        "n",
        lambda row: ", ".join(f"{n:,}" for n in dict.fromkeys(row.n)),
        lambda row: {"n": " ".join(map(str, dict.fromkeys(row.n))), "runs": len(row.runs), "splits": row.splits},
    ),
    "accuracy": Column(
        "accuracy %", _accuracy, lambda row: {"accuracy": row.accuracy, "deviation": row.deviation}, bold=True
    ),
    "interval": Column(
        "95 %", lambda row: interval_text(row.accuracy_ci95), lambda row: _ends("accuracy", row.accuracy_ci95)
    ),
    "score": Column(
        "score",  # `tables` replaces it by the measure's name
        lambda row: _of_measure(row.measure, row.score) if row.measure not in IN_PERCENT else "",  # own columns
        lambda row: {"score": row.score, "measure": row.measure},
    ),
    "map": _fraction("mAP %", "map", get=_of_label_sets("map"), bold=True),
    "score_interval": Column(
        "95 %",
        lambda row: _interval_of_measure(row.measure, row.score_ci95) if row.measure != "accuracy" else "",
        lambda row: _ends("score", row.score_ci95),
    ),
    "macro_f1": _fraction("macro-F1 %", "macro_f1", get=lambda row: row.macro_f1, bold=True),
    "micro_f1": _fraction("micro-F1 %", "micro_f1", get=_of_label_sets("micro_f1"), bold=True),
    "balanced_accuracy": _fraction("balanced %", "balanced_accuracy", get=lambda row: row.balanced_accuracy, bold=True),
    "difference": Column(
        "difference",
        lambda row: _of_measure(row.measure, _difference(row), sign=True),
        lambda row: {"difference": _difference(row)},
    ),
    "difference_interval": Column(
        "95 %",
        lambda row: _interval_of_measure(row.measure, _difference_ci95(row), sign=True),
        lambda row: _ends("difference", _difference_ci95(row)),
    ),
    "test": Column(
        "test", lambda row: _of_difference("test")(row) or "", lambda row: {"test": _of_difference("test")(row)}
    ),
    "p": _probability("p", "p_value"),
    "p_holm": _probability("p Holm", "p_holm"),
    "p_resampled": _probability("p resampled", "p_resampled"),
    **{name: _distance(name, title) for name, title in VOTE_MEASURES.items()},
    "detectable": Column(
        "detectable",
        lambda row: _of_measure(row.measure, _of_difference("smallest_detectable")(row)),
        lambda row: {"smallest_detectable": _of_difference("smallest_detectable")(row)},
    ),
    "parameters": Column(
        "parameters",
        lambda row: f"{row.parameters['total']:,}",
        lambda row: {"parameters": row.parameters["total"], "trainable": row.parameters["trainable"]},
    ),
}

WITHOUT_TEST_NAME = tuple(name for name in MEASURES if name != "test")
FOR_LATEX = (
    *("n", "accuracy", "interval", "score", "map", "score_interval", "micro_f1", "macro_f1", "balanced_accuracy", "kl"),
    *("difference", "p_holm", "detectable"),
)


def chosen_columns(names: Sequence[str], rows: Sequence[ComparedRow]) -> dict[str, Column]:
    """Selects columns by name: measures, `settings` for all settings that differ, or one of them by its dotted name.

    Raises UsageError for an unknown name.
    """
    settings = {name: _setting(name) for name in rows[0].settings}
    known: dict[str, Column] = {**MEASURES, **settings}
    check_known(names, [SETTINGS, *known], where="--columns")
    columns: dict[str, Column] = {}
    for name in names:
        columns |= settings if name == SETTINGS else {name: known[name]}
    return columns


def filled(columns: Mapping[str, Column], rows: Iterable[ComparedRow]) -> dict[str, Column]:
    """Selects the columns that are not empty in all rows."""
    rows = list(rows)
    return {name: column for name, column in columns.items() if any(column.text(row) for row in rows)}


def _setting(name: str) -> Column:
    return Column(heading(name), lambda row: shown(row.settings[name]), lambda row: {name: shown(row.settings[name])})
