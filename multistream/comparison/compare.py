"""compare: one table of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from multistream.comparison.differing_settings import Groups, grouped, what_differs
from multistream.comparison.paired_tests import Difference, difference, matched
from multistream.comparison.published_numbers import Published, published
from multistream.comparison.run_results import Result, read_result
from multistream.errors import UsageError
from multistream.statistics import Interval, holm, oracle_any, over_seeds, wilson

Against = Literal["first", "best"]


@dataclass(frozen=True)
class Row:
    """A run, or several that are equal but for their seeds: then accuracy is the mean, with a deviation."""

    runs: tuple[str, ...]
    data: str
    settings: Mapping[str, Any]
    """What this row has where rows differ, by dotted name; a tuple where its runs do."""
    n: tuple[int, ...]
    """Test photos of each run."""
    accuracies: tuple[float, ...]
    accuracy: float
    accuracy_ci95: Interval
    """Wilson's over photos for one run, Student's over seeds for several."""
    deviation: float | None
    parameters: Mapping[str, int]
    difference: Difference | None
    """To the reference row, which has none."""

    @property
    def name(self) -> str:
        """The run's folder, and how many more are in the row."""
        return self.runs[0] if len(self.runs) == 1 else f"{self.runs[0]} and {len(self.runs) - 1} more"

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "runs": list(self.runs),
            "data": self.data,
            "settings": {name: list(v) if isinstance(v, tuple) else v for name, v in self.settings.items()},
            "n": list(self.n),
            "accuracies": list(self.accuracies),
            "accuracy": self.accuracy,
            "accuracy_ci95": list(self.accuracy_ci95),
            "deviation": self.deviation,
            "parameters": dict(self.parameters),
            "difference": self.difference.to_dict() if self.difference else None,
        }


@dataclass(frozen=True)
class Comparison:
    """Rows in the order given, all held against the row `reference`."""

    rows: tuple[Row, ...]
    reference: int
    oracle: float | None
    """The share of photos that at least one row gets right, where all rows are single runs on the same photos."""
    published: tuple[Published, ...]
    notes: tuple[str, ...]
    """What a reader must know to read the numbers."""

    def to_dict(self) -> dict[str, Any]:
        """What `compare --json` prints."""
        return {
            "rows": [row.to_dict() for row in self.rows],
            "reference": self.reference,
            "oracle": self.oracle,
            "published": [each.to_dict() for each in self.published],
            "notes": list(self.notes),
        }


def compare(runs: Sequence[str | Path], *, against: Against = "first", with_published: bool = False) -> Comparison:
    """Compares finished runs on their own test photos; rows are held against the first, or the most accurate.

    Photos are matched by their bytes. Raises UsageError or DataError for runs that cannot be read.
    """
    paths = [Path(run).expanduser() for run in runs]
    _check_once(paths)
    results = [read_result(path) for path in paths]
    groups = grouped(results)
    means = [float(np.mean([result.accuracy for result in group])) for group in groups]
    reference = int(np.argmax(means)) if against == "best" else 0
    found = [difference(groups[reference], group) if i != reference else None for i, group in enumerate(groups)]
    found = _with_holm(found)
    columns = what_differs(groups)
    rows = tuple(
        _row(group, {name: values[i] for name, values in columns.items()}, found[i]) for i, group in enumerate(groups)
    )
    return Comparison(
        rows=rows,
        reference=reference,
        oracle=_oracle(groups),
        published=published(results) if with_published else (),
        notes=_notes(rows, reference, against),
    )


def _check_once(paths: Sequence[Path]) -> None:
    if not paths:
        raise UsageError("compare", "no run is given.", right="It takes the folders of one run or more.")
    resolved = [path.resolve() for path in paths]
    for i, path in enumerate(paths):
        if resolved[i] in resolved[:i]:
            raise UsageError("compare", f"{path} is given twice.")


def _row(group: Sequence[Result], settings: Mapping[str, Any], found: Difference | None) -> Row:
    accuracies = tuple(result.accuracy for result in group)
    spread = over_seeds(accuracies) if len(group) > 1 else None
    return Row(
        runs=tuple(result.name for result in group),
        data=group[0].data,
        settings=settings,
        n=tuple(len(result.predictions) for result in group),
        accuracies=accuracies,
        accuracy=spread.mean if spread else accuracies[0],
        accuracy_ci95=spread.ci95 if spread else wilson(int(group[0].correct.sum()), len(group[0].correct)),
        deviation=spread.deviation if spread else None,
        parameters=group[0].parameters,
        difference=found,
    )


def _with_holm(found: Sequence[Difference | None]) -> list[Difference | None]:
    """The differences with Holm's p values over all that were tested."""
    tested = [(i, each, each.p_value) for i, each in enumerate(found) if each and each.p_value is not None]
    adjusted = list(found)
    for (i, each, _), p in zip(tested, holm([p for *_, p in tested]), strict=True):
        adjusted[i] = replace(each, p_holm=p)
    return adjusted


def _oracle(groups: Groups) -> float | None:
    """What choosing the right run for each photo would reach."""
    if len(groups) < 2 or any(len(group) > 1 for group in groups):
        return None
    first, *others = (group[0] for group in groups)
    correct = [first.correct]
    for other in others:
        rows = matched(first, other)
        if isinstance(rows, str) or not len(rows[0]) == len(first.correct) == len(other.correct):
            return None
        correct.append(other.correct[rows[1]])  # rows[0] is 0 .. N-1: every photo of the first is there
    return oracle_any(np.stack(correct))


_TESTS = {
    "mcnemar": "p: McNemar, exact, two-sided, on the photos that both runs tested; intervals of differences: paired"
    " bootstrap",
    "paired t": "p of rows with several seeds: Student's paired t over seeds, which speaks of the training's chance,"
    " not of the photos'",
    "welch t": "p of rows with several seeds that are not the same: Welch's t over seeds",
}


def _notes(rows: Sequence[Row], reference: int, against: Against) -> tuple[str, ...]:
    found = [(row, row.difference) for row in rows if row.difference]
    used = dict.fromkeys(each.test for _, each in found if each.test)
    tested = sum(each.p_value is not None for _, each in found)
    notes = [f"reference: {rows[reference].name}"] if found else []
    if found and against == "best":
        notes.append("the best was chosen on the test photos: its own accuracy flatters it")
    notes += [_TESTS[test] for test in used]
    notes += [f"Holm: over the table's {tested} tests"] if tested > 1 else []
    notes += [f"{row.name}: {each.note}" for row, each in found if each.note]
    if any(each.smallest_detectable for _, each in found):
        notes.append("detectable: the true difference that so many photos show in 8 of 10 cases")
    return tuple(notes)
