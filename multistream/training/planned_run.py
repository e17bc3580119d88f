"""A planned training run: an entry in a list of runs, and its printed form."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from multistream import runs
from multistream.recipe import Recipe

State = Literal["new", "stopped", "finished"]


@dataclass(frozen=True)
class PlannedRun:
    """One training of a list: its recipe, its run's folder, and its name in messages."""

    name: str
    recipe: Recipe
    folder: Path

    @property
    def state(self) -> State:
        """Whether the run has not started, was stopped, or is finished."""
        if (self.folder / runs.SUMMARY).is_file():
            return "finished"
        return "stopped" if (self.folder / runs.RECIPE).is_file() else "new"

    @property
    def trainings(self) -> int:
        """The number of training runs: one, or one for each fold and repeat."""
        data = self.recipe.data
        return data.folds * data.repeats if data.folds and not data.fold else 1

    def to_dict(self) -> dict[str, Any]:
        """Returns an entry of the list that `--plan --json` prints."""
        return {"run": self.name, "state": self.state, "trainings": self.trainings, "folder": str(self.folder)}

    def __str__(self) -> str:
        name = f"{self.name} ({self.trainings:,} training runs)" if self.trainings > 1 else self.name
        return f"{self.state:9} {name:40} {self.folder}"
