"""Training from a recipe: what it leaves, what it promises."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from multistream.errors import DataError, DivergedError, UsageError, WeightsError
from multistream.inference.model import load
from multistream.recipe import Recipe
from multistream.runs.predictions_file import read_predictions
from multistream.training.train import train


def weights_of(run: Path) -> dict[str, Tensor]:
    return load(run).network.state_dict()


def equal(one: Path, other: Path) -> bool:
    a, b = weights_of(one), weights_of(other)
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_folder_holds_what_it_must(recipe: Recipe, tmp_path: Path) -> None:
    run = train(recipe, out=tmp_path / "run")
    for name in ("recipe.toml", "metrics.jsonl", "summary.json", "model.safetensors", "predictions.csv", "split.csv"):
        assert (run.folder / name).is_file(), name
    summary = json.loads((run.folder / "summary.json").read_text())
    assert summary["test"]["n"] == run.parts["test"].n == 6
    assert summary["parameters"]["total"] > summary["parameters"]["trainable"] > 0
    assert len((run.folder / "metrics.jsonl").read_text().splitlines()) == 3


def test_its_recipe_repeats_the_run_bit_by_bit(recipe: Recipe, tmp_path: Path) -> None:
    first = train(recipe, out=tmp_path / "one").folder
    again = train(Recipe.load(first), out=tmp_path / "two").folder
    assert equal(first, again)
    other = train(recipe.with_settings(["training.seed=1"]), out=tmp_path / "three").folder
    assert not equal(first, other)


def test_pictures_that_can_be_learnt_are_learnt(recipe: Recipe, tmp_path: Path) -> None:
    run = train(recipe.with_settings(["training.epochs=12"]), out=tmp_path / "run")
    assert run.parts["train"].accuracy > 0.9


@pytest.mark.parametrize("freeze", [["streams"], ["none"], ["object:2"]])
def test_frozen_stages_are_bit_identical_after_training(recipe: Recipe, tmp_path: Path, freeze: list[str]) -> None:
    recipe = recipe.updated({"network": {"freeze": freeze}, "training": {"epochs": 1}})
    trained = weights_of(train(recipe, out=tmp_path / "run").folder)
    untouched = weights_of(train(recipe.updated({"network": {"freeze": ["streams"]}}), out=tmp_path / "frozen").folder)
    changed = {
        name.split(".")[4] for name in trained if ".stages." in name and not torch.equal(trained[name], untouched[name])
    }
    expected = {
        "streams": set(),
        "none": {f"block{i}" for i in range(1, 6)},
        "object:2": {"block3", "block4", "block5"},
    }
    assert changed == expected[freeze[0]]


def test_training_on_the_cache_equals_training_on_photos(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check B6: PooledFeed against PhotoFeed with the streams frozen."""
    from multistream.network.network import MultiStream

    cached = weights_of(train(recipe, out=tmp_path / "cached").folder)
    with monkeypatch.context() as patch:
        patch.setattr(MultiStream, "is_cacheable", False)
        on_photos = weights_of(train(recipe, out=tmp_path / "photos").folder)
    for name, tensor in cached.items():
        assert torch.allclose(tensor, on_photos[name], atol=1e-5), name


def test_a_second_training_reads_the_cache(recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from multistream.console import Console

    first = train(recipe, out=tmp_path / "one").folder
    second = train(recipe, out=tmp_path / "two", console=Console(quiet=False)).folder
    assert "object loaded from cache, 60 images" in capsys.readouterr().err
    assert equal(first, second)


def test_late_trains_every_stream_as_if_alone(recipe: Recipe, vectors: Path) -> None:
    """The loss of late is the sum of the streams' own: from the same start, the same weights."""
    from multistream.training.prepare import prepare

    both = recipe.updated(
        {
            "network": {
                "streams": {"object": "object", "anp": "anp"},
                "fusion": "late",
                "inputs": {"anp": str(vectors)},
            }
        }
    )
    fused = prepare(both, say=str).network
    alone = prepare(recipe, say=str).network
    alone.load_state_dict({n: t for n, t in fused.state_dict().items() if n in alone.state_dict()})
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    batch, labels = {"image": images, "anp": torch.rand(8, 6)}, torch.arange(8) % 3
    criterion = torch.nn.CrossEntropyLoss()
    for network in (fused, alone):
        optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            output = network.fuse(network.pool(batch))
            network.fusion.loss(output, labels, criterion).backward()
            optimizer.step()
    for name, tensor in alone.state_dict().items():
        assert torch.allclose(tensor, fused.state_dict()[name], atol=1e-6), name


def test_late_over_runs_is_the_mean_of_their_predictions(recipe: Recipe, vectors: Path, tmp_path: Path) -> None:
    one = train(recipe, out=tmp_path / "object").folder
    words = recipe.updated(
        {"network": {"streams": {"anp": "anp"}, "weights": {}, "inputs": {"anp": str(vectors)}, "freeze": []}}
    )
    two = train(words, out=tmp_path / "anp").folder
    fused = recipe.updated(
        {
            "network": {
                "streams": {"object": str(one), "anp": str(two)},
                "weights": {},
                "inputs": {"anp": str(vectors)},
                "fusion": "late",
                "freeze": [],  # branches that come trained stay as they are
            }
        }
    )
    late = train(fused, out=tmp_path / "late").folder
    mean = np.mean([read_predictions(run / "predictions.csv").probabilities for run in (one, two)], axis=0)
    assert np.abs(read_predictions(late / "predictions.csv").probabilities - mean).max() < 1e-6


def test_early_over_runs_leaves_the_branches_as_they_were(recipe: Recipe, vectors: Path, tmp_path: Path) -> None:
    one = train(recipe, out=tmp_path / "object").folder
    fused = recipe.updated(
        {
            "network": {
                "streams": {"object": str(one), "anp": "anp"},
                "weights": {},
                "inputs": {"anp": str(vectors)},
                "freeze": ["branches"],
            }
        }
    )
    early = weights_of(train(fused, out=tmp_path / "early").folder)
    before = {name: t for name, t in weights_of(one).items() if name.startswith("branches.")}
    assert before
    assert all(torch.equal(early[name], tensor) for name, tensor in before.items())


def test_a_branch_that_saw_the_test_images_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    one = train(recipe, out=tmp_path / "one").folder
    other_split = recipe.updated(
        {"data": {"split_seed": 5}, "network": {"streams": {"object": str(one)}, "weights": {}}}
    )
    with pytest.raises(DataError, match=r"of 6 test images were in the training split") as error:
        train(other_split, out=tmp_path / "two")
    assert error.value.exit_code == 65


def test_weights_of_a_run_that_saw_the_test_images_are_refused(recipe: Recipe, tmp_path: Path) -> None:
    one = train(recipe.with_settings(["network.freeze=['none']", "training.epochs=1"]), out=tmp_path / "one").folder
    tuned = recipe.updated({"network": {"weights": {"object": str(one)}}})
    assert train(tuned, out=tmp_path / "same").parts["test"].n == 6
    with pytest.raises(DataError, match=r"weights\.object: \d of 6 test images were in the training split"):
        train(tuned.with_settings(["data.split_seed=5"]), out=tmp_path / "two")


def test_a_branch_without_its_split_is_told(recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = train(recipe, out=tmp_path / "one").folder
    (one / "split.csv").unlink()
    other = recipe.updated({"network": {"streams": {"object": str(one)}, "weights": {}}})
    train(other, out=tmp_path / "two")
    assert "test images used in its training cannot be detected" in capsys.readouterr().err


def test_evaluate_leaves_out_what_a_branch_has_learnt_from(recipe: Recipe, photos: Path, tmp_path: Path) -> None:
    """A run whose own split is gone, over a branch whose run has its own."""
    from multistream import evaluate

    one = train(recipe, out=tmp_path / "one").folder
    late = recipe.updated({"network": {"streams": {"object": str(one)}, "weights": {}, "freeze": ["branches"]}})
    two = train(late, out=tmp_path / "two").folder
    (two / "split.csv").unlink()
    found = evaluate(two, data=str(photos), device="cpu")
    assert found.left_out == {"in the run's training": 54}


def test_the_same_photo_in_two_parts(
    recipe: Recipe, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Told, with both paths; an error under data.strict, before a folder is made."""
    copied = tmp_path / "photos"
    shutil.copytree(photos, copied)
    for number in range(1, 20):
        shutil.copy(copied / "awe" / "0.png", copied / "awe" / f"{number}.png")
    recipe = recipe.updated({"data": {"source": str(copied)}, "training": {"epochs": 1}})
    train(recipe, out=tmp_path / "run")
    assert "images are in two splits, for example awe/0.png" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"images are in two splits.*data\.strict") as error:
        train(recipe.with_settings(["data.strict=true"]), out=tmp_path / "strict")
    assert error.value.exit_code == 65
    assert not (tmp_path / "strict").exists()


@pytest.mark.parametrize(("policy", "told"), [("report", True), ("skip", False), ("error", None)])
def test_damaged_photos_by_policy(
    recipe: Recipe,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    policy: str,
    told: bool | None,
) -> None:
    copied = tmp_path / "photos"
    shutil.copytree(photos, copied)
    (copied / "awe" / "3.png").write_bytes(b"not a picture")
    recipe = recipe.updated({"data": {"source": str(copied), "on_bad_image": policy}, "training": {"epochs": 1}})
    for freeze in ("none", "streams"):  # photo by photo, and over the cache
        recipe = recipe.updated({"network": {"freeze": [freeze]}})
        if told is None:
            with pytest.raises(DataError, match=r"3\.png: not an image") as error:
                train(recipe, out=tmp_path / freeze)
            assert error.value.exit_code == 65
            continue
        run = train(recipe, out=tmp_path / freeze)
        assert sum(part.n for part in run.parts.values()) == 59
        assert ("awe/3.png: not an image; skipped" in capsys.readouterr().err) == told


def test_pretrained_streams_are_never_silently_random(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="--weights object=FILE") as error:
        train(recipe.updated({"network": {"weights": {}}}), out=tmp_path / "run")
    assert error.value.exit_code == 69
    assert not (tmp_path / "run").exists()


def test_vectors_that_are_not_given_are_asked_for(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--input anp=FILE"):
        train(recipe.updated({"network": {"streams": {"anp": "anp"}, "weights": {}}}), out=tmp_path / "run")


def test_a_loss_that_is_not_finite_stops_before_the_step(recipe: Recipe, tmp_path: Path) -> None:
    wild = recipe.with_settings(["training.learning_rate=1e30", "training.optimizer=sgd", "training.epochs=9"])
    with pytest.raises(DivergedError, match=r"Lower training\.learning_rate") as error:
        train(wild, out=tmp_path / "run")
    assert error.value.exit_code == 70
    from multistream.runs import checkpoint

    last = checkpoint.latest(tmp_path / "run/checkpoints", warn=print)
    assert last is not None
    assert all(torch.isfinite(t).all() for t in last.tensors["model"].values() if t.is_floating_point())


def test_a_folder_that_is_not_empty_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        train(recipe, out=tmp_path / "run")
    assert (tmp_path / "run" / "thesis.tex").read_text() == "mine"


@pytest.mark.parametrize("temporal", ["concat", "average", "bigru", "bigru+att"])
@pytest.mark.parametrize("fusion", ["early", "late", "gated"])
def test_every_combination_trains(recipe: Recipe, vectors: Path, tmp_path: Path, temporal: str, fusion: str) -> None:
    changes = {
        "streams": {"object": "object", "anp": "anp"},
        "inputs": {"anp": str(vectors)},
        "temporal": temporal,
        "fusion": fusion,
    }
    run = train(recipe.updated({"network": changes}), out=tmp_path / "run")
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["train_loss"] < lines[0]["train_loss"]
    assert load(run.folder).network.trained
