"""Helpers for torch modules: a typed ModuleDict, temporary eval mode, trainable parameters, shallow copies."""

from __future__ import annotations

import copy
from collections.abc import ItemsView, Iterator, ValuesView
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


class Modules(nn.ModuleDict, Generic[M]):
    """`nn.ModuleDict` whose members all have one class: `Modules[Branch]`."""

    if TYPE_CHECKING:

        def __getitem__(self, key: str) -> M: ...
        def __iter__(self) -> Iterator[str]: ...
        def items(self) -> ItemsView[str, M]: ...
        def values(self) -> ValuesView[M]: ...


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Sets eval mode in the block; restores every module's training flag afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def trains(module: nn.Module) -> bool:
    """Whether any parameter requires gradients."""
    return any(parameter.requires_grad for parameter in module.parameters())


def shallow_copy(module: M) -> M:
    """A copy that shares all tensors and submodules; replacing a submodule of the copy does not change the original."""
    new = copy.copy(module)
    new.__dict__ = {k: v.copy() if isinstance(v, dict) else v for k, v in module.__dict__.items()}
    return new
