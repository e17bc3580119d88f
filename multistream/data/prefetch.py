"""Prefetching: groups of photos that are decoded while the network computes an earlier one.

On a GPU that is always right. On a CPU both want the same cores: the threads of a layer wait for one another, so that
decoding threads hold all of them up. What is fastest depends on the photos and on the network, and is measured.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from multistream.data.decode_pool import Pool
from multistream.nn.threads import threads

AHEAD = 2
"""Groups that are decoded while one is computed."""

PATIENCE = 5
"""Where one thread seems too slow, it is tried once computing has taken this many times as long as it can take."""

Key = TypeVar("Key")
Item = TypeVar("Item")
Features = TypeVar("Features", bound=Mapping[Any, Mapping[str, Tensor]])


class Prefetch:
    """Decodes the same number of `groups` ahead at all times, and computes in all threads of torch.

    `processes` says that the network leaves the cores to decoding, which may then use processes.
    """

    def __init__(self, groups: int = AHEAD, *, processes: bool = False) -> None:
        self.groups, self.processes = groups, processes

    def compute(self, features: Callable[[], Features]) -> Features:
        """What `features` returns."""
        return features()

    def decoded(self, seconds: float) -> None:
        """Learns how long the photos of the group that is done took to decode."""


class MeasuredPrefetch(Prefetch):
    """Decodes ahead while one core computes, or goes by turns, whichever is faster: for a CPU.

    By turns, W cores decode a group in D seconds, and then T threads compute it in C: it takes D + C. Overlapped, one
    thread computes it in C1, and the other cores decode, all of them when it waits: it takes C1, or D + C1 / W where
    that is longer. So overlapping is faster if C1 <= D + C. Until C1 is known it is taken to be T * C, the most it can
    be. D is measured at every group: the photos of a list may change.

    C1 may be far less: where other programs keep a core busy, the threads of each layer wait for the one that has no
    core. So C1 is measured in a long list even if T * C is too slow.

    The last bits must not depend on how fast a machine was at the time. Some operations split their sums among threads
    (bfloat16 matrix products of transformers on 8 or more), so one group is computed in both ways before the first
    overlap; if a bit differs, all groups go by turns.
    """

    def __init__(self, *, workers: int) -> None:
        super().__init__(0)
        self.workers, self.threads = workers, torch.get_num_threads()
        self.computed = 0.0
        self.in_all_threads = self.in_one_thread = math.inf
        self.same_bits: bool | None = True if self.threads == 1 else None
        """Whether one thread computes the bits that all do; None as long as nobody has looked."""
        self.is_faster = False
        """Whether overlapping is expected to be faster than going by turns."""

    def compute(self, features: Callable[[], Features]) -> Features:
        """What `features` returns, computed in one thread while other groups are decoded, else in all."""
        if self.groups:
            return self._in_one_thread(features)
        began = time.perf_counter()
        result = features()
        seconds = time.perf_counter() - began
        # The fastest: the first group warms up, and after an overlap some photos are still being decoded.
        self.in_all_threads = min(self.in_all_threads, seconds)
        self.in_one_thread = min(self.in_one_thread, self.in_all_threads * self.threads)
        self.computed += seconds
        if self.same_bits is None and (self.is_faster or self.computed >= PATIENCE * self.in_one_thread):
            self.same_bits = _equal(result, self._in_one_thread(features))
        return result

    def _in_one_thread(self, features: Callable[[], Features]) -> Features:
        with threads(1):
            began = time.thread_time()  # without what it waits for cores that decode
            result = features()
            self.in_one_thread = time.thread_time() - began
        return result

    def decoded(self, seconds: float) -> None:
        """Decides how the next group is computed, by the `seconds` for which this one was decoded."""
        if self.groups:  # of which the computing took one core
            seconds -= min(seconds, self.in_one_thread) / self.workers
        self.is_faster = self.in_one_thread <= seconds + self.in_all_threads
        self.groups = AHEAD if self.is_faster and self.same_bits else 0


def prefetch_for(device: torch.device, *, workers: int) -> Prefetch:
    """How photos are decoded ahead for a network on this device, by this number of decoding threads."""
    if not workers:
        return Prefetch(0)
    return MeasuredPrefetch(workers=workers) if device.type == "cpu" else Prefetch(processes=True)


def read_groups(
    pool: Pool, groups: Iterable[Sequence[Key]], read: Callable[[Key], Item], *, prefetch: Prefetch
) -> Iterator[list[tuple[Key, Future[Item]]]]:
    """Every group in order, as what `read` returns for each of its keys, to come; later ones are begun before."""
    coming, ahead = iter(groups), deque[_Group[Key, Item]]()
    ended = 0.0
    while True:
        while len(ahead) <= prefetch.groups and (keys := next(coming, None)) is not None:
            ahead.append(_Group(pool, keys, read))
        if not ahead:
            return
        group = ahead.popleft()
        yield group.entries
        prefetch.decoded(group.ended - max(group.began, ended))
        ended = group.ended


class _Group(Generic[Key, Item]):
    """Tasks that are computed together, and when the pool began and ended them."""

    def __init__(self, pool: Pool, keys: Sequence[Key], read: Callable[[Key], Item]) -> None:
        self.began = self.ended = time.perf_counter()
        self.entries = [(key, pool.submit(self._read, read, key)) for key in keys]

    def _read(self, read: Callable[[Key], Item], key: Key) -> Item:
        try:
            return read(key)
        finally:
            self.ended = time.perf_counter()


def _equal(one: Mapping[Any, Mapping[str, Tensor]], other: Mapping[Any, Mapping[str, Tensor]]) -> bool:
    return all(
        torch.equal(tensor, other[key][stage]) for key, stages in one.items() for stage, tensor in stages.items()
    )
