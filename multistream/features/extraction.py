"""Extraction: what `pool` returns for every image, in groups of a fixed size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multistream.data.loading import Photos, loaded
from multistream.modes import evaluating
from multistream.network import MultiStream
from multistream.runtime import Runtime

GROUP = 32
"""Images that run through the streams together, always: float32 convolutions differ in bits between batch sizes."""


@dataclass(frozen=True)
class Extracted:
    """Pooled features {key: {stage: (N, P) float32}} on the CPU; `valid` (N,) tells which rows are filled."""

    features: Mapping[str, Mapping[str, Tensor]]
    valid: Tensor

    def to(self, device: torch.device) -> Mapping[str, Mapping[str, Tensor]]:
        """The features on a device."""
        return {key: {stage: f.to(device) for stage, f in stages.items()} for key, stages in self.features.items()}


@torch.no_grad()
def extract(
    network: MultiStream,
    photos: Photos,
    indices: NDArray[np.int64],
    *,
    runtime: Runtime,
    workers: int,
    tick: Callable[[int], None] = lambda done: None,
) -> Extracted:
    """Runs the streams once over these images, without augmentation. Rows of other images stay empty."""
    rows = len(photos)
    features: dict[str, dict[str, Tensor]] = {
        key: {stage: torch.zeros(rows, tap.pooled_width) for stage, tap in branch.taps.items()}
        for key, branch in network.branches.items()
    }
    valid = torch.zeros(rows, dtype=torch.bool)
    with evaluating(network):
        for batch in loaded(photos, indices, batch_size=GROUP, workers=workers):
            chosen = batch.pop("index")
            if not len(chosen):
                continue
            pooled = pool_group(network, batch, runtime=runtime)
            for key, stages in pooled.items():
                for stage, values in stages.items():
                    features[key][stage][chosen] = values[: len(chosen)].cpu()
            valid[chosen] = True
            tick(len(chosen))
    return Extracted(features, valid)


def pool_group(network: MultiStream, batch: dict[str, Tensor], *, runtime: Runtime) -> dict[str, dict[str, Tensor]]:
    """`network.pool` of at most GROUP images, padded to exactly GROUP: {key: {stage: (GROUP, P)}}."""
    padded = {name: _padded(tensor) for name, tensor in batch.items()}
    with runtime.autocast:
        return network.pool(runtime.send(padded))


def _padded(tensor: Tensor) -> Tensor:
    missing = GROUP - len(tensor)
    return torch.cat([tensor, tensor[-1:].expand(missing, *tensor.shape[1:])]) if missing else tensor
