"""Exports features to a file of vectors, which another network can read as a vector stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, product
from pathlib import Path

import numpy as np
import torch

from multistream.data.loading import Photos
from multistream.data.table import VectorTable
from multistream.data.vectors import write_vectors
from multistream.data.views import IDENTITY
from multistream.errors import DataError, DiskFull, UsageError, did_you_mean
from multistream.features.subject import Subject
from multistream.features.tasks import Task
from multistream.files import reserve, temporary


@dataclass(frozen=True)
class FeatureColumn:
    """The columns `start:stop` of a file: one stage of one stream in one view."""

    view: str
    key: str
    stage: str
    start: int
    stop: int
    channels: tuple[str, ...] = ()
    """The names of the stage's channels, if the stream has names for them."""

    @property
    def names(self) -> list[str]:
        """The columns' names in the vocabulary: object/block3/17, or object.hflip/block3/17."""
        key = self.key if self.view == IDENTITY else f"{self.key}.{self.view}"
        if len(self.channels) == self.stop - self.start:
            return [f"{key}.{name}" if self.view != IDENTITY else name for name in self.channels]
        return [f"{key}/{self.stage}/{number}" for number in range(self.stop - self.start)]


def columns_of(subject: Subject, views: Sequence[str], stages: Sequence[str]) -> list[FeatureColumn]:
    """Lists the columns of these views for `stages` (STAGE or KEY/STAGE; default: all), from shallow to deep."""
    known = {f"{key}/{stage}": (key, stage) for key, branch in subject.pictures.items() for stage in branch.taps}
    _check_stages(stages, known)
    chosen = [place for name, place in known.items() if not stages or {name, place[1]} & set(stages)]
    columns, start = [], 0
    for view, (key, stage) in product(views, chosen):
        branch = subject.pictures[key]
        stop = start + branch.taps[stage].pooled_width
        columns.append(FeatureColumn(view, key, stage, start, stop, branch.stream.channel_names(stage)))
        start = stop
    return columns


def _check_stages(stages: Sequence[str], known: Mapping[str, tuple[str, str]]) -> None:
    """Raises UsageError for a stage that no tap reads; `known` is {KEY/STAGE: (key, stage)}."""
    read = known.keys() | {stage for _, stage in known.values()}
    for name in stages:
        if name not in read:
            raise UsageError("--stages", f"no tap reads {name!r}.", right=did_you_mean(name, known))


def write_features(path: Path, columns: Sequence[FeatureColumn], tasks: Sequence[Task], photos: Photos) -> int:
    """Writes ids, features (N, D) and vocabulary of all decodable photos to an .npz; returns D.

    The features are copied shard by shard through a memory-mapped file, so they need not fit into memory.
    """
    rows = np.setdiff1d(np.arange(len(photos)), list(photos.bad))
    if not len(rows):
        raise DataError("extract", "no photo could be decoded.", do="Run multistream data scan.")
    if not all(task.cache.writable for task in tasks):
        do = "Set MULTISTREAM_CACHE to a writable folder."
        raise DiskFull("--out", "extracted features are written to the cache, but the cache is not writable.", do=do)
    width = columns[-1].stop
    with temporary(path.absolute().parent, needed=8 * len(rows) * width) as name:
        reserve(name, size=4 * len(rows) * width)
        features = np.memmap(name, dtype=np.float32, mode="r+", shape=(len(rows), width))
        shared = torch.from_numpy(features)
        for task in tasks:
            if own := {c.stage: shared[:, c.start : c.stop] for c in columns if (c.view, c.key) == task.id}:
                task.read_all(rows, own)
        names = tuple(chain.from_iterable(column.names for column in columns))
        ids = tuple(photos.table.ids[i] for i in rows.tolist())
        write_vectors(path, VectorTable(ids, features, names))
    return width
