"""Hashes many files (sha256): 32 bytes per file in memory; files that have not changed are not read again."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import compress
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from multistream.data.hash_index import ROW, HashIndex, Rows, state_of
from multistream.data.table import Table
from multistream.errors import DataError
from multistream.files import sha256_file

PIECE = 64
"""Files per task of a hashing thread."""

PIECES = 64
"""Tasks submitted at once. One future per file would take 2 kB per file."""

_NONE = bytes(32)

Tick = Callable[[int], object]
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Digests(Mapping[int, str]):
    """sha256 by a photo's index, in hexadecimal: row i of `sha256` (N, 32) is photo i's, of zeros if it has none.

    >>> digests = Digests(np.array([[0] * 32, [255] * 32], np.uint8))
    >>> digests[1][:6], 0 in digests
    ('ffffff', False)
    """

    sha256: NDArray[np.uint8]

    def __getitem__(self, index: int) -> str:
        digest: bytes = self.sha256[index].tobytes()
        if digest == _NONE:
            raise KeyError(index)
        return digest.hex()

    @property
    def indices(self) -> NDArray[np.int64]:
        """The photos that have one, ascending."""
        return np.flatnonzero(self.sha256.any(axis=1))

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices.tolist())

    def __len__(self) -> int:
        return len(self.indices)


def digests_of(table: Table, indices: Sequence[int] | NDArray[np.int64], *, tick: Tick = lambda _: None) -> Digests:
    """The sha256 of these photos; DataError if one cannot be read. `tick` gets the number of photos done."""
    chosen = np.asarray(indices, dtype=np.int64)
    paths = (os.path.join(table.root, table.ids[i]) for i in chosen.tolist())
    return digests_at(chosen, hashes_of_files(paths, count=len(chosen), folder=table.root, tick=tick), size=len(table))


def digests_at(indices: NDArray[np.int64], sha256: NDArray[np.uint8], *, size: int) -> Digests:
    """These sha256 (n, 32) as those of the photos `indices` (n,), among `size` photos."""
    rows = np.zeros((size, 32), np.uint8)
    rows[indices] = sha256
    return Digests(rows)


def hashes_of_files(
    paths: Iterable[str | Path], *, count: int, folder: Path, tick: Tick = lambda _: None
) -> NDArray[np.uint8]:
    """sha256 of the bytes of `count` files, (count, 32) in order; DataError if one cannot be read.

    Unchanged files are not read again: their hashes are in the index of `folder`, which is also saved after an error or
    Ctrl-C.
    """
    index = HashIndex.load(folder)
    rows, is_new = np.zeros(count, dtype=ROW), np.zeros(count, dtype=np.bool_)
    files = (os.fspath(path) for path in paths)
    pieces = iter(lambda: list(itertools.islice(files, PIECE)), [])
    done = 0
    try:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # reading and hashing let go of the interpreter
            while some := list(itertools.islice(pieces, PIECES)):
                for own, fresh in pool.map(partial(_hashed, index), some):
                    place = slice(done, done + len(own))
                    rows[place], is_new[place] = own, fresh
                    done += len(own)
                    tick(len(own))
    finally:
        index.save(rows[is_new])
    return np.ascontiguousarray(rows["sha256"])


def _hashed(index: HashIndex, paths: Sequence[str]) -> tuple[Rows, NDArray[np.bool_]]:
    """The rows (n,) of these files, and which of them the index lacks and may take in."""
    rows, now = np.zeros(len(paths), dtype=ROW), time.time_ns()
    states = list(map(_named(partial(state_of, now=now)), paths))
    rows["path"], rows["state"] = np.array([state[:2] for state in states], dtype=np.uint64).T
    known = index.find(rows)
    hashed = list(map(_named(_sha256), compress(paths, ~known)))
    rows["sha256"][~known] = np.frombuffer(b"".join(hashed), np.uint8).reshape(-1, 32)
    return rows, np.array([is_settled for _, _, is_settled in states]) & ~known


def _sha256(path: str) -> bytes:
    return bytes.fromhex(sha256_file(path))


def _named(read: Callable[[str], T]) -> Callable[[str], T]:
    """The same function; its DataError names the file that cannot be read."""

    def reading(path: str) -> T:
        try:
            return read(path)
        except OSError as error:
            raise DataError(path, f"it cannot be read: {error.strerror}.") from error

    return reading
