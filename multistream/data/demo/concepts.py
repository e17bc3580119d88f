"""The demo's vectors: scores of adjective-noun pairs, with high scores planted for pairs of one mood."""

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
