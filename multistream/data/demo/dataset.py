"""The demo set: its examples, in which each cue is one bit of the class; its files, written once; and its Table."""

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

from multistream.data.demo.pictures import SIDE, VOCABULARY, Mood, Scene, draw, imagine
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
"""The class for each combination of the three bits (warm sun, rough zigzags, pleasant pairs)."""

COPIES = {"train": 240, "val": 20}
"""Images of each class, drawn independently."""
CROSSED = 40
"""Images of each class in the test split."""

Bits = tuple[bool, bool, bool]


@dataclass(frozen=True)
class Example:
    """One image of the demo set: its split, class, bits, image and vector."""

    part: str
    label: str
    bits: Bits
    scene: Scene
    mood: Mood


def examples() -> Iterator[Example]:
    """All 2,400 examples, always the same: 1,920 train, 160 val, 320 test.

    In the test split the cues are crossed: each of four images occurs with each of two vectors. So a classifier that
    reads only the image has an accuracy of at most a half, and one that reads only the vector of at most a quarter.
    """
    random = np.random.RandomState(SEED)  # its numbers never change; those of NumPy's newer generators may
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
"""Part of the folder's name: increase it if a pixel or score changes, so that results are comparable."""

VECTORS, CUES, MANIFEST = "anp.npz", "cues.npz", "manifest.json"


def stored(cache: Path) -> Path:
    """The folder of the demo set below `cache`; written if missing or incomplete. DiskFull if it cannot be written."""
    folder = cache / f"demo-{VERSION}"
    if not is_whole(folder):
        with temporary(cache, noun="demo") as fresh:
            write(fresh)
            _take_place(fresh, folder)
        clean(cache)
    return folder


def is_whole(folder: Path) -> bool:
    """Whether every file of the manifest exists with the same sha256."""
    try:
        sums = json.loads((folder / MANIFEST).read_bytes())["sha256"]
        return all(sha256_file(folder / name) == digest for name, digest in sums.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def write(folder: Path) -> None:
    """Writes all images, as SPLIT/CLASS/NUMBER.png, with vectors, cues and the checksums of all files."""
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
    # The manifest is written last; its checksums detect files that a power failure damaged.
    (folder / MANIFEST).write_text(json.dumps({"version": VERSION, "sha256": sums}, indent=0) + "\n")


def _write_picture(path: Path, example: Example, *, title: str) -> None:
    """Writes an image with a title, so that test images with equal pixels have different checksums."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = PngInfo()
    text.add_text("Title", title)
    Image.fromarray(example.scene.pixels).save(path, pnginfo=text)


def _take_place(fresh: Path, folder: Path) -> None:
    """Renames `fresh` to `folder` and replaces an incomplete one; keeps a complete one of another process."""
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
    """The planted cues of N images.

    `bits` (N, 3) bool: warm sun (else cool drop), rough zigzags (else calm bands), pleasant pairs (else unpleasant).
    `boxes` (N, 4) int64: left, top, right, bottom of the object in pixels, right and bottom excluded. `planted` (N, P)
    int64: the planted entries of the vector.
    """

    bits: NDArray[np.bool_]
    boxes: NDArray[np.int64]
    planted: NDArray[np.int64]

    @property
    def objects(self) -> NDArray[np.bool_]:
        """Masks (N, side, side) of each object's box; all other pixels are texture."""
        axis = np.arange(SIDE)
        left, top, right, bottom = (edge[:, None] for edge in self.boxes.T)
        rows, columns = (axis >= top) & (axis < bottom), (axis >= left) & (axis < right)
        return np.asarray(rows[:, :, None] & columns[:, None, :])


def demo(*, cache: Path | None = None) -> Table:
    """2,400 images of 64 pixels with vectors "anp": 1,920 train, 160 val, 320 test, eight emotions equally often.

    They are written once below `cache`, by default the user's (MULTISTREAM_CACHE, XDG_CACHE_HOME or the system's), and
    again if a file has changed. The images are the same on every machine. Random frozen streams can recognise every
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
    """The planted cues of the images of `table`, in its order; it must be the demo set or a selection of it."""
    path = table.root / CUES
    if not path.is_file():
        what = "no cues are recorded: only the demo set has them."
        raise DataError(table.root, what, do="Leave --data out.")
    with np.load(path, allow_pickle=False) as held:
        place = {name: row for row, name in enumerate(held["ids"].tolist())}
        rows = np.array([place[name] for name in table.ids], dtype=np.int64)
        return Cues(held["bits"][rows], held["boxes"][rows], held["planted"][rows])
