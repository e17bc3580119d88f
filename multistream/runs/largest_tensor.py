"""Limits the size of tensors while a file's plan is composed: a number in a file must not allocate 64 GB."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

MOST_NUMBERS = 2**29
"""Elements in one tensor, 2 GB in float32. Layers that are built and then removed may be larger than those kept."""


class LargestTensor(TorchDispatchMode):
    """A mode in which a new tensor of more than `limit` elements raises ValueError before it is allocated."""

    def __init__(self, limit: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types here
        self.limit = limit

    def __torch_dispatch__(
        self, function: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Checks every operation of torch; those that create tensors have the size as first argument."""
        size: Any = args[0] if args else None
        is_size = isinstance(size, list | tuple) and all(isinstance(length, int) for length in size)
        if is_size and prod(size) > self.limit:
            raise ValueError(f"a tensor of {prod(size):,} numbers is requested, but the file holds far fewer")
        return function(*args, **(kwargs or {}))
