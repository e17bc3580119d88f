"""Runs streams on images in groups of a fixed size, and returns their pooled features."""

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
"""Batch size of all extractions. It is fixed, because float32 convolutions differ in bits between batch sizes."""

Features = dict[str, dict[str, Tensor]]
"""{key: {stage: (N, P) float32}}"""


@dataclass(frozen=True)
class Extracted:
    """Pooled features {key: {stage: (N, P) float32}} on the CPU; `valid` (N,) marks the rows that are filled.

    `turned` holds the features of further views, {view: features}, for streams that read pictures.
    """

    features: Mapping[str, Mapping[str, Tensor]]
    valid: Tensor
    turned: Mapping[str, Mapping[str, Mapping[str, Tensor]]] = field(default_factory=dict)

    def to(self, device: torch.device) -> Mapping[str, Mapping[str, Tensor]]:
        """Returns the features on a device."""
        return map_stages(self.features, lambda f: f.to(device))

    def views_to(self, device: torch.device) -> Mapping[str, Mapping[str, Tensor]]:
        """Returns the features of all views on a device, concatenated along rows, (views * N, P).

        Row `view * N + i` is image i, with views in the order of `data.views.views_of`. Vectors are equal in all views.
        """
        if not self.turned:
            return self.to(device)  # returns the tensors themselves, not a copy
        each = [self.features, *({**self.features, **features} for features in self.turned.values())]
        return {
            key: {stage: torch.cat([view[key][stage].to(device) for view in each]) for stage in stages}
            for key, stages in self.features.items()
        }


def empty_features(branches: Mapping[str, Branch], rows: int) -> Features:
    """Returns zeros for `rows` images."""
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
    """Runs these streams, by (view, key), over the images; yields (indices (n,), features of n rows) for each group.

    Each photo is decoded once for all streams and views. The branches must be in eval mode. Undecodable photos are left
    out, and the last group is padded to the full size, so that no row depends on its neighbours.
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
    """Returns the features of a whole group; its last rows may be padding."""
    sent = groups.runtime.send({name: _padded(tensor) for name, tensor in batch.items()})
    seen = {view: groups.runtime.send(turn(sent, view)) for view in {view for view, _ in branches}}
    return {(v, k): groups.pool(branch, seen[v][branch.entry(k, sent)]) for (v, k), branch in branches.items()}


def _needed(photos: Photos, branches: Mapping[str, Branch]) -> Photos:
    """Returns the photos without inputs that these branches do not read; the list of bad photos is shared."""
    has_image = any(isinstance(branch.stream.input, Image) for branch in branches.values())
    entries = {key if key in photos.maps else branch.stream.input.name for key, branch in branches.items()}
    maps = {name: read for name, read in photos.maps.items() if name in entries}
    needed = Photos(photos.table, photos.decoder if has_image else None, maps=maps, on_bad_image=photos.on_bad_image)
    needed.bad = photos.bad
    return needed


def _padded(tensor: Tensor) -> Tensor:
    missing = GROUP - len(tensor)
    return torch.cat([tensor, tensor[-1:].expand(missing, *tensor.shape[1:])]) if missing else tensor
