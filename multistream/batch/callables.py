"""Predictor and Extractor: callables from batches of photos to class probabilities or pooled features.

A batch is a mapping of columns: photos, and the vectors and maps of streams.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multistream.data.decode_workers import Pool
from multistream.data.given_photos import GivenPhoto, given_photos
from multistream.data.side_lookup import ByOrder, Lookup
from multistream.errors import DataError, UsageError, WeightsError
from multistream.inference.groups import GROUP, GroupPredictor, GroupReader, ReadPhoto
from multistream.inference.model import load
from multistream.inference.predict import NOT_FINITE
from multistream.inputs import Input, Vector, names_of, side_inputs_of
from multistream.label_set_metrics import THRESHOLD
from multistream.network.network import MultiStream
from multistream.recipe import Recipe
from multistream.runs.composition import compose
from multistream.runs.model_file import load_model, require_trained
from multistream.runs.predictions_file import joined_names

PHOTOS = ("bytes", "image", "photo")
"""Columns that may hold photos: file contents, uint8 arrays (H, W, 3), or Hugging Face's {"bytes", "path"}."""

PATH = "path"
STATUS = "status"

Columns = Mapping[str, Any]


def length_of(batch: Columns) -> int:
    """Returns the number of rows of a batch. Raises DataError if its columns differ."""
    lengths = {name: len(column) for name, column in batch.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(
            "batch", f"its columns have {lengths} rows.", right="All columns must have the same number of rows."
        )
    return next(iter(lengths.values()), 0)


def photos_of(batch: Columns, *, limit: int) -> list[GivenPhoto]:
    """Returns one photo per row, from the column of contents or else the paths; its name is its path, if it has one."""
    column = next((batch[name] for name in (*PHOTOS, PATH) if name in batch), None)
    if column is None:
        right = f"One column must be called {', '.join(PHOTOS)} or {PATH}."
        raise DataError("batch", f"it has no photos, but {', '.join(batch) or 'nothing'}.", right=right)
    names = batch.get(PATH, [f"<row {i}>" for i in range(len(column))])
    return [_photo(value, str(name), limit=limit) for value, name in zip(column, names, strict=True)]


def _photo(value: Any, name: str, *, limit: int) -> GivenPhoto:
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, np.str_):
        value = str(value)
    photos = list(given_photos([value], limit=limit))
    # A folder is not accepted, because one row must remain one row.
    content = photos[0].content if len(photos) == 1 else None
    return GivenPhoto.bad(name, "not a photo") if content is None else GivenPhoto(name, (name,), content)


def lookups_of(batch: Columns, inputs: Mapping[str, Input]) -> dict[str, Lookup]:
    """Returns vectors (N, D) and maps (N, C, S, S) by stream key; their columns are named by key or input name."""
    found: dict[str, Lookup] = {}
    for key, each in side_inputs_of(inputs).items():
        if name := next((name for name in (key, each.name) if name in batch), ""):
            found[key] = ByOrder(batch[name], each.shape, f"batch.{name}")
    return found


def read_rows(reader: GroupReader, batch: Columns, *, workers: int) -> tuple[list[ReadPhoto | str], list[str]]:
    """Reads each row; returns its arrays or the reason why it cannot be used, and its status."""
    rows = length_of(batch)
    if reader.decoder is not None:
        photos = photos_of(batch, limit=reader.decoder.max_bytes)
    else:
        photos = [GivenPhoto(str(i), (), b"") for i in range(rows)]
    lookups = lookups_of(batch, reader.inputs)
    reader.check_lookups(lookups)
    with Pool(workers) as pool:
        futures = [pool.submit(reader.read, photo, lookups, i) for i, photo in enumerate(photos)]
        outcomes = reader.finish([future.result() for future in futures])
    return outcomes, [outcome if isinstance(outcome, str) else "ok" for outcome in outcomes]


def in_groups(outcomes: Sequence[ReadPhoto | str]) -> list[tuple[NDArray[np.int64], list[ReadPhoto]]]:
    """Groups the usable rows; returns (row numbers, photos) for each group."""
    usable = [(i, outcome) for i, outcome in enumerate(outcomes) if isinstance(outcome, ReadPhoto)]
    groups = (zip(*usable[start : start + GROUP], strict=True) for start in range(0, len(usable), GROUP))
    return [(np.array(rows), list(photos)) for rows, photos in groups]


def kept_columns(batch: Columns, inputs: Mapping[str, Input]) -> dict[str, NDArray[Any]]:
    """Returns the columns that are passed on: all except photos, vectors and maps."""
    read = {*PHOTOS, *names_of(inputs)}
    return {name: np.asarray(column) for name, column in batch.items() if name not in read}


class Predictor:
    """Loads a run once; a call predicts the probabilities of a batch of photos.

    A batch is {column: N rows}: the photos as `bytes`, `image` (uint8 arrays) or `path`, vectors and maps under the
    stream's key or input's name; other columns are passed on. The result adds `status` ("ok", or the reason why the
    photo cannot be used), `label` (then "") and `probabilities` (N, K) float64 over `classes` (then NaN). Photos run in
    groups of a fixed size, so a row's result does not depend on its batch. Instances can be pickled.
    """

    def __init__(
        self,
        run: str | PathLike[str],
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
