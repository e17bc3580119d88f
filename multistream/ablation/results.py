"""The result of `ablate`, its JSON form, and its files: JSON and CSV in the run's folder."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from multistream.bootstrap import Interval
from multistream.files import write_atomic
from multistream.runs import first_free, write_json

COLUMNS = (
    *("keep", "fusion", "score", "score_low", "score_high", "delta", "p_value", "p_holm"),
    *("masked_score", "ridge_score", "params", "macs", "ms_p50", "pareto"),
)
"""The columns of the CSV file; the metric's name replaces `score`."""


@dataclass(frozen=True)
class Metric:
    """The metric of an ablation's rows: its printed `title`, and its names in files.

    `name` replaces `score`, `plural` replaces `scores`, and `of_class` replaces the `score` of one class.
    """

    title: str
    name: str
    plural: str
    of_class: str

    def named(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Renames the scores of a row."""
        classes = {
            name: {self.of_class: scores["score"], "delta": scores["delta"]}
            for name, scores in row["per_class"].items()
        }
        return {self.column(name): value for name, value in row.items()} | {"per_class": classes}

    def column(self, name: str) -> str:
        """Renames a column, for example `score_ci95` to `accuracy_ci95`."""
        return self.plural if name == "scores" else name.replace("score", self.name)


ACCURACY = Metric("accuracy", "accuracy", "accuracies", "accuracy")
MAP = Metric("mAP", "map", "maps", "average_precision")
"""Mean average precision, for images with several labels."""
METRICS = {metric.name: metric for metric in (ACCURACY, MAP)}


@dataclass(frozen=True)
class VariantResult:
    """One variant: its kept stages {key: stages}, its score after retraining, and its cost.

    `score` is the ablation's metric, `delta` the score minus the complete network's. `p_value` tests `delta` (exact
    McNemar, or for the mAP the difference over its bootstrap standard error), and `p_holm` is corrected for all rows;
    both are None for the complete network. `masked_score` is the score of the complete network, trained once, with the
    training mean in place of missing taps and without the missing streams. `macs` and `ms_p50` are the multiply-adds
    and milliseconds of one image.
    """

    keep: Mapping[str, tuple[str, ...]]
    fusion: str
    label: str
    score: float
    score_ci95: Interval
    delta: float
    p_value: float | None
    p_holm: float | None
    params: int
    macs: int
    ms_p50: float
    scores: tuple[float, ...]
    """The score of each training run: seeds within splits."""
    masked_score: float | None
    ridge_score: float | None
    """The score of a ridge probe on the same pooled features, on the axis `taps`."""
    pareto: bool
    """Whether no other row has at least the same score with fewer multiply-adds."""
    per_class: Mapping[str, Mapping[str, float]]
    """{class: {"score", "delta"}}"""


@dataclass(frozen=True)
class TapShapley:
    """The Shapley value of a tap in the game of retrained scores: mean and standard deviation over training runs."""

    stream: str
    stage: str
    value: float
    deviation: float | None


@dataclass(frozen=True)
class PairOfStreams:
    """The agreement of two streams, each trained alone, on the same photos, as fractions."""

    first: str
    second: str
    disagreement: float
    double_fault: float
    oracle: float
    """The fraction of photos that at least one of the two classifies correctly."""


@dataclass(frozen=True)
class LeftOut:
    """A fusion without one stream: its score, and the difference from the fusion of all streams."""

    fusion: str
    stream: str
    score: float
    delta: float


@dataclass(frozen=True)
class StreamComplement:
    """The complementarity of streams: pairs, leave-one-out by fusion, and the oracle over all streams."""

    pairs: tuple[PairOfStreams, ...]
    leave_one_out: tuple[LeftOut, ...]
    oracle_any: float


@dataclass(frozen=True)
class RidgeCertificate:
    """Ridge probes of all subsets from one Gram matrix, compared with direct least squares in float64."""

    checked: int
    largest_difference: float


LARGEST_DIFFERENCE = 1e-5
"""The largest allowed difference of a probability between a row and the same row trained alone."""


@dataclass(frozen=True)
class VerifiedRow:
    """The largest difference of a probability between one row of a batch and the same row trained alone.

    `largest_difference` is the difference from the ablation's loop with only this row, `difference_to_train` that from
    the loop of `train` on the same pooled features; both are over all photos and classes.
    """

    label: str
    seed: int
    largest_difference: float
    difference_to_train: float


@dataclass(frozen=True)
class Ablation:
    """The rows of an axis, the complete network last; several training runs may test each of the `n` test photos."""

    axis: str
    rows: tuple[VariantResult, ...]
    seconds: float
    training_seconds: float
    seeds: tuple[int, ...]
    split_seeds: tuple[int, ...]
    n: int
    trained_on: str
    """`pooled features` if all rows train on features of one pass of the streams, else `photos`."""
    stacked: int
    """The number of networks trained in a batch; the others were trained one at a time."""
    data: str
    run: str
    metric: Metric = ACCURACY
    shapley: tuple[TapShapley, ...] = ()
    streams: StreamComplement | None = None
    ridge: RidgeCertificate | None = None
    verified: VerifiedRow | None = None

    @property
    def whole(self) -> VariantResult:
        """The complete network, with which the rows are compared."""
        return self.rows[-1]

    def to_dict(self) -> dict[str, Any]:
        """Returns the object of `ablate --json`, in which scores have the metric's name."""
        values, named = asdict(self), self.metric.named
        values |= {"metric": self.metric.name, "rows": [named(row) for row in values["rows"]]}
        if values["streams"]:
            parts = values["streams"]["leave_one_out"]
            values["streams"]["leave_one_out"] = [{self.metric.column(k): v for k, v in part.items()} for part in parts]
        return values


def save_result(result: Ablation, folder: Path, *, cut: str = "") -> Path:
    """Writes the result as JSON and CSV below `folder`, under the next free name; returns the JSON's path."""
    path = result_path(folder, result.axis, cut=cut)
    write_json(path, result.to_dict())
    write_csv(result, path.with_suffix(".csv"))
    return path


def result_path(folder: Path, axis: str, *, cut: str = "") -> Path:
    """Returns the next free path of a result below `folder`."""
    name = f"{axis}-{cut}" if cut else axis
    free = (folder / f"{name}-{n}.json" for n in itertools.count(1))
    return first_free(free)


def write_csv(result: Ablation, path: Path) -> None:
    """Writes the rows as CSV, with an additional column for the score of each class."""
    classes, metric = list(result.whole.per_class), result.metric
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow([*map(metric.column, COLUMNS), *(f"{metric.of_class}_{name}" for name in classes)])
    for row in result.rows:
        lines.writerow([*_cells(row), *(row.per_class[name]["score"] for name in classes)])
    write_atomic(path.expanduser(), text.getvalue())


def _cells(row: VariantResult) -> list[object]:
    keep = " ".join(f"{key}:{'+'.join(stages)}" for key, stages in row.keep.items())
    low, high = row.score_ci95
    cells = {**vars(row), "keep": keep, "score_low": low, "score_high": high, "pareto": int(row.pareto)}
    return [cells[name] for name in COLUMNS]  # csv writes None as an empty cell
