"""Views: the ways in which a photo is turned before the streams see it, and which one an epoch shows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from multistream.data.augmentation import AXES
from multistream.data.loading import flips
from multistream.errors import UsageError, did_you_mean

IDENTITY = "identity"

VIEWS: Mapping[str, tuple[str, ...]] = {
    IDENTITY: (),
    "hflip": ("horizontal",),
    "vflip": ("vertical",),
    "hvflip": ("horizontal", "vertical"),
}
"""The axes along which each view is flipped."""


def parse_views(text: str) -> tuple[str, ...]:
    """The views of `identity,hflip,...`, each once, in the order given.

    >>> parse_views("identity,hflip")
    ('identity', 'hflip')
    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in VIEWS:
            raise UsageError("--views", f"{name!r} is unknown.", right=did_you_mean(name, VIEWS))
    if not names:
        raise UsageError("--views", "none is given.", right=f"They are {', '.join(VIEWS)}.")
    return names


def turned_by(axes: Collection[str]) -> tuple[str, ...]:
    """The views beside the identity that training sees with flips along these axes.

    >>> turned_by(["horizontal"])
    ('hflip',)
    """
    return tuple(view for view, turned in VIEWS.items() if turned and set(turned) <= set(axes))


def turn(batch: Mapping[str, Tensor], view: str) -> dict[str, Tensor]:
    """The batch with its pictures (B, C, H, W) in this view; vectors (B, D) stay."""
    places = [AXES[axis] for axis in VIEWS[view]]
    return {name: t.flip(places) if t.ndim == 4 and places else t for name, t in batch.items()}


def drawn(indices: Tensor, axes: Sequence[str], *, seed: int, epoch: int) -> dict[str, Tensor]:
    """Which images (B,) an epoch shows in which view, {view: (B,) bool}, the identity left out; indices on the CPU.

    It is the draw of `augment`: the same image is turned alike, whether photos are loaded or features are at hand.
    """
    chosen = {axis: flips(indices.numpy(), seed=seed, epoch=epoch, axis=axis) for axis in axes}
    still = np.zeros(len(indices), dtype=bool)
    return {
        view: torch.from_numpy(
            np.logical_and.reduce([chosen.get(axis, still) == (axis in VIEWS[view]) for axis in AXES])
        )
        for view in turned_by(axes)
    }
