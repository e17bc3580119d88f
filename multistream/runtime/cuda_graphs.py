"""CUDA graphs: the kernels of streams are recorded once and replayed, which avoids their separate launches.

A step of MobileNetV2 launches some thousand small kernels. On a fast GPU, launching takes longer than computing.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from multistream.console import Say
from multistream.errors import MultistreamWarning
from multistream.network.branch import Batch, Branch
from multistream.network.network import MultiStream
from multistream.runtime.device import Runtime

Pooling = Callable[[Tensor], dict[str, Tensor]]
"""A function from a stream's input to {stage: (B, P)}."""

TOLERANCE = 2e-2
"""The largest relative difference between a replay and its kernels launched separately (bf16 has 8 bits)."""


class PooledStream(nn.Module):
    """A branch's `pool` as a module with tensor outputs: the stream's input -> one (B, P) for each stage."""

    def __init__(self, branch: Branch, runtime: Runtime) -> None:
        super().__init__()
        self.stream, self.taps, self.autocast_dtype = branch.stream, branch.taps, runtime.autocast_dtype
        self.maps = torch.compile(branch.stream) if runtime.compile else branch.stream

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Runs in the runtime's precision.

        Weights are cast in every call, because a cached cast would not be recorded.
        """
        kind = self.autocast_dtype
        with torch.autocast("cuda", dtype=kind, enabled=kind is not None, cache_enabled=False):
            maps = self.maps(x)
            return tuple(tap.pool(maps[stage]) for stage, tap in self.taps.items())


class GraphedStreams:
    """`MultiStream.pool` for training, with CUDA graphs for batches of `batch_size`.

    A graph is recorded at the first full batch and compared with the plain kernels on other values. It is not used if
    the two differ (for example because a stream draws from Python's generators) or if recording fails; `say` gets a
    message. Smaller batches, frozen streams and evaluation run without graphs.
    """

    def __init__(self, network: MultiStream, runtime: Runtime, *, batch_size: int, say: Say) -> None:
        self.network, self.runtime, self.batch_size, self.say = network, runtime, batch_size, say
        self.recorded: dict[str, Callable[[Tensor], tuple[Tensor, ...]] | None] = {}

    def pool(self, batch: Batch) -> dict[str, Mapping[str, Tensor]]:
        """Pools a batch by input name -> {key: {stage: (B, P) float32}}."""
        pooled: dict[str, Mapping[str, Tensor]] = {}
        for key, branch in self.network.branches.items():
            entry = batch[branch.entry(key, batch)]
            if isinstance(entry, Tensor) and not branch.stream.is_frozen and len(entry) == self.batch_size:
                if key not in self.recorded:
                    self.recorded[key] = self._record(key, branch, entry)
                if graph := self.recorded[key]:
                    pooled[key] = dict(zip(branch.taps, graph(entry), strict=True))
                    continue
            with self.runtime.autocast:
                pooled[key] = branch.pool(entry) if isinstance(entry, Tensor) else entry
        return pooled

    def _record(self, key: str, branch: Branch, sample: Tensor) -> Callable[[Tensor], tuple[Tensor, ...]] | None:
        """Records the stream as a graph; None if that fails. Buffers, such as batch norm's, keep their values."""
        before = {name: buffer.clone() for name, buffer in branch.stream.named_buffers()}
        module = PooledStream(branch, self.runtime)
        try:
            plain = [t.detach().clone() for t in module(sample.flip(0))]
            torch.cuda.make_graphed_callables(module, (sample.clone(),), allow_unused_input=True)
            replayed = [t.detach().clone() for t in module(sample.flip(0))]
            worst = max(map(_difference, replayed, plain))
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            self.say(f"CUDA graphs: {key} not used ({reason})")
            return None
        finally:
            for name, buffer in branch.stream.named_buffers():
                buffer.copy_(before[name])
        if worst > TOLERANCE:
            self.say(f"CUDA graphs: {key} not used (a replay differs by {100 * worst:.1f} % from the plain kernels)")
            return None
        return module


class PooledGroups:
    """`Branch.pool` in evaluation, for groups of `size` images, as in extraction and prediction.

    On a GPU a stream is replayed from a CUDA graph, which is recorded at its first whole group and compared with the
    plain kernels. A stream that cannot be recorded runs without a graph, with a warning. Smaller groups run without a
    graph. Streams are compiled if the runtime compiles. The caller must hold `torch.no_grad`.
    """

    def __init__(self, runtime: Runtime, *, size: int) -> None:
        self.runtime, self.size = runtime, size
        self.runs: dict[Branch, Pooling] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Excludes graphs and compiled kernels from pickling; the other process makes its own."""
        return {**self.__dict__, "runs": {}}

    def pool(self, branch: Branch, x: Tensor) -> dict[str, Tensor]:
        """Pools the stream's input -> {stage: (B, P) float32}, in the runtime's precision."""
        if len(x) != self.size:
            return self._plain(branch.pool)(x)
        if branch not in self.runs:
            plain = self._plain(torch.compile(branch.pool) if self.runtime.compile else branch.pool)
            self.runs[branch] = self._replayed(plain, x, name=type(branch.stream).__name__) or plain
        return self.runs[branch](x)

    def _plain(self, pool: Pooling) -> Pooling:
        def run(x: Tensor) -> dict[str, Tensor]:
            with self.runtime.autocast:
                return pool(x)

        return run

    def _replayed(self, plain: Pooling, sample: Tensor, *, name: str) -> Pooling | None:
        """Returns the same function as a graph; None if it cannot be recorded."""
        if not self.runtime.cuda_graphs:
            return None
        try:
            replay = record(plain, sample)
            other = sample.flip(0)
            expected = plain(other)
            worst = max(_difference(values, expected[stage]) for stage, values in replay(other).items())
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
        else:
            if worst <= TOLERANCE:
                return replay
            reason = f"a replay differs by {100 * worst:.1f} % from the plain kernels"
        warnings.warn(f"CUDA graphs: not used for {name} ({reason})", MultistreamWarning, stacklevel=2)
        return None


def record(run: Pooling, sample: Tensor) -> Pooling:
    """Records a call without gradients as a CUDA graph for inputs of the sample's shape; returns new tensors."""
    given, graph, aside = sample.clone(), torch.cuda.CUDAGraph(), torch.cuda.Stream(sample.device)
    aside.wait_stream(torch.cuda.current_stream(sample.device))
    with torch.cuda.device(sample.device):
        with torch.cuda.stream(aside):
            for _ in range(2):  # libraries choose kernels and allocate memory before the recording
                run(given)
        torch.cuda.current_stream(sample.device).wait_stream(aside)
        # By default, calls of other threads, such as NCCL's watchdog, would end the recording too.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            result = run(given)

    def replay(x: Tensor) -> dict[str, Tensor]:
        given.copy_(x)
        graph.replay()
        return {stage: values.clone() for stage, values in result.items()}

    return replay


def _difference(replayed: Tensor, plain: Tensor) -> float:
    """Returns the largest absolute difference, relative to the largest absolute value."""
    return float((replayed - plain).abs().max() / plain.abs().max().clamp_min(1e-12))
