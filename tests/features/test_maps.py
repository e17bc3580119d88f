"""Streams that read maps: the map's bytes are in the key, not the photo's, and so is the function that reads them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from multistream.data.maps import read_map
from multistream.data.side_inputs import MapReader
from multistream.features.fill_cache import extract
from multistream.features.key import why_not_cached
from multistream.features.subject import ExtractionRequest, subject_of
from multistream.inputs import Map
from multistream.recipe import Recipe

PHOTOS = 60


@pytest.fixture
def depth(folder: Path, tmp_path: Path, installed, recipe: Recipe) -> Recipe:  # type: ignore[no-untyped-def]
    """A stranger's frozen `depth`, with a map for every photo."""
    installed("depth")
    chance = np.random.default_rng(1)
    for path in folder.rglob("*.png"):
        target = tmp_path / "maps" / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(chance.integers(0, 2**16, (32, 32)).astype(np.uint16)).save(target)
    return recipe.updated(
        {"network": {"streams": {"depth": "depth"}, "weights": {}, "inputs": {"depth": str(tmp_path / "maps")}}}
    )


def computed(recipe: Recipe) -> int:
    return extract(recipe).streams[0].computed


def test_a_changed_map_alone_is_computed_anew(depth: Recipe, folder: Path, tmp_path: Path) -> None:
    assert (computed(depth), computed(depth)) == (PHOTOS, 0)
    Image.fromarray(np.zeros((32, 32), np.uint16)).save(tmp_path / "maps" / "awe" / "00.png")
    assert (computed(depth), computed(depth)) == (1, 0)
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(folder / "awe" / "00.png")
    assert computed(depth) == 0, "no stream here looks at photos"


def test_photo_and_map_beside_each_other(depth: Recipe, folder: Path) -> None:
    both = depth.updated(
        {"network": {"streams": {"object": "object", "depth": "depth"}, "weights": {"object": "random"}}}
    )
    extract(both, views=("identity", "hflip"), sample=0)
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(folder / "awe" / "00.png")
    found = extract(both, views=("identity", "hflip"), sample=0)
    assert [(row.stream, row.computed) for row in found.streams] == [
        ("object", 1),
        ("object", 1),
        ("depth", 0),
        ("depth", 0),
    ]


@pytest.mark.parametrize("read", [lambda path: read_map(path), partial(read_map)])
def test_a_reader_whose_changes_cannot_be_noticed_is_not_cached(depth: Recipe, read: object) -> None:
    subject = subject_of(depth, ExtractionRequest(device="cpu", precision="fp32"), say=lambda _: None)
    branch, reader = subject.pictures["depth"], subject.photos.maps["depth"]
    assert why_not_cached(branch, subject.photos) == ""
    assert isinstance(reader, MapReader)
    assert isinstance(branch.stream.input, Map)
    branch.stream.input = replace(branch.stream.input, read=read)  # type: ignore[arg-type]
    subject.photos.maps["depth"] = replace(reader, wanted=branch.stream.input)
    assert "whose changes cannot be detected" in why_not_cached(branch, subject.photos)
    subject.photos.maps["depth"] = lambda index: torch.zeros(1, 32, 32).numpy() * index
    assert "from a function, not from files" in why_not_cached(branch, subject.photos)
