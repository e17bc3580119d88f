"""The one training loop of many rows: each row has its own order, dropout, early stop and best epoch, as if alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from multistream.ablation.pieces import Grid, kind_of
from multistream.ablation.pool import Pool, Rows, steps
from multistream.ablation.separate import SeparateRows
from multistream.ablation.stacked import StackedRows
from multistream.errors import DivergedError
from multistream.recipe import TrainingSettings
from multistream.runtime.device import Runtime
from multistream.training.optimizers import schedule_factor


@dataclass(frozen=True)
class Together:
    """How it went: the best epoch of every row (G, V), and how many rows were stacked and how many were not."""

    best_epochs: Tensor
    stacked: int
    separate: int


def train_together(
    grid: Grid,
    pool: Pool,
    *,
    seeds: Sequence[int],
    settings: TrainingSettings,
    runtime: Runtime,
    tick: Callable[[int], object],
) -> Together:
    """Trains networks[g][v] on pooled features and leaves each row's best epoch in it; linear ones are stacked.

    `tick` is told of the epochs that are done, of `epochs_of(grid, settings)`. Raises DivergedError.
    """
    best = torch.full((len(grid), len(grid[0])), -1)
    kinds: dict[str | None, list[int]] = {}
    for v, network in enumerate(grid[0]):
        kinds.setdefault(kind_of(network), []).append(v)
    for kind, variants in kinds.items():
        part = [[networks[v] for v in variants] for networks in grid]
        rows: Rows = SeparateRows(part, pool, settings, runtime) if kind is None else StackedRows(part, pool, settings)
        best[:, variants] = _Loop(rows, pool, seeds, settings, len(variants)).run(tick)
    for networks in grid:
        for network in networks:
            network.eval()
            network.mark_trained()
    separate = len(grid) * len(kinds.get(None, ()))
    return Together(best, best.numel() - separate, separate)


def epochs_of(grid: Grid, settings: TrainingSettings) -> int:
    """How many epochs `train_together` will tell of."""
    return len({kind_of(network) for network in grid[0]}) * settings.epochs


class _Loop:
    """Epochs over rows; the state of all early stops."""

    def __init__(self, rows: Rows, pool: Pool, seeds: Sequence[int], settings: TrainingSettings, variants: int) -> None:
        self.rows, self.pool, self.seeds, self.settings = rows, pool, seeds, settings
        shape = len(seeds), variants
        self.active = list(range(variants))
        self.watched = torch.full(shape, torch.inf, dtype=torch.float64)
        self.kept = torch.full(shape, torch.inf, dtype=torch.float64)
        self.waited = torch.zeros(shape, dtype=torch.int64)
        self.stopped = torch.zeros(shape, dtype=torch.bool)
        self.best_epoch = torch.full(shape, -1)

    def run(self, tick: Callable[[int], object]) -> Tensor:
        """Trains all rows; returns the best epoch of each, (G, V)."""
        for epoch in range(self.settings.epochs):
            self._epoch(epoch)
            tick(1)
            if not self.active:
                tick(self.settings.epochs - epoch - 1)
                break
        self.rows.finish()
        return self.best_epoch

    def _epoch(self, epoch: int) -> None:
        settings = self.settings
        per_epoch = -(-len(self.pool.parts.train) // settings.batch_size)
        updates = -(-per_epoch // settings.accumulation)
        batches = steps(self.pool, self.seeds, epoch=epoch, settings=settings)
        losses = torch.zeros(())
        for position, step in enumerate(batches):
            losses = losses + self.rows.backward(step)
            if (position + 1) % settings.accumulation == 0 or position + 1 == per_epoch:
                done = epoch * updates + position // settings.accumulation
                self.rows.update(schedule_factor(done, total=settings.epochs * updates, settings=settings))
        if not bool(torch.isfinite(losses).all()):
            raise DivergedError(
                "ablate",
                f"the loss of {int((~torch.isfinite(losses)).sum())} of {losses.numel()} networks is not finite "
                f"in epoch {epoch + 1}.",
                do="Lower training.learning_rate, or set training.clip_norm=1.",
            )
        self._judge(epoch)

    def _judge(self, epoch: int) -> None:
        """Validates, remembers what improved, and lets go of variants whose patience is over for every seed."""
        settings, parts = self.settings, self.pool.parts
        measured = self.rows.measure(parts.val if len(parts.val) else parts.train)
        values = {"loss": measured.loss, "accuracy": -measured.accuracy}
        now = self.active
        running = ~self.stopped[:, now]
        watched, kept = values[settings.monitor], values[settings.keep]
        better = (kept < self.kept[:, now]) & running
        self.rows.remember(better)
        self.kept[:, now] = torch.where(better, kept, self.kept[:, now])
        self.best_epoch[:, now] = torch.where(better, epoch, self.best_epoch[:, now])
        improved = watched < self.watched[:, now]
        self.watched[:, now] = torch.where(running, torch.minimum(watched, self.watched[:, now]), self.watched[:, now])
        self.waited[:, now] = torch.where(improved, 0, self.waited[:, now] + 1)
        if settings.patience:
            self.stopped[:, now] |= self.waited[:, now] >= settings.patience
        gone = [v for v in now if bool(self.stopped[:, v].all())]
        if gone:
            self.active = [v for v in now if v not in gone]
            if self.active:
                self.rows.drop(gone)
