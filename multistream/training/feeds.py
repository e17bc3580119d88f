"""Feeds: the sources of training batches, either photos with optional augmentation, or pooled features in memory.

All augmentation is a function of seed, epoch and image (for mixup and cutmix, of the whole batch). It is therefore
reproducible, and a resumed run sees the same images as an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from multistream.data.loading import Photos, loaded
from multistream.data.prefetch import AHEAD, Prefetch
from multistream.data.sampling import draws, order
from multistream.data.views import augment, drawn, views_of
from multistream.nn.nested import take_rows
from multistream.nn.seeding import seeded
from multistream.recipe import TrainingSettings
from multistream.runtime.device import Runtime
from multistream.runtime.distributed import ALONE, Ranks

Policy = Callable[[Tensor], Tensor]

POLICIES: Mapping[str, str] = {"randaugment": "RandAugment", "trivial": "TrivialAugmentWide", "augmix": "AugMix"}
"""Classes of torchvision.transforms.v2, by the names that `training.augment` accepts."""


def make_policy(name: str) -> Policy | None:
    """Returns a policy of torchvision.transforms.v2 with its defaults, for a uint8 photo (3, S, S); None if `none`."""
    if name == "none":
        return None
    from torchvision.transforms import v2  # takes a second to import; most training runs do not need it

    policy: Policy = getattr(v2, POLICIES[name])()
    return policy


def apply_policy(policy: Policy, photos: Tensor, indices: Tensor, *, seed: int, epoch: int) -> Tensor:
    """Applies the policy to each photo of (B, 3, S, S) uint8, with random draws from (seed, epoch, index) alone."""
    numbers = draws(indices.numpy(), seed=seed, epoch=epoch, purpose="augment") >> np.uint64(1)
    changed = []
    for photo, number in zip(photos, numbers.tolist(), strict=True):
        with seeded(number, step=0):
            changed.append(policy(photo))
    return torch.stack(changed) if changed else photos


def mix(
    given: Mapping[str, Any], labels: Tensor, indices: Tensor, *, classes: int, mixup: float, cutmix: float, **at: int
) -> tuple[dict[str, Any], Tensor]:
    """Mixes each image of a batch with its neighbour: (inputs, labels as fractions per class (B, K)).

    Mixup (Zhang et al. 2018) averages pictures and vectors; cutmix (Yun et al. 2019) pastes a rectangle of the
    neighbour's photo. `mixup` and `cutmix` are the alphas of the Beta distribution; with both, each is used for half of
    the batches. `at` is seed and epoch.
    """
    chance = np.random.default_rng(draws(indices[:1].numpy(), purpose="mix", **at).tolist())
    cuts = cutmix > 0 and (mixup == 0 or chance.random() < 0.5)
    share = float(chance.beta(*2 * (cutmix if cuts else mixup,)))
    shares = labels if labels.ndim == 2 else functional.one_hot(labels, classes).float()
    box = _box(share, chance.random(2)) if cuts else None
    if box is not None:
        share = 1 - (box[1] - box[0]) * (box[3] - box[2])
    mixed = {name: _mixed(entry, share, box) for name, entry in given.items()}
    return mixed, share * shares + (1 - share) * shares.roll(1, 0)


def _box(share: float, centre: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Top, bottom, left, right, in fractions of the side, of a square of area 1 - share, clipped at the borders."""
    half = float(np.sqrt(1 - share)) / 2
    top, left = (max(0.0, float(c) - half) for c in centre)
    bottom, right = (min(1.0, float(c) + half) for c in centre)
    return top, bottom, left, right


def _mixed(entry: Tensor, share: float, box: tuple[float, float, float, float] | None) -> Tensor:
    """Mixes pictures (B, C, H, W) or vectors (B, D) with those of the previous image."""
    other = entry.roll(1, 0)
    if box is None or entry.ndim != 4:
        return entry.float() * share + other.float() * (1 - share)
    height, width = entry.shape[2:]
    top, bottom, left, right = (round(at * side) for at, side in zip(box, (height, height, width, width), strict=True))
    cut = entry.clone()
    cut[:, :, top:bottom, left:right] = other[:, :, top:bottom, left:right]
    return cut


Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """The input of one step: `given` for the Objective, labels (B,) or class fractions (B, K), and image indices (B,).

    Class fractions are votes or the labels of mixed images. B is 0 if no photo could be decoded. With many ranks, a
    batch with B = 0 has one image of zeros in `given`, because every rank must take part in every step.
    """

    given: Mapping[str, Any]
    labels: Tensor
    indices: Tensor


def as_targets(targets: NDArray[np.int64] | NDArray[np.float64], *, device: torch.device) -> Tensor:
    """Returns labels (N,) int64, or distributions (N, K) as float32, on the device."""
    tensor = torch.from_numpy(np.ascontiguousarray(targets)).to(device)
    return tensor.float() if tensor.ndim == 2 else tensor


def winners(targets: Tensor) -> Tensor:
    """Returns the true class (B,): the label, or the first class with the largest fraction."""
    return targets.argmax(1) if targets.ndim == 2 else targets


class Feed(Protocol):
    """Yields batches of images: shuffled and augmented for training, or plain and in the given order."""

    @property
    def pooled(self) -> bool:
        """Whether batches hold pooled features."""

    def training(self, indices: Indices, *, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yields the batches of this epoch from number `start` on."""

    def plain(self, indices: Indices) -> Iterator[Batch]:
        """Yields the images unaugmented and in the given order, without those that cannot be decoded."""


@dataclass(frozen=True)
class PhotoFeed:
    """Decodes photos in every epoch, because at least one stream trains.

    `held` are pooled features of frozen streams, which do not run: {key: {stage: (V * N, P)}} as in PooledFeed. A batch
    is divided among the `ranks`; each decodes its part of every batch.
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
        """Mixes the images of a batch if the settings ask for it and the batch has at least two images."""
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
        """Yields this rank's part of every batch; `change(photos, indices)` runs before the copy to the device."""
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
        if not len(parts[-1]):  # the last batch has fewer images than ranks
            nothing = torch.zeros(0, dtype=torch.int64)
            yield Batch(self._zeros(), self.labels[:0], nothing)

    def _zeros(self) -> dict[str, Tensor]:
        """Returns inputs of one image of zeros; empty with one rank, which skips an empty batch."""
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
    """Yields batches of pooled features {key: {stage: (V * N, P)}} in memory; a step is a few matrix products.

    Row `view * N + i` is image i in one of the V views that the settings' flips and crops produce. Labels (V * N,) and
    `valid` (V * N,), which marks the decodable photos, have the same order. An epoch uses the view that `augment`
    would.
    """

    features: Mapping[str, Mapping[str, Tensor]]
    labels: Tensor
    valid: Tensor
    settings: TrainingSettings
    pooled: bool = True

    @property
    def images(self) -> int:
        """N, the number of images."""
        return images_of(self.valid, self.settings)

    def training(self, indices: Indices, *, epoch: int, start: int = 0) -> Iterator[Batch]:
        rows = shown_rows(indices, self.images, settings=self.settings, seed=self.settings.seed, epoch=epoch)
        return self._batches(rows[start * self.settings.batch_size :], self.settings.batch_size)

    def plain(self, indices: Indices) -> Iterator[Batch]:
        return self._batches(indices, max(1024, self.settings.batch_size))

    def _batches(self, indices: Indices, size: int) -> Iterator[Batch]:
        for start in range(0, len(indices), size):  # Tensor.split returns one chunk even for an empty tensor
            chunk = torch.from_numpy(indices[start : start + size])
            chosen = chunk[self.valid[chunk]]
            place = chosen.to(self.labels.device)
            given = take_rows(self.features, place)
            yield Batch(given, self.labels[place], chosen % self.images)


def images_of(table: Tensor, settings: TrainingSettings) -> int:
    """Returns the number of images in a table that holds each image in every view of the settings."""
    return len(table) // len(views_of(flips=settings.flips, crops=settings.crops))


def shown_rows(indices: Indices, images: int, *, settings: TrainingSettings, seed: int, epoch: int) -> Indices:
    """Returns the rows of such a table for an epoch, in its random order and with its views."""
    shuffled = indices[order(len(indices), seed=seed, epoch=epoch)]
    views = drawn(shuffled, flips=settings.flips, crops=settings.crops, seed=seed, epoch=epoch)
    return views * images + shuffled
