"""The trainings of a reproduction on an engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from multistream import runs
from multistream.console import Console
from multistream.files import write_atomic
from multistream.reproduction.plan import Request
from multistream.training.engines import Engine, run_all
from multistream.training.folds import fold_runs
from multistream.training.planned_run import PlannedRun


def train_side_by_side(missing: Sequence[PlannedRun], engine: Engine, *, request: Request, console: Console) -> None:
    """Trains the runs and their folds on an engine; rows that fuse others are trained after them."""
    for joins in (False, True):
        chosen = [each for each in missing if ("branches" in each.recipe.network.freeze) is joins]
        planned = [run for each in chosen for run in _runs_of(each, request.out / "runs")]
        run_all(planned, engine, place=request.out, console=console)


def _runs_of(training: PlannedRun, root: Path) -> list[PlannedRun]:
    """The one run of a training, or its folds, for which its folder is made a run that can be resumed."""
    name = "/".join(training.folder.relative_to(root).parts)
    if not training.recipe.data.folds:
        return [PlannedRun(name, training.recipe, training.folder)]
    write_atomic(training.folder / runs.RECIPE, training.recipe.dumps())
    return [replace(run, name=f"{name}/{run.name}") for run in fold_runs(training.recipe, training.folder)]
