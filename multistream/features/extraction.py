"""Extraction with the cache: reads cached features, computes and stores the missing ones."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from itertools import chain
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from multistream.console import Say
from multistream.data.loading import Photos
from multistream.data.views import IDENTITY
from multistream.features.pooled_groups import Extracted, Features, empty_features
from multistream.features.tasks import Rows, Task, plan_tasks, run_tasks, union
from multistream.network.branch import Branch
from multistream.network.network import MultiStream
from multistream.nn.modules import evaluating
from multistream.nn.row_means import ROWS
from multistream.runtime.device import Runtime
from multistream.runtime.distributed import ALONE, Ranks

NO_VIEWS: Mapping[str, Rows] = MappingProxyType({})


def extract(
    network: MultiStream,
    photos: Photos,
    indices: Rows,
    *,
    runtime: Runtime,
    workers: int,
    tick: Callable[[int], object],
    say: Say,
    turned: Mapping[str, Rows] = NO_VIEWS,
    keys: Collection[str] | None = None,
    digests: Mapping[int, str] | None = None,
    ranks: Ranks = ALONE,
) -> Extracted:
    """Returns the pooled features of these images, (N, P) with N = len(photos); rows of other images are zero.

    `keys` are the requested streams, None for all. A stream does not run if the cache has all of its features. `turned`
    requests further views, {view: indices}. `tick` is called with the number of finished images, `say` with messages.
    `digests` are the photos' sha256 by index, if known. Each of the `ranks` computes its own photos; all get the
    result.
    """
    branches = {key: branch for key, branch in network.branches.items() if keys is None or key in keys}
    pictures = {key: branch for key, branch in branches.items() if not branch.reads_vector}
    vectors = {key: branch for key, branch in branches.items() if branch.reads_vector}
    wanted = {IDENTITY: indices, **turned}
    memory = {view: empty_features(pictures, len(photos)) for view in wanted}
    tasks = plan_tasks(pictures, photos, wanted, runtime=runtime, say=say, digests=digests, ranks=ranks)
    for task in tasks:
        task.read(memory[task.view][task.key])
        if task.store is not None:
            say(task.progress_note())
    tick(len(np.setdiff1d(indices, union(task.missing for task in tasks))))

    def keep(task: Task, chosen: Tensor, pooled: Mapping[str, Tensor]) -> None:
        for stage, values in pooled.items():
            memory[task.view][task.key][stage][chosen] = values

    with evaluating(network):
        own_bad = run_tasks(tasks, photos, runtime=runtime, workers=workers, tick=tick, sink=keep)
        bad = exchange(memory, photos, own_bad, ranks)
        read = _vectors(vectors, photos, indices, runtime)
    features = memory.pop(IDENTITY) | read
    valid = np.zeros(len(photos), dtype=np.bool_)
    valid[np.setdiff1d(indices, bad)] = True
    return Extracted({key: features[key] for key in branches}, torch.from_numpy(valid), turned=memory)


def exchange(memory: Mapping[str, Features], photos: Photos, bad: Rows, ranks: Ranks) -> list[int]:
    """Exchanges computed features between the ranks, and the reasons why photos were left out.

    Returns the photos that any rank could not decode; `bad` are this rank's.
    """
    # A row is zero on all ranks except the one that computed it, so the sum over ranks is the row.
    ranks.add_up(f for features in memory.values() for stages in features.values() for f in stages.values())
    for each in ranks.gather(list(photos.bad.items())):
        photos.bad.update(each)
    return list(chain.from_iterable(ranks.gather(bad.tolist())))


@torch.no_grad()
def _vectors(branches: Mapping[str, Branch], photos: Photos, indices: Rows, runtime: Runtime) -> Features:
    """Pools the vectors of streams that read them; no photo is decoded."""
    features = empty_features(branches, len(photos))
    for key, branch in branches.items():
        given = photos.vectors[key if key in photos.vectors else branch.stream.input.name]
        for rows in torch.from_numpy(indices).split(ROWS):
            pooled = branch.pool(torch.from_numpy(given[rows.numpy()]).to(runtime.device))
            for stage, values in pooled.items():
                features[key][stage][rows] = values.cpu()
    return features
