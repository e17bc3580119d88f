"""What a reader hands over: tensors by name, and what it noticed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


class Malformed(ValueError):
    """A file is not what it claims to be. The text is a clause, without a full stop."""


@dataclass(frozen=True)
class Contents:
    """Tensors on the CPU in their stored types; `notes` tell what was renamed, turned or unwrapped."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
