"""A process that fills the cache with small shards, and may be killed while it writes: FOLDER SEED KILL_AT."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np

from multistream import files
from multistream.data.file_hashes import digests_of
from multistream.features import extract, store
from tests.features.conftest import ON_CPU, make_network, make_photos

SHARD = 32


def main(folder: Path, seed: int, kill_at: int) -> None:
    """Kills itself, as no program can prevent, before the fsync of shard number `kill_at` (0: lives)."""
    store.SHARD = SHARD
    photos = make_photos(folder)
    every = np.arange(len(photos))
    digests = digests_of(photos.table, every)  # what this writes is not counted
    synced = 0
    plain = os.fsync

    def fsync(handle: int) -> None:
        nonlocal synced
        synced += 1
        if kill_at and synced > 2 * kill_at:  # a file and its folder are each synced; identity.json comes first
            os.kill(os.getpid(), signal.SIGKILL)
        plain(handle)

    files.os.fsync = fsync  # type: ignore[attr-defined]
    extract(
        make_network(seed), photos, every, runtime=ON_CPU, workers=0, tick=lambda _: None, say=print, digests=digests
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
