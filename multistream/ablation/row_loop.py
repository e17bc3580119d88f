"""The training loop of many rows, each with its own order, dropout, early stopping and best epoch.

A row is one network: a variant with a seed. It learns the same as if it were trained alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multistream.ablation.batched_rows import BATCHED_LOSSES, BatchedRows, batch_kind
from multistream.ablation.results import LARGEST_DIFFERENCE, VerifiedRow
from multistream.ablation.row_data import Grid, GridStep, RowBatch, RowData, RowMetrics, steps
from multistream.errors import DivergedError, MultistreamError
from multistream.network.network import MultiStream
from multistream.nn.modules import evaluating, trains
from multistream.nn.seeding import seeded
from multistream.parts.dropout import reseed_dropout
from multistream.recipe import TrainingSettings
from multistream.runtime.device import Runtime
from multistream.training.feeds import PooledFeed
from multistream.training.loop import Trainer, hit_count, learned, plain_loss
from multistream.training.optimizers import make_optimizer, schedule_factor, set_rate
from multistream.training.progress import Listener
from multistream.training.step import Objective
from multistream.training.stop import Stop


@dataclass(frozen=True)
class TrainedRows:
    """The best epoch of every row (G, V), and the number of rows that were trained in a batch."""

    best_epochs: Tensor
    batched: int


def train_rows(
    grid: Grid,
    data: RowData,
    *,
    seeds: Sequence[int],
    settings: TrainingSettings,
    runtime: Runtime,
    tick: Callable[[int], object],
) -> TrainedRows:
    """Trains networks[g][v] on pooled features and leaves them at their best epoch; linear rows train in batches.

    `tick` is called with the number of newly finished epochs; they sum to `epochs_of(grid, settings)`. Raises
    DivergedError.
    """
    best = torch.full((len(grid), len(grid[0])), -1)
    kinds = _kinds(grid, data, settings)
    for kind, variants in kinds.items():
        part = [[networks[v] for v in variants] for networks in grid]
        rows: RowBatch = (
            SingleRows(part, data, settings, runtime) if kind is None else BatchedRows(part, data, settings)
        )
        best[:, variants] = _Loop(rows, data, seeds, settings, len(variants)).run(tick)
    for network in chain.from_iterable(grid):
        network.eval()
        network.mark_trained()
    return TrainedRows(best, best.numel() - len(grid) * len(kinds.get(None, ())))


def _kinds(grid: Grid, data: RowData, settings: TrainingSettings) -> dict[str | None, list[int]]:
    """Groups the variants by `batch_kind`; the variants under None are trained one at a time.

    Batches need a loss of BATCHED_LOSSES and an element-wise optimizer.
    """
    if type(data.criterion) not in BATCHED_LOSSES or settings.optimizer.startswith("timm:"):
        return {None: list(range(len(grid[0])))}
    kinds: dict[str | None, list[int]] = defaultdict(list)
    for v, network in enumerate(grid[0]):
        kinds[batch_kind(network)].append(v)
    return kinds


def epochs_of(grid: Grid, settings: TrainingSettings) -> int:
    """Returns the number of epochs that `train_rows` will report."""
    return len({batch_kind(network) for network in grid[0]}) * settings.epochs


class SingleRows:
    """Networks of any components, trained on the same batches, each with its own optimizer."""

    def __init__(self, grid: Grid, data: RowData, settings: TrainingSettings, runtime: Runtime) -> None:
        self.grid, self.data, self.settings, self.runtime = grid, data, settings, runtime
        self.optimizers = {
            (g, v): make_optimizer(network, settings, runtime) for g, v, network in self._networks() if trains(network)
        }
        self.best = {(g, v): learned(network) for g, v, network in self._networks()}

    def backward(self, step: GridStep) -> Tensor:
        """Accumulates each row's gradients; a seed's batch is gathered once for all its rows."""
        losses = torch.zeros(len(self.grid), len(self.grid[0]))
        for g, seed in enumerate(step.seeds):
            places = step.alone(g)
            pooled, targets = self.data.take(places), self.data.targets[places]
            for v in [v for row, v in self.optimizers if row == g and len(places)]:
                network = self.grid[g][v].train()
                reseed_dropout(network, seed=seed, step=step.number)
                with seeded(seed, step=step.number, device=self.runtime.device):
                    loss = network.fusion.loss(network.fuse(pooled), targets, self.data.criterion)
                (loss / step.of).backward()
                losses[g, v] = loss.detach().cpu()
        return losses

    def update(self, factor: float) -> None:
        """Clips each row's gradient norm and takes a step of its optimizer."""
        for (g, v), optimizer in self.optimizers.items():
            set_rate(optimizer, factor)
            if self.settings.clip_norm > 0:
                torch.nn.utils.clip_grad_norm_(self.grid[g][v].parameters(), self.settings.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def measure(self, indices: NDArray[np.int64]) -> RowMetrics:
        """Measures loss and accuracy of every row, (G, V) float64."""
        loss, hits = torch.zeros(2, len(self.grid), len(self.grid[0]), dtype=torch.float64)
        for places in self.data.plain(indices):
            pooled, labels = self.data.take(places), self.data.labels[places]
            for g, v, network in self._networks():
                with evaluating(network):
                    logits = network.classify(pooled).float()
                sets = network.label_sets
                loss[g, v] += plain_loss(logits, self.data.targets[places], label_sets=sets)
                hits[g, v] += hit_count(logits, self.data.targets[places] if sets else labels, label_sets=sets)
        seen = max(1, len(self.data.rows(indices)))
        return RowMetrics(loss / seen, hits / seen)

    def remember(self, rows_GV: Tensor) -> None:
        """Keeps a copy of the current weights of these rows."""
        for g, v, network in self._networks():
            if rows_GV[g, v]:
                self.best[g, v] = learned(network)

    def stop(self, rows_GV: Tensor) -> None:
        """Stops training these rows, so that they take no more time."""
        for g, v, _ in self._networks():
            if rows_GV[g, v]:
                self.optimizers.pop((g, v), None)

    def finish(self) -> None:
        """Copies the kept weights into the networks."""
        for (g, v), weights in self.best.items():
            self.grid[g][v].load_state_dict(weights, strict=False)

    def _networks(self) -> Iterator[tuple[int, int, MultiStream]]:
        for g, v in np.ndindex(len(self.grid), len(self.grid[0])):
            yield g, v, self.grid[g][v]


class _Loop:
    """The epochs of all rows, and the early-stopping state of each row."""

    def __init__(
        self, rows: RowBatch, data: RowData, seeds: Sequence[int], settings: TrainingSettings, variants: int
    ) -> None:
        self.rows, self.data, self.seeds, self.settings = rows, data, seeds, settings
        shape = len(seeds), variants
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
            if bool(self.stopped.all()):
                tick(self.settings.epochs - epoch - 1)
                break
        self.rows.finish()
        return self.best_epoch

    def _epoch(self, epoch: int) -> None:
        settings = self.settings
        per_epoch = -(-len(self.data.parts.train) // settings.batch_size)
        updates = -(-per_epoch // settings.accumulation)
        batches = steps(self.data, self.seeds, epoch=epoch, settings=settings)
        losses = torch.zeros(())
        for position, step in enumerate(batches):
            losses = losses + self.rows.backward(step)
            if (position + 1) % settings.accumulation == 0 or position + 1 == per_epoch:
                done = epoch * updates + position // settings.accumulation
                self.rows.update(schedule_factor(done, total=settings.epochs * updates, settings=settings))
        diverged = ~torch.isfinite(losses).cpu() & ~self.stopped
        if bool(diverged.any()):
            raise DivergedError(
                "ablate",
                f"the loss of {int(diverged.sum())} of {losses.numel()} networks is not finite in epoch {epoch + 1}.",
                do="Lower training.learning_rate, or set training.clip_norm=1.",
            )
        self._judge(epoch)

    def _judge(self, epoch: int) -> None:
        """Validates all rows, keeps the weights of improved rows, and stops rows that exceed the patience."""
        settings, parts = self.settings, self.data.parts
        measured = self.rows.measure(parts.val if len(parts.val) else parts.train)
        values = {"loss": measured.loss, "accuracy": -measured.accuracy}
        watched, kept = values[settings.monitor], values[settings.keep]
        better = (kept < self.kept) & ~self.stopped
        self.rows.remember(better)
        self.kept = torch.where(better, kept, self.kept)
        self.best_epoch[better] = epoch
        self.waited = torch.where(watched < self.watched, 0, self.waited + 1)
        self.watched = torch.minimum(watched, self.watched)
        if settings.patience:
            self.stopped |= self.waited >= settings.patience
            self.rows.stop(self.stopped)


class VerificationError(MultistreamError):
    """A row of a batch differs from the row trained alone."""

    exit_code = 1


def verify_row(
    trained: MultiStream,
    untrained: Sequence[MultiStream],
    data: RowData,
    *,
    label: str,
    settings: TrainingSettings,
    runtime: Runtime,
) -> VerifiedRow:
    """Trains two copies of a row alone, one in the ablation's loop and one in the loop of `train`, and compares them.

    Raises VerificationError if a probability differs by more than LARGEST_DIFFERENCE.
    """
    alone, by_train = untrained
    train_rows([[alone]], data, seeds=[settings.seed], settings=settings, runtime=runtime, tick=lambda _: None)
    train_by_itself(by_train, data, settings=settings, runtime=runtime)
    differences = _difference(trained, alone, data), _difference(trained, by_train, data)
    if not max(differences) <= LARGEST_DIFFERENCE:
        raise VerificationError(
            "--verify",
            f"{label}, seed {settings.seed}: probabilities differ by {max(differences):.1e} from training it alone.",
            right=f"At most {LARGEST_DIFFERENCE:.0e} is allowed.",
            do="Please report it, with the recipe.",
        )
    return VerifiedRow(label, settings.seed, *differences)


def train_by_itself(network: MultiStream, data: RowData, *, settings: TrainingSettings, runtime: Runtime) -> None:
    """Trains the network on pooled features with the loop of `train`."""
    if not trains(network):
        return
    with TemporaryDirectory(prefix="multistream-verify-") as folder:
        Trainer(
            PooledFeed(data.features, data.targets, data.valid, settings),
            data.parts,
            objective=Objective(network, criterion=data.criterion, runtime=runtime, pooled=True),
            settings=settings,
            runtime=runtime,
            folder=Path(folder),
            about={},
            names=str,
            listener=Listener(epoch=lambda _: None, batch=lambda: None),
            stop=Stop(),
        ).run()


@torch.no_grad()
def _difference(first: MultiStream, second: MultiStream, data: RowData) -> float:
    """Returns the largest difference of a probability over all photos and classes."""
    rows = torch.from_numpy(data.rows(np.concatenate(list(data.parts.named().values())))).to(data.labels.device)
    with evaluating(first), evaluating(second):
        one, other = (network.probabilities(network.classify(data.take(rows))) for network in (first, second))
    return float((one - other).abs().max())
