"""A stranger's stream that reads a Map: it trains, predicts, and is flipped together with the photo."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from multistream.data.decoding import BadImage
from multistream.data.maps import read_map
from multistream.data.side_lookup import side_lookups
from multistream.errors import DataError
from multistream.inference.model import load
from multistream.inputs import Map
from multistream.recipe import Recipe
from multistream.runtime.device import Runtime
from multistream.training.feeds import PhotoFeed
from multistream.training.prepare import prepare
from multistream.training.train import train

DEPTHS = {"awe": 60000, "fear": 30000, "joy": 3000}


@pytest.fixture
def photos(tmp_path: Path, installed) -> tuple[Path, Path]:  # type: ignore[no-untyped-def]
    """Grey noise that tells nothing, and beside it depth maps that tell the class; bright on the left in both."""
    installed("depth")
    chance = np.random.default_rng(0)
    images, maps = tmp_path / "photos", tmp_path / "maps"
    for name, depth in DEPTHS.items():
        (images / name).mkdir(parents=True)
        (maps / name).mkdir(parents=True)
        for number in range(12):
            pixels = chance.integers(0, 60, (32, 32, 3)).astype(np.uint8)
            pixels[:, :16] += 120
            Image.fromarray(pixels).save(images / name / f"{number}.jpg")
            values = np.full((32, 32), depth, dtype=np.uint16)
            values[:, 16:] = 0
            Image.fromarray(values).save(maps / name / f"{number}.png")
    return images, maps


def recipe(images: Path, maps: Path) -> Recipe:
    return Recipe().updated(
        {
            "data": {"source": str(images), "image_size": 32, "split": "60/20/20"},
            "network": {
                "streams": {"object": "object", "depth": "depth"},
                "weights": {"object": "random"},
                "inputs": {"depth": str(maps)},
                "freeze": ["object"],
            },
            "training": {"epochs": 15, "batch_size": 8, "learning_rate": 0.01, "patience": 0},
            "runtime": {"device": "cpu", "precision": "fp32", "workers": 0},
        }
    )


def test_trains_and_predicts(photos: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MULTISTREAM_CACHE", str(tmp_path / "cache"))
    images, maps = photos
    run = train(recipe(images, maps), out=tmp_path / "run")
    assert run.parts["train"].accuracy > 0.9
    model = load(run.folder)
    paths = sorted(images.rglob("*.jpg"))
    found = list(model.predict(paths, inputs={"depth": maps}, device="cpu"))
    assert all(prediction.status == "ok" for prediction in found)
    right = sum(prediction.label == path.parent.name for prediction, path in zip(found, paths, strict=True))
    assert right >= 0.8 * len(paths)


def test_maps_may_be_arrays_by_id_or_in_order(tmp_path: Path) -> None:
    wanted = Map("depth", channels=1, size=8, read=read_map)
    array = np.random.default_rng(0).random((1, 8, 8), dtype=np.float32)
    Image.fromarray(array[0]).save(tmp_path / "b.tif")
    given = {
        "joy/a.jpg": array,
        "joy/b.jpg": str(tmp_path / "b.tif"),
        "joy/c.jpg": array[0],
        "joy/d.jpg": array * np.nan,
    }
    by_id = side_lookups({"depth": wanted}, {"depth": given}, resize="squash")["depth"]
    in_order = side_lookups({"depth": wanted}, {"depth": [array, None]}, resize="squash")["depth"]
    for found in (by_id(("joy/a.png",), 0), by_id(("x", "joy/b.jpg"), 1), in_order(("x",), 0)):
        assert np.array_equal(found, array)
    assert by_id(("joy/d.jpg",), 3) is by_id(("joy/e.jpg",), 4) is in_order(("x",), 1) is None
    with pytest.raises(DataError, match=r"the map of 'joy/c.jpg' has the shape \(8, 8\)\. It must be \(1, 8, 8\)"):
        by_id(("joy/c.jpg",), 2)


def test_no_message_shows_an_address_in_memory(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(BadImage, match=r"a\.png: damaged\.$"):
        read_map(tmp_path / "a.png")


def test_photo_and_map_are_flipped_alike(photos: tuple[Path, Path]) -> None:
    prepared = prepare(recipe(*photos), say=str)
    settings = prepared.recipe.training
    assert settings.flips == ("horizontal",)
    runtime = Runtime(torch.device("cpu"))
    labels = torch.from_numpy(prepared.table.labels)
    feed = PhotoFeed(prepared.photos, labels, settings, runtime, workers=0)
    seen = set()
    for batch in feed.training(prepared.parts.train, epoch=0):
        image, depth = batch.given["image"].float(), batch.given["depth"]
        photo_left = image[..., :16].mean((1, 2, 3)) > image[..., 16:].mean((1, 2, 3))
        map_left = depth[..., :16].mean((1, 2, 3)) > depth[..., 16:].mean((1, 2, 3))
        assert torch.equal(photo_left, map_left)
        seen |= set(photo_left.tolist())
    assert seen == {True, False}
