"""The outputs of a run's network on its own test split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multistream.console import Console
from multistream.data.file_hashes import digests_of
from multistream.data.layouts.data_source import open_table
from multistream.data.loading import Photos, loaded, make_photos
from multistream.data.side_inputs import SideInputs, gather
from multistream.data.table import Table
from multistream.errors import DataError
from multistream.explaining.games import ShapleyValues, shapley_values
from multistream.features import extract
from multistream.inference.missing import MissingPolicy, PolicyAccuracy, policy_accuracies, probabilities_by_policy
from multistream.inference.model import Model
from multistream.interfaces import FusionOutput
from multistream.label_set_metrics import THRESHOLD
from multistream.network.fuse_all import fuse_all
from multistream.nn.modules import evaluating
from multistream.nn.nested import map_stages
from multistream.runs.predictions_file import Predictions
from multistream.runs.split_file import SplitRow
from multistream.runtime.device import Runtime, available_workers, resolve_again


@dataclass(frozen=True)
class NetworkOutputs:
    """Recomputed outputs of the network for each image, in the order of predictions.csv."""

    model: Model
    runtime: Runtime
    table: Table
    side_inputs: SideInputs
    pooled: Mapping[str, Mapping[str, Tensor]]
    output: FusionOutput
    """The fusion's output on the CPU."""
    changed: int
    """The number of files whose SHA-256 differs from that in split.csv."""

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """The probabilities of all classes, (N, K)."""
        probabilities: NDArray[np.float64] = self.model.network.probabilities(self.output.logits).numpy()
        return probabilities

    @property
    def labels(self) -> NDArray[np.bool_]:
        """The classes of each image, (N, K): exactly one, unless images may have several labels."""
        if self.table.label_sets is not None:
            return self.table.label_sets
        chosen: NDArray[np.bool_] = self.table.labels[:, None] == np.arange(len(self.model.classes))
        return chosen

    @property
    def predicted(self) -> NDArray[np.bool_]:
        """The predicted classes, (N, K): the most probable one or, with label sets, all at or above the threshold."""
        probabilities = self.probabilities
        if self.model.network.label_sets:
            return probabilities >= THRESHOLD
        chosen: NDArray[np.bool_] = probabilities.argmax(1)[:, None] == np.arange(probabilities.shape[1])
        return chosen

    @property
    def streams(self) -> dict[str, NDArray[np.float64]]:
        """The probabilities {key: (N, K)} of each stream's own classifier; empty if the fusion has none."""
        own = {key: logits.double() for key, logits in self.output.streams.items()}
        sets = self.model.network.label_sets
        return {key: (logits.sigmoid() if sets else logits.softmax(1)).numpy() for key, logits in own.items()}

    @property
    def photos(self) -> Photos:
        """The network's input images; damaged ones are not in batches."""
        settings = replace(self.model.recipe.data, on_bad_image="report")
        return make_photos(self.table, self.model.network.inputs, self.side_inputs, settings)

    @property
    def masked(self) -> dict[str, NDArray[np.float64]]:
        """The probabilities {key: (N, K)} with the pooled features of all other streams at their training mean."""
        network, device = self.model.network, self.runtime.device
        if len(network.branches) < 2:
            return {}
        stages = {key: list(branch.taps) for key, branch in network.branches.items()}
        pooled = map_stages(self.pooled, lambda p: p.to(device))
        probabilities = {}
        with evaluating(network):
            for key in stages:
                masked = network.mask({other: taps for other, taps in stages.items() if other != key})
                probabilities[key] = network.probabilities(fuse_all(masked, pooled).logits).numpy()
        return probabilities

    @property
    def missing(self) -> dict[str, int]:
        """The number of images without a stream's input, by the stream's key."""
        present = self.side_inputs.present
        return {key: int((~has_input).sum()) for key, has_input in present.items() if not has_input.all()}

    @property
    def policies(self) -> dict[str, PolicyAccuracy]:
        """The accuracy on complete images, and on all images with each policy; empty if all images are complete."""
        present = {key: has_input for key, has_input in self.side_inputs.present.items() if not has_input.all()}
        if not present:
            return {}
        network, device = self.model.network, self.runtime.device
        masks = {key: torch.from_numpy(has_input).to(device) for key, has_input in present.items()}
        pooled = map_stages(self.pooled, lambda p: p.to(device))
        policy = MissingPolicy.settle(network, self.model.recipe.data)
        with evaluating(network):
            by_policy = probabilities_by_policy(network, pooled, masks, policy)
        return policy_accuracies(by_policy, self.table.labels, present, label_sets=self.table.label_sets)

    def attribution(self, rows: NDArray[np.int64] | None = None) -> ShapleyValues:
        """Computes Shapley values of the streams on the logit scale, for all images or for some rows."""
        some = slice(None) if rows is None else torch.from_numpy(rows)
        pooled = map_stages(self.pooled, lambda p: p[some].to(self.runtime.device))
        return shapley_values(self.model.network, pooled, stages=False)


def run_network(
    model: Model, predictions: Predictions, rows: tuple[SplitRow, ...], *, device: str, precision: str, console: Console
) -> NetworkOutputs:
    """Runs the network on the images of predictions.csv, with the feature cache. Raises DataError if one is missing."""
    settings = replace(model.recipe.data, on_bad_image="report")
    table = _test_split(model, predictions)
    hashes = {row.path: row.sha256 for row in rows}
    changed = sum(hashes.get(table.ids[i]) != digest for i, digest in digests_of(table, range(len(table))).items())
    side_inputs = gather(
        table,
        model.inputs,
        model.recipe.network.inputs,
        missing=settings.missing_vectors,
        means=model.network.raw_means,
        resize=settings.resize,
    )
    runtime = resolve_again(model.recipe, device=device, precision=precision)
    network = runtime.place(model.network).freeze("streams")  # no training here, so the feature cache can be used
    photos = make_photos(table, network.inputs, side_inputs, settings)
    with console.progress(len(table), "features") as bar:
        every = np.arange(len(table))
        extracted = extract(
            network, photos, every, runtime=runtime, workers=available_workers(), tick=bar.advance, say=console.say
        )
    if bad := int((~extracted.valid).sum()):
        raise DataError("report", f"{bad:,} test images can no longer be read.", do="multistream data scan names them.")
    with evaluating(network):
        output = fuse_all(network, extracted.to(runtime.device))
    return NetworkOutputs(model, runtime, table, side_inputs, extracted.features, output, changed)


def _test_split(model: Model, predictions: Predictions) -> Table:
    """Selects the images of predictions.csv, in their order, from the recipe's data set."""
    settings = model.recipe.data
    table = open_table(settings.source, label=settings.label, allow_outside=settings.allow_outside)
    index = {name: i for i, name in enumerate(table.ids)}
    missing = [name for name in predictions.paths if name not in index]
    if missing:
        what = f"{len(missing):,} of {len(predictions):,} test images are missing, for example {missing[0]}."
        raise DataError(settings.source, what, do="Use --photos 0 for a report without images.")
    return table.select([index[name] for name in predictions.paths])


def batches(outputs: NetworkOutputs, rows: list[int], *, size: int) -> list[dict[str, Tensor]]:
    """Loads the images of some rows as batches on the device, with their rows as "index"."""
    sent = []
    for batch in loaded(outputs.photos, rows, batch_size=size, workers=0):
        index = batch.pop("index")
        sent.append({**outputs.runtime.send(batch), "index": index})
    return sent
