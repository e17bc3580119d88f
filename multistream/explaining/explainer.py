"""explain: for photos and a class, how much each stream, stage, pixel and vector entry gave to the decision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multistream.console import Console
from multistream.data.loading import Photos, loaded
from multistream.data.photos import make_photos
from multistream.data.side_inputs import SideInputs, gather
from multistream.explaining.answers import Answers
from multistream.explaining.attribution import attribute
from multistream.explaining.explanation import Explanation
from multistream.explaining.gradients import attention
from multistream.explaining.methods import Examiner, settle
from multistream.explaining.observing import observe
from multistream.explaining.subjects import Subjects, find_subjects
from multistream.explaining.targets import Target
from multistream.inference.model import Model, load
from multistream.inputs import Vector
from multistream.recipe import RuntimeSettings
from multistream.runs.model_file import require_trained
from multistream.runtime.device import Runtime, available_workers, resolve

CHUNK = 16
"""Photos that are explained together: with 8 classes a VGG16's maps take 4 MB a photo."""
MANY = 32
"""Of more photos than this only the target is kept, unless all classes are asked for."""


def explain(
    model: Model | str | Path,
    images: Sequence[str | Path] | None = None,
    *,
    data: str = "",
    label: str = "",
    target: str = "predicted",
    against: str = "",
    method: str = "auto",
    flow: str = "auto",
    stages: str = "all",
    scale: str = "logit",
    baseline: str = "mean",
    every_class: bool | None = None,
    inputs: Mapping[str, str] | None = None,
    device: str = "auto",
    console: Console | None = None,
) -> Iterator[Explanation]:
    """Explains photos one after the other, in float32: an Explanation each, in their order, with its arrays.

    `images` are files and folders; without them the run's own test part is explained, or the labelled set `data`.
    `target` is a class, `predicted` or `true`, and `against` another, for their difference. `method` is
    `decomposition` (the exact sum), `grad-cam` (with `flow` direct or total, of `stages` all or last) or
    `integrated-gradients`; `auto` takes the sum where there is one. `every_class` keeps all classes beside the target
    (None: for sums of up to 32 photos). A file that cannot be used gets an Explanation with its status. UsageError
    for what does not go together.
    """
    return Explainer(
        load(model) if isinstance(model, str | Path) else model,
        images,
        target=Target(target, against, scale),
        data=data,
        label=label,
        method=method,
        flow=flow,
        stages=stages,
        baseline=baseline,
        every_class=every_class,
        inputs=inputs,
        device=device,
        console=console,
    ).explanations()


class Explainer:
    """A question about some photos, checked at once; `explanations` answers it photo by photo in constant memory."""

    def __init__(
        self,
        model: Model,
        images: Sequence[str | Path] | None,
        *,
        target: Target,
        data: str,
        label: str,
        method: str,
        flow: str,
        stages: str,
        baseline: str,
        every_class: bool | None,
        inputs: Mapping[str, str] | None,
        device: str,
        console: Console | None,
    ) -> None:
        require_trained(model, "explain")
        self.model, self.console = model, console or Console(quiet=True)
        parts = model.recipe.network
        self.question = settle(
            model.network,
            target=target,
            method=method,
            flow=flow,
            stages=stages,
            baseline=baseline,
            every_class=every_class,
            names=(parts.tap, parts.temporal, parts.fusion),
        )
        self.subjects: Subjects = find_subjects(
            model, images, data=data, label=label, inputs=inputs, labelled=target.needs_labels
        )
        if every_class is None and len(self.subjects) > MANY:
            self.question = replace(self.question, every_class=False)
        self.vocabularies = {key: each.vocabulary for key, each in model.inputs.items() if isinstance(each, Vector)}
        self.runtime: Runtime = resolve(RuntimeSettings(device=device, precision="fp32"))

    def explanations(self) -> Iterator[Explanation]:
        """One Explanation a photo, in order."""
        table, settings = self.subjects.table, replace(self.model.recipe.data, on_bad_image="report")
        side_inputs = gather(
            table, self.model.inputs, self.subjects.sources, missing=settings.missing_vectors, resize=settings.resize
        )
        for note in side_inputs.notes:
            self.console.say(f"data: {note}")
        network = self.runtime.place(self.model.network)
        photos = make_photos(table, network.inputs, side_inputs, settings)
        examiner = Examiner(network, self.question)
        usable = np.flatnonzero(side_inputs.usable)
        done = 0
        batches = loaded(photos, usable, batch_size=CHUNK, workers=available_workers())
        for number, batch in enumerate(batches):
            rows = batch.pop("index").tolist()
            found = dict(zip(rows, self._batch(examiner, batch, rows), strict=True)) if rows else {}
            end = _end(usable, number, len(table))
            for index in range(done, end):
                yield found.pop(index, None) or self._unusable(index, photos, side_inputs)
            done = end
        for index in range(done, len(table)):
            yield self._unusable(index, photos, side_inputs)

    def _unusable(self, index: int, photos: Photos, side_inputs: SideInputs) -> Explanation:
        reason = photos.bad.get(index, "no vector" if not side_inputs.usable[index] else "not read")
        return Explanation(self.subjects.names[index], reason)

    def _batch(self, examiner: Examiner, batch: dict[str, Tensor], rows: list[int]) -> Iterator[Explanation]:
        """The explanations of one batch."""
        sent = self.runtime.send(batch)
        seen = observe(examiner.network, sent, runtime=self.runtime)
        labels = torch.from_numpy(self.subjects.table.labels[rows])
        chosen = self.question.target.of(seen.fused, labels, self.model.classes)
        given = attribute(examiner.network, seen.pooled, baseline=self.question.baseline, scale=chosen.scale)
        answers = Answers(
            classes=self.model.classes,
            vocabularies=self.vocabularies,
            question=self.question,
            seen=seen,
            chosen=chosen,
            found=examiner.examine(seen, sent, chosen).cpu(),
            given=given,
            attention=attention(examiner.network, seen.pooled),
            images=batch.get("image"),
        )
        for place, row in enumerate(rows):
            label = int(labels[place])
            yield answers.explanation(
                place, path=self.subjects.names[row], label=self.model.classes[label] if label >= 0 else ""
            )


def _end(usable: NDArray[np.int64], number: int, total: int) -> int:
    """The first index that batch `number` does not answer for: those before its end that have no input are due too."""
    after = (number + 1) * CHUNK
    return int(usable[after]) if after < len(usable) else total
