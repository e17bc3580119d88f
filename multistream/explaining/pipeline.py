"""explain: the contributions of each stream, stage, pixel and vector entry to the decision for a class.

    find_photos -> PhotoSelection; Explainer(model, images, request=...).batches() -> ExplainedBatch -> Explanation

`explain`, the galleries, the tests of explanations and the report all use this pipeline.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property
from os import PathLike

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multistream.console import Console
from multistream.data.given_photos import GivenPhoto, PhotoLike
from multistream.data.loading import Photos, loaded, make_photos
from multistream.data.side_inputs import SideInputs, gather
from multistream.data.side_lookup import SideSource
from multistream.explaining.attribution import Attributor, ExplanationRequest
from multistream.explaining.explanation import ExplainedBatch, Explanation, chosen_classes
from multistream.explaining.forward import forward_pass
from multistream.explaining.games import shapley_values
from multistream.explaining.gradients import attention
from multistream.explaining.photo_selection import find_photos
from multistream.explaining.targets import Target
from multistream.inference.model import Model, as_model
from multistream.inputs import Image
from multistream.interfaces import VECTOR, Stream
from multistream.network.network import MultiStream
from multistream.recipe import RuntimeSettings
from multistream.runs.model_file import require_trained
from multistream.runtime.device import available_workers, resolve

CHUNK = 16
"""The number of photos per batch: with 8 classes a VGG16's maps take 4 MB per photo."""
MANY = 32
"""The largest number of photos for which all classes are kept by default; for more, only the target is kept."""


def explain(
    model: Model | MultiStream | str | PathLike[str],
    images: PhotoLike | Iterable[PhotoLike | GivenPhoto] | None = None,
    *,
    data: str = "",
    label: str = "",
    target: str = "predicted",
    against: str = "",
    method: str = "auto",
    scale: str = "logit",
    baseline: str = "mean",
    every_class: bool | None = None,
    inputs: Mapping[str, SideSource] | None = None,
    streams: Mapping[str, Stream] | None = None,
    device: str = "auto",
    console: Console | None = None,
) -> Iterator[Explanation]:
    """Explains photos in float32; yields one Explanation with its arrays for each photo, in order.

    `model` is a run, a model file, or a trained model or network in memory.
    `images` are one or several photos, as for `Model.predict`; without them the labelled data set `data` or the run's
    test split is explained. `inputs` are vectors and maps by stream key or input name: a file or folder, or for vectors
    {id: array} or an array (N, D) in the order of the photos. `target` is a class, `predicted` or `true`; with
    `against`, a second class, the difference between the two is explained. `method` is `decomposition` (the exact sum),
    `grad-cam` (each stage through its own tap), `grad-cam-total` (also through all deeper stages), `grad-cam-last` (the
    last stage) or `integrated-gradients`; `auto` uses the exact sum if there is one. `every_class` adds the other
    classes to the target (None: for exact sums of up to 32 photos). `streams` are the streams that were given as
    instances. A photo that cannot be used gets an Explanation with its status. Raises UsageError if options contradict
    each other.
    """
    explainer = Explainer(
        as_model(model, streams=streams),
        images,
        request=ExplanationRequest(Target(target, against, scale), method, baseline, every_class),
        data=data,
        label=label,
        inputs=inputs,
        device=device,
        console=console,
    )
    return explainer.explanations()


class Explainer:
    """Explains photos for one request, in constant memory. The constructor checks the request and finds the photos."""

    def __init__(
        self,
        model: Model,
        images: PhotoLike | Iterable[PhotoLike | GivenPhoto] | None = None,
        *,
        request: ExplanationRequest,
        data: str = "",
        label: str = "",
        inputs: Mapping[str, SideSource] | None = None,
        labelled: bool = False,
        device: str = "auto",
        console: Console | None = None,
    ) -> None:
        require_trained(model, "explain")
        self.model, self.console = model, console or Console(quiet=True)
        self.request = request.resolved(model.network)
        self._warned: set[str] = set()
        needs_labels = labelled or request.target.needs_labels
        self.selection = find_photos(model, images, data=data, label=label, inputs=inputs, labelled=needs_labels)
        if request.every_class is None and len(self.selection) > MANY:
            self.request = self.request.for_target_alone()
        self.settings = replace(model.recipe.data, on_bad_image="report")
        self.runtime = resolve(RuntimeSettings(device=device, precision="fp32"))
        self.vocabularies = {
            key: b.stream.channel_names(VECTOR) for key, b in model.network.branches.items() if b.is_vector
        }

    def explanations(self) -> Iterator[Explanation]:
        """Yields one Explanation per photo, in order; for a photo that cannot be used it holds only the status."""
        side_inputs, photos = self._side_inputs, self._photos()
        usable, done = np.flatnonzero(side_inputs.usable), 0
        for number, explained in enumerate(self._explained(photos, usable)):
            records = {} if explained is None else self.records(explained)
            end = _end(usable, number, len(self.selection))
            for index in range(done, end):
                yield records[index] if index in records else self._unusable(index, photos, side_inputs)
            done = end
        for index in range(done, len(self.selection)):
            yield self._unusable(index, photos, side_inputs)

    def batches(self, places: Sequence[int] | None = None) -> Iterator[ExplainedBatch]:
        """Yields batches of the usable photos, in order; limited to the rows `places`, if given."""
        usable = np.flatnonzero(self._side_inputs.usable)
        chosen = usable if places is None else np.intersect1d(usable, places)
        yield from (each for each in self._explained(self._photos(), chosen) if each is not None)

    def towards(self, target: Target) -> Explainer:
        """Returns an explainer of the same photos for another target."""
        other = copy(self)
        other.request = replace(self.request, target=target)
        return other

    def records(self, explained: ExplainedBatch) -> dict[int, Explanation]:
        """Returns {row of the table: Explanation} of a batch's photos."""
        records = {}
        sees_photos = any(isinstance(each, Image) for each in self.model.inputs.values())
        is_whole = sees_photos and self.settings.resize != "crop"  # a crop is square
        for place, row in enumerate(explained.rows):
            records[row] = explained.explanation(
                place,
                path=self.selection.names[row],
                labels=self.selection.labels(row),
                aspect=self.selection.aspect(row) if is_whole else 1.0,
            )
        return records

    def _photos(self) -> Photos:
        selection = self.selection
        return make_photos(selection.table, self.model.inputs, self._side_inputs, self.settings, given=selection.given)

    @cached_property
    def _side_inputs(self) -> SideInputs:
        side_inputs = gather(
            self.selection.table,
            self.model.inputs,
            self.selection.sources,
            missing=self.settings.missing_vectors,
            means=self.model.network.raw_means,
            resize=self.settings.resize,
        )
        for note in side_inputs.notes:
            self.console.say(f"data: {note}")
        return side_inputs

    def _explained(self, photos: Photos, usable: NDArray[np.int64]) -> Iterator[ExplainedBatch | None]:
        """Yields the usable photos, CHUNK at a time; None for a batch in which no photo can be read."""
        network = self.runtime.place(self.model.network)
        attributor = Attributor(network, self.request)
        for batch in loaded(photos, usable, batch_size=CHUNK, workers=available_workers()):
            rows = batch.pop("index").tolist()
            explained = self._explain(attributor, self.runtime.send(batch), rows) if rows else None
            for warning in () if explained is None else explained.attribution.warnings:
                if not self._warned:  # only the first: the numbers differ from batch to batch
                    self.console.warn(warning)
                self._warned.add(warning)
            yield explained

    def _explain(self, attributor: Attributor, batch: Mapping[str, Tensor], rows: list[int]) -> ExplainedBatch:
        network = attributor.network
        forward = forward_pass(network, batch, runtime=self.runtime)
        labels = torch.from_numpy(self.selection.table.labels[rows])
        columns = self.request.target.of(
            forward.probabilities, labels, self.model.classes, temperature=network.temperature
        )
        shapley = shapley_values(network, forward.pooled, baseline=self.request.baseline, scale=columns.scale)
        is_usual = (self.request.baseline, columns.scale) == ("mean", "logit")
        usual = shapley if is_usual else shapley_values(network, forward.pooled, stages=False)
        return ExplainedBatch(
            rows=rows,
            batch=batch,
            classes=self.model.classes,
            vocabularies=self.vocabularies,
            request=self.request,
            forward=forward,
            attribution=attributor.attribute(forward, batch, columns).cpu(),
            shapley=shapley,
            chosen=chosen_classes(forward, usual.streams),
            attention=attention(network, forward.pooled),
        )

    def _unusable(self, index: int, photos: Photos, side_inputs: SideInputs) -> Explanation:
        reason = photos.bad.get(index, "no vector" if not side_inputs.usable[index] else "not read")
        return Explanation(self.selection.names[index], reason)


def _end(usable: NDArray[np.int64], number: int, total: int) -> int:
    """Returns the first row after batch `number`; unusable photos before that row belong to the batch too."""
    after = (number + 1) * CHUNK
    return int(usable[after]) if after < len(usable) else total
