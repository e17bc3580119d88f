"""Extraction: what `pool` returns for every image, in groups of a fixed size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multistream.data.loading import Photos, loaded
from multistream.data.prefetch import prefetch_for
from multistream.data.views import turn
from multistream.inputs import Image
from multistream.network.branch import Branch
from multistream.nn.nested import map_stages, take_rows
from multistream.runtime.cuda_graphs import PooledGroups
from multistream.runtime.device import Runtime

GROUP = 32
"""Images that run through the streams together, always: float32 convolutions differ in bits between batch sizes."""

Features = dict[str, dict[str, Tensor]]
"""{key: {stage: (N, P) float32}}"""


@dataclass(frozen=True)
class Extracted:
    """Pooled features {key: {stage: (N, P) float32}} on the CPU; `valid` (N,) marks the rows that are filled.

    `turned` holds the features of further views {view: features}, of the streams that see pictures.
    """

    features: Mapping[str, Mapping[str, Tensor]]
    valid: Tensor
    turned: Mapping[str, Mapping[str, Mapping[str, Tensor]]] = field(default_factory=dict)

    def to(self, device: torch.device) -> Mapping[str, Mapping[str, Tensor]]:
        """The features on a device."""
        return map_stages(self.features, lambda f: f.to(device))

    def views_to(self, device: torch.device) -> Mapping[str, Mapping[str, Tensor]]:
        """The features on a device with those of the further views below, (views * N, P); vectors are the same in all.

        Row `view * N + i` is image i, the view counted as `data.views.views_of` does.
        """
        if not self.turned:
            return self.to(device)  # the tensors themselves, not a copy
        each = [self.features, *({**self.features, **features} for features in self.turned.values())]
        return {
            key: {stage: torch.cat([view[key][stage].to(device) for view in each]) for stage in stages}
            for key, stages in self.features.items()
        }


def empty_features(branches: Mapping[str, Branch], rows: int) -> Features:
    """Zeros for `rows` images."""
    taps = {key: dict(branch.taps.items()) for key, branch in branches.items()}
    return map_stages(taps, lambda tap: torch.zeros(rows, tap.pooled_width))


@torch.no_grad()
def pooled_groups(
    branches: Mapping[tuple[str, str], Branch],
    photos: Photos,
    indices: NDArray[np.int64] | Sequence[int],
    *,
    runtime: Runtime,
    workers: int,
) -> Iterator[tuple[Tensor, dict[tuple[str, str], dict[str, Tensor]]]]:
    """Runs these streams, by (view, key), once over the images: (indices (n,), features of n rows) a group.

    Each photo is decoded once for all streams and views. The branches must be in eval mode. What cannot be decoded is
    left out, and the last rows of a group are filled up, so that no row depends on its neighbours.
    """
    needed = _needed(photos, {key: branch for (_, key), branch in branches.items()})
    groups = PooledGroups(runtime, size=GROUP)
    prefetch = prefetch_for(runtime.device, workers=workers)
    for batch in loaded(needed, indices, batch_size=GROUP, workers=workers, prefetch=prefetch):
        chosen = batch.pop("index")
        rows = len(chosen)
        if not rows:
            continue
        pooled = prefetch.compute(partial(_pooled, branches, batch, groups=groups))
        yield chosen, map_stages(take_rows(pooled, slice(rows)), Tensor.cpu)


def _pooled(
    branches: Mapping[tuple[str, str], Branch], batch: Mapping[str, Tensor], *, groups: PooledGroups
) -> dict[tuple[str, str], dict[str, Tensor]]:
    """The features of a whole group, of which the last rows may be there to fill it up."""
    sent = groups.runtime.send({name: _padded(tensor) for name, tensor in batch.items()})
    seen = {view: groups.runtime.send(turn(sent, view)) for view in {view for view, _ in branches}}
    return {(v, k): groups.pool(branch, seen[v][branch.entry(k, sent)]) for (v, k), branch in branches.items()}


def _needed(photos: Photos, branches: Mapping[str, Branch]) -> Photos:
    """The photos without inputs that these branches do not read; bad photos are added to the same list."""
    has_image = any(isinstance(branch.stream.input, Image) for branch in branches.values())
    entries = {key if key in photos.maps else branch.stream.input.name for key, branch in branches.items()}
    maps = {name: read for name, read in photos.maps.items() if name in entries}
    needed = Photos(photos.table, photos.decoder if has_image else None, maps=maps, on_bad_image=photos.on_bad_image)
    needed.bad = photos.bad
    return needed


def _padded(tensor: Tensor) -> Tensor:
    missing = GROUP - len(tensor)
    return torch.cat([tensor, tensor[-1:].expand(missing, *tensor.shape[1:])]) if missing else tensor
