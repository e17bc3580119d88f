"""Augmentation for streams that train: torchvision's automatic policies for each photo, mixup and cutmix for a batch.

All augmentation is a function of seed, epoch and image (for mixup and cutmix, of the whole batch). It is therefore
reproducible, and a resumed run sees the same images as an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from multistream.data.sampling import draws
from multistream.nn.seeding import seeded

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
