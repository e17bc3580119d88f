"""The run folder of a training: files written before the first step, the checkpoint to resume, and the results."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from operator import eq
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multistream import runs
from multistream._version import __version__
from multistream.console import Console
from multistream.errors import CannotResume
from multistream.features import Extracted
from multistream.files import clean, write_atomic
from multistream.inference.metrics import Measures, measures
from multistream.network.compose import plan_of
from multistream.network.fuse_all import fuse_all
from multistream.recipe import Recipe
from multistream.runs import checkpoint
from multistream.runs.model_file import MODEL_FILE, distributions_of, save_model
from multistream.runs.predictions_file import as_predictions, write_predictions
from multistream.runs.split_file import SplitRow, read_split, write_rows
from multistream.training.prepare import Prepared
from multistream.training.progress import Progress
from multistream.training.resume import check_origin


@dataclass(frozen=True)
class Run:
    """The result of a training: its folder, its complete recipe, and its metrics by split."""

    folder: Path
    recipe: Recipe
    parts: Mapping[str, Measures]
    seconds: float
    images_per_second: float
    data: Mapping[str, Any]
    parameters: Mapping[str, int]
    epochs: int
    best_epoch: int
    temperature: float = 1.0
    """The divisor of the network's logits."""
    side_inputs: tuple[str, ...] = ()
    """Keys of the streams that read a vector or an input map, which other photos may lack."""

    def __fspath__(self) -> str:
        """The folder: a run in memory is accepted wherever the path of a run is."""
        return str(self.folder)

    def to_dict(self) -> dict[str, Any]:
        """Returns the content of summary.json, which `train --json` prints too."""
        return {
            **{name: part.to_dict() for name, part in self.parts.items()},
            "seconds": self.seconds,
            "images_per_second": self.images_per_second,
            "run": str(self.folder),
            "data": dict(self.data),
            "parameters": dict(self.parameters),
            **({} if self.temperature == 1 else {"temperature": self.temperature}),
            "epochs": self.epochs,
            "best_epoch": self.best_epoch,
        }


@dataclass(frozen=True)
class Measured:
    """The decodable rows of every part, the probabilities (N, K) of all images, and the metrics by part."""

    rows: Mapping[str, NDArray[np.int64]]
    probabilities: NDArray[np.float64]
    metrics: Mapping[str, Measures]


def write_head(folder: Path, prepared: Prepared, rows: Collection[SplitRow]) -> None:
    """Writes the files that reproduce a run, before training. Raises CannotResume if a resumed run's data have changed.

    Moved photos are accepted if their ids, labels, parts and bytes are the same.
    """
    clean(folder)
    checkpoint.clean(folder / runs.CHECKPOINTS)
    if (folder / runs.SPLIT).is_file():
        _check_same_photos(folder, rows)
    else:
        write_rows(folder / runs.SPLIT, rows)
    runs.remove_checksums(folder)
    write_atomic(folder / runs.RECIPE, prepared.recipe.dumps())


def _check_same_photos(folder: Path, rows: Collection[SplitRow]) -> None:
    before = read_split(folder / runs.SPLIT)
    if len(before) == len(rows) and all(map(eq, before, rows)):
        return  # in the same order, as almost always
    if changed := set(before) ^ set(rows):
        paths = sorted({row.path for row in changed})
        what = f"{len(paths):,} photos have changed since the run started, for example {paths[0]}."
        raise CannotResume(folder, what, do="Train a new run instead.")


def origin(prepared: Prepared) -> dict[str, Any]:
    """Returns the origin of a checkpoint: versions, recipe, classes, plugins, device and threads."""
    return {
        "version": __version__,
        "recipe": prepared.recipe.to_dict(),
        "classes": list(prepared.table.classes),
        "distributions": distributions_of(plan_of(prepared.network)),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": str(prepared.runtime.device),
    }


def read_checkpoint(folder: Path, prepared: Prepared, *, console: Console) -> checkpoint.Checkpoint | None:
    """Reads the newest complete checkpoint of a run; None if the run was stopped before the first."""
    place = folder / runs.CHECKPOINTS
    saved = checkpoint.latest(place, warn=console.warn)
    if saved is None:
        if any(place.glob("step-*")):
            raise CannotResume(str(folder), "no checkpoint is complete and undamaged.", do="Train it again.")
        console.say("train: no checkpoint was written yet; training starts from the beginning")
        return None
    with checkpoint.understood(saved.path):
        check_origin(folder, saved.about, origin(prepared), warn=console.warn)
        Progress.from_state({name: v for name, v in saved.state.items() if name not in ("optimizer", "scaler")})
    return saved


def measure(prepared: Prepared, logits: Tensor, valid: Tensor) -> Measured:
    """Computes the metrics of each part from the logits (N, K) of all images."""
    network, table = prepared.network, prepared.table
    probabilities: NDArray[np.float64] = network.probabilities(logits).numpy()
    raw = None if network.temperature == 1 else logits.softmax(1).numpy()
    rows = {name: indices[valid.numpy()[indices]] for name, indices in prepared.parts.named().items()}
    measured = {
        name: measures(
            probabilities[part],
            table.labels[part],
            network.classes,
            votes=_part_of(table.votes, part),
            label_sets=_part_of(table.label_sets, part),
            uncalibrated=_part_of(raw, part),
        )
        for name, part in rows.items()
        if len(part)
    }
    return Measured(rows, probabilities, measured)


def _part_of(array: NDArray[Any] | None, rows: NDArray[np.int64]) -> NDArray[Any] | None:
    return None if array is None else array[rows]


def classify(prepared: Prepared, extracted: Extracted) -> Tensor:
    """Returns the logits of every image, (N, K) float64; rows of images that were not read are undefined."""
    return fuse_all(prepared.network.eval(), extracted.to(prepared.runtime.device)).logits.double()


def write_run(prepared: Prepared, measured: Measured, run: Run, *, digests: Mapping[int, str]) -> None:
    """Writes a finished run's model, summary and the predictions of its test split."""
    test, table = measured.rows["test"], prepared.table
    if len(test):
        chosen = measured.probabilities[test]
        predictions = as_predictions(table, test, chosen, classes=table.classes, digests=digests)
        write_predictions(run.folder / runs.PREDICTIONS, predictions)
    save_model(prepared.network, run.folder / MODEL_FILE, recipe=prepared.recipe)
    runs.write_json(run.folder / runs.SUMMARY, run.to_dict())
    runs.write_checksums(run.folder)
