"""One parameter of many networks as one tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from multistream.ablation.products import LINE


@dataclass
class Stacked:
    """A parameter of the variants `held` (V_i,), for G seeds: `leaf` (G, V_i, n) holds each row's numbers flat.

    n is filled up with zeros to a multiple of 16: fused optimisers round a tensor's last odd numbers otherwise than
    the rest, so that a row's bits would depend on where it lies. Zeros get no gradient, and stay zero.
    """

    leaf: nn.Parameter
    shape: tuple[int, ...]
    held: Tensor

    @classmethod
    def of(cls, rows: Sequence[Sequence[Tensor]], held: Tensor, *, trains: bool) -> Stacked:
        """Stacks the tensors rows[g][i], all of one shape."""
        values = torch.stack([torch.stack([tensor.detach().flatten() for tensor in row]) for row in rows])
        filled = nn.functional.pad(values, (0, -values.shape[2] % LINE))
        return cls(nn.Parameter(filled.contiguous(), requires_grad=trains), tuple(rows[0][0].shape), held)

    @property
    def value(self) -> Tensor:
        """(G, V_i, ...)"""
        return self.unfilled(self.leaf)

    def unfilled(self, flat: Tensor) -> Tensor:
        """Such numbers in the parameter's own shape, (G, V_i, ...)."""
        shaped: Tensor = flat[..., : prod(self.shape)].unflatten(2, self.shape)
        return shaped
