"""Unpacks photos in archives (parquet, tar) once into the user's cache folder, because all other code reads files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from multistream.data.layouts.assemble import Entry, assemble
from multistream.data.table import Table
from multistream.errors import DataError, printable
from multistream.files import cache_root, clean, make_folder, remove, sync_all, sync_folder, temporary

DONE = "complete"
"""The file that lists all photos of a folder."""

Packed = tuple[Entry, bytes]
"""One photo, whose id is the path of its unpacked file, and the file's bytes."""


def packed_files(path: Path, *endings: str) -> list[Path]:
    """The file at `path`, or all files below that folder with one of these suffixes; DataError if there is none."""
    files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.name.endswith(endings))
    if not files:
        raise DataError(path, f"there is no {endings[0]} file.", do="Pass one, or a folder of them.")
    return files


def unpacked(
    path: Path, files: Sequence[Path], about: Sequence[str], photos: Iterator[Packed], *, known: Iterable[str] = ()
) -> Table:
    """The table of the data set at `path`, whose photos are in these files; `photos` is only read if not yet unpacked.

    The folder's name depends on the size and time of each file, and on `about`. `known` as in `assemble`.
    """
    states = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    digest = hashlib.sha256(json.dumps([states, *about]).encode()).hexdigest()
    place = cache_root() / "unpacked" / digest[:32]
    index = place / DONE
    if not index.is_file():
        _unpack(photos, place)
    notes = (f"photos are unpacked in {place}",)
    with index.open(encoding="utf-8") as lines:
        entries = (Entry(*json.loads(line)) for line in lines)
        return assemble(printable(path.resolve().stem), place, entries, notes=notes, known=known)


def _unpack(photos: Iterator[Packed], place: Path) -> None:
    """Writes the photos and the list of them into a new folder, which gets its name when all is on the disk.

    They are flushed together: each flush alone takes milliseconds, of a million photos hours.
    """
    clean(place.parent)
    folders: set[Path] = set()
    with temporary(place.parent) as made:
        make_folder(made)
        with (made / DONE).open("x", encoding="utf-8", newline="\n") as listed:
            for entry, content in photos:
                file = made / entry.id
                if file.parent not in folders:
                    folders.add(make_folder(file.parent))
                file.write_bytes(content)
                listed.write(json.dumps(entry) + "\n")
        sync_all()
        if not (place / DONE).is_file():  # else another process was faster
            remove(place)
            made.rename(place)
            sync_folder(place.parent)
