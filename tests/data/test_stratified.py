"""Stratified draws are scikit-learn's, row by row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedKFold, train_test_split

from multistream.data.folds import fold_numbers, two_parts

SIZES = st.lists(st.integers(2, 40), min_size=2, max_size=6)


def shuffled_labels(sizes: list[int], seed: int) -> np.ndarray:
    """Labels with gaps between them, in any order."""
    return np.random.default_rng(seed).permutation(3 * np.repeat(np.arange(len(sizes)), sizes))


@settings(max_examples=200, deadline=None)
@given(sizes=SIZES, share=st.floats(0.1, 0.9), seed=st.integers(0, 9), plain=st.booleans())
def test_two_parts(sizes: list[int], share: float, seed: int, *, plain: bool) -> None:
    labels = shuffled_labels(sizes, seed)
    rows = np.arange(len(labels)) + 1000
    first = min(max(len(sizes), round(share * len(rows))), len(rows) - len(sizes))
    wanted = train_test_split(rows, train_size=first, random_state=seed, stratify=None if plain else labels)
    drawn = two_parts(rows, None if plain else labels, first=first, seed=seed)
    for part, own in zip(drawn, wanted, strict=True):
        np.testing.assert_array_equal(part, own)


@pytest.mark.filterwarnings("ignore:The least populated class")
@settings(max_examples=60, deadline=None)
@given(sizes=SIZES, folds=st.integers(2, 7), seed=st.integers(0, 9))
def test_folds(sizes: list[int], folds: int, seed: int) -> None:
    labels = shuffled_labels([*sizes, 8], seed)
    pieces = StratifiedKFold(folds, shuffle=True, random_state=seed).split(labels, labels)
    numbers = fold_numbers(labels, folds=folds, seed=seed)
    for fold, (_, piece) in enumerate(pieces):
        np.testing.assert_array_equal(np.flatnonzero(numbers == fold), piece)
