"""An index of file hashes by path and file state, so that a second run need not read unchanged files.

As git's index does it: a file whose size, times and inode are those of last time has the same bytes. One that was
written in the last seconds before it was hashed is not remembered: a further write might leave all of these as they
are. The index only saves time: it starts with the sha256 of its rows, and a damaged one counts as empty.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from multistream.errors import DiskFull, MultistreamWarning
from multistream.files import cache_root, replacing

ROW = np.dtype([("path", "<u8"), ("state", "<u8"), ("sha256", "u1", 32)])
"""48 bytes a file: the first 64 bits of hashes of its path and of its state, and the sha256 of its bytes."""

Rows = NDArray[np.void]

SETTLED = 2 * 10**9
"""Nanoseconds after its last change from which on a file's state is trusted: FAT counts in steps of two seconds."""


@dataclass(frozen=True)
class HashIndex:
    """What is known of the files of one folder: `rows` (N,) of ROW and their `paths` (N,) uint64, ascending."""

    file: Path
    rows: Rows
    paths: NDArray[np.uint64]

    @classmethod
    def load(cls, folder: Path) -> HashIndex:
        """The index of the files below `folder`; an empty one where there is none, or none that can be read."""
        name = hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()[:32]
        file = cache_root() / "hashes" / name
        rows = _read(file)
        return cls(file, rows, np.ascontiguousarray(rows["path"]))

    def find(self, asked: Rows) -> NDArray[np.bool_]:
        """Which of these files have not changed, (n,); their sha256 are filled in."""
        if not len(self.rows):
            return np.zeros(len(asked), dtype=np.bool_)
        place = np.minimum(np.searchsorted(self.paths, asked["path"]), len(self.rows) - 1)
        held = self.rows[place]
        known: NDArray[np.bool_] = (held["path"] == asked["path"]) & (held["state"] == asked["state"])
        asked["sha256"][known] = held["sha256"][known]
        return known

    def save(self, new: Rows) -> None:
        """Writes the index with new rows, which replace older ones of the same paths. Warns where it cannot."""
        if not len(new):
            return
        joined = np.concatenate([new, _read(self.file)])  # read again: another process may have saved meanwhile
        rows = joined[np.unique(joined["path"], return_index=True)[1]]  # of equal paths the first, which is new
        body = rows.view(np.uint8).data
        try:
            with replacing(self.file, needed=len(body)) as file:
                file.write(hashlib.sha256(body).digest())
                file.write(body)
        except DiskFull as error:
            what = f"hashes: the cache is not writable, so the next run reads every photo again ({error})"
            warnings.warn(what, MultistreamWarning, stacklevel=2)


def state_of(path: str, *, now: int) -> tuple[int, int, bool]:
    """64 bits each of hashes of a path and of its file's state, and whether these can be trusted at the time `now`.

    `now` is in nanoseconds. Raises OSError.
    """
    found = os.stat(path)
    state = f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"
    is_settled = now - max(found.st_mtime_ns, found.st_ctime_ns) >= SETTLED
    return _bits(os.fsencode(path)), _bits(state.encode()), is_settled


def _bits(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def _read(file: Path) -> Rows:
    """The rows of an index's file; none where it is missing or damaged."""
    try:
        with file.open("rb") as stored:
            digest, body = stored.read(32), stored.read()
    except OSError:
        return np.zeros(0, dtype=ROW)
    if hashlib.sha256(body).digest() != digest or len(body) % ROW.itemsize:
        return np.zeros(0, dtype=ROW)
    return np.frombuffer(body, dtype=ROW)
