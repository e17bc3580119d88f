"""Tasks: one stream in one view each; which images it is asked for, which of them the cache lacks; their running."""

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
from multistream.data.loading import Photos
from multistream.data.views import IDENTITY
from multistream.errors import DataError
from multistream.features.key import identity, map_reader, why_not_cached
from multistream.features.pooled_groups import pooled_groups
from multistream.features.store import FeatureStore, Shards
from multistream.files import cache_root
from multistream.inputs import Image
from multistream.network.branch import Branch
from multistream.runs.split_file import digests_of, sha256_of_files
from multistream.runtime.device import Runtime
from multistream.runtime.distributed import ALONE, Ranks

Rows = NDArray[np.int64]
NO_MAP = hashlib.sha256(b"").hexdigest()
"""The digest of an image without a map, for which zeros are read: no map's own, for an empty file holds none."""

Sink = Callable[["Task", Tensor, Mapping[str, Tensor]], None]
"""Takes a task's features {stage: (n, P)} of the images with these indices (n,)."""


def union(rows: Iterable[Rows]) -> Rows:
    """All of these rows, each once, ascending."""
    return np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *rows]))


@dataclass
class Task:
    """One stream in one view over `rows`, ascending. `store` is None where it cannot be cached."""

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
        """Copies what the cache holds into {stage: (N, P)}; the rest is `missing`. Reads and checks in any case."""
        self.missing = self.rows
        if self.store is not None:
            self.missing = self.rows[self.lacking(self.rows, into, self.rows.tolist())]

    def lacking(self, rows: Rows, into: Mapping[str, Tensor], targets: Sequence[int]) -> list[int]:
        """Copies images' cached features into {stage: (n, P)} at `targets`; returns the positions that it lacks."""
        return self.cache.read([self.digests[i] for i in rows.tolist()], into, targets)

    def read_all(self, rows: Rows, into: Mapping[str, Tensor]) -> None:
        """Copies the cached features of n images into {stage: (n, P)}; DataError where some are no longer there."""
        if self.lacking(rows, into, range(len(rows))):
            raise DataError(self.cache.folder, "cached features were removed during the run.", do="Extract again.")

    @property
    def label(self) -> str:
        """How messages name it."""
        return self.key if self.view == IDENTITY else f"{self.key} ({self.view})"

    def progress_note(self) -> str:
        """What was found, in a line."""
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
    """A task for each of these branches and each view, of which `wanted` holds the rows; reports what is not cached.

    `digests` are the photos' sha256 by index, where they are known. Of many ranks each gets the rows of its own part:
    by the file's sha256 where features are cached, so that no two compute or write the same.
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
    """The rows that this rank computes: cut by the file's sha256, or by the row where there is none."""
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
    """Computes what the tasks miss, keeps it in their stores and gives it to `sink`; returns what cannot be decoded.

    A photo is decoded once for all the tasks that miss it. What was computed is kept also if an exception ends it.
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
    """The images that some tasks miss, by which tasks those are."""
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
    """sha256 of the files that a stream reads for these images: the photos, once for all streams, or its own maps."""
    if isinstance(branch.stream.input, Image):
        if "image" not in known:
            known["image"] = digests_of(photos.table, rows.tolist())
        return known["image"]
    reader = map_reader(branch, photos)
    assert reader is not None
    held = {i: path for i in rows.tolist() if (path := reader.paths[i]) is not None}
    return dict.fromkeys(rows.tolist(), NO_MAP) | dict(zip(held, sha256_of_files(held.values()), strict=True))
