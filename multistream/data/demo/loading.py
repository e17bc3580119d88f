"""The demo set as a Table, and where its evidence was planted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from multistream.data.demo.pictures import SIDE
from multistream.data.demo.storage import CUES, VECTORS, stored
from multistream.data.table import Table
from multistream.data.vectors import read_vectors
from multistream.errors import DataError
from multistream.files import cache_root

NOTES = (
    "each emotion combines three cues: a sun or a drop, zigzags or bands, pleasant or unpleasant adjective-noun pairs",
    "in the test split, the image alone allows at most 50 % accuracy, the pairs alone 25 %, both together 100 %",
)


@dataclass(frozen=True)
class Cues:
    """Where the evidence of each of N images lies.

    `bits` (N, 3) bool: warm sun (else cool drop), rough zigzags (else calm bands), pleasant pairs (else unpleasant).
    `boxes` (N, 4) int64: left, top, right, bottom of the object in pixels, right and bottom excluded. `planted` (N, P)
    int64: the entries of the vector that carry its bit.
    """

    bits: NDArray[np.bool_]
    boxes: NDArray[np.int64]
    planted: NDArray[np.int64]

    @property
    def objects(self) -> NDArray[np.bool_]:
        """(N, side, side): the pixels of each object's box; the texture is all others."""
        axis = np.arange(SIDE)
        left, top, right, bottom = (edge[:, None] for edge in self.boxes.T)
        rows, columns = (axis >= top) & (axis < bottom), (axis >= left) & (axis < right)
        return np.asarray(rows[:, :, None] & columns[:, None, :])


def demo(*, cache: Path | None = None) -> Table:
    """2,400 pictures of 64 pixels with vectors "anp": 1,920 train, 160 val, 320 test, eight emotions in equal parts.

    They are written once below `cache`, by default the user's (MULTISTREAM_CACHE, XDG_CACHE_HOME or the system's), and
    again if a file there has changed; the same pictures on every machine. Random frozen streams can recognise every
    cue.
    """
    root = stored(cache_root() if cache is None else cache)
    vectors = read_vectors(root / VECTORS)
    parts, labels = zip(*(name.split("/")[:2] for name in vectors.ids), strict=True)
    classes, index = np.unique(labels, return_inverse=True)
    return Table(
        name="demo",
        root=root,
        ids=vectors.ids,
        labels=index.astype(np.int64),
        classes=tuple(classes.tolist()),
        parts=parts,
        vectors={"anp": vectors},
        image_size=SIDE,
        notes=NOTES,
    )


def demo_cues(table: Table) -> Cues:
    """The planted cues of the images of `table`, row by row; it must be the demo set or a selection of it."""
    path = table.root / CUES
    if not path.is_file():
        what = "no cues are recorded: only the demo set has them."
        raise DataError(table.root, what, do="Leave --data out.")
    with np.load(path, allow_pickle=False) as held:
        place = {name: row for row, name in enumerate(held["ids"].tolist())}
        rows = np.array([place[name] for name in table.ids], dtype=np.int64)
        return Cues(held["bits"][rows], held["boxes"][rows], held["planted"][rows])
