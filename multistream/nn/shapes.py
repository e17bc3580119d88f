"""Output shapes of modules, found without computing values."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedFakeTensorException,
)

T = TypeVar("T")

NEEDS_NUMBERS = (DataDependentOutputException, DynamicOutputShapeException, UnsupportedFakeTensorException)
"""Exceptions that torch raises if a shape or a branch of the code depends on values."""


def without_numbers(run: Callable[[], T]) -> T:
    """The result of `run` on tensors without values; on real tensors if the code needs values.

    >>> import torch
    >>> without_numbers(lambda: tuple(torch.nn.Conv2d(3, 8, 3)(torch.zeros(1, 3, 9, 9)).shape))
    (1, 8, 7, 7)
    """
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            return run()
    except Exception as error:
        if not _needs_numbers(error):
            raise
    return run()


def _needs_numbers(error: BaseException) -> bool:
    """Whether this error or one of its causes is in NEEDS_NUMBERS."""
    return isinstance(error, NEEDS_NUMBERS) or (error.__cause__ is not None and _needs_numbers(error.__cause__))
