"""Verification: features computed again and compared with the cache, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from multistream.errors import DataError, printable
from multistream.features.pooled_groups import Features, empty_features, pooled_groups
from multistream.features.store import SHARD
from multistream.features.subject import Subject
from multistream.features.tasks import Rows, Task


@dataclass(frozen=True)
class Verified:
    """How many images were computed again, and how many numbers of them were equal bit for bit: all."""

    images: int
    numbers: int


def verify(
    tasks: Sequence[Task], subject: Subject, sample: int, *, seed: int, workers: int, tick: Callable[[int], object]
) -> Verified:
    """Computes `sample` images again (0: all), drawn with `seed`; DataError names the first that differs."""
    photos = subject.photos
    rows = chosen_rows(subject, sample, seed=seed)
    branches = {(task.view, task.key): task.branch for task in tasks}
    numbers = 0
    for start in range(0, len(rows), SHARD):  # so much is held at once
        block = rows[start : start + SHARD]
        held = {(task.view, task.key): _held(task, block) for task in tasks}
        place = {int(index): position for position, index in enumerate(block)}
        for chosen, pooled in pooled_groups(branches, photos, block, runtime=subject.runtime, workers=workers):
            positions = torch.tensor([place[i] for i in chosen.tolist()])
            for task in tasks:
                for stage, values in pooled[task.view, task.key].items():
                    kept = held[task.view, task.key][stage][positions]
                    _compare(task, stage, kept, values, [photos.table.ids[i] for i in chosen.tolist()])
                    numbers += values.numel()
            tick(len(chosen))
    return Verified(len(rows), numbers)


def chosen_rows(subject: Subject, sample: int, *, seed: int) -> Rows:
    """The images to compute again, ascending: all that can be decoded, or `sample` of them."""
    rows = np.setdiff1d(np.arange(len(subject.photos)), list(subject.photos.bad))
    if 0 < sample < len(rows):
        rows = np.sort(np.random.default_rng(seed).choice(rows, sample, replace=False))
    return rows


def _held(task: Task, rows: Rows) -> dict[str, Tensor]:
    """The cached features of these images, {stage: (n, P)}."""
    assert task.store is not None
    features: Features = empty_features({task.key: task.branch}, len(rows))
    if task.store.read([task.digests[int(i)] for i in rows], features[task.key], range(len(rows))):
        raise DataError(str(task.store.folder), "cached features were removed during the run.", do="Extract again.")
    return features[task.key]


def _compare(task: Task, stage: str, kept: Tensor, computed: Tensor, names: Sequence[str]) -> None:
    """Bits, not numbers: a NaN equals itself, and 0 is not -0."""
    unlike = (kept.view(torch.int32) != computed.contiguous().view(torch.int32)).any(1)
    if unlike.any():
        row = int(unlike.int().argmax())
        difference = float((kept[row] - computed[row]).abs().max())
        assert task.store is not None
        raise DataError(
            f"features of {task.label}",
            f"{printable(names[row])} differs from the cache at {stage}, by up to {difference:.3g}.",
            right="They must be bit-identical.",
            do=f"Remove {task.store.folder} and extract again.",
        )
