"""The demo's plan: which picture shows what, so that each cue gives one bit of the class and only all three give it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from multistream.data.demo.concepts import Mood, imagine
from multistream.data.demo.pictures import Scene, draw

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
