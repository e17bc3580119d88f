"""Reader of a run's results: recipe, predictions on its own test split, and parameter counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multistream import runs
from multistream.errors import DataError, UsageError
from multistream.label_set_metrics import label_set_cells, label_set_f1, mean_average_precision
from multistream.recipe import Recipe
from multistream.runs.predictions_file import Predictions, read_predictions
from multistream.statistics import balanced_accuracy, macro_f1
from multistream.vote_distances import VOTE_MEASURES, vote_distances

OF_PHOTOS: Mapping[str, str] = {"accuracy": "accuracy", "nll": "negative log-likelihood", **VOTE_MEASURES}
"""The measures of a single photo, with their printed names."""
MEASURES: Mapping[str, str] = {**OF_PHOTOS, "map": "mAP"}
"""The measures of a row, with their printed names; the mean average precision needs all photos together."""
IN_PERCENT = ("accuracy", "map")
HIGHER_IS_BETTER = (*IN_PERCENT, "cosine", "intersection")


@dataclass(frozen=True)
class Result:
    """One finished run; `name` is its folder as given by the user."""

    name: str
    recipe: Recipe
    predictions: Predictions
    data: str
    parameters: Mapping[str, int]

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each test photo was classified correctly, (N,)."""
        return self.predictions.correct

    @property
    def accuracy(self) -> float:
        """The fraction of test photos classified correctly."""
        return float(self.correct.mean())

    @property
    def macro_f1(self) -> float:
        """The mean of the classes' F1."""
        if self.predictions.label_sets is not None:
            return label_set_f1(self.predictions.probabilities, self.predictions.label_sets)[1]
        return float(macro_f1(self.confusion))

    @property
    def balanced_accuracy(self) -> float | None:
        """The mean of the classes' recalls; None if photos may have several labels."""
        return None if self.predictions.label_sets is not None else float(balanced_accuracy(self.confusion))

    @property
    def label_set_measures(self) -> dict[str, float] | None:
        """Mean average precision and micro-F1; None if photos have one label each."""
        sets, probabilities = self.predictions.label_sets, self.predictions.probabilities
        if sets is None:
            return None
        return {"map": mean_average_precision(probabilities, sets), "micro_f1": label_set_f1(probabilities, sets)[0]}

    @property
    def confusion(self) -> NDArray[np.int64]:
        """The confusion matrix (K, K): counts [label][predicted]."""
        classes, predictions = self.predictions.classes, self.predictions
        known = predictions.label_indices >= 0  # labels outside the classes have no row
        cells = predictions.label_indices[known] * len(classes) + predictions.probabilities.argmax(axis=1)[known]
        return np.bincount(cells, minlength=len(classes) ** 2).reshape(len(classes), len(classes))

    @property
    def cells(self) -> NDArray[np.int64]:
        """(2, K, K): the counts [label][predicted], and the number of photos of each label, as `label_set_cells`."""
        if self.predictions.label_sets is not None:
            return label_set_cells(self.predictions.probabilities, self.predictions.label_sets)
        counts = self.confusion
        return np.stack([counts, np.broadcast_to(counts.sum(axis=1, keepdims=True), counts.shape)])

    def score(self, measure: str) -> float:
        """Computes one of MEASURES over all test photos. Raises UsageError if the run does not have it."""
        if measure != "map":
            return float(self.scores(measure).mean())
        if self.label_set_measures is None:
            what = f"{self.name} is about images with one label each, so it has no mAP."
            raise UsageError("--measure", what, right="With one label: accuracy, nll.")
        return self.label_set_measures["map"]

    def scores(self, measure: str) -> NDArray[np.float64]:
        """Computes one of OF_PHOTOS for each test photo, (N,). Raises UsageError if the run does not have it."""
        if measure == "accuracy":
            return self.correct.astype(np.float64)
        probabilities = self.predictions.probabilities.astype(np.float64)
        if measure == "nll":
            return -np.log(np.maximum(self._of_labels(probabilities), np.finfo(np.float64).eps))
        if self.predictions.votes is None:
            what = f"{self.name} has no votes, so it has no {MEASURES[measure]}."
            raise UsageError("--measure", what, right="Without votes: accuracy, nll.")
        return vote_distances(probabilities, self.predictions.votes.astype(np.float64))[measure]

    def _of_labels(self, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns the predicted probability of each photo's label, (N,); 0 for a label outside the classes."""
        if self.predictions.label_sets is not None:
            raise UsageError(
                "--measure", "images may have several labels here.", right="With several labels: map, accuracy."
            )
        places = self.predictions.label_indices
        return np.where(places >= 0, probabilities[np.arange(len(places)), places], 0.0)

    @property
    def distances(self) -> dict[str, float] | None:
        """The mean distances between predictions and votes, by measure; None if there are no votes."""
        if self.predictions.votes is None:
            return None
        return {name: float(self.scores(name).mean()) for name in VOTE_MEASURES}

    @property
    def test_to_train(self) -> float:
        """The ratio of test to training photos in the recipe's split."""
        train, _, test = (float(part) for part in self.recipe.data.split.split("/"))
        return test / train

    @property
    def seeds(self) -> tuple[int, int]:
        """The seeds of training and of the split."""
        return self.recipe.training.seed, self.recipe.data.split_seed


def default_measure(results: Iterable[Result]) -> str:
    """Returns `map` if all runs are on images that may have several labels, else `accuracy`."""
    several = all(result.predictions.label_sets is not None for result in results)
    return "map" if several else "accuracy"


def read_result(run: Path) -> Result:
    """Reads a run, given its folder or its model file. Raises UsageError or DataError."""
    folder = runs.folder_of(run)
    if not folder.is_dir():
        raise UsageError(run, "no such folder.", right="A run is a folder written by multistream train.")
    summary = runs.read_summary(folder)
    predictions = read_predictions(folder / runs.PREDICTIONS)
    if predictions.labels is None or not len(predictions):
        what = f"{runs.PREDICTIONS} has no photo with a label."
        raise DataError(run, what, do="Train it on data with a test split.")
    data, parameters = _of_summary(folder, summary)
    return Result(str(run), Recipe.load(folder), predictions, data, parameters)


def _of_summary(folder: Path, summary: Mapping[str, Any]) -> tuple[str, dict[str, int]]:
    """Reads the data set's name and the counts of parameters."""
    try:
        return str(summary["data"]["name"]), {name: int(summary["parameters"][name]) for name in ("total", "trainable")}
    except (KeyError, TypeError, ValueError) as error:
        right = "It must have data.name, parameters.total and parameters.trainable."
        raise DataError(str(folder / runs.SUMMARY), f"this is not a run summary ({error!r}).", right=right) from error
