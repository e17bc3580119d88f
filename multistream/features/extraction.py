"""Extraction: what `pool` returns for every image, in groups of a fixed size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multistream.data.loading import Photos, loaded
from multistream.network import Branch
from multistream.runtime import Runtime

GROUP = 32
"""Images that run through the streams together, always: float32 convolutions differ in bits between batch sizes."""

Features = dict[str, dict[str, Tensor]]
"""{key: {stage: (N, P) float32}}"""


@dataclass(frozen=True)
class Extracted:
    """Pooled features {key: {stage: (N, P) float32}} on the CPU; `valid` (N,) tells which rows are filled."""

    features: Mapping[str, Mapping[str, Tensor]]
    valid: Tensor

    def to(self, device: torch.device) -> Mapping[str, Mapping[str, Tensor]]:
        """The features on a device."""
        return {key: {stage: f.to(device) for stage, f in stages.items()} for key, stages in self.features.items()}


def empty_features(branches: Mapping[str, Branch], rows: int) -> Features:
    """Zeros for `rows` images."""
    return {
        key: {stage: torch.zeros(rows, tap.pooled_width) for stage, tap in branch.taps.items()}
        for key, branch in branches.items()
    }


@torch.no_grad()
def pooled_groups(
    branches: Mapping[str, Branch],
    photos: Photos,
    indices: NDArray[np.int64],
    *,
    runtime: Runtime,
    workers: int,
) -> Iterator[tuple[Tensor, Features]]:
    """Runs these streams once over the images, without augmentation: (indices (n,), features of n rows) a group.

    The branches must be in eval mode. What cannot be decoded is left out.
    """
    for batch in loaded(photos, indices, batch_size=GROUP, workers=workers):
        chosen = batch.pop("index")
        if not len(chosen):
            continue
        sent = runtime.send({name: _padded(tensor) for name, tensor in batch.items()})
        with runtime.autocast:
            pooled = {key: branch.pool(sent[branch.entry(key, sent)]) for key, branch in branches.items()}
        rows = len(chosen)
        yield chosen, {key: {s: f[:rows].cpu() for s, f in stages.items()} for key, stages in pooled.items()}


def _padded(tensor: Tensor) -> Tensor:
    missing = GROUP - len(tensor)
    return torch.cat([tensor, tensor[-1:].expand(missing, *tensor.shape[1:])]) if missing else tensor
