"""The feature cache on disk: pooled features by the sha256 of their source file, in shards that are written once.

A store holds one view of one stream under one set of conditions (`identity`); other weights, another decoder, torch or
precision have another store. A shard is named by the sha256 of its own bytes, so a changed bit is detected when it is
read, and two processes that compute the same features write the same file. The file `index` locates features, so that
a store of 10^7 opens in a second; each entry is checked against the shard when it is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from multistream.console import Say
from multistream.errors import DiskFull, said_by
from multistream.features.index import INDEX, UNSAVED, IndexDamaged, ShardIndex, files_of
from multistream.files import clean, write_atomic

ENDING = ".safetensors"
SHARD = 1024
"""Maximum number of images per shard."""

SECONDS = 30.0
"""Seconds after which a shard is written although it is not full; at most this much work is lost in a kill."""


@dataclass
class FeatureStore:
    """Pooled features {stage: (P,)} by a file's sha256, under `folder`; `warn` is called for damaged shards."""

    folder: Path
    warn: Say = print
    index: ShardIndex = field(default_factory=ShardIndex)
    writable: bool = True

    @classmethod
    def open(cls, root: Path, identity: Mapping[str, Any], *, warn: Say) -> FeatureStore:
        """Opens or creates the store of this identity below `root`; reads the index and the headers of new shards."""
        text = json.dumps(identity, sort_keys=True)
        store = cls(root / hashlib.sha256(text.encode()).hexdigest()[:32], warn)
        with store._writing():
            if not os.path.exists(store.folder / "identity.json"):
                write_atomic(store.folder / "identity.json", json.dumps(identity, indent=2, sort_keys=True) + "\n")
            clean(store.folder)
        try:
            store.index = ShardIndex.load(store.folder)
        except IndexDamaged as error:
            warn(f"features: {store.folder / INDEX} is damaged ({error}); it is built again from the shards")
        lost = store.refresh()
        if lost:
            warn(f"features: {store.folder} lacks {lost:,} of its shards; their features are computed again")
        return store

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """If the disk is full or read-only, warns and continues without caching; features can always be recomputed."""
        try:
            yield
        except DiskFull as error:
            self.warn(f"features: the cache is not writable; new features are not cached ({error})")
            self.writable = False

    def refresh(self) -> int:
        """Finds new shards, also of other processes, and forgets missing ones; returns the number of missing shards."""
        known, existing = self.index.names, {path.name for path in self.folder.glob(f"*{ENDING}")}
        lost = known - existing
        self.index.forget(lost)
        for name in sorted(existing - known):
            self._take_in(self.folder / name)
        self._save_index(due=0 if lost else UNSAVED)  # otherwise the loss would be reported at every opening
        return len(lost)

    def _save_index(self, *, due: int) -> None:
        """Writes the index if at least `due` shards are missing in its file."""
        if self.writable and self.index.unsaved >= due:
            with self._writing():
                self.index.save(self.folder)

    def __contains__(self, sha256: str) -> bool:
        return bool(self.index.find([sha256])[0][0] >= 0)

    def read(self, hashes: Sequence[str], into: Mapping[str, Tensor], rows: Sequence[int]) -> list[int]:
        """Copies these files' features into `into` {stage: (N, P)} at `rows`; returns positions that are not cached.

        Every shard that is needed is read whole and checked, one after another, even if `into` is empty.
        """
        numbers, places = self.index.find(hashes)
        missing: list[int] = np.flatnonzero(numbers < 0).tolist()
        order = np.argsort(numbers, kind="stable")[len(missing) :]
        shards, starts = np.unique(numbers[order], return_index=True)
        for shard, positions in zip(shards.tolist(), np.split(order, starts)[1:], strict=True):
            files, tensors = self._shard(self.index.shards[shard], into)
            right = np.array([files[places[p] : places[p] + 1] == [hashes[p]] for p in positions])
            missing += positions[~right].tolist()  # the stored file is another one with the same first digits
            source, target = places[positions[right]], np.asarray(rows)[positions[right]]
            for stage in into.keys() & tensors.keys():
                into[stage][torch.from_numpy(target)] = tensors[stage][torch.from_numpy(source)]
        return sorted(missing)

    def add(self, hashes: Sequence[str], features: Mapping[str, Tensor]) -> None:
        """Writes one shard: the features {stage: (n, P)} of n files.

        If the disk refuses, warns once and does not raise.
        """
        if not self.writable:
            return
        tensors = {stage: values.contiguous() for stage, values in features.items()}
        content = save(tensors, metadata={"files": json.dumps(list(hashes))})
        path = self.folder / f"{hashlib.sha256(content).hexdigest()}{ENDING}"
        with self._writing():
            write_atomic(path, content)
            self.index.add(path.name, hashes)
            # The interval grows, so that the total cost of writing is linear.
            self._save_index(due=max(UNSAVED, len(self.index.shards) // 8))

    def _shard(self, name: str, wanted: Mapping[str, Tensor]) -> tuple[list[str], dict[str, Tensor]]:
        """Returns a shard's files and tensors; removes the shard and returns none if its bytes are damaged."""
        shard = self.folder / name
        try:
            content = shard.read_bytes()
            if hashlib.sha256(content).hexdigest() != shard.stem:
                raise ValueError("its bytes have changed")
            tensors = load(content)
            if not set(wanted) <= set(tensors):  # not damaged, but written by other code
                raise ValueError("it is missing a stage")
        except (OSError, ValueError) as error:
            self._remove(shard, error)
            return [], {}
        length = int.from_bytes(content[:8], "little")  # safetensors: the header's length, then the header
        files: list[str] = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["files"])
        return files, tensors

    def _take_in(self, shard: Path) -> None:
        """Adds a shard to the index from its header, without reading its features."""
        try:
            self.index.add(shard.name, files_of(shard))
        except (OSError, ValueError) as error:
            self._remove(shard, error)

    def _remove(self, shard: Path, error: OSError | ValueError) -> None:
        """Removes a damaged shard with a warning, so that its features are computed again.

        A missing one is only forgotten.
        """
        if not isinstance(error, FileNotFoundError):  # removed by another process or by the user
            why = getattr(error, "strerror", None) or said_by(error)
            self.warn(f"features: {shard} is damaged ({why}); its features are computed again")
        with contextlib.suppress(OSError):  # a read-only cache is left unchanged
            shard.unlink(missing_ok=True)
        self.index.forget([shard.name])


class Shards:
    """Collects features for a store, and writes them after `SHARD` images or `SECONDS`."""

    def __init__(self, store: FeatureStore, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.store, self._clock = store, clock
        self._hashes: list[str] = []
        self._parts: list[Mapping[str, Tensor]] = []
        self._written = clock()

    def add(self, hashes: Sequence[str], features: Mapping[str, Tensor]) -> None:
        """Adds the features {stage: (n, P)} of n files, except those that are in the store already."""
        new = [row for row, digest in enumerate(hashes) if digest not in self.store]
        self._hashes += [hashes[row] for row in new]
        self._parts.append({stage: values[new] for stage, values in features.items()})
        if len(self._hashes) >= SHARD or self._clock() - self._written >= SECONDS:
            self.flush()

    def flush(self) -> None:
        """Writes the collected features."""
        if self._hashes:
            stages = self._parts[0]
            self.store.add(self._hashes, {stage: torch.cat([part[stage] for part in self._parts]) for stage in stages})
        self._hashes, self._parts, self._written = [], [], self._clock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Writes the collected features and the index, also after an exception."""
        self.flush()
        self.store.refresh()
