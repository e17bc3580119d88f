"""The elements of chains of steps: the state that steps pass on, the step, and helper functions.

In addition to the features, a state holds values that all blocks share: a rotary table, a bias, the size of the grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

GROUPS = 4
"""The number of stages of a model whose blocks all have the same shape."""


class Tokens(NamedTuple):
    """The features `x` (B, prefix + h x w, C): `prefix` tokens without a location, then those of the `grid` (h, w).

    `shared` holds values that are passed to all blocks. `spread`, if not None, arranges `x` as (B, h, w, C) instead.
    """

    x: Tensor
    grid: tuple[int, int] = (0, 0)
    prefix: int = 0
    shared: Any = None
    spread: Callable[[Tensor], Tensor] | None = None

    def to_map(self) -> Tensor:
        """The features as a map (B, C, h, w)."""
        if self.spread is not None:
            return self.spread(self.x).permute(0, 3, 1, 2)
        places_BNC = self.x[:, self.prefix :]
        return places_BNC.transpose(1, 2).reshape(len(self.x), -1, *self.grid)


@dataclass(frozen=True)
class Chain:
    """The `steps` of a model in order, and the names of the steps at which stages end."""

    steps: Mapping[str, nn.Module]
    ends: tuple[str, ...]


class Step(nn.Module):
    """One step: `run(module, state, **arguments)`."""

    def __init__(self, module: nn.Module, run: Callable[..., Any], **arguments: Any) -> None:
        super().__init__()
        self.module, self.run, self.arguments = module, run, arguments

    def forward(self, state: Any) -> Any:
        """The next state."""
        return self.run(self.module, state, **self.arguments)


class WithParameter(nn.Module):
    """Modules, with a parameter that belonged to the model itself, such as a class token or positions."""

    def __init__(self, parameter: nn.Parameter | None, *modules: nn.Module) -> None:
        super().__init__()
        self.parameter = parameter
        self.modules_in_order = nn.ModuleList(modules)


def emptied(model: nn.Module, children: Iterable[str], parameters: Iterable[str] = ()) -> nn.Module:
    """The same model with all but these children and parameters removed, so that a stage holds no later modules."""
    for name, _ in list(model.named_children()):
        if name not in children:
            setattr(model, name, nn.Identity())
    for name, _ in list(model.named_parameters(recurse=False)):
        if name not in parameters:
            setattr(model, name, None)
    return model


def quarters(names: list[str]) -> tuple[str, ...]:
    """The last names of GROUPS groups of about equal size."""
    groups = min(GROUPS, len(names))
    return tuple(names[(group + 1) * len(names) // groups - 1] for group in range(groups))


def blocks_of(blocks: Iterable[nn.Module], run: Callable[..., Any]) -> dict[str, nn.Module]:
    """A step for each block."""
    return {f"blocks.{number}": Step(block, run) for number, block in enumerate(blocks)}


def square(x: Tensor, prefix: int = 0) -> tuple[int, int]:
    """The grid (h, w) of the tokens of a square image."""
    side = math.isqrt(x.shape[1] - prefix)
    return side, side


def apply(module: nn.Module, state: Tokens) -> Tokens:
    """Applies the module to the features: for a norm, or a block without other inputs."""
    return state._replace(x=module(state.x))


def nhwc(x: Tensor) -> Tensor:
    """`spread` for features that are already (B, h, w, C)."""
    return x


def class_token_joins(held: WithParameter, state: Tokens) -> Tokens:
    """Puts the class token before the others, then runs the blocks, if any, on all tokens."""
    assert held.parameter is not None
    x = torch.cat((held.parameter.expand(len(state.x), -1, -1), state.x), dim=1)
    for block in held.modules_in_order:
        x = block(x)
    return state._replace(x=x, prefix=1)
