"""The feature cache on disk: pooled features by the sha256 of each image, in shards that are written once.

A store holds the features of one stream under one set of conditions (`identity`): another weight, decoder, torch or
precision is another store. Shards carry names of their own, so that two processes can add to a store at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from multistream.files import write_atomic

SHARD = 1024
"""Images a shard."""


@dataclass(frozen=True)
class Place:
    """Where one image's features lie."""

    shard: Path
    row: int


@dataclass
class FeatureStore:
    """Pooled features {stage: (P,)} by image sha256, under `folder`."""

    folder: Path
    places: dict[str, Place] = field(default_factory=dict)
    damaged: list[Path] = field(default_factory=list)
    """Shards that could not be read, and count as not there."""

    @classmethod
    def open(cls, root: Path, identity: Mapping[str, Any]) -> FeatureStore:
        """The store of this identity below `root`, made if there is none; reads the shards' indexes only."""
        text = json.dumps(identity, sort_keys=True)
        store = cls(root / hashlib.sha256(text.encode()).hexdigest()[:32])
        if not (store.folder / "identity.json").exists():
            store.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(store.folder / "identity.json", json.dumps(identity, indent=2, sort_keys=True) + "\n")
        store.refresh()
        return store

    def refresh(self) -> None:
        """Finds what is there, also what another process has added."""
        known = {place.shard for place in self.places.values()}
        for shard in sorted(self.folder.glob("*.safetensors")):
            if shard not in known:
                self._index(shard)

    def __contains__(self, sha256: str) -> bool:
        return sha256 in self.places

    def read(self, hashes: Sequence[str], into: Mapping[str, Tensor], rows: Sequence[int]) -> list[int]:
        """Copies the features of these images into `into` {stage: (N, P)} at `rows`; returns the positions it lacks."""
        wanted: dict[Path, list[int]] = {}
        missing = []
        for position, digest in enumerate(hashes):
            place = self.places.get(digest)
            if place is None:
                missing.append(position)
            else:
                wanted.setdefault(place.shard, []).append(position)
        for shard, positions in wanted.items():
            try:
                with safe_open(shard, framework="pt") as stored:
                    source = torch.tensor([self.places[hashes[p]].row for p in positions])
                    target = torch.tensor([rows[p] for p in positions])
                    for stage, values in into.items():
                        values[target] = stored.get_tensor(stage)[source]
            except (SafetensorError, OSError, IndexError, KeyError):
                self.damaged.append(shard)
                self.places = {digest: place for digest, place in self.places.items() if place.shard != shard}
                missing += positions
        return sorted(missing)

    def add(self, hashes: Sequence[str], features: Mapping[str, Tensor]) -> None:
        """Writes one shard: the features {stage: (n, P)} of n images."""
        path = self.folder / f"{os.getpid()}-{secrets.token_hex(8)}.safetensors"
        digest = hashlib.sha256()
        tensors = {stage: values.contiguous() for stage, values in features.items()}
        for stage in sorted(tensors):
            digest.update(tensors[stage].numpy().tobytes())
        about = {"images": json.dumps(list(hashes)), "sha256": digest.hexdigest()}
        write_atomic(path, save(tensors, metadata=about))
        self.places |= {image: Place(path, row) for row, image in enumerate(hashes)}

    def _index(self, shard: Path) -> None:
        """Reads a shard's list of images; one whose bytes have changed counts as not there."""
        try:
            with safe_open(shard, framework="pt") as stored:
                about = stored.metadata()
                digest = hashlib.sha256()
                for stage in sorted(stored.keys()):
                    digest.update(stored.get_tensor(stage).numpy().tobytes())
                images = json.loads(about["images"])
            if digest.hexdigest() != about["sha256"]:
                self.damaged.append(shard)
                return
        except (SafetensorError, OSError, KeyError, TypeError, json.JSONDecodeError):
            self.damaged.append(shard)
            return
        self.places |= {image: Place(shard, row) for row, image in enumerate(images)}


def weights_hash(module: torch.nn.Module) -> str:
    """sha256 over all tensors of a module, names and shapes included."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
