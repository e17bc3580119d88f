"""What ablate returns and `--json` prints, and its files: JSON and CSV in the run's folder."""

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
"""Of the CSV file, with the metric's own name for `score`."""


@dataclass(frozen=True)
class Metric:
    """What the rows of an ablation are measured by: its `title` for people, and its names in files.

    `name` replaces `score`, `plural` replaces `scores`, and `of_class` replaces the `score` of one class.
    """

    title: str
    name: str
    plural: str
    of_class: str

    def named(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row with these names for its scores."""
        classes = {name: {self.of_class: own["score"], "delta": own["delta"]} for name, own in row["per_class"].items()}
        return {self.column(name): value for name, value in row.items()} | {"per_class": classes}

    def column(self, name: str) -> str:
        """`score_ci95` as `accuracy_ci95`, and so on."""
        return self.plural if name == "scores" else name.replace("score", self.name)


ACCURACY = Metric("accuracy", "accuracy", "accuracies", "accuracy")
MAP = Metric("mAP", "map", "maps", "average_precision")
"""Mean average precision, where an image may have several labels."""
METRICS = {metric.name: metric for metric in (ACCURACY, MAP)}


@dataclass(frozen=True)
class VariantResult:
    """One variant: what is kept, {key: stages}; how good it is when it is trained again; what it costs.

    `score` is the ablation's metric, `delta` the score less the complete network's, `p_value` the test of it (exact
    McNemar, or for the mAP the difference over its bootstrap standard error), `p_holm` corrected for all rows; None
    for the whole itself. `masked_score` is that of the whole, trained once, with the training mean
    instead of the missing taps and without the missing streams. `macs` are multiply-adds and `ms_p50` milliseconds
    for one image.
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
    """Of each seed, within each split."""
    masked_score: float | None
    ridge_score: float | None
    """Of a ridge probe on the same pooled features, on the axis `taps`."""
    pareto: bool
    """Whether no other row is as good for fewer multiply-adds."""
    per_class: Mapping[str, Mapping[str, float]]
    """{class: {"score", "delta"}}"""


@dataclass(frozen=True)
class TapShapley:
    """The Shapley value of a tap in the game whose value is the score after training again; over R training runs."""

    stream: str
    stage: str
    value: float
    deviation: float | None


@dataclass(frozen=True)
class PairOfStreams:
    """How two streams, each trained alone, do on the same photos."""

    first: str
    second: str
    disagreement: float
    double_fault: float
    oracle: float
    """The fraction of photos that at least one gets right."""


@dataclass(frozen=True)
class LeftOut:
    """A fusion without one stream: its score, and the difference to the fusion of all."""

    fusion: str
    stream: str
    score: float
    delta: float


@dataclass(frozen=True)
class StreamComplement:
    """How streams complete each other: pairs, leave-one-out by fusion, and the ceiling of any choice among them."""

    pairs: tuple[PairOfStreams, ...]
    leave_one_out: tuple[LeftOut, ...]
    oracle_any: float


@dataclass(frozen=True)
class RidgeCertificate:
    """Ridge probes of all subsets from one Gram matrix, compared with direct least squares in float64."""

    checked: int
    largest_difference: float


LARGEST_DIFFERENCE = 1e-5
"""By how much a row may differ from the row trained alone."""


@dataclass(frozen=True)
class VerifiedRow:
    """One row trained among all, compared with the row trained alone: the largest difference of a probability.

    `largest_difference` is that to the loop of all rows over this row alone, `difference_to_train` that to `train`'s
    own loop on the same pooled features, over all photos and classes.
    """

    label: str
    seed: int
    largest_difference: float
    difference_to_train: float


@dataclass(frozen=True)
class Ablation:
    """The rows of an axis, the whole network last; `n` test photos, some of them tested by several training runs."""

    axis: str
    rows: tuple[VariantResult, ...]
    seconds: float
    training_seconds: float
    seeds: tuple[int, ...]
    split_seeds: tuple[int, ...]
    n: int
    trained_on: str
    """`pooled features`, where all rows train over one pass of the streams, or `photos`."""
    stacked: int
    """Networks that trained as one batch; the others trained one at a time."""
    data: str
    run: str
    metric: Metric = ACCURACY
    shapley: tuple[TapShapley, ...] = ()
    streams: StreamComplement | None = None
    ridge: RidgeCertificate | None = None
    verified: VerifiedRow | None = None

    @property
    def whole(self) -> VariantResult:
        """The whole composition, with which the rows are compared."""
        return self.rows[-1]

    def to_dict(self) -> dict[str, Any]:
        """What `ablate --json` prints: scores have the metric's name."""
        found, named = asdict(self), self.metric.named
        found |= {"metric": self.metric.name, "rows": [named(row) for row in found["rows"]]}
        if found["streams"]:
            parts = found["streams"]["leave_one_out"]
            found["streams"]["leave_one_out"] = [{self.metric.column(k): v for k, v in part.items()} for part in parts]
        return found


def save_result(result: Ablation, folder: Path, *, cut: str = "") -> Path:
    """Writes the result as JSON and CSV below `folder`, under the next free name; returns the JSON's path."""
    path = result_path(folder, result.axis, cut=cut)
    write_json(path, result.to_dict())
    write_csv(result, path.with_suffix(".csv"))
    return path


def result_path(folder: Path, axis: str, *, cut: str = "") -> Path:
    """The next free name of a result below `folder`."""
    name = f"{axis}-{cut}" if cut else axis
    free = (folder / f"{name}-{n}.json" for n in itertools.count(1))
    return first_free(free)


def write_csv(result: Ablation, path: Path) -> None:
    """Writes the rows as CSV; then a column for each class, with the score on it."""
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
    found = {**vars(row), "keep": keep, "score_low": low, "score_high": high, "pareto": int(row.pareto)}
    return [found[name] for name in COLUMNS]  # csv writes None as an empty cell
