"""profile: what a network costs, a row for each stage, tap set, temporal and fusion. Weights are never needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, record_function
from torch.profiler import profile as torch_profile

from multistream.composition import example_input
from multistream.interfaces import VECTOR, FusionOutput, Stream
from multistream.modes import evaluating
from multistream.network import Branch, MultiStream
from multistream.profiling.counting import Count, count, without_numbers
from multistream.profiling.machine import Latency, Roofline, latency, measure_roofline, synchronise
from multistream.runtime import Runtime

SWEEP = (1, 4, 16, 64)


@dataclass(frozen=True)
class Row:
    """What one piece costs at batch 1; `flops` are 2 x `macs`, times are milliseconds at the profile's batch."""

    stream: str
    stage: str
    shape: tuple[int, ...]
    params: int
    params_cumulative: int
    trainable: int
    macs: int
    flops: int
    activations: int
    bytes: int
    peak_bytes: int
    ms_p50: float
    ms_p95: float
    roofline: float
    """Share of the machine's matrix product rate, measured in the same run."""


@dataclass(frozen=True)
class Profile:
    """Rows in the order of computation, their total, a sweep over batch sizes, and the machine."""

    rows: tuple[Row, ...]
    total: Row
    cached: Row
    """What is left to compute where the streams' pooled features are cached: taps, temporals, fusion."""
    sweep: tuple[Mapping[str, float], ...]
    batch: int
    runtime: str
    roofline: Roofline

    def to_dict(self) -> dict[str, Any]:
        """What `profile --json` prints."""
        return asdict(self)


Visit = Callable[[str, str, Callable[[], Any], Sequence[nn.Module]], Any]
"""Told of each piece (stream, stage, what runs it, whose parameters it uses); returns what it computed."""


def profile(
    network: MultiStream,
    *,
    runtime: Runtime,
    batch: int = 1,
    repeats: int = 10,
    sweep: Sequence[int] = SWEEP,
    trace: Path | None = None,
) -> Profile:
    """Counts and times every piece of a network; its modes, weights and device are left as they were.

    Counts are for one image, times for `batch`. `trace` writes a timeline with a range for every stream and stage.
    """
    home = next(iter(network.parameters()), torch.empty(0)).device
    with evaluating(network), torch.no_grad():
        counts = count_pieces(network.cpu())
        runtime.place(network)
        try:
            roofline = measure_roofline(runtime)
            times = time_pieces(network, runtime=runtime, batch=batch, repeats=repeats)
            if trace:
                write_trace(network, trace, runtime=runtime, batch=batch)
            whole = tuple(_swept(network, size, runtime=runtime, repeats=repeats) for size in sweep)
        finally:
            network.to(home)
    rate = roofline.macs_per_second * 1e-3 / batch
    rows = _rows(counts, times, rate)
    heads = [row for row in rows if row.stage in ("taps", "temporal", "fusion")]
    return Profile(
        rows=rows,
        total=_sum(rows, "total", rate),
        cached=_sum(heads, "cached", rate),
        sweep=whole,
        batch=batch,
        runtime=str(runtime),
        roofline=roofline,
    )


def walk(network: MultiStream, batch: Mapping[str, Tensor], visit: Visit) -> Any:
    """Runs a network piece by piece, in its order, through `visit`; returns the FusionOutput."""
    vectors = {}
    for key, branch in network.branches.items():
        maps = _walk_stream(key, branch, batch[key], visit)
        tokens = visit(key, "taps", partial(_tokens, branch, maps), list(branch.taps.values()))
        if branch.temporal is None:
            vectors[key] = tokens.squeeze(1)
        else:
            vectors[key] = visit(key, "temporal", partial(branch.temporal, tokens), [branch.temporal])
    return visit("", "fusion", partial(network.fusion, vectors), [network.fusion])


def count_pieces(network: MultiStream) -> dict[tuple[str, str], tuple[Count, tuple[int, ...], int, int]]:
    """{(stream, stage): (count, output shape, parameters, trainable ones)} for one image."""
    found = {}

    def visit(stream: str, stage: str, run: Callable[[], Any], modules: Sequence[nn.Module]) -> Any:
        counted, result = count(run)
        parameters = [p for module in modules for p in module.parameters()]
        sizes = sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)
        found[stream, stage] = (counted, _shape(result), *sizes)
        return result

    with without_numbers():
        walk(network, example_batch(network, 1), visit)
    return found


def time_pieces(network: MultiStream, *, runtime: Runtime, batch: int, repeats: int) -> dict[tuple[str, str], Latency]:
    """{(stream, stage): latency}, each piece alone, on what the piece before gave."""
    found = {}

    def visit(stream: str, stage: str, run: Callable[[], Any], modules: Sequence[nn.Module]) -> Any:
        del modules
        with _cast(runtime, stage):
            found[stream, stage] = latency(run, runtime, repeats=repeats)
            return run()

    walk(network, runtime.send(example_batch(network, batch)), visit)
    return found


def write_trace(network: MultiStream, path: Path, *, runtime: Runtime, batch: int) -> None:
    """Writes a timeline of one pass (Perfetto, chrome://tracing): ranges are named `stream/stage`."""

    def visit(stream: str, stage: str, run: Callable[[], Any], modules: Sequence[nn.Module]) -> Any:
        del modules
        with _cast(runtime, stage), record_function(f"{stream}/{stage}" if stream else stage):
            return run()

    given = runtime.send(example_batch(network, batch))
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if runtime.device.type == "cuda" else [])
    with torch_profile(activities=activities) as recorded:
        walk(network, given, visit)
        synchronise(runtime)
    path.parent.mkdir(parents=True, exist_ok=True)
    recorded.export_chrome_trace(str(path))


def example_batch(network: MultiStream, size: int) -> dict[str, Tensor]:
    """A batch of zeros that this network reads, by stream key."""
    return {key: example_input(branch.stream, batch=size) for key, branch in network.branches.items()}


def _walk_stream(key: str, branch: Branch, x: Tensor, visit: Visit) -> dict[str, Tensor]:
    stream = branch.stream
    if branch.is_vector:
        found: dict[str, Tensor] = visit(key, VECTOR, partial(stream, x), [stream])
        return found
    state: Any = None
    maps: dict[str, Tensor] = {}
    for name, stage in stream.stages.items():
        run = partial(stage, state) if maps else partial(_first_stage, stream, stage, x)
        state = visit(key, name, run, [stage])
        maps[name] = stream.to_map(state, name)
    return maps


def _first_stage(stream: Stream, stage: nn.Module, x: Tensor) -> Any:
    return stage(stream.prepare(x))


def _tokens(branch: Branch, maps: Mapping[str, Tensor]) -> Tensor:
    return branch.tokens({stage: tap.pool(maps[stage]) for stage, tap in branch.taps.items()})


def _cast(runtime: Runtime, stage: str) -> AbstractContextManager[object]:
    """Streams run in the runtime's precision, all above in float32, as in training."""
    return nullcontext() if stage in ("taps", "temporal", "fusion") else runtime.autocast


def _swept(network: MultiStream, size: int, *, runtime: Runtime, repeats: int) -> dict[str, float]:
    """Latency and throughput of the whole network at one batch size."""
    given = runtime.send(example_batch(network, size))

    def run() -> Tensor:
        with runtime.autocast:
            pooled = network.pool(given)
        return network.classify(pooled)

    taken = latency(run, runtime, repeats=repeats, warmup=1)
    return {
        "batch": size,
        "ms_p50": taken.p50,
        "ms_p95": taken.p95,
        "images_per_second": round(1e3 * size / taken.p50, 1),
    }


def _rows(counts: Mapping[Any, Any], times: Mapping[Any, Latency], rate: float) -> tuple[Row, ...]:
    rows: list[Row] = []
    cumulative = 0
    for (stream, stage), (counted, shape, params, trainable) in counts.items():
        cumulative += params
        taken = times[stream, stage]
        rows.append(
            Row(
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
                peak_bytes=counted.peak_bytes,
                ms_p50=taken.p50,
                ms_p95=taken.p95,
                roofline=round(counted.macs / taken.p50 / rate, 4),
            )
        )
    return tuple(rows)


def _sum(rows: Sequence[Row], name: str, rate: float) -> Row:
    """All rows as one: their numbers added, the peak the largest."""
    added = {
        field: sum(getattr(row, field) for row in rows)
        for field in ("params", "trainable", "macs", "flops", "activations", "bytes", "ms_p50", "ms_p95")
    }
    return Row(
        stream="",
        stage=name,
        shape=rows[-1].shape,
        params_cumulative=added["params"],
        peak_bytes=max(row.peak_bytes for row in rows),
        roofline=round(added["macs"] / added["ms_p50"] / rate, 4),
        **added,
    )


def _shape(result: Any) -> tuple[int, ...]:
    """The shape of what a piece returned: of the logits, of a vector, of a stage's state."""
    if isinstance(result, FusionOutput):
        return tuple(result.logits.shape)
    if isinstance(result, Mapping):
        return _shape(next(iter(result.values())))
    return tuple(result.shape) if isinstance(result, Tensor) else ()
