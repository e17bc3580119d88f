"""Model: what multistream.load returns."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np

import multistream as ms
from multistream.recipe import Recipe
from multistream.runs.model_file import save_model


def test_a_model_pickles(photos: Path, recipe: Recipe, tmp_path: Path) -> None:
    network = ms.compose(
        {"object": "object:mobilenetv2", "mini": "object:mobilenetv2"},
        classes=("awe", "fear", "joy"),
        temporal="bigru+att",
        image_size=32,
    )
    network.mark_trained()
    save_model(network, tmp_path / "model.safetensors", recipe=recipe)
    model = ms.load(tmp_path / "model.safetensors")
    again = pickle.loads(pickle.dumps(model))
    assert (again.classes, again.recipe, again.sha256) == (model.classes, model.recipe, model.sha256)
    photo = photos / "awe" / "0.png"
    (one,), (other,) = model.predict([photo]), again.predict([photo])
    assert np.array_equal(list(one.probabilities.values()), list(other.probabilities.values()))
    assert not again.network.truncate({"object": 2}).trained  # a copy makes new temporals and fusions too
