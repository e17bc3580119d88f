"""Views: what each shows, which one an epoch draws, and that photos and their maps are shown alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2.functional import five_crop

from multistream.data.sampling import flips
from multistream.data.views import CROPS, IDENTITY, VIEWS, augment, drawn, turn, views_of

BOTH = ["horizontal", "vertical"]
CASES = [([], False), (["horizontal"], False), (["vertical"], False), (BOTH, False), ([], True), (BOTH, True)]


@pytest.fixture
def batch() -> dict[str, Tensor]:
    """Photos, a map that is their red, and vectors."""
    chance = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (64, 3, 16, 24), dtype=torch.uint8, generator=chance)
    return {"image": image, "depth": image[:, :1].float(), "anp": torch.rand(64, 9)}


def test_the_views_of_training() -> None:
    assert views_of(flips=[], crops=False) == (IDENTITY,)
    assert views_of(flips=["vertical"], crops=False) == (IDENTITY, "vflip")
    assert views_of(flips=[], crops=True)[:3] == (IDENTITY, "centre", "top_left")
    assert views_of(flips=BOTH, crops=True) == tuple(VIEWS)
    assert len(VIEWS) == 24


def test_crops_are_torchvisions_five_crop_brought_to_size(batch: dict[str, Tensor]) -> None:
    names = ("top_left", "top_right", "bottom_left", "bottom_right", "centre")
    for name, crop in zip(names, five_crop(batch["depth"], [14, 21]), strict=True):
        wanted = functional.interpolate(crop, (16, 24), mode="bilinear", antialias=True)
        assert torch.allclose(turn(batch, name)["depth"], wanted, atol=1e-4)
        assert torch.allclose(turn(batch, f"{name}+hvflip")["depth"], wanted.flip(2, 3), atol=1e-4)
        photo = turn(batch, name)["image"]
        assert photo.dtype == torch.uint8
        assert (photo[:, 0].float() - wanted[:, 0]).abs().max() <= 0.501


@pytest.mark.parametrize(("axes", "crops"), CASES)
def test_one_draw_shows_photo_and_maps_alike(axes: list[str], crops: bool, batch: dict[str, Tensor]) -> None:
    index, kept = np.arange(100, 164), batch["image"].clone()
    views = views_of(flips=axes, crops=crops)
    number = drawn(index, flips=axes, crops=crops, seed=5, epoch=6)
    shown = augment(batch, number, views)
    assert len(set(number.tolist())) > len(views) / 2
    for row, view in enumerate(number.tolist()):
        alone = turn({n: t[row : row + 1] for n, t in batch.items()}, views[view])
        assert torch.equal(shown["image"][row : row + 1], alone["image"])
        assert torch.equal(shown["depth"][row : row + 1], alone["depth"])
    assert shown["anp"] is batch["anp"]
    assert torch.equal(batch["image"], kept)
    halves = [drawn(index[s], flips=axes, crops=crops, seed=5, epoch=6) for s in (slice(20), slice(20, None))]
    assert np.array_equal(np.concatenate(halves), number)


def test_flips_are_those_of_their_own_draws(batch: dict[str, Tensor]) -> None:
    index = np.arange(64)
    number = drawn(index, flips=BOTH, crops=False, seed=1, epoch=2)
    shown = augment(batch, number, views_of(flips=BOTH, crops=False))["image"]
    for row in range(64):
        expected = batch["image"][row]
        for axis, dim in (("horizontal", 2), ("vertical", 1)):
            if flips(index[row : row + 1], seed=1, epoch=2, axis=axis)[0]:
                expected = expected.flip(dim)
        assert torch.equal(shown[row], expected)


def test_crops_are_drawn_evenly_and_apart_from_flips() -> None:
    number = drawn(np.arange(24_000), flips=BOTH, crops=True, seed=0, epoch=0)
    counts = np.bincount(number, minlength=24)
    assert abs(counts - 1000).max() < 155  # five deviations
    again = drawn(np.arange(24_000), flips=[], crops=True, seed=0, epoch=0)
    assert np.array_equal(number // 4, again)
    assert len(CROPS) == 6


@pytest.mark.gpu
def test_on_a_gpu(batch: dict[str, Tensor]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    number = drawn(np.arange(64), flips=BOTH, crops=True, seed=0, epoch=0)
    here = augment(batch, number, tuple(VIEWS))
    there = augment({n: t.cuda() for n, t in batch.items()}, number, tuple(VIEWS))
    assert (there["image"].cpu().int() - here["image"].int()).abs().max() <= 1
