"""Predictor and Extractor: batches of arrays in, class probabilities or pooled features out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multistream.batch.columns import STATUS, Columns, in_groups, kept_columns, read_rows
from multistream.errors import UsageError, WeightsError
from multistream.inference.groups import GroupPredictor, GroupReader
from multistream.inference.model import load
from multistream.inference.predict import NOT_FINITE
from multistream.inputs import Vector
from multistream.label_set_metrics import THRESHOLD
from multistream.network.network import MultiStream
from multistream.recipe import Recipe
from multistream.runs.composition import compose
from multistream.runs.model_file import load_model, require_trained
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


class Extractor:
    """Loads the streams of a run, or of specs such as "object,k=timm:vit_base_patch16_224"; a call pools photos.

    `weights` maps each stream of a spec to a file, a run, `hub` or `random`. A batch has the same form as for
    `Predictor`. The result adds `status` and, for each stage, `KEY/STAGE` (N, P) float32 (NaN if the photo cannot be
    used).
    """

    def __init__(
        self,
        source: str | Path,
        *,
        weights: Mapping[str, str] | None = None,
        image_size: int = 0,
        device: str = "auto",
        precision: str = "auto",
        workers: int = 0,
    ) -> None:
        if Path(source).expanduser().exists():
            if weights:
                raise UsageError("weights", f"{source} is a run, which has its own settings.", do="Omit them.")
            model = load_model(source)
            network, recipe = model.network, model.recipe
        else:
            network, recipe = _of_specs(str(source), weights or {}, image_size), Recipe()
        self.workers = workers
        pictures = {key: each for key, each in network.inputs.items() if not isinstance(each, Vector)}
        if not pictures:
            raise UsageError("batch.Extractor", "no stream reads images.", right="Vectors need no extraction.")
        self.groups = GroupReader(network, recipe, device=device, precision=precision, inputs=pictures)

    def __call__(self, batch: Columns) -> dict[str, NDArray[Any]]:
        """Extracts features: {column: N rows} -> {column: N rows}, in the same order."""
        outcomes, statuses = read_rows(self.groups, batch, workers=self.workers)
        branches = {key: self.groups.network.branches[key] for key in self.groups.inputs}
        features = {
            f"{key}/{stage}": np.full((len(outcomes), tap.pooled_width), np.nan, dtype=np.float32)
            for key, branch in branches.items()
            for stage, tap in branch.taps.items()
        }
        for rows, photos in in_groups(outcomes):
            for key, stages in self.groups.pooled(photos).items():
                for stage, values in stages.items():
                    features[f"{key}/{stage}"][rows] = values.cpu().numpy()[: len(rows)]
        kept = kept_columns(batch, self.groups.inputs)
        return {**kept, STATUS: np.array(statuses, dtype=object), **features}


def _of_specs(text: str, weights: Mapping[str, str], image_size: int) -> MultiStream:
    """Composes the streams of `object,places` with these weights; they are random only if that is requested."""
    specs = list(map(str.strip, text.split(",")))
    network = compose(specs, classes=("a", "b"), weights=weights, image_size=image_size)
    for key, branch in network.branches.items():
        if branch.stream.weights and key not in weights and key not in network.loaded_branches:
            do = f'Pass weights={{"{key}": FILE}}, "hub" or "random".'
            raise WeightsError(f"weights.{key}", "this stream needs pretrained weights, but none were given.", do=do)
    return network
