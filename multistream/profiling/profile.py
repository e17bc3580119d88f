"""profile: the cost of a network, one row per stage, tap set, temporal, head and fusion. Weights are not needed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, record_function
from torch.profiler import profile as torch_profile

from multistream.errors import DiskFull
from multistream.files import temporary
from multistream.interfaces import VECTOR, Fusion, FusionOutput, Stream
from multistream.network.branch import Branch
from multistream.network.network import MultiStream
from multistream.nn.modules import Modules
from multistream.profiling.counting import count, without_numbers
from multistream.profiling.machine import Latency, latency, measure_roofline, synchronise
from multistream.profiling.results import ABOVE, Piece, Profile, make_rows, summed
from multistream.recipe import RuntimeSettings
from multistream.runs.model_file import load_model
from multistream.runtime.device import AUTOCAST, Runtime, resolve

SWEEP = (1, 4, 16, 64)


Visit = Callable[[str, str, Callable[[], Any], Sequence[nn.Module]], Any]
"""Called for each part with (stream, stage, function that runs it, its modules); returns the function's result."""


def profile(
    network: MultiStream | str | PathLike[str],
    *,
    runtime: Runtime | None = None,
    batch: int = 1,
    repeats: int = 10,
    sweep: Sequence[int] = SWEEP,
    trace: str | Path | None = None,
    streams: Mapping[str, Stream] | None = None,
) -> Profile:
    """Counts and times every part of a network or of a run's network. It measures a copy; the network does not change.

    Counts are for one image, times for `batch` images. The default `runtime` is `auto`. `trace` is the path of a
    timeline with a range for every stream and stage. `streams` are the streams of a run that were given as instances.
    """
    if not isinstance(network, MultiStream):
        network = load_model(network, streams=streams).network
    runtime = runtime or resolve(RuntimeSettings())
    copied = copy.deepcopy(network).eval()
    with torch.no_grad():
        pieces = count_pieces(copied.cpu())
        runtime.place(copied)
        roofline = measure_roofline(runtime)
        times = time_pieces(copied, runtime=runtime, batch=batch, repeats=repeats)
        if trace:
            write_trace(copied, Path(trace), runtime=runtime, batch=batch)
        whole = tuple(_swept(copied, size, runtime=runtime, repeats=repeats) for size in sweep)
    width = AUTOCAST.get(runtime.precision, torch.float32).itemsize
    rows = make_rows(pieces, times, batch=batch, width=width, roofline=roofline)
    return Profile(
        rows=rows,
        total=summed(rows, "total"),
        cached=summed([row for row in rows if row.stage in ABOVE], "cached"),
        sweep=whole,
        batch=batch,
        runtime=str(runtime),
        roofline=roofline,
    )


def walk(network: MultiStream, batch: Mapping[str, Tensor], visit: Visit) -> Any:
    """Runs a network part by part, in its order, through `visit`; returns the FusionOutput."""
    vectors = {}
    for key, branch in network.branches.items():
        maps = _walk_stream(key, branch, batch[key], visit)
        tokens = visit(key, "taps", partial(_tokens, branch, maps), list(branch.taps.values()))
        if branch.temporal is None:
            vectors[key] = tokens.squeeze(1)
        else:
            vectors[key] = visit(key, "temporal", partial(branch.temporal, tokens), [branch.temporal])
    fusion = network.fusion
    logits = {key: visit(key, "head", partial(head, vectors[key]), [head]) for key, head in fusion.heads.items()}
    return visit("", "fusion", partial(_after_heads(fusion, logits), vectors), [_after_heads(fusion, logits)])


def count_pieces(network: MultiStream) -> dict[tuple[str, str], Piece]:
    """Counts each part for one image: {(stream, stage): (count, output shape, parameters, trainable parameters)}."""
    pieces = {}

    def visit(stream: str, stage: str, run: Callable[[], Any], modules: Sequence[nn.Module]) -> Any:
        counted, result = count(run)
        parameters = [p for module in modules for p in module.parameters()]
        sizes = sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)
        pieces[stream, stage] = (counted, _shape(result), *sizes)
        return result

    with without_numbers():
        walk(network, example_batch(network, 1), visit)
    # A stage's output may have another layout (tokens, NHWC) than its map, which the tap reads.
    for key, branch in network.branches.items():
        for stage, shape in branch.stream.map_shapes().items():
            counted, _, parameters, trainable = pieces[key, stage]
            pieces[key, stage] = (counted, shape, parameters, trainable)
    return pieces


def time_pieces(network: MultiStream, *, runtime: Runtime, batch: int, repeats: int) -> dict[tuple[str, str], Latency]:
    """Times each part alone, on the output of the part before it: {(stream, stage): latency}."""
    latencies = {}

    def visit(stream: str, stage: str, run: Callable[[], Any], modules: Sequence[nn.Module]) -> Any:
        del modules
        with _cast(runtime, stage):
            latencies[stream, stage] = latency(run, runtime, repeats=repeats)
            return run()

    walk(network, runtime.send(example_batch(network, batch)), visit)
    return latencies


def write_trace(network: MultiStream, path: Path, *, runtime: Runtime, batch: int) -> None:
    """Writes a timeline of one pass (for Perfetto or chrome://tracing) with ranges named `stream/stage`."""

    def visit(stream: str, stage: str, run: Callable[[], Any], modules: Sequence[nn.Module]) -> Any:
        del modules
        with _cast(runtime, stage), record_function(f"{stream}/{stage}" if stream else stage):
            return run()

    example = runtime.send(example_batch(network, batch))
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if runtime.device.type == "cuda" else [])
    with torch_profile(activities=activities) as recorded:
        walk(network, example, visit)
        synchronise(runtime)
    target = path.expanduser().absolute()
    with temporary(target.parent) as folder:
        folder.mkdir()
        recorded.export_chrome_trace(str(folder / target.name))
        if not (folder / target.name).is_file() or not (folder / target.name).stat().st_size:  # torch raises no error
            raise DiskFull(str(path), "the trace could not be written.", do="Free space, or choose another place.")
        (folder / target.name).replace(target)


def example_batch(network: MultiStream, size: int) -> dict[str, Tensor]:
    """Returns a batch of zeros as input of this network, by stream key."""
    return {key: branch.stream.example_input(batch=size) for key, branch in network.branches.items()}


def _walk_stream(key: str, branch: Branch, x: Tensor, visit: Visit) -> dict[str, Tensor]:
    stream = branch.stream
    if branch.reads_vector:
        vectors: dict[str, Tensor] = visit(key, VECTOR, partial(stream, x), [stream])
        return vectors
    state: Any = None
    maps: dict[str, Tensor] = {}
    for name, stage in stream.stages.items():
        run = partial(stage, state) if maps else partial(_first_stage, stream, stage, x)
        state = visit(key, name, run, [stage])
        maps[name] = stream.to_map(state, name)
    return maps


class _Given(nn.Module):
    """Replaces a head whose logits are known."""

    def __init__(self, logits_BK: Tensor) -> None:
        super().__init__()
        self.logits_BK = logits_BK

    def forward(self, vector_BE: Tensor) -> Tensor:
        """Returns the known logits (B, K)."""
        del vector_BE
        return self.logits_BK


def _after_heads(fusion: Fusion, logits: Mapping[str, Tensor]) -> Fusion:
    """Returns a copy of the fusion with shared weights, whose heads are replaced by their known logits."""
    rest = copy.copy(fusion)
    rest._modules = {**fusion._modules, "heads": Modules({key: _Given(each) for key, each in logits.items()})}
    return rest


def _first_stage(stream: Stream, stage: nn.Module, x: Tensor) -> Any:
    return stage(stream.prepare(x))


def _tokens(branch: Branch, maps: Mapping[str, Tensor]) -> Tensor:
    return branch.tokens({stage: tap.pool(maps[stage]) for stage, tap in branch.taps.items()})


def _cast(runtime: Runtime, stage: str) -> AbstractContextManager[object]:
    """Returns the precision context of a stage: that of the runtime for streams, float32 for all other parts."""
    return nullcontext() if stage in ABOVE else runtime.autocast


def _swept(network: MultiStream, size: int, *, runtime: Runtime, repeats: int) -> dict[str, float]:
    """Measures latency, throughput and memory of the whole network at one batch size."""
    example = runtime.send(example_batch(network, size))
    run = partial(_whole, network, example, runtime)
    measured = latency(run, runtime, repeats=repeats, warmup=1)
    return {
        "batch": size,
        "peak_bytes": _peak(network, size, run, runtime=runtime),
        "ms_p50": measured.p50,
        "ms_p95": measured.p95,
        "images_per_second": round(1e3 * size / measured.p50, 1),
    }


def _whole(network: MultiStream, given: Mapping[str, Tensor], runtime: Runtime) -> Tensor:
    with runtime.autocast:
        pooled = network.pool(given)
    return network.classify(pooled)


def _peak(network: MultiStream, size: int, run: Callable[[], Tensor], *, runtime: Runtime) -> int:
    """Returns the peak memory in bytes of weights, a batch and its activations; measured on CUDA, else counted."""
    if runtime.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(runtime.device)
        run()
        return torch.cuda.max_memory_allocated(runtime.device)
    with without_numbers():
        example = example_batch(network, size)
        counted, _ = count(partial(_whole, network, example, runtime))
    held = [*network.parameters(), *network.buffers(), *example.values()]
    return counted.peak_bytes + sum(tensor.nbytes for tensor in held)


def _shape(result: Any) -> tuple[int, ...]:
    """Returns the shape of a part's output: of logits, of the first vector, or of a stage's output."""
    if isinstance(result, FusionOutput):
        return tuple(result.logits.shape)
    if isinstance(result, Mapping):
        return _shape(next(iter(result.values())))
    return tuple(result.shape) if isinstance(result, Tensor) else ()
