"""Dropout whose mask is a function of seed and step, so that a run can be repeated, resumed and split in parts."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class SteppedDropout(nn.Module):
    """Dropout with rate `p` that draws from its own generator once `reseed` has been called, else from torch's.

    torch's `nn.Dropout` takes no generator: its masks depend on all that drew before, so that two heads trained side
    by side would get other masks than either alone (checks B1).
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"dropout={p} is no rate. It must be at least 0 and below 1.")
        self.p = p
        self.draw: tuple[int, int] | None = None

    def reseed(self, seed: int, step: int) -> None:
        """Fixes the next mask."""
        self.draw = (seed, step)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        if self.draw is None:
            return functional.dropout(x, self.p)
        seed, step = self.draw
        generator = torch.Generator(x.device).manual_seed((seed * 1_000_003 + step) % 2**63)
        keep = torch.rand(x.shape, generator=generator, device=x.device) >= self.p
        return x * keep / (1 - self.p)


def reseed_dropout(network: nn.Module, *, seed: int, step: int) -> None:
    """Fixes the next mask of every SteppedDropout in the network."""
    for module in network.modules():
        if isinstance(module, SteppedDropout):
            module.reseed(seed, step)
