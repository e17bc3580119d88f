"""The result of `profile`: a row for each part, their total, a sweep over batch sizes, and the machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from multistream.profiling.counting import Count
from multistream.profiling.machine import Latency, Roofline

ABOVE = ("taps", "temporal", "head", "fusion")
"""The parts after the streams' maps: they run in float32, and only they (without pooling) run on cached features."""

ADDED = ("params", "trainable", "macs", "flops", "activations", "bytes", "moved_bytes", "ms_roofline")


@dataclass(frozen=True)
class StageCost:
    """The cost of one stage: counts for one image (`flops` are 2 x `macs`), milliseconds for the profile's batch."""

    stream: str
    stage: str
    shape: tuple[int, ...]
    params: int
    params_cumulative: int
    trainable: int
    macs: int
    flops: int
    activations: int
    """The elements returned by convolutions and matrix products."""
    bytes: int
    """The bytes of the activations in float32."""
    moved_bytes: int
    """The bytes of parameters, input and output in the runtime's precision: the least that must be moved."""
    peak_bytes: int
    """The peak memory of tensors that are alive while it runs, in float32."""
    ms_p50: float
    ms_p95: float
    ms_roofline: float
    """The lower bound by this machine's measured matrix product and copy: the longer of the two times."""
    roofline: float
    """`ms_roofline / ms_p50`."""


@dataclass(frozen=True)
class Profile:
    """Rows in the order of computation, their total, a sweep over batch sizes, and the machine."""

    rows: tuple[StageCost, ...]
    total: StageCost
    cached: StageCost
    """The cost that remains if features are cached: taps, temporal modules, heads, fusion."""
    sweep: tuple[Mapping[str, float], ...]
    batch: int
    runtime: str
    roofline: Roofline

    def to_dict(self) -> dict[str, Any]:
        """Returns the object of `profile --json`."""
        return asdict(self)


Piece = tuple[Count, tuple[int, ...], int, int]
"""The counts of one part: operations, output shape, number of parameters, number of trainable parameters."""


def make_rows(
    pieces: Mapping[tuple[str, str], Piece],
    times: Mapping[tuple[str, str], Latency],
    *,
    batch: int,
    width: int,
    roofline: Roofline,
) -> tuple[StageCost, ...]:
    """Builds the rows of all parts; an element of a stream has `width` bytes."""
    rows: list[StageCost] = []
    cumulative = 0
    for (stream, stage), (counted, shape, params, trainable) in pieces.items():
        cumulative += params
        latency = times[stream, stage]
        element_bytes = 4 if stage in ABOVE else width
        products = batch * counted.macs / roofline.macs_per_second
        copies = element_bytes * (params + batch * counted.moved) / roofline.bytes_per_second
        lower_bound = 1e3 * max(products, copies)
        rows.append(
            StageCost(
                stream=stream,
                stage=stage,
                shape=shape,
                params=params,
                params_cumulative=cumulative,
                trainable=trainable,
                macs=counted.macs,
                flops=2 * counted.macs,
                activations=counted.activations,
                bytes=4 * counted.activations,
                moved_bytes=element_bytes * (params + counted.moved),
                peak_bytes=counted.peak_bytes,
                ms_p50=latency.p50,
                ms_p95=latency.p95,
                ms_roofline=round(lower_bound, 6),
                roofline=_share(lower_bound, latency.p50),
            )
        )
    return tuple(rows)


def summed(rows: Sequence[StageCost], name: str) -> StageCost:
    """Sums all rows to one, with the largest peak; the sum of the 95th percentiles is an upper bound."""
    added = {field: sum(getattr(row, field) for row in rows) for field in ADDED}
    p50, p95 = (round(sum(getattr(row, field) for row in rows), 4) for field in ("ms_p50", "ms_p95"))
    return StageCost(
        stream="",
        stage=name,
        shape=rows[-1].shape,
        params_cumulative=added["params"],
        peak_bytes=max(row.peak_bytes for row in rows),
        ms_p50=p50,
        ms_p95=p95,
        roofline=_share(added["ms_roofline"], p50),
        **added,
    )


def _share(least: float, taken: float) -> float:
    """Returns the lower bound as a fraction of the measured time; 0 if the time is 0."""
    return round(least / taken, 4) if taken else 0.0
