"""The training loop: epochs of steps, validation, early stopping, checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from multistream.commands import command_line
from multistream.data.splits import Parts
from multistream.network.network import MultiStream
from multistream.nn.modules import evaluating
from multistream.recipe import TrainingSettings
from multistream.runs import checkpoint
from multistream.runtime.device import Runtime
from multistream.runtime.distributed import ALONE, Ranks
from multistream.runtime.sharding import divided_like, gathered, load_whole
from multistream.training.extraction import nothing_to_train_on
from multistream.training.feeds import Feed, Indices, winners
from multistream.training.optimizers import WeightAverage, schedule_factor
from multistream.training.progress import Listener, Progress
from multistream.training.step import Objective, Stepper, stand_in
from multistream.training.stop import Interrupted, Stop

EPOCH_STRIDE = 1_000_003
"""The offset between the batch numbers of consecutive epochs, so that random draws never repeat."""


class Trainer:
    """Trains the parameters of an objective's network that are not frozen.

    `run` leaves the best epoch's weights in the network.
    """

    def __init__(
        self,
        feed: Feed,
        parts: Parts,
        *,
        objective: Objective,
        settings: TrainingSettings,
        runtime: Runtime,
        folder: Path,
        about: Mapping[str, Any],
        names: Callable[[int], str],
        listener: Listener,
        stop: Stop,
        ranks: Ranks = ALONE,
    ) -> None:
        self.network, self.feed, self.parts, self.settings = objective.network, feed, parts, settings
        self.folder, self.about, self.listener, self.stop, self.ranks = folder, about, listener, stop, ranks
        self.objective = objective
        self.step = Stepper(objective, settings=settings, runtime=runtime, names=names, ranks=ranks)
        self.batches = math.ceil(len(parts.train) / settings.batch_size)
        self.steps_per_epoch = math.ceil(self.batches / settings.accumulation)
        self.progress = Progress()
        self.average = WeightAverage(self.step.trained, decay=settings.ema) if settings.ema else None
        self.best_weights: dict[str, Tensor] = {}
        self.saved = time.monotonic()

    def run(self, *, resume: checkpoint.Checkpoint | None = None) -> Progress:
        """Trains until the last epoch or early stopping.

        Raises Interrupted (after saving a checkpoint) or DivergedError.
        """
        if resume:
            self._restore(resume)
        else:
            if self.settings.probe_epochs > 0:
                self._keep_start()
            self._save()
        while not self.progress.finished and self.progress.epoch < self.settings.epochs:
            self._epoch()
        self.progress = replace(self.progress, finished=True)
        self._save()
        load_whole(self.network, self.best_weights, strict=False)
        return self.progress

    def _keep_start(self) -> None:
        """Validates the weights of the linear probe, which are kept until an epoch is better."""
        loss, accuracy = self.validate(self.parts.val if len(self.parts.val) else self.parts.train)
        self.progress = self.progress.at_start(loss, accuracy, settings=self.settings)
        self.best_weights = learned(self.network)

    def _epoch(self) -> None:
        """Continues the current epoch to its end: trains, validates, checks early stopping, reports."""
        started = time.monotonic()
        self.network.train()
        epoch, pending = self.progress.epoch, 0
        total = self.settings.epochs * self.steps_per_epoch
        for batch in self.feed.training(self.parts.train, epoch=epoch, start=self.progress.position):
            position = self.progress.position
            pending += 1
            last = pending == self.settings.accumulation or position + 1 == self.batches
            self.step(
                batch,
                draw=epoch * EPOCH_STRIDE + position,
                pieces=self._pieces(position),
                last=last,
                rate=schedule_factor(self.progress.step, total=total, settings=self.settings),
                step=self.progress.step,
            )
            pending = 0 if last else pending
            self.progress = replace(self.progress, position=position + 1, step=self.progress.step + last)
            self.listener.batch()
            if last:
                if self.average:
                    self.average.update(self.progress.step)
                self._pause_or_stop()
        self._end_epoch(seconds=time.monotonic() - started)

    def _pieces(self, position: int) -> float:
        """Returns the number of batches of this size in one optimizer step; an epoch's last batch is smaller."""
        size, count, images = self.settings.batch_size, self.settings.accumulation, len(self.parts.train)
        first = position - position % count
        return min(count * size, images - first * size) / min(size, images - position * size)

    def _end_epoch(self, *, seconds: float) -> None:
        """Validates, keeps the best weights, checks early stopping, and reports the epoch's line."""
        progress = self.progress
        if not progress.seen:
            raise nothing_to_train_on()
        self.ranks.copy_from_first(dict(self.network.named_buffers()))  # running statistics differ between ranks
        try:
            with self.average.applied() if self.average else nullcontext():
                loss, accuracy = self.validate(self.parts.val if len(self.parts.val) else self.parts.train)
                line = self._line(loss, accuracy, seconds=seconds)
                self.progress = progress.after_epoch(line, settings=self.settings)
                if self.progress.best_epoch == progress.epoch:
                    self.best_weights = learned(self.network)
        except Interrupted:
            self._save()  # the weights themselves, not their average
            raise
        self.listener.epoch(line)

    def _line(self, loss: float, accuracy: float, *, seconds: float) -> dict[str, float]:
        return {
            "epoch": self.progress.epoch,
            "step": self.progress.step,
            "train_loss": self.progress.loss_sum / max(1, self.progress.seen),
            "val_loss": loss,
            "val_accuracy": accuracy,
            "learning_rate": float(self.step.optimizer.param_groups[0]["lr"]),
            "seconds": seconds,
        }

    @torch.no_grad()
    def validate(self, indices: Indices) -> tuple[float, float]:
        """Returns (mean cross entropy, accuracy) of these images, in eval mode.

        Label smoothing and class weights are not applied.
        """
        losses, hits, count = 0.0, 0, 0
        with evaluating(self.network):
            for batch in self.feed.plain(indices):
                self._raise_if_asked()
                if not len(batch.labels) and self.ranks.size == 1:
                    continue
                _, logits = self.objective(batch.given, stand_in(batch.labels))
                logits = logits[: len(batch.labels)]
                losses += plain_loss(logits, batch.labels, label_sets=self.network.label_sets)
                hits += hit_count(logits, batch.labels, label_sets=self.network.label_sets)
                count += len(batch.labels)
        loss, right, images = self.ranks.sums(losses, hits, count)
        return loss / max(1, images), right / max(1, images)

    def _pause_or_stop(self) -> None:
        """Saves a checkpoint if one is due; if a stop was requested, saves and raises Interrupted."""
        due = time.monotonic() - self.saved >= self.settings.checkpoint_minutes * 60
        try:
            due = self._raise_if_asked(due=due)
        except Interrupted:
            self._save()
            raise
        if due:
            self._save()

    def _raise_if_asked(self, *, due: bool = False) -> bool:
        """Raises Interrupted on all ranks if one was asked to stop; called between steps and validation batches.

        Returns whether a checkpoint is due on any rank.
        """
        loss, seen, signal, due = self.step.collect(self.stop.signal if self.stop() else 0, due=due)
        progress = self.progress
        self.progress = replace(progress, loss_sum=progress.loss_sum + loss, seen=progress.seen + seen)
        if signal:
            raise Interrupted(signal, command_line("train", "--resume", self.folder.parent))
        return due

    def _save(self) -> None:
        """Writes a checkpoint; called on all ranks.

        Replicated state is saved by rank 0, sharded state is gathered first.
        """
        optimizer, groups = checkpoint.optimizer_tensors(self.step.optimizer, self.step.trained)
        state = {**self.progress.to_state(), "optimizer": groups, "scaler": self.step.scaler.state_dict()}
        tensors = {
            "model": self.network.state_dict(),
            "best": self.best_weights,
            "optimizer": optimizer,
            "rng": checkpoint.rng_tensors(),
        }
        if self.average:
            tensors["ema"] = self.average.averages
        tensors = {group: gathered(named, ranks=self.ranks) for group, named in tensors.items()}
        if self.ranks.is_first:
            checkpoint.save(self.folder, step=self.progress.number, tensors=tensors, state=state, about=self.about)
        self.saved = time.monotonic()

    def _restore(self, saved: checkpoint.Checkpoint) -> None:
        with checkpoint.understood(saved.path):
            self._take(saved)

    def _take(self, saved: checkpoint.Checkpoint) -> None:
        state = dict(saved.state)
        groups, scaler = state.pop("optimizer"), state.pop("scaler")
        self.progress = Progress.from_state(state)
        patient = not self.settings.patience or self.progress.waited < self.settings.patience
        if self.progress.epoch < self.settings.epochs and patient:
            self.progress = replace(self.progress, finished=False)  # more epochs extend a finished run
        load_whole(self.network, saved.tensors["model"])
        self.best_weights = dict(saved.tensors.get("best", {}))
        slots = {
            name: divided_like(t, self.step.trained.get(name.rpartition("/")[0], t))
            for name, t in saved.tensors["optimizer"].items()
        }
        checkpoint.restore_optimizer(self.step.optimizer, self.step.trained, slots, groups)
        checkpoint.restore_rng(saved.tensors["rng"])
        if self.average:
            self.average.restore(saved.tensors["ema"])
        if scaler:
            self.step.scaler.load_state_dict(scaler)


def plain_loss(logits_BK: Tensor, targets: Tensor, *, label_sets: bool = False) -> float:
    """Returns the sum of the images' cross entropies, without label smoothing and class weights, in float64.

    With `label_sets`, each image contributes the mean of its classes' binary cross entropies.
    """
    exact = targets.double() if targets.ndim == 2 else targets
    if label_sets:
        each = functional.binary_cross_entropy_with_logits(logits_BK.double(), exact, reduction="none")
        return each.mean(1).sum().item()
    return functional.cross_entropy(logits_BK.double(), exact, reduction="sum").item()


def hit_count(logits_BK: Tensor, targets: Tensor, *, label_sets: bool = False) -> int:
    """Counts the images with the right class or, with `label_sets`, with exactly the right set of classes."""
    if label_sets:
        return int(((logits_BK >= 0) == (targets > 0.5)).all(1).sum())
    return int((logits_BK.argmax(1) == winners(targets)).sum())


def learned(network: MultiStream) -> dict[str, Tensor]:
    """Copies all state that training can change: everything except frozen streams."""
    frozen = tuple(f"branches.{key}.stream." for key, branch in network.branches.items() if branch.stream.is_frozen)
    return {n: t.detach().clone() for n, t in network.state_dict().items() if not n.startswith(frozen)}
