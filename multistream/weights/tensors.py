"""What a reader hands over: tensors by name, and what it noticed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


class Malformed(ValueError):
    """A file is not what it claims to be. The text is a clause, without a full stop."""


class MoreThanTensors(Malformed):
    """A whole file of its kind, that holds an object of a class that is not read: `name`."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"it holds {name!r}, which is not a tensor")


class Unsupported(ValueError):
    """A whole file of its kind, in a form that is not read. The text is a clause, without a full stop."""


@dataclass(frozen=True)
class Contents:
    """Tensors on the CPU in their stored types; `notes` say what was renamed, permuted or unwrapped.

    `unused` names other sets of weights in the file.
    """

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    compressed: bool = False
