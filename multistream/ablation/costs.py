"""The cost of each variant: parameters, and the multiply-adds and milliseconds of one image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from multistream.network.network import MultiStream
from multistream.nn.modules import evaluating
from multistream.profiling.counting import count, without_numbers
from multistream.profiling.machine import latency
from multistream.profiling.profile import example_batch, time_pieces, walk
from multistream.runtime.device import Runtime, parameter_count

REPEATS = 5
"""Timed calls, of which the median is taken; `multistream profile` uses more."""


@dataclass(frozen=True)
class Cost:
    """Parameters, and the multiply-adds and milliseconds of one image."""

    params: int
    macs: int
    ms: float


def costs(base: MultiStream, networks: Sequence[MultiStream], *, runtime: Runtime) -> list[Cost]:
    """Measures the cost of networks whose streams are those of `base` or truncated from them; restores the modes.

    Stages are counted and timed once, on `base`; the layers after the pooling are counted and timed for each network.
    """
    with evaluating(base), torch.no_grad():
        macs, pieces = _stage_macs(base, runtime), time_pieces(base, runtime=runtime, batch=1, repeats=REPEATS)
        times = {place: taken.p50 for place, taken in pieces.items()}
        return [_cost(network, macs, times, runtime) for network in networks]


def _cost(
    network: MultiStream, macs: dict[tuple[str, str], int], times: dict[tuple[str, str], float], runtime: Runtime
) -> Cost:
    places = [(key, s) for key, branch in network.branches.items() for s in branch.stream.stages or branch.taps]
    with evaluating(network):
        pooled = {
            key: {s: torch.zeros(1, tap.pooled_width, device=runtime.device) for s, tap in branch.taps.items()}
            for key, branch in network.branches.items()
        }
        head: Callable[[], Tensor] = partial(network.classify, pooled)
        above = latency(head, runtime, repeats=REPEATS).p50
        with without_numbers():
            counted, _ = count(head)
    total = counted.macs + sum(macs[place] for place in places)
    ms = above + sum(times[place] for place in places)
    return Cost(parameter_count(network)["total"], total, round(ms, 4))


def _stage_macs(base: MultiStream, runtime: Runtime) -> dict[tuple[str, str], int]:
    macs: dict[tuple[str, str], int] = {}

    def visit(stream: str, stage: str, run: Callable[[], Any], modules: Sequence[nn.Module]) -> Any:
        del modules
        counted, result = count(run)
        macs[stream, stage] = counted.macs
        return result

    with without_numbers():
        walk(base, runtime.send(example_batch(base, 1)), visit)
    return macs
