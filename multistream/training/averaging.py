"""An exponential moving average (EMA) of the trained weights, which is validated and kept in their place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from multistream.runtime.sharding import divided_like


class WeightAverage:
    """The average of the trained parameters over the steps, with `decay` d: average = d * average + (1 - d) * weight.

    Buffers are not averaged: batch norm's statistics are already averages. In early steps d is at most
    (1 + steps) / (10 + steps), so that the average forgets the initial weights.
    """

    def __init__(self, trained: Mapping[str, nn.Parameter], *, decay: float) -> None:
        self.trained, self.decay = dict(trained), decay
        self.averages = {name: p.detach().clone() for name, p in self.trained.items()}

    @torch.no_grad()
    def update(self, steps: int) -> None:
        """Updates the averages with the weights after optimizer step number `steps`."""
        decay = min(self.decay, (1 + steps) / (10 + steps))
        weights = [self.trained[name].detach() for name in self.averages]
        torch._foreach_lerp_(list(self.averages.values()), weights, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Replaces the weights by the averages inside the context; restores the weights exactly on exit."""
        weights = {name: p.detach().clone() for name, p in self.trained.items()}
        self._write(self.averages)
        try:
            yield
        finally:
            self._write(weights)

    def restore(self, averages: Mapping[str, Tensor]) -> None:
        """Restores the averages from a checkpoint."""
        for name, average in averages.items():
            own = self.averages[name]
            own.copy_(divided_like(average, own))

    @torch.no_grad()
    def _write(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self.trained[name].copy_(value)
