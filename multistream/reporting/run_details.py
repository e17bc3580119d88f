"""Reader of a run's folder: recipe, split, training log, predictions, versions. The network is not loaded."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multistream import runs
from multistream._version import __version__
from multistream.comparison.run_results import Result, read_result
from multistream.errors import DataError
from multistream.files import sha256_file
from multistream.inference.metrics import Measures, measures, without_temperature
from multistream.runs.model_file import read_metadata
from multistream.runs.predictions_file import Predictions
from multistream.runs.split_file import SplitRow, read_split, shared_between_parts

SPLITS = {"train": "training", "val": "validation", "test": "test"}
EPOCH_COLUMNS = {
    "train_loss": "training loss",
    "val_loss": "validation loss",
    "val_accuracy": "validation accuracy",
    "learning_rate": "learning rate",
}

PENALTY = "penalty/"
"""The prefix of the names of penalties in the training log."""


@dataclass(frozen=True)
class RunDetails:
    """The content of a finished run's folder; `metrics` are those of its own test split."""

    folder: Path
    result: Result
    metrics: Measures
    rows: tuple[SplitRow, ...]
    """The rows of split.csv."""
    split_sha256: str
    """The SHA-256 of split.csv, which contains the hash of every image: it identifies data and split."""
    model_sha256: str
    epochs: Sequence[Mapping[str, float]]
    """The lines of metrics.jsonl: "epoch", counted from 1, and the recorded ones of EPOCH_COLUMNS."""
    best_epoch: int | None
    """The best epoch, whose weights were kept, counted from 1."""
    versions: Mapping[str, str]
    temperature: float
    """The divisor of the logits before the softmax; 1 if the network was not calibrated."""
    penalties: Mapping[str, float]
    """{key: penalty of a stream's weights} that `training.solver = "lbfgs"` chose; empty for gradient descent."""

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.folder.resolve().name

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the probabilities."""
        return self.result.predictions.classes

    @property
    def labels(self) -> NDArray[np.int64]:
        """The index of each test image's label, or of its set of labels, (N,)."""
        return _label_indices(self.result.predictions)

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """{class: {split: number of images}}; empty if images may have several labels, as split.csv has only one."""
        if self.result.predictions.label_sets is not None:
            return {}
        counter = Counter((row.label, row.part) for row in self.rows)
        return {name: {split: counter[name, split] for split in SPLITS} for name in self.classes}

    @property
    def totals(self) -> dict[str, int]:
        """{split: number of images}"""
        counter = Counter(row.part for row in self.rows)
        return {split: counter[split] for split in SPLITS}

    @property
    def shared(self) -> tuple[str, ...]:
        """A note for each pair of splits that contain the same file."""
        return shared_between_parts(self.rows)

    @property
    def title(self) -> str:
        """The streams and the fusion, in words."""
        network = self.result.recipe.network
        keys = list(network.streams)
        return f"{' + '.join(keys)}, {network.fusion} fusion" if len(keys) > 1 else keys[0]


def read_run_details(folder: Path, model_file: Path) -> RunDetails:
    """Reads the folder of a finished run. Raises DataError for a run without a test split and for damaged files."""
    result = read_result(folder)
    predictions, model = result.predictions, read_metadata(model_file)
    if predictions.label_sets is None and (unknown := set(predictions.labels or ()) - set(predictions.classes)):
        what = f"the label {min(unknown)!r} is not among its classes."
        raise DataError(str(folder / runs.PREDICTIONS), what, do="Restore the file.")
    log = folder / runs.METRICS
    lines = runs.read_lines(log) if log.is_file() else []
    epochs = [_epoch(log, line) for line in lines]
    best = runs.read_summary(folder).get("best_epoch")
    return RunDetails(
        folder=folder,
        result=result,
        metrics=measures(
            predictions.probabilities,
            _label_indices(predictions),
            predictions.classes,
            votes=predictions.votes,
            label_sets=predictions.label_sets,
            uncalibrated=without_temperature(predictions.probabilities, model.temperature),
        ),
        rows=read_split(folder / runs.SPLIT),
        split_sha256=sha256_file(folder / runs.SPLIT),
        model_sha256=sha256_file(model_file),
        epochs=epochs,
        best_epoch=best + 1 if isinstance(best, int) and 0 <= best < len(epochs) else None,
        temperature=model.temperature,
        penalties=_penalties(log, lines[-1] if lines else {}),
        versions={**model.distributions, **_installed()},
    )


def _label_indices(predictions: Predictions) -> NDArray[np.int64]:
    """Returns the class index of each image, (N,); with label sets, the index of its set among those that occur."""
    names = predictions.classes if predictions.label_sets is None else sorted(set(predictions.labels or ()))
    index = {name: k for k, name in enumerate(names)}
    return np.array([index[name] for name in predictions.labels or ()], dtype=np.int64)


def _penalties(log: Path, line: Mapping[str, Any]) -> dict[str, float]:
    with _log_errors(log):
        return {name.removeprefix(PENALTY): float(line[name]) for name in line if name.startswith(PENALTY)}


def _epoch(log: Path, line: Mapping[str, Any]) -> dict[str, float]:
    """Reads the finite numbers of one line of the training log."""
    with _log_errors(log):
        known = {name: float(line[name]) for name in EPOCH_COLUMNS if line.get(name) is not None}
        return {"epoch": int(line["epoch"]) + 1, **{name: value for name, value in known.items() if isfinite(value)}}


@contextmanager
def _log_errors(log: Path) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        what = f"this is not a line of a training log ({error!r})."
        raise DataError(str(log), what, do="Restore or delete it.") from error


def _installed() -> dict[str, str]:
    names = ("torch", "torchvision", "timm", "numpy", "Pillow")
    return {"multistream": __version__, **{name: version(name) for name in names}, "Python": platform.python_version()}
