"""An exponential moving average of the weights that train (EMA): what is validated and kept in their place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from multistream.runtime.sharding import divided_like


class WeightAverage:
    """The average of the trained parameters over the steps, with `decay` d: average = d * average + (1 - d) * weight.

    Buffers are not averaged: batch norm's statistics are averages already. Early on d is (1 + steps) / (10 + steps)
    where that is less, so that the average forgets the initial weights.
    """

    def __init__(self, trained: Mapping[str, nn.Parameter], *, decay: float) -> None:
        self.trained, self.decay = dict(trained), decay
        self.averages = {name: p.detach().clone() for name, p in self.trained.items()}

    @torch.no_grad()
    def update(self, steps: int) -> None:
        """Takes in the weights after optimizer step number `steps`."""
        decay = min(self.decay, (1 + steps) / (10 + steps))
        weights = [self.trained[name].detach() for name in self.averages]
        torch._foreach_lerp_(list(self.averages.values()), weights, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The averages instead of the weights inside; the weights, bit by bit, afterwards."""
        weights = {name: p.detach().clone() for name, p in self.trained.items()}
        self._write(self.averages)
        try:
            yield
        finally:
            self._write(weights)

    def restore(self, averages: Mapping[str, Tensor]) -> None:
        """Takes the averages of a checkpoint."""
        for name, average in averages.items():
            own = self.averages[name]
            own.copy_(divided_like(average, own))

    @torch.no_grad()
    def _write(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self.trained[name].copy_(value)
