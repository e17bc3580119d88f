"""Values by stream and stage, {key: {stage: value}}: the structure of maps, pooled features and contributions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from torch import Tensor

Key = TypeVar("Key")
Value = TypeVar("Value")
Result = TypeVar("Result")

CHUNK = 4096
"""Images whose pooled features are fused at once: a head of 1,000 units takes 4 kB an image while it runs."""


def map_stages(
    values: Mapping[Key, Mapping[str, Value]], function: Callable[[Value], Result]
) -> dict[Key, dict[str, Result]]:
    """Applies the function to every value; returns the results in the same structure.

    >>> map_stages({"object": {"block1": 1, "block2": 2}}, lambda value: 10 * value)
    {'object': {'block1': 10, 'block2': 20}}
    """
    return {key: {stage: function(value) for stage, value in stages.items()} for key, stages in values.items()}


def take_rows(features: Mapping[Key, Mapping[str, Tensor]], rows: Any) -> dict[Key, dict[str, Tensor]]:
    """Selects rows of every tensor; `rows` are indices, a mask or a slice."""
    return map_stages(features, lambda tensor: tensor[rows])


def chunks(features: Mapping[Key, Mapping[str, Tensor]]) -> Iterator[dict[Key, dict[str, Tensor]]]:
    """The rows of every tensor, CHUNK at a time, in order; nothing is copied."""
    count = max((len(tensor) for stages in features.values() for tensor in stages.values()), default=0)
    for start in range(0, count, CHUNK):
        yield take_rows(features, slice(start, start + CHUNK))
