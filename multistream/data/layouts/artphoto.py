"""ArtPhoto (Machajdik and Hanbury, ACM MM 2010): one folder of `<class>_NNNN.jpg`."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from multistream.data.image_files import list_images
from multistream.data.layouts.assemble import MIKELS, Entry, assemble, counted, emotion, folder_of
from multistream.data.table import Table

_NAME = re.compile(r"([A-Za-z]+)_\d+\.\w+")


def artphoto(path: Path, *, allow_outside: bool = False) -> Table:
    """ArtPhoto: classes come from the file names; `sad` and `content` are spelled out."""
    root = folder_of(path, "testImages_artphoto")
    listing = list_images(root, allow_outside=allow_outside)
    named = {i: match[1] for i in listing.ids if (match := _NAME.fullmatch(PurePosixPath(i).name))}
    entries = [Entry(i, emotion(name)) for i, name in named.items() if emotion(name) in MIKELS]
    counts = {"images ignored: name is not CLASS_NUMBER": len(listing.ids) - len(entries)}
    return assemble("artphoto", root, entries, notes=(*listing.notes, *counted(counts)))
