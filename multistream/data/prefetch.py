"""Prefetching: decodes groups of photos while the network computes an earlier group.

On a GPU this is always faster. On a CPU decoding and network use the same cores: the threads of a layer wait for one
another, so that decoding threads slow down all of them. Whether prefetching is faster depends on the photos and the
network, and is measured.
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

from multistream.data.decode_workers import Pool
from multistream.nn.threads import threads

AHEAD = 2
"""Number of groups that are decoded ahead of the one that is computed."""

PATIENCE = 5
"""If one thread seems too slow, it is measured after this many times its longest possible time of computing."""

Key = TypeVar("Key")
Item = TypeVar("Item")
Features = TypeVar("Features", bound=Mapping[Any, Mapping[str, Tensor]])


class Prefetch:
    """Always decodes the same number of `groups` ahead, and computes in all threads of torch.

    `processes` allows decoding in processes, because the network does not use the cores.
    """

    def __init__(self, groups: int = AHEAD, *, processes: bool = False) -> None:
        self.groups, self.processes = groups, processes

    def compute(self, features: Callable[[], Features]) -> Features:
        """Calls `features` and returns its result."""
        return features()

    def decoded(self, seconds: float) -> None:
        """Called after each group with the time that decoding it took."""


class MeasuredPrefetch(Prefetch):
    """On a CPU: overlaps decoding with computing in one thread, or alternates between both, whichever is faster.

    Alternating, W cores decode a group in D seconds, then T threads compute it in C: D + C in total. Overlapped, one
    thread computes the group in C1 while the other cores decode, and all cores decode while it waits: C1 in total, or
    D + C1 / W if that is longer. So overlapping is faster if C1 <= D + C. Before C1 is measured, its upper bound T * C
    is used. D is measured for every group, because the photos of a list may differ in size.

    C1 may be much less than T * C: if other programs keep a core busy, the threads of each layer wait for the one
    without a core. So in a long list C1 is measured even if T * C is too slow.

    Results must not depend, even in the last bits, on the speed of the machine. Some operations split their sums among
    threads (bfloat16 matrix products of transformers on 8 or more), so one group is computed in both ways before the
    first overlap; if a bit differs, all groups alternate.
    """

    def __init__(self, *, workers: int) -> None:
        super().__init__(0)
        self.workers, self.threads = workers, torch.get_num_threads()
        self.computed = 0.0
        self.in_all_threads = self.in_one_thread = math.inf
        self.same_bits: bool | None = True if self.threads == 1 else None
        """Whether one thread computes the same bits as all threads; None before the comparison."""
        self.is_faster = False
        """Whether overlapping is expected to be faster than alternating."""

    def compute(self, features: Callable[[], Features]) -> Features:
        """Calls `features` and returns its result, in one thread while other groups are decoded, else in all."""
        if self.groups:
            return self._in_one_thread(features)
        began = time.perf_counter()
        result = features()
        seconds = time.perf_counter() - began
        # The minimum, because the first group is a warm-up, and after an overlap some photos are still being decoded.
        self.in_all_threads = min(self.in_all_threads, seconds)
        self.in_one_thread = min(self.in_one_thread, self.in_all_threads * self.threads)
        self.computed += seconds
        if self.same_bits is None and (self.is_faster or self.computed >= PATIENCE * self.in_one_thread):
            self.same_bits = _equal(result, self._in_one_thread(features))
        return result

    def _in_one_thread(self, features: Callable[[], Features]) -> Features:
        with threads(1):
            began = time.thread_time()  # CPU time, without waiting for cores that decode
            result = features()
            self.in_one_thread = time.thread_time() - began
        return result

    def decoded(self, seconds: float) -> None:
        """Decides how the next group is computed, from the `seconds` that decoding this one took."""
        if self.groups:  # one core was computing meanwhile
            seconds -= min(seconds, self.in_one_thread) / self.workers
        self.is_faster = self.in_one_thread <= seconds + self.in_all_threads
        self.groups = AHEAD if self.is_faster and self.same_bits else 0


def prefetch_for(device: torch.device, *, workers: int) -> Prefetch:
    """The prefetching for a network on this device, with this number of decoding threads."""
    if not workers:
        return Prefetch(0)
    return MeasuredPrefetch(workers=workers) if device.type == "cpu" else Prefetch(processes=True)


def read_groups(
    pool: Pool, groups: Iterable[Sequence[Key]], read: Callable[[Key], Item], *, prefetch: Prefetch
) -> Iterator[list[tuple[Key, Future[Item]]]]:
    """Yields every group in order, as pairs of a key and a future of `read(key)`; starts later groups ahead."""
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
    """The tasks of one group, and the times at which the pool began and ended them."""

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
