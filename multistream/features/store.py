"""The feature cache on disk: pooled features by the sha256 of the file they come from, in shards written once.

A store holds one view of one stream under one set of conditions (`identity`): another weight, decoder, torch or
precision is another store. A shard is named by the sha256 of its own bytes: a changed bit is noticed when it is read,
and two processes that compute the same write the same file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from multistream.errors import DiskFull
from multistream.files import clean, write_atomic

SHARD = 1024
"""Images a shard, at most."""

SECONDS = 30.0
"""After so long a shard is written although it is not full: what a kill can cost."""


@dataclass
class FeatureStore:
    """Pooled features {stage: (P,)} by a file's sha256, under `folder`; `warn` is told of shards that are damaged."""

    folder: Path
    warn: Callable[[str], None] = print
    places: dict[str, tuple[Path, int]] = field(default_factory=dict)
    """Shard and row of each file's features."""
    writable: bool = True

    @classmethod
    def open(cls, root: Path, identity: Mapping[str, Any], *, warn: Callable[[str], None]) -> FeatureStore:
        """The store of this identity below `root`, made if there is none; reads the shards' headers only."""
        text = json.dumps(identity, sort_keys=True)
        store = cls(root / hashlib.sha256(text.encode()).hexdigest()[:32], warn)
        try:
            if not os.path.exists(store.folder / "identity.json"):
                write_atomic(store.folder / "identity.json", json.dumps(identity, indent=2, sort_keys=True) + "\n")
            clean(store.folder)
        except DiskFull as error:
            store.stop_writing(error)
        store.refresh()
        return store

    def stop_writing(self, error: DiskFull) -> None:
        """Goes on without keeping anything: all in a cache can be computed again. Says so once."""
        if self.writable:
            self.warn(f"features: the cache cannot be written, and is not used for new features ({error})")
        self.writable = False

    def refresh(self) -> None:
        """Finds what is there, also what another process has added."""
        known = {shard for shard, _ in self.places.values()}
        for shard in sorted(self.folder.glob("*.safetensors")):
            if shard not in known:
                self._index(shard)

    def __contains__(self, sha256: str) -> bool:
        return sha256 in self.places

    def read(self, hashes: Sequence[str], into: Mapping[str, Tensor], rows: Sequence[int]) -> list[int]:
        """Copies these files' features into `into` {stage: (N, P)} at `rows`; returns the positions that it lacks.

        Every shard that is needed is read whole and checked, one after another, also where `into` is empty.
        """
        wanted: dict[Path, list[int]] = {}
        missing = []
        for position, digest in enumerate(hashes):
            place = self.places.get(digest)
            if place is None:
                missing.append(position)
            else:
                wanted.setdefault(place[0], []).append(position)
        for shard, positions in wanted.items():
            source = torch.tensor([self.places[hashes[p]][1] for p in positions])
            target = torch.tensor([rows[p] for p in positions])
            tensors = self._tensors(shard, into)
            if tensors is None:
                missing += positions
                continue
            for stage, values in into.items():
                values[target] = tensors[stage][source]
        return sorted(missing)

    def add(self, hashes: Sequence[str], features: Mapping[str, Tensor]) -> None:
        """Writes one shard: the features {stage: (n, P)} of n files. A disk that refuses is said once, no error."""
        if not self.writable:
            return
        tensors = {stage: values.contiguous() for stage, values in features.items()}
        content = save(tensors, metadata={"files": json.dumps(list(hashes))})
        path = self.folder / f"{hashlib.sha256(content).hexdigest()}.safetensors"
        try:
            write_atomic(path, content)
        except DiskFull as error:
            self.stop_writing(error)
            return
        self.places |= {digest: (path, row) for row, digest in enumerate(hashes)}

    def _tensors(self, shard: Path, wanted: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """A shard's tensors; None, and it is put aside, where its bytes are no longer those that were written."""
        try:
            content = shard.read_bytes()
        except FileNotFoundError:  # another process found it damaged, or the user emptied the cache
            self._forget(shard)
            return None
        except OSError as error:
            self._damaged(shard, error.strerror or type(error).__name__)
            return None
        if hashlib.sha256(content).hexdigest() != shard.stem:
            self._damaged(shard, "its bytes have changed")
            return None
        tensors = load(content)
        if any(stage not in tensors for stage in wanted):  # written whole, but not by this code
            self._damaged(shard, "it lacks a stage")
            return None
        return tensors

    def _index(self, shard: Path) -> None:
        """Reads a shard's list of files, not its features."""
        try:
            with safe_open(shard, framework="pt") as stored:
                files = json.loads((stored.metadata() or {})["files"])
        except FileNotFoundError:
            return
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            self._damaged(shard, str(error) or type(error).__name__)
            return
        self.places |= {digest: (shard, row) for row, digest in enumerate(files)}

    def _damaged(self, shard: Path, why: str) -> None:
        """Says so, and takes the shard away: what it held is computed again."""
        self.warn(f"features: {shard} is damaged ({why}); its features are computed again")
        with contextlib.suppress(OSError):  # a cache that cannot be written stays as it is
            shard.unlink(missing_ok=True)
        self._forget(shard)

    def _forget(self, shard: Path) -> None:
        self.places = {digest: place for digest, place in self.places.items() if place[0] != shard}


class Shards:
    """Gathers features for a store, and writes them when there are `SHARD` of them or `SECONDS` have passed."""

    def __init__(self, store: FeatureStore, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.store, self._clock = store, clock
        self._hashes: list[str] = []
        self._parts: list[Mapping[str, Tensor]] = []
        self._written = clock()

    def add(self, hashes: Sequence[str], features: Mapping[str, Tensor]) -> None:
        """Takes the features {stage: (n, P)} of n files; those that the store has by now are left out."""
        new = [row for row, digest in enumerate(hashes) if digest not in self.store]
        self._hashes += [hashes[row] for row in new]
        self._parts.append({stage: values[new] for stage, values in features.items()})
        if len(self._hashes) >= SHARD or self._clock() - self._written >= SECONDS:
            self.flush()

    def flush(self) -> None:
        """Writes what has gathered."""
        if self._hashes:
            stages = self._parts[0]
            self.store.add(self._hashes, {stage: torch.cat([part[stage] for part in self._parts]) for stage in stages})
        self._hashes, self._parts, self._written = [], [], self._clock()
