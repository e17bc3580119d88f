"""Threads of torch: changed for a while, and given back as they were, also after an exception."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads for torch inside (0: as they are); as many as before afterwards. Sums are split among them.

    The number belongs to the thread that calls. Other threads of the process keep theirs, but one that asks torch for
    the first time meanwhile starts with this one.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
