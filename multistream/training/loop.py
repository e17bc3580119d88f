"""The training loop: epochs of steps, validation, early stopping, checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate.accelerator import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor
from torch.nn import functional

from multistream.data.splits import Parts
from multistream.errors import DivergedError
from multistream.network.network import MultiStream
from multistream.nn.eval_mode import evaluating
from multistream.parts.dropout import reseed_dropout
from multistream.recipe import TrainingSettings
from multistream.runs import checkpoint
from multistream.runtime.device import Runtime
from multistream.training.feeds import Batch, Feed, Indices
from multistream.training.objective import Objective
from multistream.training.optimizers import make_optimizer, parameter_names, schedule_factor, set_rate
from multistream.training.stop import Interrupted, Stop


@dataclass(frozen=True)
class Progress:
    """How far a training has come; what a checkpoint's state.json holds."""

    epoch: int = 0
    position: int = 0
    """Batches of this epoch that are done."""
    step: int = 0
    """Optimizer steps that are done."""
    best: float = math.inf
    """The best monitored value so far; smaller is better (accuracy counts negative)."""
    best_epoch: int = -1
    kept: float = math.inf
    waited: int = 0
    """Epochs since the last improvement."""
    finished: bool = False
    loss_sum: float = 0.0
    seen: int = 0
    history: tuple[Mapping[str, float], ...] = field(default=())


@dataclass(frozen=True)
class Listener:
    """Whom the trainer tells of every epoch's line and of every batch."""

    epoch: Callable[[Mapping[str, float]], None]
    batch: Callable[[], None]


class Trainer:
    """Trains what of a network is not frozen. `run` leaves the best epoch's weights in the network."""

    def __init__(
        self,
        network: MultiStream,
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
    ) -> None:
        self.network, self.feed, self.parts, self.settings, self.runtime = network, feed, parts, settings, runtime
        self.folder, self.about, self.names, self.listener, self.stop = folder, about, names, listener, stop
        precision = "fp16" if runtime.precision == "fp16" else "no"  # bf16 needs no scaler; autocast is the objective's
        AcceleratorState._reset_state(reset_partial_state=True)
        self.accelerator = Accelerator(
            mixed_precision=precision, cpu=runtime.device.type == "cpu", device_placement=False
        )
        whole = torch.compile(objective) if runtime.compile else objective
        self.objective = self.accelerator.prepare(whole)
        self.optimizer = self.accelerator.prepare(make_optimizer(network, settings, runtime))
        self.trained = parameter_names(network)
        self.steps_per_epoch = math.ceil(len(self._batches_of(parts.train)) / settings.accumulation)
        self.progress = Progress()
        self.best_weights: dict[str, Tensor] = {}
        self.saved = time.monotonic()

    def run(self, *, resume: checkpoint.Checkpoint | None = None) -> Progress:
        """Trains until the epochs are over or patience is; raises Interrupted after having saved, DivergedError."""
        if resume:
            self._restore(resume)
        else:
            self._save()
        while not self.progress.finished and self.progress.epoch < self.settings.epochs:
            self._epoch()
        self.progress = replace(self.progress, finished=True)
        self._save()
        self.network.load_state_dict(self.best_weights, strict=False)
        return self.progress

    def _epoch(self) -> None:
        """One epoch from where the progress stands: train, validate, decide, tell."""
        started = time.monotonic()
        self.network.train()
        epoch = self.progress.epoch
        batches = list(self._batches_of(self.parts.train))
        pending = 0
        for batch in self.feed.training(self.parts.train, epoch=epoch, start=self.progress.position):
            position = self.progress.position + 1
            pending += 1
            last = pending == self.settings.accumulation or position == len(batches)
            self._step(batch, last=last, of=self._pieces(position - 1))
            pending = 0 if last else pending
            self.progress = replace(self.progress, position=position, step=self.progress.step + last)
            self.listener.batch()
            if last:
                self._pause_or_stop()
        self._end_epoch(seconds=time.monotonic() - started)

    def _pieces(self, position: int) -> float:
        """How many batches as large as this one make up its step: an epoch's last batch is a smaller piece."""
        size, count, images = self.settings.batch_size, self.settings.accumulation, len(self.parts.train)
        first = position - position % count
        return min(count * size, images - first * size) / min(size, images - position * size)

    def _step(self, batch: Batch, *, last: bool, of: float) -> None:
        """Forward and backward of one batch, and the optimizer's step with the last of an accumulation."""
        total = self.settings.epochs * self.steps_per_epoch
        set_rate(self.optimizer, schedule_factor(self.progress.step, total=total, settings=self.settings))
        reseed_dropout(
            self.network, seed=self.settings.seed, step=self.progress.epoch * 1_000_003 + self.progress.position
        )
        seen = len(batch.labels)
        value = 0.0
        if seen:  # 0 where no photo of the batch could be decoded
            loss, _ = self.objective(batch.given, batch.labels)
            self.accelerator.backward(loss / of)
            value = loss.item()
        if last or not math.isfinite(value):
            self._check_finite(value, self._gradient_norm(), batch)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        self.progress = replace(
            self.progress, loss_sum=self.progress.loss_sum + value * seen, seen=self.progress.seen + seen
        )

    def _gradient_norm(self) -> Tensor:
        """The norm of all gradients, clipped to `clip_norm` if that is set."""
        if self.settings.clip_norm > 0:
            return self.accelerator.clip_grad_norm_(list(self.trained.values()), self.settings.clip_norm)  # type: ignore[no-any-return]
        if self.runtime.precision == "fp16":  # scaled gradients may overflow: the scaler skips that step itself
            return torch.tensor(0.0)
        return torch.nn.utils.get_total_norm([p.grad for p in self.trained.values() if p.grad is not None])

    def _check_finite(self, loss: float, norm: Tensor, batch: Batch) -> None:
        if math.isfinite(loss) and torch.isfinite(norm).item():
            return
        rates = ", ".join(f"{group['lr']:.3g}" for group in self.optimizer.param_groups)
        files = ", ".join(self.names(int(i)) for i in batch.indices[:3])
        raise DivergedError(
            "training",
            f"loss {loss:.3g}, gradient norm {norm.item():.3g} in step {self.progress.step} "
            f"(learning rate {rates}; files {files}, ...).",
            right="Both must be finite; the last checkpoint is.",
            do="Lower training.learning_rate, set training.clip_norm=1, or use --precision fp32.",
        )

    def _end_epoch(self, *, seconds: float) -> None:
        """Validates, keeps the best weights, decides whether patience is over, and tells the epoch's line."""
        progress, settings = self.progress, self.settings
        loss, accuracy = self.validate(self.parts.val if len(self.parts.val) else self.parts.train)
        line = {
            "epoch": float(progress.epoch),
            "step": float(progress.step),
            "train_loss": progress.loss_sum / max(1, progress.seen),
            "val_loss": loss,
            "val_accuracy": accuracy,
            "learning_rate": float(self.optimizer.param_groups[0]["lr"]),
            "seconds": seconds,
        }
        values = {"loss": loss, "accuracy": -accuracy}
        watched, kept = values[settings.monitor], values[settings.keep]
        improved = watched < progress.best
        waited = 0 if improved else progress.waited + 1
        if kept < progress.kept:
            self.best_weights = learned(self.network)
        self.progress = replace(
            progress,
            epoch=progress.epoch + 1,
            position=0,
            best=min(watched, progress.best),
            kept=min(kept, progress.kept),
            best_epoch=progress.epoch if kept < progress.kept else progress.best_epoch,
            waited=waited,
            finished=bool(settings.patience) and waited >= settings.patience,
            loss_sum=0.0,
            seen=0,
            history=(*progress.history, line),
        )
        self.listener.epoch(line)

    @torch.no_grad()
    def validate(self, indices: Indices) -> tuple[float, float]:
        """(mean cross entropy, accuracy) of these images, without smoothing and weights, in eval mode."""
        losses, hits, count = 0.0, 0, 0
        for logits, labels, _ in self.logits(indices):
            losses += functional.cross_entropy(logits.double(), labels, reduction="sum").item()
            hits += int((logits.argmax(1) == labels).sum())
            count += len(labels)
        return losses / max(1, count), hits / max(1, count)

    @torch.no_grad()
    def logits(self, indices: Indices) -> list[tuple[Tensor, Tensor, Tensor]]:
        """(logits (B, K), labels (B,), indices (B,)) of every batch, in eval mode, on the CPU."""
        rows = []
        with evaluating(self.network):
            for batch in self.feed.plain(indices):
                self._stop_if_asked()
                if not len(batch.labels):
                    continue
                _, logits = self.objective(batch.given, batch.labels)
                rows.append((logits.float().cpu(), batch.labels.cpu(), batch.indices.cpu()))
        return rows

    def _pause_or_stop(self) -> None:
        """Saves when it is time to; stops, after a save, when somebody asked for it."""
        self._stop_if_asked()
        if time.monotonic() - self.saved >= self.settings.checkpoint_minutes * 60:
            self._save()

    def _stop_if_asked(self) -> None:
        """Between steps, and between the batches of a validation, which may be long: all that is done is saved."""
        if self.stop():
            self._save()
            raise Interrupted(self.stop.signal, f"multistream train --resume {self.folder.parent}")

    def _batches_of(self, indices: Indices) -> range:
        return range(math.ceil(len(indices) / self.settings.batch_size))

    def _save(self) -> None:
        optimizer, groups = checkpoint.optimizer_tensors(_inner(self.optimizer), self.trained)
        scaler = self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else {}
        state = {**vars(self.progress), "history": list(self.progress.history), "optimizer": groups, "scaler": scaler}
        tensors = {
            "model": self.network.state_dict(),
            "best": self.best_weights,
            "optimizer": optimizer,
            "rng": checkpoint.rng_tensors(),
        }
        number = self.progress.step * 2 + self.progress.finished  # the end of training is a state of its own
        checkpoint.save(self.folder, step=number, tensors=tensors, state=_jsonable(state), about=self.about)
        self.saved = time.monotonic()

    def _restore(self, saved: checkpoint.Checkpoint) -> None:
        state = dict(saved.state)
        groups, scaler = state.pop("optimizer"), state.pop("scaler")
        state["history"] = tuple(state["history"])
        values: dict[str, Any] = {k: math.inf if v is None else v for k, v in state.items()}
        self.progress = Progress(**values)
        patient = not self.settings.patience or self.progress.waited < self.settings.patience
        if self.progress.epoch < self.settings.epochs and patient:
            self.progress = replace(self.progress, finished=False)  # a finished run is extended by more epochs
        self.network.load_state_dict(dict(saved.tensors["model"]))
        self.best_weights = dict(saved.tensors.get("best", {}))
        checkpoint.restore_optimizer(_inner(self.optimizer), self.trained, saved.tensors["optimizer"], groups)
        checkpoint.restore_rng(saved.tensors["rng"])
        if scaler and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(scaler)


def learned(network: MultiStream) -> dict[str, Tensor]:
    """A copy of all state that training can change: everything but the frozen streams."""
    frozen = tuple(f"branches.{key}.stream." for key, branch in network.branches.items() if branch.stream.is_frozen)
    return {n: t.detach().clone() for n, t in network.state_dict().items() if not n.startswith(frozen)}


def _inner(optimizer: Any) -> torch.optim.Optimizer:
    """The torch optimizer inside of Accelerate's wrapper."""
    inner: torch.optim.Optimizer = getattr(optimizer, "optimizer", optimizer)
    return inner


def _jsonable(state: Mapping[str, Any]) -> dict[str, Any]:
    """JSON knows no infinity: it is stored as null."""
    return {k: None if isinstance(v, float) and math.isinf(v) else v for k, v in state.items()}
