"""A copy of a module that shares its weights."""

from __future__ import annotations

import copy

from multistream.nn.module_dict import M


def shallow_copy(module: M) -> M:
    """A copy that shares all tensors and submodules; replacing a submodule of the copy does not change the original."""
    new = copy.copy(module)
    new.__dict__ = {k: v.copy() if isinstance(v, dict) else v for k, v in module.__dict__.items()}
    return new
