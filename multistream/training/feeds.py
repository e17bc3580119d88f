"""Feeds: where training batches come from. From photos, or from pooled features that lie in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multistream.data.loading import Photos, loaded
from multistream.data.prefetch import AHEAD, Prefetch
from multistream.data.sampling import order
from multistream.data.views import augment, drawn, views_of
from multistream.nn.nested import take_rows
from multistream.recipe import TrainingSettings
from multistream.runtime.device import Runtime
from multistream.runtime.distributed import ALONE, Ranks
from multistream.training.augmentation import apply_policy, make_policy, mix

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """What one step sees: `given` to the Objective, labels (B,) or, of votes or mixed, shares (B, K), and indices (B,).

    B is 0 if no photo could be decoded.

    On many ranks a batch of 0 has one image of zeros in `given`: the rank takes part in the step all the same.
    """

    given: Mapping[str, Any]
    labels: Tensor
    indices: Tensor


def as_targets(targets: NDArray[np.int64] | NDArray[np.float64], *, device: torch.device) -> Tensor:
    """Labels (N,) int64, or distributions (N, K) as float32, on the device."""
    tensor = torch.from_numpy(np.ascontiguousarray(targets)).to(device)
    return tensor.float() if tensor.ndim == 2 else tensor


def winners(targets: Tensor) -> Tensor:
    """The class that counts as right, (B,): the label, or the first with the largest share."""
    return targets.argmax(1) if targets.ndim == 2 else targets


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
    """Decodes photos again for every epoch, because some stream trains.

    `held` are pooled features of frozen streams, which do not run: {key: {stage: (V * N, P)}} as PooledFeed has them.
    The batches are those of all `ranks` together; each rank decodes its part of every one.
    """

    photos: Photos
    labels: Tensor
    settings: TrainingSettings
    runtime: Runtime
    workers: int
    held: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    pooled: bool = False
    ranks: Ranks = ALONE

    def training(self, indices: Indices, *, epoch: int, start: int = 0) -> Iterator[Batch]:
        settings = self.settings
        shuffled = indices[order(len(indices), seed=settings.seed, epoch=epoch)]
        policy = make_policy(settings.augment)
        change = partial(apply_policy, policy, seed=settings.seed, epoch=epoch) if policy else None
        for batch in self._batches(shuffled[start * settings.batch_size :], change=change):
            numbers = batch.indices.numpy()
            views = drawn(numbers, flips=settings.flips, crops=settings.crops, seed=settings.seed, epoch=epoch)
            turned = augment(batch.given, views, views_of(flips=settings.flips, crops=settings.crops))
            held = self._held(torch.from_numpy(views * len(self.photos) + numbers))
            yield self._mixed(replace(batch, given={**turned, **held}), epoch=epoch)

    def plain(self, indices: Indices) -> Iterator[Batch]:
        for batch in self._batches(indices):
            yield replace(batch, given={**batch.given, **self._held(batch.indices)})

    def _mixed(self, batch: Batch, *, epoch: int) -> Batch:
        """The batch with its images mixed, if the settings say so; a single one has none to be mixed with."""
        settings = self.settings
        if not (settings.mixup or settings.cutmix) or len(batch.labels) < 2:
            return batch
        given, labels = mix(
            batch.given,
            batch.labels,
            batch.indices,
            classes=len(self.photos.table.classes),
            mixup=settings.mixup,
            cutmix=settings.cutmix,
            seed=settings.seed,
            epoch=epoch,
        )
        return replace(batch, given=given, labels=labels)

    def _held(self, rows: Tensor) -> dict[str, dict[str, Tensor]]:
        rows = rows.to(self.labels.device)
        if not len(rows) and self.ranks.size > 1:
            rows = torch.zeros(1, dtype=torch.int64, device=rows.device)
        return take_rows(self.held, rows)

    def _batches(
        self, indices: Indices, *, change: Callable[[Tensor, Tensor], Tensor] | None = None
    ) -> Iterator[Batch]:
        """This rank's part of every batch; `change` is what is done to photos, with their indices, before they move."""
        pin = self.runtime.device.type == "cuda"
        whole = [indices[at : at + self.settings.batch_size] for at in range(0, len(indices), self.settings.batch_size)]
        parts = [self.ranks.portion(batch) for batch in whole]
        if not parts:
            return
        own, size = np.concatenate(parts), len(parts[0])
        prefetch = Prefetch(AHEAD if self.workers else 0, processes=pin)
        for batch in loaded(
            self.photos, own, batch_size=max(1, size), workers=self.workers, pin=pin, prefetch=prefetch
        ):
            chosen = batch.pop("index")
            if change is not None and "image" in batch:
                batch["image"] = change(batch["image"], chosen)
            sent = self.runtime.send(batch) if len(chosen) else self._zeros()
            yield Batch(sent, self.labels[chosen.to(self.labels.device)], chosen)
        if not len(parts[-1]):  # the last batch has fewer images than there are ranks
            nothing = torch.zeros(0, dtype=torch.int64)
            yield Batch(self._zeros(), self.labels[:0], nothing)

    def _zeros(self) -> dict[str, Tensor]:
        """One image that no file holds; nothing where there is one rank, which passes over an empty batch."""
        if self.ranks.size == 1:
            return {}
        zeros = {name: torch.zeros(1, rows.shape[1]) for name, rows in self.photos.vectors.items()}
        for name, read in self.photos.maps.items():
            zeros[name] = torch.from_numpy(np.zeros_like(read(0)))[None]
        if (decoder := self.photos.decoder) is not None:
            zeros["image"] = torch.zeros(1, 3, decoder.size, decoder.size, dtype=torch.uint8)
        return self.runtime.send(zeros)


@dataclass(frozen=True)
class PooledFeed:
    """Pooled features {key: {stage: (V * N, P)}} in memory: an epoch is a few matrix products a step.

    Row `view * N + i` is image i in one of the V views that the settings' flips and crops lead to; labels (V * N,) and
    `valid` (V * N,), which marks the decodable photos, likewise. An epoch shows the view that `augment` would.
    """

    features: Mapping[str, Mapping[str, Tensor]]
    labels: Tensor
    valid: Tensor
    settings: TrainingSettings
    pooled: bool = True

    @property
    def images(self) -> int:
        """N"""
        return images_of(self.valid, self.settings)

    def training(self, indices: Indices, *, epoch: int, start: int = 0) -> Iterator[Batch]:
        rows = shown_rows(indices, self.images, settings=self.settings, seed=self.settings.seed, epoch=epoch)
        return self._batches(rows[start * self.settings.batch_size :], self.settings.batch_size)

    def plain(self, indices: Indices) -> Iterator[Batch]:
        return self._batches(indices, max(1024, self.settings.batch_size))

    def _batches(self, indices: Indices, size: int) -> Iterator[Batch]:
        for start in range(0, len(indices), size):  # Tensor.split makes one piece even of nothing
            chunk = torch.from_numpy(indices[start : start + size])
            chosen = chunk[self.valid[chunk]]
            place = chosen.to(self.labels.device)
            given = take_rows(self.features, place)
            yield Batch(given, self.labels[place], chosen % self.images)


def images_of(table: Tensor, settings: TrainingSettings) -> int:
    """How many images a table has that holds them in every view that the settings lead to."""
    return len(table) // len(views_of(flips=settings.flips, crops=settings.crops))


def shown_rows(indices: Indices, images: int, *, settings: TrainingSettings, seed: int, epoch: int) -> Indices:
    """The rows of such a table that an epoch shows of these images, in its order and its views."""
    shuffled = indices[order(len(indices), seed=seed, epoch=epoch)]
    views = drawn(shuffled, flips=settings.flips, crops=settings.crops, seed=seed, epoch=epoch)
    return views * images + shuffled
