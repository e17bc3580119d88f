"""Augmentation: a function of seed, epoch and image; labels are shared as the pictures are."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch

from multistream.errors import UsageError
from multistream.recipe import Recipe
from multistream.training.feeds import apply_policy, make_policy, mix
from multistream.training.stop import Interrupted
from multistream.training.train import train
from tests.training.test_resume import interrupted_after
from tests.training.test_train import equal

PHOTOS = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
INDICES = torch.arange(6) + 40


@pytest.mark.parametrize("name", ["randaugment", "trivial", "augmix"])
def test_what_a_photo_becomes_follows_from_seed_epoch_and_index(name: str) -> None:
    policy = make_policy(name)
    assert policy is not None
    whole = apply_policy(policy, PHOTOS, INDICES, seed=3, epoch=1)
    parts = [apply_policy(policy, PHOTOS[a:b], INDICES[a:b], seed=3, epoch=1) for a, b in ((4, 6), (0, 4))]
    assert torch.equal(torch.cat(parts[::-1]), whole)
    assert not torch.equal(apply_policy(policy, PHOTOS, INDICES, seed=3, epoch=2), whole)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.5, 0.0), (0.0, 1.0)])
def test_labels_have_the_share_that_the_picture_has(mixup: float, cutmix: float) -> None:
    black_and_white = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 40, 40)
    labels = torch.tensor([0, 1])
    given = {"image": black_and_white, "anp": torch.tensor([[0.0], [1.0]])}
    for index in range(8):
        mixed, shares = mix(
            given, labels, torch.tensor([index, 0]), classes=2, mixup=mixup, cutmix=cutmix, seed=0, epoch=0
        )
        white = mixed["image"].float().mean((1, 2, 3)) / 255
        torch.testing.assert_close(shares.sum(1), torch.ones(2))
        torch.testing.assert_close(white, shares[:, 1], atol=0.06, rtol=0)  # a cut ends at whole pixels
        torch.testing.assert_close(mixed["anp"][:, 0], shares[:, 1], atol=1e-6, rtol=0)


def test_an_augmented_training_repeats_and_resumes(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ["network.freeze=['none']", "training.epochs=2", "training.checkpoint_minutes=0"]
    settings += ["training.augment=randaugment", "training.mixup=0.2", "training.cutmix=1.0"]
    recipe = recipe.with_settings(settings)
    whole = train(recipe, out=tmp_path / "whole").folder
    with monkeypatch.context() as patch:
        interrupted_after(patch, 4)
        with contextlib.suppress(Interrupted):
            train(recipe, out=tmp_path / "halved")
    assert equal(whole, train(Recipe(), resume=tmp_path / "halved").folder)


@pytest.mark.parametrize("setting", ["training.augment=trivial", "training.mixup=0.2", "training.cutmix=1.0"])
def test_a_frozen_stream_would_not_see_it(recipe: Recipe, tmp_path: Path, setting: str) -> None:
    with pytest.raises(UsageError, match="object is frozen"):
        train(recipe.with_settings([setting]), out=tmp_path / "run")
