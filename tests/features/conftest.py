"""A small set of pictures, and a recipe of one frozen stream over it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image

from multistream.data.decoding import Decoder
from multistream.data.layouts.data_source import open_table
from multistream.data.loading import Photos
from multistream.features import Extracted, extract, tasks
from multistream.network.network import MultiStream
from multistream.recipe import Recipe
from multistream.runs.composition import compose
from multistream.runtime.device import Runtime

CLASSES = ("awe", "fear", "joy")
PER_CLASS = 20
SIZE = 32
ON_CPU = Runtime(torch.device("cpu"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads what another has cached."""
    monkeypatch.setenv("MULTISTREAM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Class folders of 60 pictures of 32 pixels, none like another, none like its mirror image."""
    chance = np.random.default_rng(0)
    for number in range(len(CLASSES) * PER_CLASS):
        name = CLASSES[number % len(CLASSES)]
        (tmp_path / "photos" / name).mkdir(parents=True, exist_ok=True)
        pixels = chance.integers(0, 256, (SIZE, SIZE, 3)) // (1 + number % len(CLASSES))
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "photos" / name / f"{number:02}.png")
    return tmp_path / "photos"


@pytest.fixture
def recipe(folder: Path) -> Recipe:
    """A random frozen `object`, in float32 on the CPU: 3 epochs of 6 steps."""
    return Recipe().updated(
        {
            "data": {"source": str(folder), "image_size": SIZE, "split": "80/10/10"},
            "network": {"streams": {"object": "object"}, "weights": {"object": "random"}, "freeze": ["streams"]},
            "training": {"epochs": 3, "batch_size": 8, "patience": 0},
            "runtime": {"device": "cpu", "precision": "fp32", "workers": 0},
        }
    )


def make_network(seed: int = 0) -> MultiStream:
    """A frozen random `object` for small pictures."""
    torch.manual_seed(seed)
    network = compose({"object": "object"}, classes=CLASSES, image_size=SIZE)
    return network.freeze("streams")


def make_photos(folder: Path) -> Photos:
    return Photos(open_table(str(folder)), Decoder(size=SIZE), on_bad_image="report")


Ask = Callable[..., tuple[Extracted, list[str], int]]


@pytest.fixture
def ask(folder: Path) -> Ask:
    """`ask(network)` extracts all photos: the features, what was said, and how many images ran through streams."""

    def asked(
        network: MultiStream,
        *,
        runtime: Runtime = ON_CPU,
        photos: Photos | None = None,
        cache: bool = True,
        **more: object,
    ) -> tuple[Extracted, list[str], int]:
        photos = photos or make_photos(folder)
        said: list[str] = []
        ran = 0
        stream = next(iter(network.branches.values())).stream

        def count(_module: object, given: tuple[torch.Tensor, ...], _maps: object) -> None:
            nonlocal ran
            ran += len(given[0])

        handle = stream.register_forward_hook(count)
        without_cache = mock.patch.object(tasks, "why_not_cached", return_value="the test compares with it")
        try:
            with nullcontext() if cache else without_cache:
                found = extract(
                    network,
                    photos,
                    np.arange(len(photos)),
                    runtime=runtime,
                    workers=0,
                    tick=lambda _: None,
                    say=said.append,
                    **more,  # type: ignore[arg-type]
                )
        finally:
            handle.remove()
        return found, said, ran

    return asked
