"""Prefetching: what is decoded ahead, and in how many threads a group is computed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from multistream.data import prefetch
from multistream.data.decode_workers import Pool
from multistream.data.prefetch import AHEAD, PATIENCE, MeasuredPrefetch, Prefetch, prefetch_for, read_groups
from multistream.nn.threads import threads

Features = dict[str, dict[str, Tensor]]
Compute = Callable[[float], Callable[[], Features]]


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(prefetch, "time", SimpleNamespace(perf_counter=clock, thread_time=clock))
    return clock


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    with threads(2):
        yield


class Network:
    """A network of so many seconds a group in one thread, half as many in two; it remembers its threads."""

    def __init__(self, clock: Clock, seconds: float, *, splits_sums: bool = False) -> None:
        self.clock, self.seconds, self.splits_sums = clock, seconds, splits_sums
        self.ran: list[int] = []

    def __call__(self) -> Features:
        count = torch.get_num_threads()
        self.ran.append(count)
        self.clock.now += self.seconds / count
        return {"object": {"block1": torch.tensor([1.0 + (1e-7 * count if self.splits_sums else 0)])}}


def decisions(network: Network, decoding: list[float]) -> list[int]:
    """How many groups are decoded ahead after each one, which two cores decode in so many seconds."""
    policy, found = MeasuredPrefetch(workers=2), []
    for seconds in decoding:
        policy.compute(network)
        policy.decoded(seconds)
        found.append(policy.groups)
    return found


def test_a_fast_network_computes_in_one_thread_while_photos_are_decoded(clock: Clock) -> None:
    network = Network(clock, seconds=1)
    assert decisions(network, [2, 2, 2, 2]) == [0, AHEAD, AHEAD, AHEAD]
    assert network.ran == [2, 2, 1, 1, 1]  # the second group in both ways
    assert torch.get_num_threads() == 2


def test_a_slow_network_goes_by_turns(clock: Clock) -> None:
    network = Network(clock, seconds=5)
    assert decisions(network, [2, 2, 2]) == [0, 0, 0]
    assert network.ran == [2, 2, 2]


def test_photos_that_become_small_end_the_overlap(clock: Clock) -> None:
    assert decisions(Network(clock, seconds=1), [2, 2, 2, 0.1, 0.1, 2]) == [0, AHEAD, AHEAD, 0, 0, AHEAD]


def test_a_network_that_splits_sums_among_threads_is_computed_in_all_of_them(clock: Clock) -> None:
    network = Network(clock, seconds=1, splits_sums=True)
    assert decisions(network, [2, 2, 2, 2]) == [0, 0, 0, 0]
    assert network.ran == [2, 2, 1, 2, 2]


def test_threads_that_wait_for_one_another_are_found_out_in_a_long_list(clock: Clock) -> None:
    """Another program has a core: two threads take 8 seconds a group, and one takes 1."""

    class Waiting(Network):
        def __call__(self) -> Features:
            self.clock.now += 7.5 if torch.get_num_threads() == 2 else 0
            return super().__call__()

    network = Waiting(clock, seconds=1)
    assert decisions(network, [0.5] * 40) == [0] * (2 * PATIENCE - 1) + [AHEAD] * (41 - 2 * PATIENCE)
    assert decisions(Network(clock, seconds=5), [2] * 40) == [0] * 40


@pytest.mark.parametrize("seconds", [1, 50])
def test_one_thread_of_torch_need_not_be_divided(clock: Clock, seconds: float) -> None:
    with threads(1):
        assert decisions(Network(clock, seconds=seconds), [2, 2, 2]) == [AHEAD] * 3


def test_an_exception_leaves_the_number_of_threads() -> None:
    policy = MeasuredPrefetch(workers=2)
    policy.groups = AHEAD

    def fails() -> Features:
        assert torch.get_num_threads() == 1
        raise MemoryError

    with pytest.raises(MemoryError):
        policy.compute(fails)
    assert torch.get_num_threads() == 2


def test_a_gpu_always_has_photos_decoded_ahead() -> None:
    assert [type(prefetch_for(torch.device(name), workers=2)) for name in ("cuda", "cpu")] == [
        Prefetch,
        MeasuredPrefetch,
    ]
    assert [prefetch_for(torch.device(name), workers=0).groups for name in ("cuda", "cpu")] == [0, 0]


@pytest.mark.parametrize("ahead", [0, 2])
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_groups_come_in_their_order_and_few_are_held(workers: int, ahead: int) -> None:
    taken = 0

    def coming() -> Iterator[list[int]]:
        nonlocal taken
        for taken in range(1, 11):
            yield [taken, -taken]

    with Pool(workers) as pool:
        groups = read_groups(pool, coming(), str, prefetch=Prefetch(ahead))
        for number, group in enumerate(groups, 1):
            assert taken <= number + ahead
            assert [(key, future.result()) for key, future in group] == [
                (number, str(number)),
                (-number, str(-number)),
            ]
    assert taken == 10


@pytest.mark.parametrize("ahead", [0, 2])
def test_what_a_caller_does_between_groups_is_not_decoding(clock: Clock, ahead: int) -> None:
    """Each photo takes a second; the caller takes a hundred, in which those of later groups are decoded."""
    learnt: list[float] = []
    policy = Prefetch(ahead)
    policy.decoded = learnt.append  # type: ignore[method-assign]

    def read(key: int) -> int:
        clock.now += 1
        return key

    with Pool(1) as pool:
        for group in read_groups(pool, [[1, 2], [3, 4], [5, 6]], read, prefetch=policy):
            assert len([future.result() for _, future in group]) == 2
            finished = threading.Event()
            pool.submit(finished.set)
            assert finished.wait(10)  # all that was submitted is decoded
            clock.now += 100
    assert learnt == [2, 2, 2]
