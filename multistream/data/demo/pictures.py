"""The demo's images and vectors.

Images show a small object on a texture, drawn with operations that are exact on every machine. Vectors are scores of
adjective-noun pairs, with high scores planted for pairs of one mood.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PLEASANT = (
    "bright smile",
    "cheerful song",
    "cosy fireplace",
    "fresh flowers",
    "gentle breeze",
    "golden harvest",
    "happy child",
    "loyal friend",
    "playful puppy",
    "proud parents",
    "sunny beach",
    "warm welcome",
)
UNPLEASANT = (
    "angry crowd",
    "bitter quarrel",
    "broken window",
    "cruel trap",
    "deserted playground",
    "dirty needle",
    "gloomy cellar",
    "lonely grave",
    "rotten fruit",
    "sick animal",
    "sinister shadow",
    "violent storm",
)
_ADJECTIVES = (
    ("distant", "empty", "little", "modern", "narrow", "old"),
    ("painted", "plain", "quiet", "tall", "wet", "wooden"),
)
_NOUNS = ("boat", "bridge", "chair", "door", "hill", "street", "table", "tower")

VOCABULARY = tuple(
    sorted((*PLEASANT, *UNPLEASANT, *(f"{each} {noun}" for row in _ADJECTIVES for each in row for noun in _NOUNS)))
)
"""The 120 pairs in alphabetical order: 24 with a mood, 96 without."""

PLANTED = 10
"""Number of pairs of the image's mood, of 12, with high scores."""
STRAY = 5
"""Number of pairs without a mood with high scores, like a detector's errors."""

_PLEASANT = np.array([VOCABULARY.index(pair) for pair in PLEASANT])
_UNPLEASANT = np.array([VOCABULARY.index(pair) for pair in UNPLEASANT])
_NEUTRAL = np.setdiff1d(np.arange(len(VOCABULARY)), np.concatenate([_PLEASANT, _UNPLEASANT]))


@dataclass(frozen=True)
class Mood:
    """One image's scores (D,) float32 in 0..1, and the planted entries (PLANTED,) int64, ascending."""

    scores: NDArray[np.float32]
    planted: NDArray[np.int64]


def imagine(random: np.random.RandomState, *, pleasant: bool) -> Mood:
    """Draws scores of all pairs of VOCABULARY: low ones, except for PLANTED pairs of the mood and STRAY others."""
    chance = random.uniform(size=len(VOCABULARY))
    scores = 0.5 * chance * chance * chance
    planted = np.sort(random.permutation(_PLEASANT if pleasant else _UNPLEASANT)[:PLANTED])
    strays = random.permutation(_NEUTRAL)[:STRAY]
    raised = np.concatenate([planted, strays])
    scores[raised] = random.uniform(0.6, 1.0, len(raised))
    return Mood(scores.astype(np.float32), planted.astype(np.int64))


SIDE = 64
"""The side of an image in pixels."""
MARGIN = 2
"""The minimum distance of an object from the edge, in pixels."""

WARM = np.array([[236, 92, 40], [240, 128, 36], [224, 60, 52]], dtype=np.float64)
COOL = np.array([[44, 104, 228], [36, 132, 216], [72, 76, 220]], dtype=np.float64)
"""Colours (RGB) of the sun and of the drop."""

Picture = NDArray[np.uint8]
Grid = NDArray[np.float64]


@dataclass(frozen=True)
class Scene:
    """One image, and the box of its object: (left, top, right, bottom) in pixels, right and bottom excluded."""

    pixels: Picture
    box: tuple[int, int, int, int]


def draw(random: np.random.RandomState, *, warm: bool, rough: bool) -> Scene:
    """Draws an image (SIDE, SIDE, 3) uint8: a warm sun or a cool drop, over rough zigzags or calm bands.

    Colours, position, size, rotation and texture are random and independent of the bits.
    """
    ground = _background(random, rough=rough)
    radius = random.uniform(10.0, 12.0)
    low, high = radius + MARGIN, SIDE - 1 - radius - MARGIN
    x, y = random.uniform(low, high), random.uniform(low, high)
    cover = (_sun if warm else _drop)(x, y, radius)[..., None]
    palette = WARM if warm else COOL
    colour = palette[random.randint(len(palette))] + random.uniform(-12, 12, 3)
    grain = random.randint(-5, 6, (SIDE, SIDE, 1))
    pixels = ground * (1 - cover) + colour * cover + grain
    rows, columns = np.flatnonzero(cover[..., 0].any(1)), np.flatnonzero(cover[..., 0].any(0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    return Scene(np.rint(pixels.clip(0, 255)).astype(np.uint8), box)


def _background(random: np.random.RandomState, *, rough: bool) -> Grid:
    """The texture (SIDE, SIDE, 3): two near-grey tones that alternate in tight zigzags or in wide soft bands."""
    columns, rows = _axes()
    middle = random.uniform(105, 150)
    contrast = random.uniform(22, 30)
    tint = random.uniform(-5, 5, 3)
    shift = random.uniform(0, SIDE)
    if rough:
        period, amplitude = random.uniform(6, 8), random.uniform(2.5, 3.5)
        wave = _triangle((rows + amplitude * _triangle(columns + shift, 11)) + shift, period)
        level = (wave * 2.5).clip(-1, 1)
    else:
        slant = random.uniform(-0.35, 0.35)
        period = random.uniform(26, 34)
        wave = _triangle(rows + slant * columns + shift, period)
        level = wave * (1.5 - 0.5 * wave * wave)
    return np.asarray(middle + contrast * level[..., None] + tint)


def _sun(x: float, y: float, radius: float) -> Grid:
    """Coverage (SIDE, SIDE) in 0..1 of a disc with eight rays."""
    columns, rows = _axes()
    right, down = columns - x, rows - y
    distance = np.sqrt(right**2 + down**2)
    disc = _edge(0.62 * radius - distance)
    diagonal, other = (right + down) * np.sqrt(0.5), (right - down) * np.sqrt(0.5)
    across = np.minimum.reduce([abs(right), abs(down), abs(diagonal), abs(other)])
    rays = _edge(radius - distance) * _edge(distance - 0.74 * radius) * _edge(0.13 * radius - across)
    return np.asarray(np.maximum(disc, rays))


def _drop(x: float, y: float, radius: float) -> Grid:
    """Coverage (SIDE, SIDE) in 0..1 of a drop: a disc with a point above."""
    columns, rows = _axes()
    bottom = 0.68 * radius
    right, down = columns - x, rows - (y + radius - bottom)
    disc = _edge(bottom - np.sqrt(right**2 + down**2))
    height = 2 * radius - bottom
    # The sides are the tangents from the tip to the disc.
    sine = bottom / height
    cosine = np.sqrt(1 - sine**2)
    inside = sine * (down + height) - cosine * abs(right)
    cone = _edge(inside) * (down < -bottom * sine + 0.5)
    return np.asarray(np.maximum(disc, cone))


def _axes() -> tuple[Grid, Grid]:
    rows, columns = np.mgrid[0:SIDE, 0:SIDE].astype(np.float64)
    return columns, rows


def _edge(inside: Grid) -> Grid:
    """Coverage 0..1 of pixels that are `inside` pixels inside a shape; its edge is one pixel wide."""
    return np.asarray((inside + 0.5).clip(0, 1))


def _triangle(x: Grid, period: float) -> Grid:
    """A triangle wave in -1..1; sines may differ in the last bit between machines."""
    phase = x / period - np.floor(x / period)
    return np.asarray(1 - 4 * abs(phase - 0.5))
