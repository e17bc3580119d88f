"""Training, evaluating and ablating use the cache by themselves, and on it are what they are on photos."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from multistream import evaluate, load
from multistream.console import Console
from multistream.data.decoding import Decoder
from multistream.network.branch import Branch
from multistream.network.network import MultiStream
from multistream.recipe import Recipe
from multistream.training.train import train


def weights_of(run: Path) -> dict[str, Tensor]:
    return load(run).network.state_dict()


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """The photos that are decoded."""
    read: list[Path] = []
    plain = Decoder.decode
    monkeypatch.setattr(Decoder, "decode", lambda self, data, path: read.append(path) or plain(self, data, path=path))
    return read


@pytest.mark.parametrize(
    ("flips", "crops"),
    [
        pytest.param([], False, marks=pytest.mark.slow),
        pytest.param(["horizontal"], False, marks=pytest.mark.slow),
        pytest.param(["vertical"], False, marks=pytest.mark.slow),
        (["horizontal", "vertical"], False),
        ([], True),
    ],
)
def test_training_on_the_cache_is_training_on_photos(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flips: list[str], crops: bool, decoded: list[Path]
) -> None:
    """Check B6: each epoch shows each image in the view that photos would be turned to, and what is drawn matters."""
    # Adam turns a gradient that is nearly zero into a whole step of its sign: there the rounding of a group is seen.
    recipe = recipe.updated({"training": {"flips": flips, "crops": crops, "optimizer": "sgd", "learning_rate": 0.01}})
    cached = weights_of(train(recipe, out=tmp_path / "cached").folder)
    assert len(decoded) == 60
    with monkeypatch.context() as patch:
        patch.setattr(MultiStream, "is_cacheable", False)
        on_photos = weights_of(train(recipe, out=tmp_path / "again").folder)
    assert len(decoded) > 60 + 3 * 48
    unturned = recipe.updated({"training": {"flips": [], "crops": False}})
    plain = weights_of(train(unturned, out=tmp_path / "plain").folder)
    for name, tensor in cached.items():
        assert torch.allclose(tensor, on_photos[name], atol=1e-5), name
    if flips or crops:
        assert max((t - plain[n]).abs().max() for n, t in cached.items() if t.is_floating_point()) > 1e-4


def test_a_second_training_with_flips_decodes_nothing(recipe: Recipe, tmp_path: Path, decoded: list[Path]) -> None:
    recipe = recipe.updated({"training": {"flips": ["horizontal"]}})
    one = weights_of(train(recipe, out=tmp_path / "one").folder)
    decoded.clear()
    two = weights_of(train(recipe, out=tmp_path / "two").folder)
    assert decoded == []
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def test_evaluate_reads_what_training_has_computed(
    recipe: Recipe, tmp_path: Path, decoded: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(recipe, out=tmp_path / "run")
    decoded.clear()
    found = evaluate(run.folder, device="cpu", precision="fp32", console=Console(quiet=False))
    assert decoded == []
    assert "object loaded from cache, 6 images" in capsys.readouterr().err
    assert found.metrics.accuracy == run.parts["test"].accuracy
    assert found.metrics.nll == pytest.approx(run.parts["test"].nll, abs=1e-6)


def test_evaluate_says_why_a_stream_that_was_trained_runs(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = recipe.updated({"network": {"freeze": ["none"]}, "training": {"epochs": 1}})
    run = train(recipe, out=tmp_path / "run")
    evaluate(run.folder, device="cpu", precision="fp32", console=Console(quiet=False))
    assert "object is not cached: it is not frozen" in capsys.readouterr().err


def test_ablate_reads_what_training_has_computed(recipe: Recipe, tmp_path: Path, decoded: list[Path]) -> None:
    from multistream import ablate

    run = train(recipe, out=tmp_path / "run").folder
    decoded.clear()
    assert len(ablate(run, axis="depth").rows) == 5
    assert decoded == []


def test_ablate_trains_on_cached_views_what_train_does(recipe: Recipe, tmp_path: Path, decoded: list[Path]) -> None:
    """Two rows with views drawn again every epoch: the whole is the run's own training, up to the order of its sums."""
    from multistream import ablate

    recipe = recipe.updated({"training": {"flips": ["horizontal"], "crops": True, "optimizer": "sgd"}})
    run = train(recipe, out=tmp_path / "run")
    decoded.clear()
    found = ablate(run.folder, axis="depth", seeds=2, verify=True)
    assert decoded == []
    assert found.trained_on == "pooled features"
    assert found.rows[-1].scores[0] == run.parts["test"].accuracy
    assert found.verified is not None
    assert found.verified.largest_difference < 1e-5
    assert found.verified.difference_to_train < 1e-5
    assert ablate(run.folder, axis="depth", splits=2).n > found.n


@pytest.mark.parametrize("crops", [False, True])
def test_a_frozen_stream_runs_once_beside_one_that_trains(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crops: bool
) -> None:
    """Its pooled features join the batches, in the view that the other stream is shown: the same weights as without.

    Of the stream that trains only the last stage does: batch norms that train turn rounding into more.
    """
    streams = {"kept": "object", "own": "object:mobilenetv1"}
    network = {"streams": streams, "weights": dict.fromkeys(streams, "random"), "freeze": ["kept", "own:4"]}
    training = {"flips": ["horizontal"], "crops": crops, "optimizer": "sgd", "learning_rate": 0.001}
    recipe = recipe.updated({"network": network, "training": training})
    ran: list[bool] = []
    plain = Branch.pool

    def counted(self: Branch, x: Tensor) -> dict[str, Tensor]:
        ran.append(self.stream.is_frozen)
        return plain(self, x)

    monkeypatch.setattr(Branch, "pool", counted)
    once = weights_of(train(recipe, out=tmp_path / "once").folder)
    views, steps = 12 if crops else 2, 3 * (48 // 8 + 1)
    assert sum(ran) <= 2 + 2 * views + 1  # groups of 32: train and validation, 48 in each view more, and the test split
    assert len(ran) - sum(ran) >= steps
    ran.clear()
    monkeypatch.setattr(Branch, "is_cacheable", False)
    every = weights_of(train(recipe, out=tmp_path / "every").folder)
    assert sum(ran) >= steps
    for name, tensor in once.items():
        assert torch.allclose(tensor, every[name], atol=1e-4), name
