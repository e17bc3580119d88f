"""Verification: recomputes features and compares them with the cache, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from multistream.errors import DataError
from multistream.features.pooled_groups import Features, empty_features, pooled_groups
from multistream.features.store import SHARD
from multistream.features.subject import Subject
from multistream.features.tasks import Rows, Task


@dataclass(frozen=True)
class Verified:
    """The number of images that were recomputed, and of their values, which are all bit-identical."""

    images: int
    numbers: int


def verify(
    tasks: Sequence[Task], subject: Subject, sample: int, *, seed: int, workers: int, tick: Callable[[int], object]
) -> Verified:
    """Recomputes `sample` images (0: all), drawn with `seed`. Raises DataError with the first that differs."""
    photos = subject.photos
    rows = chosen_rows(subject, sample, seed=seed)
    branches = {task.id: task.branch for task in tasks}
    numbers = 0
    for start in range(0, len(rows), SHARD):  # limits the memory in use
        block = rows[start : start + SHARD]
        held = {task.id: _held(task, block) for task in tasks}
        for chosen, pooled in pooled_groups(branches, photos, block, runtime=subject.runtime, workers=workers):
            positions = torch.from_numpy(np.searchsorted(block, chosen.numpy()))
            names = [photos.table.ids[i] for i in chosen.tolist()]
            for task in tasks:
                for stage, values in pooled[task.id].items():
                    _compare(task, stage, held[task.id][stage][positions], values, names)
                    numbers += values.numel()
            tick(len(chosen))
    return Verified(len(rows), numbers)


def chosen_rows(subject: Subject, sample: int, *, seed: int) -> Rows:
    """Returns the images to recompute, ascending: all that can be decoded, or `sample` of them."""
    rows = np.setdiff1d(np.arange(len(subject.photos)), list(subject.photos.bad))
    if 0 < sample < len(rows):
        rows = np.sort(np.random.default_rng(seed).choice(rows, sample, replace=False))
    return rows


def _held(task: Task, rows: Rows) -> dict[str, Tensor]:
    """Returns the cached features of these images, {stage: (n, P)}."""
    features: Features = empty_features({task.key: task.branch}, len(rows))
    task.read_all(rows, features[task.key])
    return features[task.key]


def _compare(task: Task, stage: str, kept: Tensor, computed: Tensor, names: Sequence[str]) -> None:
    """Raises DataError unless all bits are equal: a NaN equals itself, and 0 differs from -0."""
    unlike = (kept.view(torch.int32) != computed.contiguous().view(torch.int32)).any(1)
    if unlike.any():
        row = int(unlike.int().argmax())
        difference = float((kept[row] - computed[row]).abs().max())
        raise DataError(
            f"features of {task.label}",
            f"{names[row]} differs from the cache at {stage}, by up to {difference:.3g}.",
            right="They must be bit-identical.",
            do=f"Remove {task.cache.folder} and extract again.",
        )
