"""The feature cache over real photos, with real weights: checks B5 and B6, and any network as a vector stream."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from multistream.features.fill_cache import extract
from multistream.inference.model import load
from multistream.network.network import MultiStream
from multistream.recipe import Recipe
from multistream.training.train import train

SHARED = Path(__file__).parents[3] / "shared"
EMOTION6, OBJECT = SHARED / "data" / "emotion6", SHARED / "weights" / "mobilenet_v2_imagenet.safetensors"
pytestmark = [
    pytest.mark.skipif(not (EMOTION6.is_dir() and OBJECT.is_file()), reason="../shared has no photos or weights"),
    pytest.mark.slow,
]
A_CLASS = 20


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """120 of the photos, MobileNetV2 frozen, two epochs."""
    monkeypatch.setenv("MULTISTREAM_CACHE", str(tmp_path / "cache"))
    for folder in sorted((EMOTION6 / "images").iterdir()):
        (tmp_path / "photos" / folder.name).mkdir(parents=True)
        for path in sorted(folder.iterdir())[:A_CLASS]:
            (tmp_path / "photos" / folder.name / path.name).write_bytes(path.read_bytes())
    return Recipe().updated(
        {
            "data": {"source": str(tmp_path / "photos"), "split": "70/15/15"},
            "network": {"streams": {"object": "object"}, "weights": {"object": str(OBJECT)}, "freeze": ["streams"]},
            "training": {"epochs": 2, "batch_size": 16, "patience": 0},
            "runtime": {"device": "cpu", "precision": "fp32"},
        }
    )


@pytest.mark.parametrize("flips", [[], ["horizontal"]])
def test_training_on_the_cache_is_training_on_photos(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flips: list[str]
) -> None:
    """Check B6."""
    recipe = recipe.updated({"training": {"flips": flips}})
    cached = load(train(recipe, out=tmp_path / "cached").folder).network.state_dict()
    monkeypatch.setattr(MultiStream, "is_cacheable", False)
    on_photos = load(train(recipe, out=tmp_path / "photos-run").folder).network.state_dict()
    for name, tensor in cached.items():
        assert torch.allclose(tensor, on_photos[name], atol=1e-5), name


def test_the_cache_holds_bit_for_bit_in_both_precisions(recipe: Recipe) -> None:
    """Check B5, over all photos, at other places in other groups than before."""
    for precision in ("fp32", "bf16"):
        extract(recipe, views=("identity", "hflip"), precision=precision)
        found = extract(recipe, views=("identity", "hflip"), precision=precision, sample=50).verified
        assert found is not None
        assert found.images == 50


def test_imagenets_features_as_vectors_beat_chance(recipe: Recipe, tmp_path: Path) -> None:
    done = extract(recipe, out=tmp_path / "object.npz", stages=("block5",))
    with np.load(tmp_path / "object.npz") as arrays:
        assert arrays["features"].shape == (6 * A_CLASS, done.width) == (120, 320)
    vectors = {"streams": {"anp": "anp"}, "weights": {}, "freeze": [], "inputs": {"anp": str(tmp_path / "object.npz")}}
    run = train(recipe.updated({"network": vectors, "training": {"epochs": 20}}), out=tmp_path / "run")
    assert run.parts["train"].accuracy > 0.5
