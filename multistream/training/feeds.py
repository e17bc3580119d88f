"""Feeds: where training batches come from. From photos, or from pooled features that lie in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multistream.data.loading import Photos, augment, loaded, order
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
    """Decodes photos anew for every epoch, because some stream trains or an image is turned."""

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
        for batch in loaded(self.photos, indices, batch_size=self.settings.batch_size, workers=self.workers):
            chosen = batch.pop("index")
            yield Batch(self.runtime.send(batch), self.labels[chosen.to(self.labels.device)], chosen)


@dataclass(frozen=True)
class PooledFeed:
    """Pooled features {key: {stage: (N, P)}} in memory: an epoch is a few matrix products a step.

    Row i is image i; `valid` (N,) tells which could be decoded.
    """

    features: Mapping[str, Mapping[str, Tensor]]
    labels: Tensor
    valid: Tensor
    settings: TrainingSettings
    pooled: bool = True

    def training(self, indices: Indices, *, epoch: int, start: int = 0) -> Iterator[Batch]:
        shuffled = indices[order(len(indices), seed=self.settings.seed, epoch=epoch)]
        return self._batches(shuffled[start * self.settings.batch_size :], self.settings.batch_size)

    def plain(self, indices: Indices) -> Iterator[Batch]:
        return self._batches(indices, max(1024, self.settings.batch_size))

    def _batches(self, indices: Indices, size: int) -> Iterator[Batch]:
        for chunk in torch.from_numpy(np.ascontiguousarray(indices)).split(size):
            chosen = chunk[self.valid[chunk]]
            place = chosen.to(self.labels.device)
            given = {k: {s: f[place] for s, f in stages.items()} for k, stages in self.features.items()}
            yield Batch(given, self.labels[place], chosen)
