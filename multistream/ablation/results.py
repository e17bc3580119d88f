"""What ablate returns, and `--json` prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from multistream.statistics import Interval


@dataclass(frozen=True)
class Row:
    """One variant: what is kept, {key: stages}; how accurate it is when it is trained again; what it costs.

    `delta` is accuracy less the whole composition's, `p_value` the exact McNemar test of it, `p_holm` corrected for
    all rows; None for the whole itself. `masked_accuracy` is that of the whole, trained once, with the training mean
    in place of the missing taps and without the missing streams. `macs` are multiply-adds and `ms_p50` milliseconds
    for one image.
    """

    keep: Mapping[str, tuple[str, ...]]
    fusion: str
    label: str
    accuracy: float
    accuracy_ci95: Interval
    delta: float
    p_value: float | None
    p_holm: float | None
    params: int
    macs: int
    ms_p50: float
    accuracies: tuple[float, ...]
    """Of each seed, within each split."""
    masked_accuracy: float | None
    ridge_accuracy: float | None
    """Of a ridge probe on the same pooled features, on the axis `taps`."""
    pareto: bool
    """Whether no other row is as accurate for fewer multiply-adds."""
    per_class: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Share:
    """The Shapley value of a tap: its mean part in the accuracy of all subsets, trained again; over R trainings."""

    stream: str
    stage: str
    value: float
    deviation: float | None


@dataclass(frozen=True)
class Pair:
    """How two streams, each trained alone, do on the same photos."""

    first: str
    second: str
    disagreement: float
    double_fault: float
    oracle: float
    """The share of photos that at least one gets right."""


@dataclass(frozen=True)
class LeftOut:
    """A fusion without one stream: accuracy, and the difference to the fusion of all."""

    fusion: str
    stream: str
    accuracy: float
    delta: float


@dataclass(frozen=True)
class Complement:
    """How streams complete each other: pairs, leave-one-out by fusion, and the ceiling of any choice among them."""

    pairs: tuple[Pair, ...]
    leave_one_out: tuple[LeftOut, ...]
    oracle_any: float


@dataclass(frozen=True)
class Certificate:
    """Ridge probes of all subsets from one Gram matrix, held against direct least squares in float64 (checks B4)."""

    checked: int
    largest_difference: float


@dataclass(frozen=True)
class Verified:
    """One row trained alone, held against the same row trained among all: the largest difference of any weight.

    `difference_to_train` is that to the weights which `train`'s own loop gives, on the same pooled features.
    """

    label: str
    seed: int
    largest_difference: float
    difference_to_train: float

    @property
    def identical(self) -> bool:
        """Whether the two are the same bits."""
        return self.largest_difference == 0


@dataclass(frozen=True)
class Ablation:
    """The rows of an axis, the whole composition last; `n` test photos, some of them tested by several trainings."""

    axis: str
    rows: tuple[Row, ...]
    seconds: float
    training_seconds: float
    seeds: tuple[int, ...]
    split_seeds: tuple[int, ...]
    n: int
    trained_on: str
    """`pooled features`, where all rows train in one pass, or `photos`."""
    stacked: int
    """Networks that trained as one; the others trained side by side."""
    data: str
    run: str
    shapley: tuple[Share, ...] = ()
    streams: Complement | None = None
    ridge: Certificate | None = None
    verified: Verified | None = None

    @property
    def whole(self) -> Row:
        """The whole composition, which the rows are held against."""
        return self.rows[-1]

    def to_dict(self) -> dict[str, Any]:
        """What `ablate --json` prints."""
        found = asdict(self)
        if self.verified is not None:
            found["verified"]["identical"] = self.verified.identical
        return found
