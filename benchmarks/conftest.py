"""Shared by the benchmarks: times two functions alternately in one run, and reports their ratio with its interval."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from multistream.recipe import RuntimeSettings
from multistream.runtime.device import Runtime, resolve

# pytest does not put this repository on sys.path; spawned processes need it to import `benchmarks`.
sys.path.insert(0, str(Path(__file__).parent.parent))

PAIRS = 9
THREADS = 2


@dataclass(frozen=True)
class Ratio:
    """The time of `theirs` divided by that of `ours`: the median over pairs, and its 95 % bootstrap interval."""

    median: float
    low: float
    high: float
    ours: float
    theirs: float
    pairs: int

    def __str__(self) -> str:
        return (
            f"{self.median:.2f}x [{self.low:.2f}, {self.high:.2f}]  "
            f"(ours {1e3 * self.ours:.1f} ms, theirs {1e3 * self.theirs:.1f} ms, medians of {self.pairs} pairs)"
        )


class Elsewhere:
    """A function in a separate process, as in a user's program: without the settings of this process.

    `make(*arguments)` returns the function. Each process is idle while the other is timed.
    """

    def __init__(self, make: Callable[..., Callable[[], Any]], *arguments: Any) -> None:
        context = get_context("spawn")
        self.pipe, other_end = context.Pipe()
        self.process = context.Process(target=_serve, args=(other_end, make, arguments), daemon=True)
        self.process.start()

    def __call__(self) -> None:
        self.pipe.send(None)
        if error := self.pipe.recv():
            raise RuntimeError(error)

    def close(self) -> None:
        """Ends the process."""
        self.process.terminate()
        self.process.join()


def _serve(pipe: Connection, make: Callable[..., Callable[[], Any]], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    run = make(*arguments)
    while True:
        pipe.recv()
        try:
            run()
            _synchronise()
            pipe.send("")
        except Exception as error:  # is sent to the test, which then fails
            pipe.send(repr(error))


def interleaved(ours: Callable[[], Any], theirs: Callable[[], Any], *, pairs: int = PAIRS, warmup: int = 2) -> Ratio:
    """Times both functions alternately, so that noise on the machine affects both."""
    for _ in range(warmup):
        ours(), theirs()
    times = np.array([(_seconds(ours), _seconds(theirs)) for _ in range(pairs)])
    ratios = times[:, 1] / times[:, 0]
    drawn = np.random.default_rng(0).integers(0, pairs, (10_000, pairs))
    low, high = np.percentile(np.median(ratios[drawn], axis=1), [2.5, 97.5])
    median = np.median(times, axis=0)
    return Ratio(float(np.median(ratios)), float(low), float(high), float(median[0]), float(median[1]), pairs)


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    _synchronise()
    return time.perf_counter() - start


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@pytest.fixture
def report(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ratio]:
    """`report(name, ours, theirs)` times both and prints the ratio; pytest-benchmark gets a test's first pair."""
    given: list[str] = []

    def run(name: str, ours: Callable[[], Any], theirs: Callable[[], Any], **options: Any) -> Ratio:
        found = interleaved(ours, theirs, **options)
        with capsys.disabled():
            print(f"\n{name:42} {found}")
        benchmark.extra_info[name] = str(found)
        if not given:
            benchmark.pedantic(ours, rounds=1, iterations=1)
        given.append(name)
        return found

    return run


@pytest.fixture
def elsewhere() -> Iterator[Callable[..., Elsewhere]]:
    """`elsewhere(make, *arguments)`: a function in a separate process, which ends with the test."""
    started: list[Elsewhere] = []

    def start(make: Callable[..., Callable[[], Any]], *arguments: Any) -> Elsewhere:
        started.append(Elsewhere(make, *arguments))
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.fixture(scope="session")
def fast() -> Runtime:
    """The runtime of `--device auto --precision auto` on this machine."""
    torch.set_num_threads(THREADS)
    return resolve(RuntimeSettings())
