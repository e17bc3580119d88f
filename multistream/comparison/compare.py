"""compare: one table of runs, with paired tests against a reference row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np

from multistream.bootstrap import Interval
from multistream.comparison.differing_settings import Groups, grouped, what_differs
from multistream.comparison.published_numbers import Published, published
from multistream.comparison.run_results import HIGHER_IS_BETTER, MEASURES, Result, default_measure, read_result
from multistream.comparison.run_scores import (
    Difference,
    PhotoScores,
    RunScores,
    difference,
    score_photos,
    shared_photos,
)
from multistream.errors import UsageError, check_known
from multistream.records import JsonRecord
from multistream.runs.predictions_file import photo_keys
from multistream.statistics import holm, oracle_any

Against = Literal["first", "best"]


@dataclass(frozen=True)
class ComparedRow(JsonRecord):
    """A run, or several runs that differ only in their seeds; each measure is then the mean over the runs."""

    name: str
    """The given name, else the first run's folder and the number of further runs in the row."""
    runs: tuple[str, ...]
    data: str
    settings: Mapping[str, Any]
    """This row's values of the settings in which rows differ, by dotted name; a tuple if its runs differ."""
    n: tuple[int, ...]
    """The number of test predictions of each run."""
    splits: int
    """The number of splits (split seeds) of the runs."""
    accuracies: tuple[float, ...]
    accuracy: float
    accuracy_ci95: Interval
    """Wilson's interval over photos if each was tested once, else a bootstrap over photos."""
    deviation: float | None
    """The standard deviation over runs; None for a single run."""
    macro_f1: float
    balanced_accuracy: float | None
    """None if photos may have several labels."""
    parameters: Mapping[str, int]
    difference: Difference | None
    """The difference from the reference row; None for the reference itself."""
    measure: str
    """The compared measure: one of `run_results.MEASURES`."""
    score: float
    """The mean over runs of `measure`."""
    score_ci95: Interval
    votes: Mapping[str, float] | None = None
    """Distances between predictions and votes by name, if all runs have votes."""
    label_sets: Mapping[str, float] | None = None
    """Mean average precision (`map`) and `micro_f1`, if photos may have several labels; `accuracy` then counts exact
    matches."""

    @property
    def repetitions(self) -> str:
        """The repetitions in words: `5 seeds`, `5 splits`, or `10 runs` if both differ; empty for one run."""
        count = len(self.runs)
        if count == 1:
            return ""
        return f"{count} {'seeds' if self.splits == 1 else 'splits' if self.splits == count else 'runs'}"

    def to_dict(self) -> dict[str, Any]:
        """Returns the JSON object, with the measures of label sets next to the others."""
        values = super().to_dict()
        label_sets = values.pop("label_sets")
        return values | (label_sets or {})


@dataclass(frozen=True)
class Comparison(JsonRecord):
    """Rows in the given order, all compared with the row at index `reference` by one measure."""

    measure: str
    rows: tuple[ComparedRow, ...]
    reference: int
    oracle: float | None
    """The fraction of photos that at least one row classifies correctly; None unless all rows are single runs on the
    same photos."""
    published: tuple[Published, ...]
    notes: tuple[str, ...]
    """Notes on how to read the numbers."""


def compare(
    runs: Sequence[str | PathLike[str]],
    *,
    against: Against = "first",
    measure: str = "",
    names: Mapping[str, str] | None = None,
    with_published: bool = False,
) -> Comparison:
    """Compares finished runs on their test photos. The reference of the differences is the first or the best row.

    `measure` is compared by the paired tests: `accuracy`, `nll` (negative log-likelihood of the label), one of
    `vote_distances.VOTE_MEASURES` if the runs have votes, or `map` (mean average precision) with several labels; "" is
    `map` if all runs have it, else `accuracy`. `names` are the names of rows, by the path of one of their runs. Photos
    are matched by their bytes. Raises UsageError or DataError for runs that cannot be read or do not have the measure.
    """
    if measure:
        check_known([measure], MEASURES, where="--measure")
    paths = [Path(run).expanduser() for run in runs]
    _check_once(paths)
    row_names = _names_of_runs(names or {}, paths)
    results = [read_result(path) for path in paths]
    measure = measure or default_measure(results)
    if with_published and measure != "accuracy":
        raise UsageError("--published", "the published results are accuracies.", do="Pass --measure accuracy.")
    groups = grouped(results)
    scores = [score_photos(group, measure) for group in groups]
    reference = _best(scores) if against == "best" else 0
    rows = _rows(groups, scores, reference, row_names)
    return Comparison(
        measure=measure,
        rows=rows,
        reference=reference,
        oracle=_oracle(groups),
        published=published(results) if with_published else (),
        notes=_notes(rows, reference, against),
    )


def _best(scores: Sequence[RunScores]) -> int:
    sign = 1 if scores[0].measure in HIGHER_IS_BETTER else -1
    return int(np.argmax([sign * each.mean for each in scores]))


def _rows(
    groups: Groups, scores: Sequence[RunScores], reference: int, given: Mapping[str, str]
) -> tuple[ComparedRow, ...]:
    differences = [difference(scores[reference], own) if i != reference else None for i, own in enumerate(scores)]
    columns, rows = what_differs(groups), []
    for i, (own, each) in enumerate(zip(scores, with_holm(differences), strict=True)):
        settings = {name: values[i] for name, values in columns.items()}
        rows.append(compared_row(own, name=_name(own.results, given), settings=settings, difference=each))
    return tuple(rows)


def _check_once(paths: Sequence[Path]) -> None:
    if not paths:
        raise UsageError("compare", "no run is given.", right="Pass the folders of one or more runs.")
    seen: set[Path] = set()
    for path in paths:
        if path.resolve() in seen:
            raise UsageError("compare", f"{path} is given twice.")
        seen.add(path.resolve())


def _names_of_runs(names: Mapping[str, str], paths: Sequence[Path]) -> dict[str, str]:
    """Returns {run as given: its row's name}. Raises UsageError for a name whose run is not compared."""
    known = {path.resolve(): str(path) for path in paths}
    named = {run: Path(run).expanduser().resolve() for run in names}
    if unknown := [run for run, path in named.items() if path not in known]:
        right = f"It must be one of {', '.join(map(str, paths))}."
        raise UsageError("--name", f"{unknown[0]} is not among the compared runs.", right=right)
    return {known[named[run]]: name for run, name in names.items()}


def _name(group: Sequence[Result], given: Mapping[str, str]) -> str:
    named = [given[result.name] for result in group if result.name in given]
    if len(set(named)) > 1:
        what = f"{' and '.join(dict.fromkeys(named))} are runs of one row: they differ only in seeds."
        raise UsageError("--name", what, do="Use one name for the row.")
    if named:
        return named[0]
    return group[0].name if len(group) == 1 else f"{group[0].name} and {len(group) - 1} more"


def compared_row(
    scores: RunScores, *, name: str, settings: Mapping[str, Any], difference: Difference | None
) -> ComparedRow:
    """Computes the measures of one row."""
    group = scores.results
    accuracies = tuple(result.accuracy for result in group)
    return ComparedRow(
        name=name,
        runs=tuple(result.name for result in group),
        data=group[0].data,
        settings=settings,
        n=tuple(len(set(photo_keys(result.predictions))) for result in group),
        splits=len({result.recipe.data.split_seed for result in group}),
        accuracies=accuracies,
        accuracy=float(np.mean(accuracies)),
        accuracy_ci95=PhotoScores.of(group, "accuracy").ci95,
        deviation=float(np.std(accuracies, ddof=1)) if len(group) > 1 else None,
        macro_f1=float(np.mean([result.macro_f1 for result in group])),
        balanced_accuracy=_mean([result.balanced_accuracy for result in group]),
        parameters=group[0].parameters,
        difference=difference,
        measure=scores.measure,
        score=scores.mean,
        score_ci95=scores.ci95,
        votes=_means([result.distances for result in group]),
        label_sets=_means([result.label_set_measures for result in group]),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    """Returns the mean over runs; None unless all runs have a value."""
    return None if None in values else float(np.mean(np.array(values)))


def _means(measures: Sequence[Mapping[str, float] | None]) -> dict[str, float] | None:
    """Returns the mean over runs of each measure; None unless all runs have them."""
    known = [each for each in measures if each is not None]
    if len(known) < len(measures):
        return None
    return {name: float(np.mean([each[name] for each in known])) for name in known[0]}


def with_holm(differences: Sequence[Difference | None]) -> list[Difference | None]:
    """Adds p-values corrected by Holm's method over all tested differences."""
    adjusted = iter(holm([each.p_value for each in differences if each and each.p_value is not None]))
    return [replace(each, p_holm=next(adjusted)) if each and each.p_value is not None else each for each in differences]


def _oracle(groups: Groups) -> float | None:
    """Returns the fraction of photos that at least one run classifies correctly.

    None unless all rows are single runs on the same photos.
    """
    if len(groups) < 2 or max(map(len, groups)) > 1:
        return None
    scores = [PhotoScores.of(group, "accuracy") for group in groups]
    if max(int(each.tested.max()) for each in scores) > 1:
        return None
    correct = []
    for each in scores:
        rows = shared_photos(scores[0], each)
        if isinstance(rows, str) or not len(rows[0]) == len(scores[0].total) == len(each.total):
            return None
        correct.append(each.total[rows[1]] > 0)  # rows[0] is 0 .. N-1: all photos of the first row
    return oracle_any(np.stack(correct))


MCNEMAR = (
    "p: McNemar's test, exact, two-sided, on the photos on which both were tested; intervals of "
    "differences: bootstrap of photos"
)
OVER_PHOTOS = (
    "p of rows with several runs: t test over photos. A photo counts once, however many runs tested it: seeds are not "
    "independent samples"
)
PAIRED_T = "p: paired t test over photos, each of which counts once; intervals of differences: bootstrap of photos"

BOOTSTRAP = "p: difference over its standard error in a bootstrap of photos, which gives the intervals too"


def _notes(rows: Sequence[ComparedRow], reference: int, against: Against) -> tuple[str, ...]:
    named = [(row.name, row.difference) for row in rows if row.difference]
    differences = [each for _, each in named]
    tests = {each.test for each in differences}
    tested = len(differences) - [each.p_value for each in differences].count(None)
    measure = rows[reference].measure
    better = "higher" if measure in HIGHER_IS_BETTER else "lower"
    notes = [
        (differences, f"reference: {rows[reference].name}; each difference is the row minus the reference"),
        (measure != "accuracy", f"differences and tests: {MEASURES[measure]}; {better} is better"),
        (
            differences and against == "best",
            f"the best was chosen on the test photos, so its {MEASURES[measure]} is optimistic",
        ),
        (any(row.label_sets for row in rows), "accuracy: images with all their labels and no other (exact match)"),
        ("mcnemar" in tests, MCNEMAR),
        ("bootstrap" in tests, BOOTSTRAP),
        ("photos" in tests, OVER_PHOTOS if measure == "accuracy" else PAIRED_T),
        (
            any(each.p_resampled is not None for each in differences),
            "p resampled: corrected t test over splits (Nadeau, Bengio 2003), since random splits overlap",
        ),
        (tested > 1, f"Holm: over the table's {tested} tests"),
        *((each.note, f"{name}: {each.note}") for name, each in named),
        (
            any(each.smallest_detectable for each in differences),
            "detectable: true difference detected with 80 % power at this number of photos",
        ),
    ]
    return tuple(note for holds, note in notes if holds)
