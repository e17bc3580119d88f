"""Ablation on folds: each photo counts once, and the complete network has the score of `train --folds`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from multistream import ablate
from multistream.errors import UsageError
from multistream.recipe import Recipe
from multistream.training.folds import train_folds


@pytest.fixture
def two_vectors(photos: Path, vectors: Path) -> Recipe:
    """A recipe of two streams with linear heads on the same vectors, with three folds."""
    return Recipe().updated(
        {
            "data": {"source": str(photos), "folds": 3},
            "network": {"streams": {"one": "anp", "two": "anp"}, "inputs": {"one": str(vectors), "two": str(vectors)}},
            "options": {"streams": {key: {"hidden": []} for key in ("one", "two")}},
            "training": {"epochs": 2, "batch_size": 16},
            "runtime": {"device": "cpu", "precision": "fp32", "workers": 0, "threads": 1},
        }
    )


def test_each_photo_is_tested_once_over_the_folds(two_vectors: Recipe, tmp_path: Path) -> None:
    found = ablate(two_vectors, axis="streams")
    assert len(found.whole.scores) == 3, "one training a fold"
    trained = train_folds(two_vectors, out=tmp_path / "run")
    assert found.n == trained.test.n == len(list(Path(two_vectors.data.source).rglob("*.png")))
    folds = [fold["accuracy"] for fold in trained.folds]
    early = next(row for row in found.rows if set(row.keep) == {"one", "two"} and row.fusion == "early")
    assert early.scores == pytest.approx(folds)
    assert early.score == pytest.approx(np.mean(folds))


def test_folds_replace_splits(two_vectors: Recipe) -> None:
    with pytest.raises(UsageError, match="3 folds, which are used as splits"):
        ablate(two_vectors, axis="streams", splits=2)
