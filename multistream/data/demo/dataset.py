"""The demo set: its plan, in which each cue gives one bit of the class; its files, written once; and its Table."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from multistream.data.demo.concepts import VOCABULARY, Mood, imagine
from multistream.data.demo.pictures import SIDE, Scene, draw
from multistream.data.table import Table, VectorTable
from multistream.data.vectors import read_vectors, write_vectors
from multistream.errors import DataError
from multistream.files import cache_root, clean, remove, sha256_file, temporary

SEED = 2020

EMOTIONS = {
    (True, True, True): "excitement",
    (False, True, True): "amusement",
    (True, False, True): "contentment",
    (False, False, True): "awe",
    (True, True, False): "anger",
    (False, True, False): "fear",
    (True, False, False): "disgust",
    (False, False, False): "sadness",
}
"""The class of each (warm sun, rough zigzags, pleasant pairs): the three bits."""

COPIES = {"train": 240, "val": 20}
"""Images of each class, each drawn for itself."""
CROSSED = 40
"""Images of each class in the test split."""

Bits = tuple[bool, bool, bool]


@dataclass(frozen=True)
class Example:
    """One image of the demo: part, class, the bits that make it, its picture and its vector."""

    part: str
    label: str
    bits: Bits
    scene: Scene
    mood: Mood


def examples() -> Iterator[Example]:
    """All 2,400, the same ones every time: 1,920 train, 160 val, 320 test.

    In the test split the cues are crossed: the same four pictures come with either of two vectors. So whoever sees the
    picture alone is right in exactly half of the images at most, and whoever sees the vector alone in a quarter.
    """
    random = np.random.RandomState(SEED)  # its stream is frozen; NumPy's newer generators may change
    for part, copies in COPIES.items():
        for bits in EMOTIONS:
            for _ in range(copies):
                scene, mood = draw(random, warm=bits[0], rough=bits[1]), imagine(random, pleasant=bits[2])
                yield Example(part, EMOTIONS[bits], bits, scene, mood)
    for _ in range(CROSSED):
        moods = [imagine(random, pleasant=pleasant) for pleasant in (False, True)]
        for warm, rough in product((False, True), repeat=2):
            scene = draw(random, warm=warm, rough=rough)
            for pleasant in (False, True):
                bits = (warm, rough, pleasant)
                yield Example("test", EMOTIONS[bits], bits, scene, moods[pleasant])


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
