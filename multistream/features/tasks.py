"""Extraction tasks, one per stream and view: finds the images that the cache lacks, and computes them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import compress

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from multistream.console import Say
from multistream.data.file_hashes import Digests, digests_of, hashes_of_files
from multistream.data.loading import Photos
from multistream.data.views import IDENTITY
from multistream.errors import DataError
from multistream.features.key import identity, map_reader, why_not_cached
from multistream.features.pooled_groups import pooled_groups
from multistream.features.store import FeatureStore, Shards
from multistream.files import cache_root
from multistream.inputs import Image
from multistream.network.branch import Branch
from multistream.runtime.device import Runtime
from multistream.runtime.distributed import ALONE, Ranks

Rows = NDArray[np.int64]
NO_MAP = hashlib.sha256(b"").digest()
"""The digest of an image without a map, which is read as zeros; no map has it, because a map's file is not empty."""

Sink = Callable[["Task", Tensor, Mapping[str, Tensor]], None]
"""Receives a task's features {stage: (n, P)} of the images with these indices (n,)."""


def union(rows: Iterable[Rows]) -> Rows:
    """Returns the union of these rows, ascending."""
    return np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *rows]))


@dataclass
class Task:
    """One stream in one view over `rows`, ascending. `store` is None if it cannot be cached."""

    view: str
    key: str
    branch: Branch
    rows: Rows
    store: FeatureStore | None = None
    digests: Mapping[int, str] = field(default_factory=dict)
    """sha256 of the file that the stream reads, by image."""
    missing: Rows = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @property
    def id(self) -> tuple[str, str]:
        """View and key."""
        return self.view, self.key

    @property
    def cache(self) -> FeatureStore:
        """The store of a task that can be cached."""
        assert self.store is not None
        return self.store

    def read(self, into: Mapping[str, Tensor]) -> None:
        """Copies cached features into {stage: (N, P)} and sets `missing`.

        Checks the shards even if nothing is copied.
        """
        self.missing = self.rows
        if self.store is not None:
            self.missing = self.rows[self.lacking(self.rows, into, self.rows.tolist())]

    def lacking(self, rows: Rows, into: Mapping[str, Tensor], targets: Sequence[int]) -> list[int]:
        """Copies images' cached features into {stage: (n, P)} at `targets`; returns positions that are not cached."""
        return self.cache.read([self.digests[i] for i in rows.tolist()], into, targets)

    def read_all(self, rows: Rows, into: Mapping[str, Tensor]) -> None:
        """Copies the cached features of n images into {stage: (n, P)}. Raises DataError if some have been removed."""
        if self.lacking(rows, into, range(len(rows))):
            raise DataError(self.cache.folder, "cached features were removed during the run.", do="Extract again.")

    @property
    def label(self) -> str:
        """The task's name in messages."""
        return self.key if self.view == IDENTITY else f"{self.key} ({self.view})"

    def progress_note(self) -> str:
        """Returns a line about the numbers of cached and missing images."""
        found = len(self.rows) - len(self.missing)
        if not len(self.missing):
            return f"features: {self.label} loaded from cache, {found:,} images"
        return f"features: computing {self.label} for {len(self.missing):,} images, {found:,} loaded from cache"


def plan_tasks(
    branches: Mapping[str, Branch],
    photos: Photos,
    wanted: Mapping[str, Rows],
    *,
    runtime: Runtime,
    say: Say,
    digests: Mapping[int, str] | None = None,
    ranks: Ranks = ALONE,
) -> list[Task]:
    """Plans a task for each branch and view, with the rows that `wanted` has for the view; reports what is not cached.

    `digests` are the photos' sha256 by index, if known. With many ranks each gets its own part of the rows, divided by
    the file's sha256 if features are cached, so that no two ranks compute or write the same features.
    """
    every = union(wanted.values())
    tasks = []
    hashes: dict[str, Mapping[int, str]] = {} if digests is None else {"image": digests}
    for key, branch in branches.items():
        files: Mapping[int, str] = {}
        stores: dict[str, FeatureStore] = {}
        if why := why_not_cached(branch, photos):
            say(f"features: {key} is not cached: {why}")
        else:
            known = identity(branch, photos, runtime, view="")
            files = _digests(branch, photos, every, hashes)
            root = cache_root() / "features"
            stores = {view: FeatureStore.open(root, {**known, "view": view}, warn=say) for view in wanted}
        for view, rows in wanted.items():
            own = own_rows(np.sort(rows), files, ranks)
            tasks.append(Task(view, key, branch, own, stores.get(view), files))
    return tasks


def own_rows(rows: Rows, digests: Mapping[int, str], ranks: Ranks) -> Rows:
    """Returns the rows that this rank computes, divided by the file's sha256, or by row number if there is none."""
    if ranks.size == 1:
        return rows
    numbers = np.array([int(digests[i][:12], 16) if digests else i for i in rows.tolist()], dtype=np.int64)
    own: Rows = rows[numbers % ranks.size == ranks.rank]
    return own


def run_tasks(
    tasks: Sequence[Task],
    photos: Photos,
    *,
    runtime: Runtime,
    workers: int,
    tick: Callable[[int], object],
    sink: Sink,
) -> Rows:
    """Computes the tasks' missing features, stores them and passes them to `sink`; returns rows that cannot be decoded.

    A photo is decoded once for all tasks that miss it. Computed features are stored even if an exception follows.
    """
    with ExitStack() as stack:
        shards = {task.id: stack.enter_context(Shards(task.store)) for task in tasks if task.store is not None}

        def keep(task: Task, chosen: Tensor, features: Mapping[str, Tensor]) -> None:
            sink(task, chosen, features)
            if task.id in shards:
                shards[task.id].add([task.digests[i] for i in chosen.tolist()], features)

        bad = []
        for some, rows in _together(tasks):
            branches = {task.id: task.branch for task in some}
            filled = []
            for chosen, pooled in pooled_groups(branches, photos, rows, runtime=runtime, workers=workers):
                for task in some:
                    keep(task, chosen, pooled[task.id])
                filled += chosen.tolist()
                tick(len(chosen))
            bad.append(np.setdiff1d(rows, filled))
    return union(bad)


def _together(tasks: Sequence[Task]) -> list[tuple[list[Task], Rows]]:
    """Groups the missing images by the set of tasks that miss them."""
    missing = [task for task in tasks if len(task.missing)]
    rows = union(task.missing for task in missing)
    if not missing:
        return []
    table = np.stack([np.isin(rows, task.missing) for task in missing], axis=1)
    patterns, which = np.unique(table, axis=0, return_inverse=True)
    return [
        (list(compress(missing, pattern)), rows[which.reshape(-1) == number]) for number, pattern in enumerate(patterns)
    ]


def _digests(branch: Branch, photos: Photos, rows: Rows, known: dict[str, Mapping[int, str]]) -> Mapping[int, str]:
    """Returns the sha256 of a stream's files: the photos, hashed once for all streams, or the stream's own maps."""
    if isinstance(branch.stream.input, Image):
        if "image" not in known:
            known["image"] = digests_of(photos.table, rows)
        return known["image"]
    reader = map_reader(branch, photos)
    assert reader is not None
    chosen = np.array([i for i in rows.tolist() if reader.paths[i] is not None], dtype=np.int64)
    paths = (path for i in chosen.tolist() if (path := reader.paths[i]) is not None)
    sha256 = np.broadcast_to(np.frombuffer(NO_MAP, np.uint8), (len(photos), 32)).copy()
    sha256[chosen] = hashes_of_files(paths, count=len(chosen), folder=photos.table.root)
    return Digests(sha256)
