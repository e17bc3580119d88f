"""Augmentation: flips drawn once for an image and applied to its photo and its maps alike, on the device."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from multistream.data.draws import flips

AXES = {"horizontal": 3, "vertical": 2}
"""The dimension of (B, C, H, W) that each kind of flip turns round."""


def augment(
    batch: Mapping[str, Tensor], indices: Tensor, *, seed: int, epoch: int, horizontal: bool, vertical: bool
) -> dict[str, Tensor]:
    """Flips half of the images, with all their Maps; vectors (B, D) stay. `indices` (B,) lie on the CPU.

    What is flipped is a function of (seed, epoch, index): not of the batch, the workers or the rank.

    >>> photos = {"image": torch.arange(6).view(1, 1, 2, 3)}
    >>> augment(photos, torch.tensor([0]), seed=0, epoch=0, horizontal=False, vertical=False)["image"].tolist()
    [[[[0, 1, 2], [3, 4, 5]]]]
    """
    turned = dict(batch)
    for axis, wanted in (("horizontal", horizontal), ("vertical", vertical)):
        if not wanted:
            continue
        chosen = torch.from_numpy(flips(indices.numpy(), seed=seed, epoch=epoch, axis=axis)).view(-1, 1, 1, 1)
        for name, pictures in turned.items():
            if pictures.ndim == 4:
                turned[name] = torch.where(chosen.to(pictures.device), pictures.flip(AXES[axis]), pictures)
    return turned
