"""Losses, optimizers, layer decay and the average of weights."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from multistream.errors import UsageError
from multistream.recipe import Recipe
from multistream.training.losses import make_loss
from multistream.training.optimizers import make_optimizer
from multistream.training.prepare import prepare
from multistream.training.stop import Interrupted
from multistream.training.train import train
from tests.training.test_resume import interrupted_after
from tests.training.test_train import equal

LOGITS = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0] * 30 + [1] * 8 + [2] * 2)


def loss(name: str, *, balanced: bool = False, smoothing: float = 0.0, **options: float) -> torch.Tensor:
    made = make_loss(name, options, labels=LABELS, classes=3, balanced=balanced, label_smoothing=smoothing)
    return made(LOGITS, LABELS)


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_focal_without_focus_is_cross_entropy(balanced: bool, smoothing: float) -> None:
    plain = loss("cross_entropy", balanced=balanced, smoothing=smoothing)
    torch.testing.assert_close(loss("focal", balanced=balanced, smoothing=smoothing, gamma=0.0), plain)


def test_focal_follows_its_equation() -> None:
    p = LOGITS.softmax(1).gather(1, LABELS[:, None]).squeeze(1)
    torch.testing.assert_close(loss("focal"), (-((1 - p) ** 2) * p.log()).mean())


def test_logits_are_adjusted_by_the_training_priors() -> None:
    prior = torch.tensor([30.0, 8.0, 2.0]) / 40
    torch.testing.assert_close(
        loss("logit_adjusted", tau=0.5), functional.cross_entropy(LOGITS + 0.5 * prior.log(), LABELS)
    )
    # Ren et al. 2020, equation 4: exp(logit) weighted by the class counts
    weighted = torch.tensor([30.0, 8.0, 2.0]) * LOGITS.exp()
    ren = -(weighted.gather(1, LABELS[:, None]).squeeze(1) / weighted.sum(1)).log().mean()
    torch.testing.assert_close(loss("balanced_softmax"), ren)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("fokal", {}, "Did you mean 'focal'"),
        ("focal", {"gama": 1.0}, "Did you mean 'gamma'"),
        ("focal", {"gamma": -1.0}, "is negative"),
        ("focal", {"gamma": "x"}, "is no number"),
    ],
)
def test_what_no_loss_knows_is_refused(name: str, options: dict[str, float], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        loss(name, **options)


def test_stages_further_down_have_smaller_rates(recipe: Recipe) -> None:
    prepared = prepare(recipe.with_settings(["network.freeze=['object:2']", "training.layer_decay=0.5"]), say=str)
    optimizer = make_optimizer(prepared.network, prepared.recipe.training, prepared.runtime)
    rate_of = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    rates = {
        n.split(".")[4]: rate_of[id(p)]
        for n, p in prepared.network.named_parameters()
        if id(p) in rate_of and ".stages." in n
    }
    assert rates == pytest.approx({"block3": 2.5e-4, "block4": 5e-4, "block5": 1e-3})
    heads = {rate_of[id(p)] for n, p in prepared.network.named_parameters() if n.startswith("fusion.")}
    assert heads == {1e-3}


def test_an_optimizer_of_timm_by_name(recipe: Recipe, tmp_path: Path) -> None:
    settings = ["training.optimizer=timm:lamb", "training.epochs=2"]
    assert train(recipe.with_settings(settings), out=tmp_path / "run").epochs == 2
    assert train(Recipe(), resume=tmp_path / "run").epochs == 2
    with pytest.raises(UsageError, match=r"timm has no optimizer 'lambda'.*Did you mean"):
        train(recipe.with_settings(["training.optimizer=timm:lambda"]), out=tmp_path / "other")


def test_the_average_of_weights_is_kept_and_resumes(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe.with_settings(["training.ema=0.9", "training.checkpoint_minutes=0", "training.epochs=2"])
    whole = train(recipe, out=tmp_path / "whole").folder
    plain = train(recipe.with_settings(["training.ema=0"]), out=tmp_path / "plain").folder
    assert not equal(whole, plain)
    for steps in (8, 13):  # between steps, and in the validation, where the averages are in the weights' place
        with monkeypatch.context() as patch:
            interrupted_after(patch, steps)
            with contextlib.suppress(Interrupted):
                train(recipe, out=tmp_path / f"halved{steps}")
        assert equal(whole, train(Recipe(), resume=tmp_path / f"halved{steps}").folder)
