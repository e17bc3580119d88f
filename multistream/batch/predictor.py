"""Predictor: a callable from arrays of photos to class probabilities."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multistream.batch.columns import STATUS, Columns, in_groups, kept_columns, read_rows
from multistream.inference.groups import GroupPredictor
from multistream.inference.model import load
from multistream.inference.predict import NOT_FINITE
from multistream.label_set_metrics import THRESHOLD
from multistream.runs.model_file import require_trained
from multistream.runs.predictions_file import joined_names


class Predictor:
    """Loads a run once; a call predicts the probabilities of a batch of photos.

    A batch is {column: N rows}: the photos as `bytes`, `image` (uint8 arrays) or `path`, vectors and maps under the
    stream's key or input's name; other columns are passed on. The result adds `status` ("ok", or the reason why the
    photo cannot be used), `label` (then "") and `probabilities` (N, K) float64 over `classes` (then NaN). Photos run in
    groups of a fixed size, so a row's result does not depend on its batch. Instances can be pickled.
    """

    def __init__(
        self,
        run: str | Path,
        *,
        device: str = "auto",
        precision: str = "auto",
        missing: str = "",
        without: Collection[str] = (),
        workers: int = 0,
    ) -> None:
        model = load(run)
        require_trained(model, "batch.Predictor")
        self.classes, self.workers = model.classes, workers
        self.groups = GroupPredictor(model, device=device, precision=precision, missing=missing, without=without)

    def __call__(self, batch: Columns) -> dict[str, NDArray[Any]]:
        """Predicts: {column: N rows} -> {column: N rows}, in the same order."""
        outcomes, statuses = read_rows(self.groups, batch, workers=self.workers)
        probabilities = np.full((len(outcomes), len(self.classes)), np.nan)
        for rows, photos in in_groups(outcomes):
            probabilities[rows] = self.groups.probabilities(photos)
        ok = np.isfinite(probabilities).all(1)
        status = np.array(statuses, dtype=object)
        status[(status == "ok") & ~ok] = NOT_FINITE
        chosen = np.where(ok[:, None], probabilities, 0)
        if self.groups.network.label_sets:
            labels = np.array(list(joined_names(chosen >= THRESHOLD, self.classes)), dtype=object)
        else:
            labels = np.array(self.classes, dtype=object)[chosen.argmax(1)]
            labels[~ok] = ""
        return {
            **kept_columns(batch, self.groups.network.inputs),
            STATUS: status,
            "label": labels,
            "probabilities": probabilities,
        }
