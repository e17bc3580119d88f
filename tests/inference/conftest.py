"""Runs for the tests of prediction: photos with vectors, of which some are missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from multistream.recipe import Recipe
from multistream.training.train import train


def settings(photos: Path, vectors: Path, **data: object) -> Recipe:
    return Recipe().updated(
        {
            "data": {"source": str(photos), "image_size": 32, "split": "50/10/40", **data},
            "network": {
                "streams": {"object": "object", "anp": "anp"},
                "weights": {"object": "random"},
                "inputs": {"anp": str(vectors)},
                "freeze": ["streams"],
            },
            "options": {"streams": {"anp": {"hidden": [8]}}},
            "training": {"epochs": 3, "batch_size": 8, "patience": 0},
            "runtime": {"device": "cpu", "precision": "fp32", "workers": 0},
        }
    )


@pytest.fixture(scope="session")
def both(photos: Path, vectors: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a photo stream and a vector stream, fused early."""
    return train(settings(photos, vectors), out=tmp_path_factory.mktemp("runs") / "both").folder


@pytest.fixture(scope="session")
def some_vectors(vectors: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The vectors of every second photo."""
    held = np.load(vectors)
    path = tmp_path_factory.mktemp("some") / "anp.npz"
    np.savez(path, ids=held["ids"][::2], features=held["features"][::2], vocabulary=held["vocabulary"])
    return path
