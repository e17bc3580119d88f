"""Measurements of this machine: the speed of a matrix product and a copy, and the latency of calls."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import quantiles
from typing import Any

import torch

from multistream.runtime.device import AUTOCAST, Runtime


@dataclass(frozen=True)
class Roofline:
    """`macs_per_second` of a large matrix product in the runtime's precision, `bytes_per_second` of a large copy."""

    macs_per_second: float
    bytes_per_second: float


@dataclass(frozen=True)
class Latency:
    """Milliseconds of a call: median and 95th percentile over `repeats` calls."""

    p50: float
    p95: float
    repeats: int


def measure_roofline(runtime: Runtime, *, size: int = 0) -> Roofline:
    """Times the product of two (size, size) matrices, and a copy of 64 MiB (read and written); the best of seven.

    `size` is by default 2,048 on a CPU and 8,192 on a GPU, which smaller matrices do not utilise fully.
    """
    size = size or (8192 if runtime.device.type == "cuda" else 2048)
    kind = AUTOCAST.get(runtime.precision, torch.float32)
    # Random values: a GPU multiplies constants a tenth faster, because fewer bits flip and its clock stays higher.
    chance = torch.Generator(runtime.device).manual_seed(0)
    a, b = (torch.randn(size, size, device=runtime.device, generator=chance).to(kind) for _ in range(2))
    source = torch.empty(16 * 2**20, device=runtime.device)
    target = torch.empty_like(source)
    product = min(timed(lambda: a @ b, runtime, repeats=7))
    copy = min(timed(lambda: target.copy_(source), runtime, repeats=7))
    return Roofline(size**3 / product, 2 * source.nbytes / copy)


def latency(run: Callable[[], Any], runtime: Runtime, *, repeats: int, warmup: int = 2) -> Latency:
    """Measures the latency of a call on the runtime's device, after `warmup` calls."""
    timed(run, runtime, repeats=warmup)
    seconds = timed(run, runtime, repeats=repeats)
    cuts = quantiles(seconds, n=20) if len(seconds) > 1 else [seconds[0]] * 19
    return Latency(round(1e3 * cuts[9], 4), round(1e3 * cuts[18], 4), repeats)


def timed(run: Callable[[], Any], runtime: Runtime, *, repeats: int) -> list[float]:
    """Returns the seconds of each of `repeats` calls; on a GPU it waits until the work is done."""
    seconds = []
    for _ in range(repeats):
        synchronise(runtime)
        start = time.perf_counter()
        run()
        synchronise(runtime)
        seconds.append(time.perf_counter() - start)
    return seconds


def synchronise(runtime: Runtime) -> None:
    """Waits until the device has finished its work."""
    if runtime.device.type == "cuda":
        torch.cuda.synchronize(runtime.device)
    elif runtime.device.type == "mps":
        torch.mps.synchronize()
