"""Tasks: one stream in one view each; which images it is asked for, which of them the cache lacks; their running."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from multistream.console import Say
from multistream.data.loading import Photos
from multistream.data.views import IDENTITY
from multistream.features.key import identity, map_reader, why_not_cached
from multistream.features.pooled_groups import pooled_groups
from multistream.features.store import FeatureStore, Shards
from multistream.files import cache_root
from multistream.inputs import Image
from multistream.network.branch import Branch
from multistream.runs.split_file import sha256_of_files
from multistream.runtime.device import Runtime
from multistream.runtime.distributed import ALONE, Ranks

Rows = NDArray[np.int64]
NO_MAP = hashlib.sha256(b"").hexdigest()
"""The digest of an image without a map, for which zeros are read: no map's own, for an empty file holds none."""

Sink = Callable[["Task", Tensor, Mapping[str, Tensor]], None]
"""Takes a task's features {stage: (n, P)} of the images with these indices (n,)."""


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

    def read(self, into: Mapping[str, Tensor]) -> None:
        """Copies what the cache holds into {stage: (N, P)}; the rest is `missing`. Reads and checks in any case."""
        if self.store is None:
            self.missing = self.rows
        else:
            rows = self.rows.tolist()
            self.missing = self.rows[self.store.read([self.digests[i] for i in rows], into, rows)]

    @property
    def label(self) -> str:
        """How messages name it."""
        return self.key if self.view == IDENTITY else f"{self.key} ({self.view})"

    def progress_note(self) -> str:
        """What was found, in a line."""
        found = len(self.rows) - len(self.missing)
        if not len(self.missing):
            return f"features: {self.label} from the cache, {found:,} images"
        return f"features: {self.label} runs over {len(self.missing):,} images, {found:,} are in the cache"


def plan_tasks(
    branches: Mapping[str, Branch],
    photos: Photos,
    wanted: Mapping[str, Rows],
    *,
    runtime: Runtime,
    say: Say,
    cache: bool = True,
    digests: Mapping[int, str] | None = None,
    ranks: Ranks = ALONE,
) -> list[Task]:
    """A task for each of these branches and each view, of which `wanted` holds the rows; reports what is not cached.

    `digests` are the photos' sha256 by index, where they are known. Of many ranks each gets the rows of its own part:
    by the file's sha256 where features are cached, so that no two compute or write the same.
    """
    every = np.unique(np.concatenate([*wanted.values(), np.zeros(0, dtype=np.int64)]))
    tasks = []
    hashes: dict[str, Mapping[int, str]] = {"image": digests} if digests is not None else {}
    for key, branch in branches.items():
        why = why_not_cached(branch, photos) if cache else ""
        if why:
            say(f"features: {key} is not cached: {why}")
        known = identity(branch, photos, runtime, view="") if cache and not why else None
        files = _digests(branch, photos, every, hashes) if known else {}
        for view, rows in wanted.items():
            task = Task(view, key, branch, own_rows(np.sort(rows), files, ranks), digests=files)
            if known:
                task.store = FeatureStore.open(cache_root() / "features", {**known, "view": view}, warn=say)
            tasks.append(task)
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
    shards = {(task.view, task.key): Shards(task.store) for task in tasks if task.store is not None}
    bad = [np.zeros(0, dtype=np.int64)]
    try:
        for some, rows in _together(tasks):
            branches = {(task.view, task.key): task.branch for task in some}
            filled = []
            for chosen, pooled in pooled_groups(branches, photos, rows, runtime=runtime, workers=workers):
                indices = chosen.tolist()
                filled += indices
                for task in some:
                    features = pooled[task.view, task.key]
                    sink(task, chosen, features)
                    if task.store is not None:
                        shards[task.view, task.key].add([task.digests[i] for i in indices], features)
                tick(len(indices))
            bad.append(np.setdiff1d(rows, filled))
    finally:
        for each in shards.values():
            each.flush()
            each.store.refresh()  # writes the index
    return np.concatenate(bad)


def _together(tasks: Sequence[Task]) -> list[tuple[list[Task], Rows]]:
    """The images that some tasks miss, by which tasks those are."""
    missing = [task for task in tasks if len(task.missing)]
    if not missing:
        return []
    rows = np.unique(np.concatenate([task.missing for task in missing]))
    table = np.stack([np.isin(rows, task.missing) for task in missing], axis=1)
    patterns, which = np.unique(table, axis=0, return_inverse=True)
    which = which.reshape(-1)
    return [
        ([task for task, has in zip(missing, pattern, strict=True) if has], rows[which == number])
        for number, pattern in enumerate(patterns)
    ]


def _digests(branch: Branch, photos: Photos, rows: Rows, known: dict[str, Mapping[int, str]]) -> Mapping[int, str]:
    """sha256 of the files that a stream reads for these images: the photos, once for all streams, or its own maps."""
    if isinstance(branch.stream.input, Image):
        if "image" not in known:
            paths = [photos.table.path(int(i)) for i in rows]
            known["image"] = dict(zip(rows.tolist(), sha256_of_files(paths), strict=True))
        return known["image"]
    reader = map_reader(branch, photos)
    assert reader is not None
    paths_of = {int(i): path for i in rows if (path := reader.paths[int(i)]) is not None}
    return dict(zip(paths_of, sha256_of_files(paths_of.values()), strict=True)) | {
        int(i): NO_MAP for i in rows if int(i) not in paths_of
    }
