"""Training progress, and the listeners that are notified of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from multistream.errors import CannotResume
from multistream.recipe import TrainingSettings


@dataclass(frozen=True)
class Progress:
    """The progress of a training, which a checkpoint stores in state.json."""

    epoch: int = 0
    position: int = 0
    """Finished batches of this epoch."""
    step: int = 0
    """Finished optimizer steps."""
    best: float = math.inf
    """The best monitored value so far; smaller is better (accuracy is negated)."""
    best_epoch: int = -1
    kept: float = math.inf
    waited: int = 0
    """Epochs since the last improvement."""
    finished: bool = False
    loss_sum: float = 0.0
    seen: int = 0
    history: tuple[Mapping[str, float], ...] = field(default=())

    @property
    def number(self) -> int:
        """The number of the checkpoint with this state. The end of training has a number of its own."""
        return self.step * 2 + self.finished

    def at_start(self, loss: float, accuracy: float, *, settings: TrainingSettings) -> Progress:
        """Returns the progress of initial weights that are kept until an epoch is better; their `best_epoch` is -1."""
        line = {"val_loss": loss, "val_accuracy": accuracy}
        return replace(self, best=_monitored(line, settings.monitor), kept=_monitored(line, settings.keep))

    def after_epoch(self, line: Mapping[str, float], *, settings: TrainingSettings) -> Progress:
        """Returns the progress after an epoch's validation, with new best values and the early stopping decision."""
        watched, kept = _monitored(line, settings.monitor), _monitored(line, settings.keep)
        waited = 0 if watched < self.best else self.waited + 1
        return replace(
            self,
            epoch=self.epoch + 1,
            position=0,
            best=min(watched, self.best),
            kept=min(kept, self.kept),
            best_epoch=self.epoch if kept < self.kept else self.best_epoch,
            waited=waited,
            finished=bool(settings.patience) and waited >= settings.patience,
            loss_sum=0.0,
            seen=0,
            history=(*self.history, line),
        )

    def to_state(self) -> dict[str, Any]:
        """Returns the content of state.json, in which infinity is null."""
        values = {**vars(self), "history": list(self.history)}
        return {k: None if isinstance(v, float) and math.isinf(v) else v for k, v in values.items()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Reads the progress of a checkpoint. Raises CannotResume if another version wrote it."""
        values: dict[str, Any] = {k: math.inf if v is None else v for k, v in state.items()}
        try:
            made = cls(**{**values, "history": tuple(values["history"])})
            for name, default in vars(cls()).items():
                if not _is_like(getattr(made, name), default):
                    raise TypeError(f"{name} is {str(getattr(made, name))[:80]!r}")
            return made
        except (KeyError, TypeError) as error:
            right = "It was written by another version of multistream."
            raise CannotResume("checkpoint", f"its state cannot be read: {error}.", right=right) from error


@dataclass(frozen=True)
class Listener:
    """Callbacks that the trainer calls for every epoch's line and every batch."""

    epoch: Callable[[Mapping[str, float]], None]
    batch: Callable[[], None]


def _monitored(line: Mapping[str, float], measure: str) -> float:
    return line["val_loss"] if measure == "loss" else -line["val_accuracy"]


def _is_like(value: object, default: object) -> bool:
    """Returns whether a stored value has the type of its default: int, float, bool, or a tuple of dicts."""
    match default:
        case tuple():
            return isinstance(value, tuple) and all(isinstance(line, dict) for line in value)
        case float():
            return type(value) in (int, float)
        case _:
            return type(value) is type(default)  # a bool is not accepted as an int
