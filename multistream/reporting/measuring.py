"""The run's network over its own test part: once, with all that the page tells of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multistream.console import Console
from multistream.data.layouts.data_source import open_table
from multistream.data.loading import Photos, loaded
from multistream.data.photos import make_photos
from multistream.data.side_inputs import SideInputs, gather
from multistream.data.table import Table
from multistream.errors import DataError
from multistream.explaining.attribution import Attribution, attribute
from multistream.features import extract
from multistream.inference.model import Model
from multistream.interfaces import FusionOutput
from multistream.nn.eval_mode import evaluating
from multistream.runs.predictions_file import Predictions
from multistream.runs.split_file import SplitRow, sha256_of_files
from multistream.runtime.device import Runtime, available_workers, resolve_again


@dataclass(frozen=True)
class Measured:
    """The test part, photo by photo in the order of predictions.csv, and what the network says of it now."""

    model: Model
    runtime: Runtime
    table: Table
    side_inputs: SideInputs
    pooled: Mapping[str, Mapping[str, Tensor]]
    output: FusionOutput
    """On the CPU."""
    changed: int
    """Files whose bytes are not those that split.csv recorded."""

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """(N, K)"""
        found: NDArray[np.float64] = self.output.logits.double().softmax(1).numpy()
        return found

    @property
    def streams(self) -> dict[str, NDArray[np.float64]]:
        """{key: (N, K)} probabilities of each stream's own classifier, where the fusion has them."""
        return {key: logits.double().softmax(1).numpy() for key, logits in self.output.streams.items()}

    @property
    def photos(self) -> Photos:
        """The photos as the network reads them; damaged ones are left out of batches."""
        settings = replace(self.model.recipe.data, on_bad_image="report")
        return make_photos(self.table, self.model.network.inputs, self.side_inputs, settings)

    @property
    def masked(self) -> dict[str, NDArray[np.float64]]:
        """{key: (N, K)} probabilities where every other stream gives its mean over the training photos."""
        network, device = self.model.network, self.runtime.device
        stages = {key: list(branch.taps) for key, branch in network.branches.items()}
        pooled = {k: {s: p.to(device) for s, p in taps.items()} for k, taps in self.pooled.items()}
        found = {}
        with torch.no_grad(), evaluating(network):
            for key in stages if len(stages) > 1 else ():
                others = network.mask({other: taps for other, taps in stages.items() if other != key})
                found[key] = others.fuse(pooled).logits.double().softmax(1).cpu().numpy()
        return found

    def attribution(self, rows: NDArray[np.int64] | None = None) -> Attribution:
        """Shapley values of the streams on the logit scale, of all photos or of some rows."""
        some = slice(None) if rows is None else torch.from_numpy(rows)
        pooled = {
            k: {s: p[some].to(self.runtime.device) for s, p in stages.items()} for k, stages in self.pooled.items()
        }
        return attribute(self.model.network, pooled, stages=False)


def measure(
    model: Model, predictions: Predictions, rows: tuple[SplitRow, ...], *, device: str, precision: str, console: Console
) -> Measured:
    """Runs the network over the photos of predictions.csv, through the feature cache. DataError if one is gone."""
    settings = replace(model.recipe.data, on_bad_image="report")
    table = _test_part(model, predictions)
    hashes = {row.path: row.sha256 for row in rows}
    changed = sum(
        hashes.get(name) != digest
        for name, digest in zip(table.ids, sha256_of_files([table.path(i) for i in range(len(table))]), strict=True)
    )
    inputs = model.recipe.network.inputs
    side_inputs = gather(table, model.inputs, inputs, missing=settings.missing_vectors, resize=settings.resize)
    runtime = resolve_again(model.recipe, device=device, precision=precision)
    network = runtime.place(model.network).freeze("streams")  # nothing trains here, so the feature cache may help
    photos = make_photos(table, network.inputs, side_inputs, settings)
    with console.progress(len(table), "features") as bar:
        every = np.arange(len(table))
        extracted = extract(
            network, photos, every, runtime=runtime, workers=available_workers(), tick=bar.advance, say=console.say
        )
    if bad := int((~extracted.valid).sum()):
        raise DataError("report", f"{bad:,} photos of the test part can no longer be read.", do="See data scan.")
    with torch.no_grad(), evaluating(network):
        output = network.fuse(extracted.to(runtime.device))
    told = FusionOutput(output.logits.cpu(), {key: logits.cpu() for key, logits in output.streams.items()})
    return Measured(model, runtime, table, side_inputs, extracted.features, told, changed)


def _test_part(model: Model, predictions: Predictions) -> Table:
    """The photos of predictions.csv in their order, found where the recipe says."""
    settings = model.recipe.data
    table = open_table(settings.source, label=settings.label, allow_outside=settings.allow_outside)
    places = {name: i for i, name in enumerate(table.ids)}
    gone = [name for name in predictions.paths if name not in places]
    if gone:
        what = f"{len(gone):,} of {len(predictions):,} test photos are gone, {gone[0]} say."
        raise DataError(settings.source, what, do="--photos 0 reports without looking at photos.")
    return table.select([places[name] for name in predictions.paths])


def batches(measured: Measured, rows: list[int], *, size: int) -> list[dict[str, Tensor]]:
    """The photos of some rows as batches on the device, with "index"."""
    made = []
    for batch in loaded(measured.photos, rows, batch_size=size, workers=0):
        index = batch.pop("index")
        made.append({**measured.runtime.send(batch), "index": index})
    return made
