"""Temporary number of torch threads: the previous number is restored afterwards, even after an exception."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Sets torch's number of threads in the block (0: unchanged); restores it afterwards.

    The number affects rounding, because sums are split among the threads. It is set for the calling thread. Other
    threads keep theirs, but a thread that uses torch for the first time during the block starts with this number.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
