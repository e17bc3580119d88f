"""Losses, optimizers, layer decay and the average of weights."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch
from scipy.stats import entropy
from torch.nn import functional

from multistream.errors import PluginError, UsageError
from multistream.recipe import Recipe
from multistream.registry import discover
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
    shares = functional.one_hot(LABELS).double().numpy()
    return make_loss(name, options, shares=shares, balanced=balanced, label_smoothing=smoothing)(LOGITS, LABELS)


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
        ("focal", {"gamma": -1.0}, r"options\.loss: .*gamma is -1.0; it must be at least 0"),
        ("focal", {"gamma": "x"}, "gamma: 'x' is a str. It must be a number"),
        ("distribution", {"winner": 1.5}, "winner is 1.5; it must be 0 to 1"),
        ("early", {}, "'early' is a fusion, not a loss"),
    ],
)
def test_what_no_loss_knows_is_refused(name: str, options: dict[str, float], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        loss(name, **options)


def test_a_setting_that_a_loss_has_no_use_for_is_refused() -> None:
    with pytest.raises(UsageError, match=r"training\.class_weights: the loss 'distribution' takes none"):
        loss("distribution", balanced=True)
    with pytest.raises(UsageError, match=r"training\.label_smoothing"):
        loss("distribution", smoothing=0.1)


def test_the_loss_of_distributions_is_scipys_divergence() -> None:
    votes = torch.rand(40, 3, generator=torch.Generator().manual_seed(1)).softmax(1).double()
    votes[0] = torch.tensor([0.5, 0.5, 0.0])  # a class without a vote adds nothing
    probabilities = LOGITS.double().softmax(1)
    expected = float(entropy(votes.numpy(), probabilities.numpy(), axis=1).mean())
    plain = make_loss("distribution", {}, shares=votes.numpy(), balanced=False, label_smoothing=0)
    assert float(plain(LOGITS, votes)) == pytest.approx(expected, rel=1e-5)
    joint = make_loss("distribution", {"winner": 0.25}, shares=votes.numpy(), balanced=False, label_smoothing=0)
    own = functional.cross_entropy(LOGITS, votes.argmax(1))
    assert float(joint(LOGITS, votes)) == pytest.approx(0.75 * expected + 0.25 * float(own), rel=1e-5)


def test_its_gradient_is_that_of_cross_entropy() -> None:
    votes = torch.rand(40, 3, generator=torch.Generator().manual_seed(1)).softmax(1)
    gradients = []
    for name in ("distribution", "cross_entropy"):
        logits = LOGITS.clone().requires_grad_()
        made = make_loss(name, {}, shares=votes.numpy(), balanced=False, label_smoothing=0)
        gradients.append(torch.autograd.grad(made(logits, votes), logits)[0])
    torch.testing.assert_close(*gradients)


def test_a_strangers_loss_trains(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by its entry point, pinned to its distribution, given its options; what it is not, is named."""
    (tmp_path / "strange_loss-1.0.dist-info").mkdir()
    (tmp_path / "strange_loss-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: strange-loss\nVersion: 1.0\n"
    )
    lines = "[multistream]\nsquared = strange_loss\nno_loss = strange_loss\n"
    (tmp_path / "strange_loss-1.0.dist-info" / "entry_points.txt").write_text(lines)
    (tmp_path / "strange_loss.py").write_text(STRANGE)
    monkeypatch.syspath_prepend(str(tmp_path))
    discover(refresh=True)
    try:
        settings = ["training.loss=squared", "options.loss.scale=2.0", "training.epochs=1"]
        run = train(recipe.with_settings(settings), out=tmp_path / "run")
        assert run.recipe.training.loss == "squared@strange-loss"
        with pytest.raises(PluginError, match=r"'no_loss' of strange-loss 1\.0 is broken: it is a dict"):
            train(recipe.with_settings(["training.loss=no_loss"]), out=tmp_path / "other")
        with pytest.raises(UsageError, match=r"training\.class_weights: the loss 'squared@strange-loss' takes none"):
            train(recipe.with_settings([*settings, "training.class_weights=balanced"]), out=tmp_path / "third")
    finally:
        monkeypatch.undo()
        discover(refresh=True)


STRANGE = """
import multistream


def squared(*, scale=1.0):
    import torch

    class Squared(multistream.Loss):
        def forward(self, logits, targets):
            shares = targets if targets.ndim == 2 else torch.nn.functional.one_hot(targets, logits.shape[1])
            return scale * (logits.softmax(1) - shares).square().sum(1).mean()

    return Squared()


@multistream.hookimpl
def losses():
    return {"squared": squared, "no_loss": lambda: {}}
"""


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
