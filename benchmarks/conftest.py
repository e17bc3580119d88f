"""What the benchmarks share: two ways timed turn by turn in one run, and the ratio with its interval."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from multistream.recipe import RuntimeSettings
from multistream.runtime import Runtime, resolve

PAIRS = 9


@dataclass(frozen=True)
class Ratio:
    """How many times as long `theirs` takes as `ours`: the median over pairs, and its 95 % bootstrap interval."""

    median: float
    low: float
    high: float
    ours: float
    theirs: float

    def __str__(self) -> str:
        return (
            f"{self.median:.2f}x [{self.low:.2f}, {self.high:.2f}]  "
            f"(ours {1e3 * self.ours:.1f} ms, theirs {1e3 * self.theirs:.1f} ms, medians of {PAIRS} pairs)"
        )


def interleaved(ours: Callable[[], Any], theirs: Callable[[], Any], *, pairs: int = PAIRS, warmup: int = 2) -> Ratio:
    """Times both turn by turn, so that a noisy machine is noisy for both."""
    for _ in range(warmup):
        ours(), theirs()
    times = np.array([(_seconds(ours), _seconds(theirs)) for _ in range(pairs)])
    ratios = times[:, 1] / times[:, 0]
    drawn = np.random.default_rng(0).integers(0, pairs, (10_000, pairs))
    low, high = np.percentile(np.median(ratios[drawn], axis=1), [2.5, 97.5])
    median = np.median(times, axis=0)
    return Ratio(float(np.median(ratios)), float(low), float(high), float(median[0]), float(median[1]))


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


@pytest.fixture
def report(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ratio]:
    """`report(name, ours, theirs)` times both, prints the ratio, and hands ours to pytest-benchmark."""

    def run(name: str, ours: Callable[[], Any], theirs: Callable[[], Any], **options: Any) -> Ratio:
        found = interleaved(ours, theirs, **options)
        with capsys.disabled():
            print(f"\n{name:42} {found}")
        benchmark.extra_info["ratio"] = str(found)
        benchmark.pedantic(ours, rounds=1, iterations=1)
        return found

    return run


@pytest.fixture(scope="session")
def fast() -> Runtime:
    """What `--device auto --precision auto` gives here."""
    torch.set_num_threads(2)
    return resolve(RuntimeSettings())
