"""What the contracts share: how the part is made, and how two tensors are compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from multistream.registry import Kind, build
from multistream.spec import Spec


class Contract:
    """The promises of one kind of part, as tests. A subclass gives `spec`, or overrides `make`."""

    kind: ClassVar[Kind]
    spec: ClassVar[str] = ""
    options: Mapping[str, Any] = {}
    """Options that the part needs."""

    def make(self) -> Any:
        """A new part; the registry's, by `spec`."""
        return build(self.kind, Spec.parse(self.spec, key="part"), options=self.options, given=self.given())

    def given(self) -> Mapping[str, Any]:
        """What a composition would pass."""
        return {}

    def made(self) -> Any:
        """The part from a fixed seed."""
        torch.manual_seed(0)
        return self.make()

    def trained(self) -> Any:
        """The part as a training might leave it: every parameter moved away from its initial value, by a fixed seed.

        Two ways to compute one thing can agree at the initial ones and zeros alone, so they are compared after this.
        """
        part, chance = self.made(), torch.Generator().manual_seed(4)
        with torch.no_grad():
            for parameter in part.parameters():
                size = float(parameter.abs().mean()) or 1.0
                parameter.add_(0.2 * size * torch.randn(parameter.shape, generator=chance).to(parameter))
        return part


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Whether two dicts of tensors are equal bit by bit."""
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def state(module: nn.Module) -> dict[str, Tensor]:
    """A copy of a module's parameters and buffers."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def step(module: nn.Module, loss: Tensor) -> None:
    """One step of SGD with momentum and weight decay, which move even a parameter whose gradient is zero."""
    parameters = list(module.parameters())
    if loss.requires_grad:
        loss.backward()
    if parameters:
        torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.1).step()


def is_affine(function: Any, *shape: int) -> bool:
    """Whether f(a x + (1 - a) y) = a f(x) + (1 - a) f(y) for random x, y of this shape."""
    chance = torch.Generator().manual_seed(0)
    x, y = (torch.rand(shape, generator=chance) * 4 - 2 for _ in range(2))
    with torch.no_grad():
        between = function(0.3 * x + 0.7 * y)
        return torch.allclose(between, 0.3 * function(x) + 0.7 * function(y), atol=1e-4, rtol=1e-4)
