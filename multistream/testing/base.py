"""The base class of the contracts, and helpers that compare tensors and modules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from multistream.registry import Kind, build
from multistream.spec import Spec


class Contract:
    """The requirements of one kind of component, as tests. A subclass sets `spec` or overrides `make`."""

    kind: ClassVar[Kind]
    spec: ClassVar[str] = ""
    options: Mapping[str, Any] = {}
    """The options of the component."""

    def make(self) -> Any:
        """Builds a new component; by default that of the registry with the spec `spec`."""
        return build(self.kind, Spec.parse(self.spec, key="part"), options=self.options, given=self.given())

    def given(self) -> Mapping[str, Any]:
        """Returns the arguments that a composition would pass."""
        return {}

    def made(self) -> Any:
        """Builds the component with a fixed seed."""
        torch.manual_seed(0)
        return self.make()

    def trained(self) -> Any:
        """Builds the component and moves every parameter away from its initial value, as training does; fixed seed.

        Two computations can be equal only at initial values of 0 and 1, so they are compared after this.
        """
        part, chance = self.made(), torch.Generator().manual_seed(4)
        with torch.no_grad():
            for parameter in part.parameters():
                size = float(parameter.abs().mean()) or 1.0
                parameter.add_(0.2 * size * torch.randn(parameter.shape, generator=chance).to(parameter))
        return part


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Returns whether two dicts of tensors are bit-identical."""
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def state(module: nn.Module) -> dict[str, Tensor]:
    """Copies a module's parameters and buffers."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def step(module: nn.Module, loss: Tensor) -> None:
    """Takes a step of SGD with momentum and weight decay, which changes parameters with a gradient of zero too."""
    parameters = list(module.parameters())
    if loss.requires_grad:
        loss.backward()
    if parameters:
        torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.1).step()


def is_affine(function: Any, *shape: int) -> bool:
    """Returns whether f(a x + (1 - a) y) = a f(x) + (1 - a) f(y) for a = 0.3 and random x, y of this shape."""
    chance = torch.Generator().manual_seed(0)
    x, y = (torch.rand(shape, generator=chance) * 4 - 2 for _ in range(2))
    with torch.no_grad():
        between = function(0.3 * x + 0.7 * y)
        return torch.allclose(between, 0.3 * function(x) + 0.7 * function(y), atol=1e-4, rtol=1e-4)
