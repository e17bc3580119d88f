"""A typed ModuleDict."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, ValuesView
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
