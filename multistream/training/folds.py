"""Cross-validation: trains a run per fold, and predicts every photo with the network that was not trained on it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multistream import runs
from multistream.commands import command_line
from multistream.console import Console
from multistream.errors import CannotResume, MultistreamError, UsageError
from multistream.files import write_atomic
from multistream.folder_lock import FolderLock
from multistream.inference.metrics import Measures, metrics, without_temperature
from multistream.interfaces import Stream
from multistream.label_set_metrics import label_set_metrics, mean_average_precision
from multistream.recipe import Recipe, differences
from multistream.runs.predictions_file import Predictions, read_predictions, write_predictions
from multistream.runtime.distributed import ranks_of
from multistream.training.engines import Engine, check_can_be_sent, run_all
from multistream.training.jobs import PlannedRun
from multistream.training.stop import Stop
from multistream.training.train import Run
from multistream.training.train import train as train_once


@dataclass(frozen=True)
class FoldsRun:
    """The result of a training with folds: a run for each fold, and the metrics of the out-of-fold predictions.

    With repeats, `test` are the metrics of the first repeat, in which each photo counts once; `scores` holds the
    accuracy of every repeat, or the mean average precision if photos may have several labels.
    """

    folder: Path
    recipe: Recipe
    test: Measures
    scores: tuple[float, ...]
    folds: tuple[Mapping[str, Any], ...]
    """For each fold, in order: its run's folder relative to this one, test accuracy (and mAP), and number of photos."""
    seconds: float
    data: Mapping[str, Any]
    parameters: Mapping[str, int]

    def __fspath__(self) -> str:
        """The folder: a run in memory is accepted wherever the path of a run is."""
        return str(self.folder)

    def to_dict(self) -> dict[str, Any]:
        """Returns the content of summary.json, which `train --json` prints too."""
        return {
            "test": self.test.to_dict(),
            "repeats": list(self.scores),
            "folds": [dict(fold) for fold in self.folds],
            "seconds": self.seconds,
            "run": str(self.folder),
            "data": dict(self.data),
            "parameters": dict(self.parameters),
        }


def train_folds(
    recipe: Recipe,
    *,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    streams: Mapping[str, Stream] | None = None,
    console: Console | None = None,
    stop: Stop | None = None,
    engine: Engine | None = None,
) -> FoldsRun:
    """Trains a recipe once per fold and repeat, and collects the predictions of the held-out photos.

    With `resume`, finished folds are kept and a stopped fold is continued. A stream that is itself a run with folds
    gives each fold its own branch, trained on the same photos. With an `engine` the folds are trained on it, otherwise
    one after the other in this process. Raises MultistreamError.
    """
    if ranks_of(os.environ).size > 1:
        what = "folds are trained one after the other, in one process."
        raise UsageError("data.folds", what, do="Run it without torchrun.")
    if engine:
        check_can_be_sent(streams)
    console = console or Console(quiet=True)
    started = time.monotonic()
    folder = Path(resume).expanduser() if resume is not None else runs.new_run(out, recipe)
    with FolderLock(folder):
        if resume is not None:
            recipe = _same_recipe(folder, recipe)
        write_atomic(folder / runs.RECIPE, recipe.dumps())
        planned = fold_runs(recipe, folder)
        if engine:
            again = command_line("train", "--resume", folder, *engine.words)
            run_all(planned, engine, place=folder, console=console, stop=stop, again=again)
        try:
            for number, run in enumerate(planned, 1):
                console.say(f"fold {run.name} ({number} of {len(planned)}): {run.folder}")
                train_planned(run, streams=streams, console=console, stop=stop)
        except MultistreamError:
            # If no fold has started, the corrected command can use the folder.
            if resume is None and not is_fold_run(folder):
                (folder / runs.RECIPE).unlink()
            raise
        return _gathered(folder, recipe, seconds=time.monotonic() - started)


def fold_recipes(recipe: Recipe) -> dict[str, Recipe]:
    """Returns {`REPEAT-FOLD`: recipe of one training}; repeat r adds r to the split seed."""
    found = {}
    for repeat, fold in product(range(recipe.data.repeats), range(1, recipe.data.folds + 1)):
        name = f"{repeat + 1}-{fold}"
        data = {"fold": fold, "repeats": 1, "split_seed": recipe.data.split_seed + repeat}
        streams = {**recipe.network.streams, **dict(_branches_of_fold(recipe, name))}
        found[name] = recipe.updated({"data": data, "network": {"streams": streams}})
    return found


def fold_runs(recipe: Recipe, folder: Path) -> list[PlannedRun]:
    """Returns the training runs of a run with folds, in folders below its own."""
    return [PlannedRun(name, own, folder / runs.FOLDS / name) for name, own in fold_recipes(recipe).items()]


def is_fold_run(path: Path) -> bool:
    """Returns whether a folder is a run with folds, which has no model of its own."""
    return (path / runs.FOLDS).is_dir()


def _branches_of_fold(recipe: Recipe, name: str) -> Iterator[tuple[str, str]]:
    """Yields (key, path of its run for this fold) for streams that are runs with folds."""
    paths = {key: Path(spec).expanduser() for key, spec in recipe.network.streams.items() if "/" in spec}
    for key, path in paths.items():
        own = path / runs.FOLDS / name
        if is_fold_run(path) and not own.is_dir():
            right = "Its folds and repeats must equal those of this training run."
            raise UsageError(f"streams.{key}", f"{path} has no fold {name}.", right=right)
        if own.is_dir():
            yield key, str(own)


def _same_recipe(folder: Path, recipe: Recipe) -> Recipe:
    """Returns the recipe of the run to resume. Raises CannotResume if the given recipe differs."""
    stored = Recipe.load(folder)
    changed = [name for name, *_ in differences(stored, recipe)]
    if changed and recipe.data.folds:
        what = f"{', '.join(changed[:4])} differ from the run's recipe."
        raise CannotResume(folder, what, do="Resume it with its own recipe, or train a new run.")
    return stored


def _gathered(folder: Path, recipe: Recipe, *, seconds: float) -> FoldsRun:
    """Reads the finished folds, and writes the predictions of all photos and the summary."""
    names = list(fold_recipes(recipe))
    own = [read_predictions(folder / runs.FOLDS / name / runs.PREDICTIONS) for name in names]
    summaries = [runs.read_summary(folder / runs.FOLDS / name) for name in names]
    write_predictions(folder / runs.PREDICTIONS, joined(own))
    k = recipe.data.folds
    repeats = [joined(own[start : start + k]) for start in range(0, len(own), k)]
    run = FoldsRun(
        folder=folder,
        recipe=recipe,
        test=_metrics(repeats[0], [float(each.get("temperature", 1.0)) for each in summaries[:k]], own[:k]),
        scores=tuple(map(_score, repeats)),
        folds=tuple({"run": f"{runs.FOLDS}/{name}", **_fold(found)} for name, found in zip(names, own, strict=True)),
        seconds=round(seconds, 2),
        data=summaries[0]["data"],
        parameters=summaries[0]["parameters"],
    )
    runs.write_json(folder / runs.SUMMARY, run.to_dict())
    return run


def _fold(found: Predictions) -> dict[str, Any]:
    several = {} if found.label_sets is None else {"map": _score(found)}
    return {"accuracy": float(found.correct.mean()), **several, "n": len(found)}


def _score(found: Predictions) -> float:
    """Returns the accuracy, or the mean average precision if photos may have several labels."""
    if found.label_sets is None:
        return float(found.correct.mean())
    return mean_average_precision(found.probabilities, found.label_sets)


def joined(predictions: list[Predictions]) -> Predictions:
    """Concatenates predictions of the same classes."""
    return Predictions(
        paths=tuple(chain.from_iterable(each.paths for each in predictions)),
        sha256=tuple(chain.from_iterable(each.sha256 for each in predictions)),
        labels=tuple(chain.from_iterable(each.labels or () for each in predictions)),
        probabilities=np.concatenate([each.probabilities for each in predictions]),
        classes=predictions[0].classes,
        votes=_concatenated([each.votes for each in predictions]),
        label_sets=_concatenated([each.label_sets for each in predictions]),
    )


def _concatenated(arrays: Sequence[NDArray[Any] | None]) -> NDArray[Any] | None:
    known = [array for array in arrays if array is not None]
    return np.concatenate(known) if known else None


def _metrics(found: Predictions, temperatures: Sequence[float], folds: Sequence[Predictions]) -> Measures:
    """Computes the metrics of the joined predictions, each fold with its own temperature."""
    if found.label_sets is not None:
        return label_set_metrics(found.probabilities, found.label_sets, found.classes)
    raw = None
    if set(temperatures) != {1.0}:
        raw = np.concatenate([_uncalibrated(*each) for each in zip(folds, temperatures, strict=True)])
    return metrics(found.probabilities, found.label_indices, found.classes, votes=found.votes, uncalibrated=raw)


def _uncalibrated(fold: Predictions, temperature: float) -> NDArray[np.floating]:
    raw = without_temperature(fold.probabilities, temperature)
    return fold.probabilities if raw is None else raw


def train(
    recipe: Recipe,
    *,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    streams: Mapping[str, Stream] | None = None,
    console: Console | None = None,
    stop: Stop | None = None,
    engine: Engine | None = None,
) -> Run | FoldsRun:
    """Trains a network and writes a run folder; a recipe with folds trains one run per fold (a FoldsRun).

    `out` is the new folder; `resume` continues the run in that folder instead. `streams` supplies streams as instances,
    by key. `stop` returns whether to stop after the current step. `engine` trains the folds in parallel. Raises
    MultistreamError, and Interrupted if the training was stopped and saved.
    """
    common: dict[str, Any] = {"out": out, "resume": resume, "streams": streams, "console": console, "stop": stop}
    if recipe.data.repeats > 1 and not recipe.data.folds:
        raise UsageError(
            "data.repeats", "without folds there is nothing to repeat.", do="Set data.folds (--folds) too."
        )
    if recipe.data.folds and not recipe.data.fold:
        return train_folds(recipe, engine=engine, **common)
    if engine:
        what = "it trains lists of runs, and this is one run."
        raise UsageError("--engine", what, do="Pass --folds N, or start one run on many processes with torchrun.")
    return train_once(recipe, **common)


def train_planned(
    run: PlannedRun,
    *,
    streams: Mapping[str, Stream] | None = None,
    console: Console | None = None,
    stop: Stop | None = None,
) -> None:
    """Trains a planned run, or resumes it, unless it is finished."""
    common: dict[str, Any] = {"streams": streams, "console": console, "stop": stop}
    if run.state == "stopped":
        own = run.recipe if run.trainings > 1 else Recipe()  # a single run has its own complete recipe
        train(own, resume=run.folder, **common)
    elif run.state == "new":
        run.clear()
        train(run.recipe, out=run.folder, **common)
