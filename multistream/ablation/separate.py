"""Rows that do not stack: separate networks over the same batches, each with its own optimizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from multistream.ablation.pieces import Grid
from multistream.ablation.pool import Measured, Pool, Step
from multistream.network.network import MultiStream
from multistream.nn.eval_mode import evaluating
from multistream.parts.dropout import reseed_dropout
from multistream.recipe import TrainingSettings
from multistream.runtime.device import Runtime
from multistream.training.optimizers import make_optimizer, set_rate


class SeparateRows:
    """Any networks: recurrent temporals, gates, MLP heads, third-party parts."""

    def __init__(self, grid: Grid, pool: Pool, settings: TrainingSettings, runtime: Runtime) -> None:
        self.grid, self.pool, self.settings = grid, pool, settings
        self.active = list(range(len(grid[0])))
        self.optimizers = {
            (g, v): make_optimizer(network, settings, runtime)
            for g, networks in enumerate(grid)
            for v, network in enumerate(networks)
            if any(p.requires_grad for p in network.parameters())
        }
        self.best = {(g, v): _weights(n) for g, networks in enumerate(grid) for v, n in enumerate(networks)}

    def backward(self, step: Step) -> Tensor:
        """Adds each row's gradients; the seed's batch is gathered once for all its rows."""
        losses = torch.zeros(len(self.grid), len(self.active))
        for g, networks in enumerate(self.grid):
            places = step.alone(g)
            if not len(places):
                continue
            pooled, labels = self.pool.take(places), self.pool.labels[places]
            for column, v in enumerate(self.active):
                if (g, v) in self.optimizers:
                    losses[g, column] = self._backward(networks[v], pooled, labels, step, step.seeds[g])
        return losses

    def update(self, factor: float) -> None:
        """A step of each row's optimizer, after its own clipping."""
        for (g, v), optimizer in self.optimizers.items():
            if v in self.active:
                set_rate(optimizer, factor)
                if self.settings.clip_norm > 0:
                    torch.nn.utils.clip_grad_norm_(self.grid[g][v].parameters(), self.settings.clip_norm)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def measure(self, indices: NDArray[np.int64]) -> Measured:
        """Loss and accuracy of every row, (G, V) float64."""
        loss = torch.zeros(len(self.grid), len(self.active), dtype=torch.float64)
        hits, seen = torch.zeros_like(loss), 0
        for places in self.pool.plain(indices):
            pooled, labels = self.pool.take(places), self.pool.labels[places]
            for g, column, network in self._networks():
                with evaluating(network):
                    logits = network.classify(pooled).float()
                loss[g, column] += functional.cross_entropy(logits.double(), labels, reduction="sum").item()
                hits[g, column] += int((logits.argmax(1) == labels).sum())
            seen += len(places)
        return Measured(loss / max(1, seen), hits / max(1, seen))

    def remember(self, rows_GV: Tensor) -> None:
        """Keeps the present weights of these rows, counted among those that still train."""
        for g, column, network in self._networks():
            if rows_GV[g, column]:
                self.best[g, self.active[column]] = _weights(network)

    def drop(self, variants: Sequence[int]) -> None:
        """Goes on without these variants."""
        self.active = [v for v in self.active if v not in variants]

    def finish(self) -> None:
        """Puts the best weights into the networks."""
        for (g, v), weights in self.best.items():
            self.grid[g][v].load_state_dict(weights, strict=False)

    def _networks(self) -> Iterator[tuple[int, int, MultiStream]]:
        for g, networks in enumerate(self.grid):
            for column, v in enumerate(self.active):
                yield g, column, networks[v]

    def _backward(
        self, network: MultiStream, pooled: dict[str, dict[str, Tensor]], labels: Tensor, step: Step, seed: int
    ) -> Tensor:
        network.train()
        reseed_dropout(network, seed=seed, step=step.number)
        loss = network.fusion.loss(network.fuse(pooled), labels, self.pool.criterion)
        (loss / step.of).backward()
        return loss.detach().cpu()


def _weights(network: MultiStream) -> dict[str, Tensor]:
    """A copy of what training can change, without the streams that all rows share."""
    return {n: t.detach().clone() for n, t in network.state_dict().items() if ".stream." not in n}
