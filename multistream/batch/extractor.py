"""Extractor: a callable from arrays of photos to pooled features."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multistream.batch.columns import STATUS, Columns, in_groups, kept_columns, read_rows
from multistream.errors import UsageError, WeightsError
from multistream.inference.groups import GroupReader
from multistream.inputs import Vector
from multistream.network.network import MultiStream
from multistream.recipe import Recipe
from multistream.runs.composition import compose
from multistream.runs.model_file import load_model


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
