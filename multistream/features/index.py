"""The index of a store with many shards: sorted arrays with 16 bytes per file, saved in one file with a checksum.

Without it, opening a store reads the header of every shard (10^4 of them for 10^7 photos). The file `index` only saves
time: it begins with the sha256 of the rest, and is rebuilt from the shards if it is wrong or missing. A shard's bytes
never change, so an entry is valid as long as its shard exists.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

from multistream.files import replacing

INDEX = "index"
"""The index file's name in the store's folder."""

UNSAVED = 64
"""Number of shards that may be missing in the index file: opening the store reads their headers, 1 ms each."""

FOLD = 2**18
"""Number of new files that are held in a dict before they are sorted into the arrays."""

_DIGITS = 16
"""Hex digits of a sha256 that are kept (64 bits). Files with equal digits are distinguished when a shard is read."""


class IndexDamaged(Exception):
    """The index file's content does not match its checksum or format."""


@dataclass
class ShardIndex:
    """Shard and row by a file's sha256. `shards` are file names; entries of a shard in `gone` are ignored."""

    shards: list[str] = field(default_factory=list)
    keys: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))
    """(N,) ascending: the first digits of each file's sha256."""
    numbers: NDArray[np.uint32] = field(default_factory=lambda: np.zeros(0, np.uint32))
    """(N,) each file's shard, as a position in `shards`."""
    rows: NDArray[np.uint32] = field(default_factory=lambda: np.zeros(0, np.uint32))
    """(N,) each file's row in its shard."""
    gone: set[int] = field(default_factory=set)
    recent: dict[int, tuple[int, int]] = field(default_factory=dict)
    """{key: (shard, row)} of files that were added since the arrays were sorted."""
    unsaved: int = 0
    """Number of shards that the index file does not contain."""

    @classmethod
    def load(cls, folder: Path) -> ShardIndex:
        """Reads the index of a store; empty if there is none. Raises IndexDamaged."""
        try:
            with (folder / INDEX).open("rb") as file:
                digest, body = file.read(32), file.read()
        except FileNotFoundError:
            return cls()
        except OSError as error:
            raise IndexDamaged(error.strerror or type(error).__name__) from None
        if hashlib.sha256(body).digest() != digest:
            raise IndexDamaged("its bytes have changed")
        try:
            arrays = load(body)
            shards = json.loads(arrays["shards"].tobytes())
            return cls(shards, arrays["keys"], arrays["numbers"], arrays["rows"])
        except (SafetensorError, KeyError, ValueError) as error:
            raise IndexDamaged(str(error) or type(error).__name__) from None

    def save(self, folder: Path) -> None:
        """Writes the index, without removed shards. Raises DiskFull."""
        self.fold()
        names = np.frombuffer(json.dumps(self.shards).encode(), np.uint8)
        body = save({"shards": names, "keys": self.keys, "numbers": self.numbers, "rows": self.rows})
        with replacing(folder / INDEX, needed=len(body)) as file:
            file.write(hashlib.sha256(body).digest())
            file.write(body)
        self.unsaved = 0

    @property
    def names(self) -> set[str]:
        """The existing shards."""
        return {name for number, name in enumerate(self.shards) if number not in self.gone}

    def add(self, shard: str, files: Sequence[str]) -> None:
        """Adds a shard by the sha256 of its files, in the order of its rows."""
        number = len(self.shards)
        self.shards.append(shard)
        self.unsaved += 1
        self.recent |= {key: (number, row) for row, key in enumerate(_keys(files).tolist())}
        if len(self.recent) >= FOLD:
            self.fold()

    def forget(self, shards: Iterable[str]) -> None:
        """Removes shards that no longer exist."""
        lost = set(shards)
        self.gone |= {number for number, name in enumerate(self.shards) if name in lost}

    def find(self, files: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Returns the shard number and the row of each file, (N,) each; the number is -1 if no shard contains it."""
        keys = _keys(files)
        numbers, rows = np.full(len(keys), -1), np.zeros(len(keys), np.int64)
        if len(self.keys):
            place = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
            held = self.keys[place] == keys
            numbers[held], rows[held] = self.numbers[place[held]], self.rows[place[held]]
        for i in [i for i, key in enumerate(keys.tolist()) if key in self.recent] if self.recent else ():
            numbers[i], rows[i] = self.recent[int(keys[i])]
        numbers[np.isin(numbers, list(self.gone))] = -1
        return numbers, rows

    def fold(self) -> None:
        """Sorts new entries into the arrays and drops those of removed shards; a newer entry replaces an older one."""
        if self.gone:
            self._drop_gone()
        new = np.sort(np.fromiter(self.recent, np.uint64, len(self.recent)))
        places = np.array([self.recent[key] for key in new.tolist()], np.uint32).reshape(len(new), 2)
        at = np.searchsorted(self.keys, new)
        known = at < len(self.keys)
        known[known] = self.keys[at[known]] == new[known]
        self.numbers[at[known]], self.rows[at[known]] = places[known].T
        at, new, places = at[~known], new[~known], places[~known]
        self.keys = np.insert(self.keys, at, new)
        self.numbers, self.rows = np.insert(self.numbers, at, places[:, 0]), np.insert(self.rows, at, places[:, 1])
        self.recent = {}

    def _drop_gone(self) -> None:
        """Drops the entries of removed shards, and renumbers the others."""
        kept = [number for number in range(len(self.shards)) if number not in self.gone]
        renumbered = np.full(len(self.shards), -1)
        renumbered[kept] = np.arange(len(kept))
        numbers = renumbered[self.numbers]
        remains = numbers >= 0
        self.keys, self.rows, self.numbers = self.keys[remains], self.rows[remains], numbers[remains].astype(np.uint32)
        recent = {key: (int(renumbered[number]), row) for key, (number, row) in self.recent.items()}
        self.recent = {key: place for key, place in recent.items() if place[0] >= 0}
        self.shards, self.gone = [self.shards[number] for number in kept], set()


def files_of(shard: Path) -> list[str]:
    """Reads the sha256 of a shard's files from its header. Raises OSError, ValueError."""
    try:
        with safe_open(shard, framework="np") as stored:
            files: list[str] = json.loads((stored.metadata() or {})["files"])
    except (SafetensorError, KeyError) as error:
        raise ValueError(str(error) or type(error).__name__) from None
    return files


def _keys(files: Sequence[str]) -> NDArray[np.uint64]:
    return np.fromiter((int(name[:_DIGITS], 16) for name in files), np.uint64, len(files))
