"""Feeds: where training batches come from. From photos, or from pooled features that lie in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multistream.data.loading import Photos, augment, loaded, order
from multistream.features.views import drawn
from multistream.recipe import TrainingSettings
from multistream.runtime import Runtime

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """What one step sees: `given` to the Objective, labels (B,), indices (B,); B is 0 if no photo could be decoded."""

    given: Mapping[str, Any]
    labels: Tensor
    indices: Tensor


class Feed(Protocol):
    """Gives batches of some images: in the epoch's order and augmented for training, else plainly in their own."""

    @property
    def pooled(self) -> bool:
        """Whether batches hold pooled features."""

    def training(self, indices: Indices, *, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of this epoch from number `start` on."""

    def plain(self, indices: Indices) -> Iterator[Batch]:
        """The images as they are, in the order given; what cannot be decoded is left out."""


@dataclass(frozen=True)
class PhotoFeed:
    """Decodes photos anew for every epoch, because some stream trains."""

    photos: Photos
    labels: Tensor
    settings: TrainingSettings
    runtime: Runtime
    workers: int
    pooled: bool = False

    def training(self, indices: Indices, *, epoch: int, start: int = 0) -> Iterator[Batch]:
        shuffled = indices[order(len(indices), seed=self.settings.seed, epoch=epoch)]
        for batch in self._batches(shuffled[start * self.settings.batch_size :]):
            turned = augment(
                dict(batch.given),
                batch.indices,
                seed=self.settings.seed,
                epoch=epoch,
                horizontal="horizontal" in self.settings.flips,
                vertical="vertical" in self.settings.flips,
            )
            yield Batch(turned, batch.labels, batch.indices)

    def plain(self, indices: Indices) -> Iterator[Batch]:
        return self._batches(indices)

    def _batches(self, indices: Indices) -> Iterator[Batch]:
        size, pin = self.settings.batch_size, self.runtime.device.type == "cuda"
        for batch in loaded(self.photos, indices, batch_size=size, workers=self.workers, pin=pin):
            chosen = batch.pop("index")
            yield Batch(self.runtime.send(batch), self.labels[chosen.to(self.labels.device)], chosen)


@dataclass(frozen=True)
class PooledFeed:
    """Pooled features {key: {stage: (N, P)}} in memory: an epoch is a few matrix products a step.

    Row i is image i; `valid` (N,) tells which could be decoded. `turned` holds the features of the views that the
    settings' flips lead to, {view: features}: an epoch shows each image in the view that `augment` would draw.
    """

    features: Mapping[str, Mapping[str, Tensor]]
    labels: Tensor
    valid: Tensor
    settings: TrainingSettings
    turned: Mapping[str, Mapping[str, Mapping[str, Tensor]]] = field(default_factory=dict)
    pooled: bool = True

    def training(self, indices: Indices, *, epoch: int, start: int = 0) -> Iterator[Batch]:
        shuffled = indices[order(len(indices), seed=self.settings.seed, epoch=epoch)]
        for batch in self._batches(shuffled[start * self.settings.batch_size :], self.settings.batch_size):
            yield self._turned(batch, epoch=epoch) if self.turned else batch

    def plain(self, indices: Indices) -> Iterator[Batch]:
        return self._batches(indices, max(1024, self.settings.batch_size))

    def _batches(self, indices: Indices, size: int) -> Iterator[Batch]:
        for start in range(0, len(indices), size):  # Tensor.split makes one piece even of nothing
            chunk = torch.from_numpy(indices[start : start + size])
            chosen = chunk[self.valid[chunk]]
            place = chosen.to(self.labels.device)
            given = {k: {s: f[place] for s, f in stages.items()} for k, stages in self.features.items()}
            yield Batch(given, self.labels[place], chosen)

    def _turned(self, batch: Batch, *, epoch: int) -> Batch:
        """The batch with the features of the view that this epoch shows of each image."""
        place = batch.indices.to(self.labels.device)
        given = {key: dict(stages) for key, stages in batch.given.items()}
        chosen = drawn(batch.indices, self.settings.flips, seed=self.settings.seed, epoch=epoch)
        for view, rows in chosen.items():
            shown = rows.to(self.labels.device).unsqueeze(1)
            for key, stages in self.turned[view].items():
                given[key] |= {s: torch.where(shown, f[place], given[key][s]) for s, f in stages.items()}
        return replace(batch, given=given)
