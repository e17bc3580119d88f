"""Memory: the error when it is exhausted, and the largest batch that fits."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import torch
from torch import nn

from multistream.errors import MemoryExhausted
from multistream.system_errors import memory_error

USABLE: Final = 0.8
"""Fraction of the free memory that a trial step on the CPU may use.

A process that exceeds the rest is killed without an error, and a training also holds photos, a checkpoint and gaps
between its tensors.
"""

SMALLER: Final = (
    "Freeze more of the network (--freeze streams), or use smaller images, for example --set data.image_size=128."
)

PROCESS: Final = Path("/proc/self")

_KIB: Final = 1024


@contextmanager
def exhausted(where: str, what: str, *, do: str) -> Iterator[None]:
    """Converts an out-of-memory error of any device to MemoryExhausted (exit 71) with advice."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_exhaustion(error):
            raise
        raise MemoryExhausted(where, what, do=do) from error


def is_exhaustion(error: BaseException) -> bool:
    """Returns whether the error means that memory was exhausted, on any device."""
    return memory_error(error) is not None


def pieces_of(batch: int) -> tuple[int, ...]:
    """Returns the divisors of a batch size, ascending: the sizes of equal parts.

    >>> pieces_of(12)
    (1, 2, 3, 4, 6, 12)
    """
    small = [size for size in range(1, math.isqrt(batch) + 1) if batch % size == 0]
    return tuple(sorted({*small, *(batch // size for size in small)}))


def largest_that_fits(sizes: Sequence[int], attempt: Callable[[int], float]) -> int:
    """Returns the largest of these ascending sizes whose attempt does not run out of memory.

    `attempt(size)` runs a step and returns the fraction of the free memory that it used. A size is not tried if, by
    extrapolation, it would use more than USABLE: on a CPU the process would be killed. Raises MemoryExhausted if none
    fits.
    """
    tried: list[tuple[int, float]] = []
    for size in sizes:
        if tried and _expected(size, tried) > USABLE:
            break
        try:
            tried.append((size, attempt(size)))
        except (RuntimeError, MemoryError) as error:
            if not is_exhaustion(error):
                raise
            break
    if not tried:
        raise MemoryExhausted("--batch-size", f"a step of {sizes[0]} image does not fit in memory.", do=SMALLER)
    return tried[-1][0]


def _expected(size: int, tried: Sequence[tuple[int, float]]) -> float:
    """Extrapolates a size's memory from the last two attempts; after the first, in proportion to the size."""
    before, taken = tried[-1]
    if len(tried) == 1:
        return taken * size / before
    an_image = (taken - tried[-2][1]) / (before - tried[-2][0])
    return taken + max(0.0, an_image) * (size - before)


class Gauge:
    """Measures the peak memory use on the CPU as a fraction of the free memory, above the use at construction.

    It is the larger of two fractions: of memory (the machine's and its control group's), and of the address space if
    that is limited (`ulimit -v`). The C library's heap is fragmented, so a process uses more address space than memory.
    On other devices nothing is measured, because an attempt that is too large raises an error.
    """

    def __init__(self, device: torch.device) -> None:
        self.on_cpu = device.type == "cpu"
        held = _status(PROCESS / "status")
        self.memory, self.space = held.get("VmRSS", 0), held.get("VmSize", 0)
        self.free = min(_available(Path("/proc/meminfo")), _group_limit(Path("/sys/fs/cgroup")))
        self.free_space = _address_space(PROCESS)
        self.peak_before = 0

    def reset(self) -> None:
        """Starts a new peak."""
        if torch.cuda.is_available() and not self.on_cpu:
            torch.cuda.empty_cache()
        if os.access(PROCESS / "clear_refs", os.W_OK):
            (PROCESS / "clear_refs").write_text("5")  # proc(5): VmHWM restarts from the present use
        self.peak_before = _status(PROCESS / "status").get("VmPeak", 0)

    def taken(self) -> float:
        """Returns the peak fraction since the last reset; 0 if the system does not report it."""
        if not self.on_cpu:
            return 0.0
        peaks = _status(PROCESS / "status")
        memory = max(0, peaks.get("VmHWM", 0) - self.memory)
        peak = peaks.get("VmPeak", 0)  # VmPeak never falls; if it has not risen, only the memory is known
        space = peak - self.space if peak > self.peak_before else memory
        return max(memory / max(1, self.free), space / max(1, self.free_space))


@contextmanager
def as_it_was(network: nn.Module) -> Iterator[None]:
    """Restores a network's buffers, modes and empty gradients, and torch's generator, after trial steps."""
    modes = [(module, module.training) for module in network.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in network.buffers()]
    with torch.random.fork_rng():
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)
            for parameter in network.parameters():
                parameter.grad = None


def _status(path: Path) -> Mapping[str, int]:
    """Reads {name: bytes} from a Linux status file with lines such as `VmRSS:  1234 kB`; empty on other systems."""
    if not path.is_file():
        return {}
    lines = (line.split() for line in path.read_text(encoding="utf-8", errors="replace").splitlines())
    return {words[0].rstrip(":"): int(words[1]) * _KIB for words in lines if len(words) == 3 and words[2] == "kB"}


def _available(meminfo: Path) -> int:
    return _status(meminfo).get("MemAvailable", 2**63 - 1)


def _group_limit(folder: Path) -> int:
    """Returns the free memory of a container's control group (version 2): limit minus use that cannot be reclaimed."""
    try:
        limit, current = (folder / "memory.max").read_text(), int((folder / "memory.current").read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return 2**63 - 1  # not Linux, no control group, or version 1
    return int(limit) - current + int(stat.get("file", 0)) if limit.strip().isdecimal() else 2**63 - 1


def _address_space(process: Path) -> int:
    """Returns the unused address space of a process (`ulimit -v`)."""
    limits = process / "limits"
    for line in limits.read_text().splitlines() if limits.is_file() else ():
        if line.startswith("Max address space") and (soft := line.split()[3]).isdecimal():
            return int(soft) - _status(process / "status").get("VmSize", 0)
    return 2**63 - 1
