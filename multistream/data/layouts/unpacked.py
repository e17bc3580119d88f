"""Photos inside other files (parquet, tar): unpacked once below the user's cache, for all else works on files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from multistream.data.layouts.assemble import Entry
from multistream.files import cache_root, write_atomic

DONE = "complete"
"""The list of all photos of a folder: written last, so that one without it was interrupted."""

Packed = tuple[Entry, bytes]
"""One photo, whose id is the name that its file gets, and the file's bytes."""


def unpacked(files: Sequence[Path], about: Sequence[str], photos: Iterator[Packed]) -> tuple[Path, list[Entry]]:
    """The folder with the photos of just these files, and their entries; `photos` is read where it is not there yet.

    Another size or time of a file, and anything else in `about`, is another folder.
    """
    states = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    digest = hashlib.sha256(json.dumps([states, *about]).encode()).hexdigest()
    place = cache_root() / "unpacked" / digest[:32]
    index = place / DONE
    if not index.is_file():
        listed = []
        for entry, content in photos:
            write_atomic(place / entry.id, content)
            listed.append(json.dumps(entry) + "\n")
        write_atomic(index, "".join(listed))
    return place, [Entry(*json.loads(line)) for line in index.read_text(encoding="utf-8").splitlines()]
