"""The demo set on the disk: written once under the user's cache, whole or not at all, and again if it is damaged."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from multistream.data.demo.concepts import VOCABULARY
from multistream.data.demo.design import Example, examples
from multistream.data.table import VectorTable
from multistream.data.vectors import write_vectors
from multistream.files import clean, remove, sha256_file, temporary

VERSION = 1
"""Raise this where a pixel or a score changes: the folder carries it, and so results stay comparable."""

VECTORS, CUES, MANIFEST = "anp.npz", "cues.npz", "manifest.json"


def stored(cache: Path) -> Path:
    """The folder of the demo set below `cache`; written if it is not there whole. DiskFull if it cannot be."""
    folder = cache / f"demo-{VERSION}"
    if not is_whole(folder):
        with temporary(cache, noun="demo") as fresh:
            write(fresh)
            _take_place(fresh, folder)
        clean(cache)
    return folder


def is_whole(folder: Path) -> bool:
    """Whether every file that was written is there with the same bytes."""
    try:
        sums = json.loads((folder / MANIFEST).read_bytes())["sha256"]
        return all(sha256_file(folder / name) == digest for name, digest in sums.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def write(folder: Path) -> None:
    """Writes all pictures, as PART/CLASS/NUMBER.png, with vectors, cues and the sums of all files."""
    counts: Counter[tuple[str, str]] = Counter()
    names: list[str] = []
    made: list[Example] = []
    for example in examples():
        counts[example.part, example.label] += 1
        names.append(f"{example.part}/{example.label}/{counts[example.part, example.label]:04d}.png")
        made.append(example)
        _write_picture(folder / names[-1], example, title=names[-1])
    scores = np.stack([example.mood.scores for example in made])
    write_vectors(folder / VECTORS, VectorTable(tuple(names), scores, VOCABULARY))
    np.savez(
        folder / CUES,
        ids=np.array(names),
        bits=np.array([example.bits for example in made]),
        boxes=np.array([example.scene.box for example in made], dtype=np.int64),
        planted=np.stack([example.mood.planted for example in made]),
    )
    sums = {name: sha256_file(folder / name) for name in (*names, VECTORS, CUES)}
    # The manifest is written last; a power failure before the disk has all is found by the sums.
    (folder / MANIFEST).write_text(json.dumps({"version": VERSION, "sha256": sums}, indent=0) + "\n")


def _write_picture(path: Path, example: Example, *, title: str) -> None:
    """Two test images may show one picture: their titles make them two files, with two checksums."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = PngInfo()
    text.add_text("Title", title)
    Image.fromarray(example.scene.pixels).save(path, pnginfo=text)


def _take_place(fresh: Path, folder: Path) -> None:
    """Renames `fresh` to `folder`, whatever lies there; another process may have been faster, and that will do."""
    if folder.exists() and not is_whole(folder):
        remove(folder)
    try:
        fresh.rename(folder)
    except OSError:
        if not is_whole(folder):
            raise
