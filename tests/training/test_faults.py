"""Training: wrong results that nobody would notice, and what the user is told instead."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from multistream import Image, Stream
from multistream.console import Console
from multistream.errors import CannotResume, DataError, UsageError
from multistream.recipe import Recipe
from multistream.runs.model_file import load_model
from multistream.training.train import train
from tests.training.test_train import equal


class Noisy(Stream):
    """A stranger's stream whose dropout draws from torch's own generator."""

    def __init__(self) -> None:
        stages = {
            "edges": nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5)),
            "whole": nn.Sequential(nn.Conv2d(8, 8, 8), nn.BatchNorm2d(8)),
        }
        super().__init__(stages, channels={"edges": 8, "whole": 8}, input=Image(size=32))


def noisy(recipe: Recipe, **training: object) -> Recipe:
    changes = {"network": {"streams": {}, "weights": {}, "freeze": ["none"]}, "training": {"epochs": 1, **training}}
    return recipe.updated(changes)


def with_vectors(recipe: Recipe, vectors: Path, **network: object) -> Recipe:
    both = {"streams": {"object": "object", "anp": "anp"}, "inputs": {"anp": str(vectors)}, **network}
    return recipe.updated({"network": both, "training": {"epochs": 1}})


@pytest.mark.parametrize("freeze", ["none", "streams"])
def test_the_baseline_of_vectors_is_their_training_mean(
    recipe: Recipe, vectors: Path, tmp_path: Path, freeze: str
) -> None:
    run = train(with_vectors(recipe, vectors, freeze=[freeze]), out=tmp_path / "run")
    baseline = load_model(run.folder).network.branches["anp"].taps["vector"].baseline
    rows = np.load(vectors)
    train_ids = {
        line.split(",")[0] for line in (run.folder / "split.csv").read_text().splitlines() if ",train," in line
    }
    expected = rows["features"][[name in train_ids for name in rows["ids"]]].mean(0)
    torch.testing.assert_close(baseline, torch.from_numpy(expected), rtol=1e-4, atol=1e-5)


def test_a_strangers_dropout_repeats_and_resumes(recipe: Recipe, tmp_path: Path) -> None:
    def weights(name: str, epochs: int, resume: bool = False) -> dict[str, Tensor]:
        torch.manual_seed(0)
        stream = Noisy()
        torch.manual_seed(hash(name) % 1000)  # the caller's generator is in whatever state
        settled = noisy(recipe, epochs=epochs, schedule="constant")
        folder = tmp_path / name
        if resume:
            train(Recipe.load(folder).updated({"training": {"epochs": epochs}}), resume=folder, streams={"n": stream})
        else:
            train(settled, out=folder, streams={"n": stream})
        return load_model(folder, streams={"n": Noisy()}).network.state_dict()

    first, again = weights("one", 2), weights("two", 2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    weights("three", 1)
    resumed = weights("three", 2, resume=True)
    assert all(torch.equal(first[name], resumed[name]) for name in first)


def test_a_last_batch_of_one_image_trains(recipe: Recipe, tmp_path: Path) -> None:
    run = train(noisy(recipe, batch_size=47), out=tmp_path / "run", streams={"n": Noisy()})  # 48 images: 47 and 1
    assert run.epochs == 1


def test_freezing_twice_freezes_the_most(recipe: Recipe) -> None:
    from multistream.training.prepare import prepare

    network = prepare(recipe.updated({"network": {"freeze": ["streams", "object:1"]}}), say=str).network
    assert network.branches["object"].stream.is_frozen
    assert network.is_cacheable


def test_freeze_changes_nothing_before_all_of_it_is_valid(recipe: Recipe) -> None:
    from multistream.training.prepare import prepare

    network = prepare(recipe.updated({"network": {"freeze": ["none"]}}), say=str).network
    with pytest.raises(UsageError, match="sets depth 9"):
        network.freeze("object:2", "object:9")
    assert network.branches["object"].stream.frozen == 0
    with pytest.raises(ValueError, match="cannot freeze 9"):
        network.branches["object"].stream.freeze(9)
    assert network.branches["object"].stream.frozen == 0


@pytest.mark.parametrize("freeze", ["none", "streams"])
def test_training_on_nothing_fails(recipe: Recipe, photos: Path, tmp_path: Path, freeze: str) -> None:
    copied = tmp_path / "photos"
    shutil.copytree(photos, copied)
    for path in copied.rglob("*.png"):
        path.write_bytes(b"not a picture")
    recipe = recipe.updated({"data": {"source": str(copied)}, "network": {"freeze": [freeze]}})
    with pytest.raises(DataError, match="no photo of the training split can be decoded") as error:
        train(recipe, out=tmp_path / "run")
    assert error.value.exit_code == 65
    assert not (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize("freeze", ["none", "streams"])
def test_a_class_without_a_readable_photo_is_named_once(
    recipe: Recipe, photos: Path, tmp_path: Path, freeze: str, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = tmp_path / "photos"
    shutil.copytree(photos, copied)
    for path in (copied / "joy").glob("*.png"):
        path.write_bytes(b"not a picture")
    recipe = recipe.updated({"data": {"source": str(copied)}, "network": {"freeze": [freeze]}})
    train(recipe.with_settings(["training.epochs=1"]), out=tmp_path / "run", console=Console(quiet=False))
    told = capsys.readouterr().err
    assert "class joy: none of its 20 photos can be decoded" in told
    assert told.count("photos in total are skipped") <= 2


def test_the_environment_does_not_change_a_training(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = train(recipe.with_settings(["training.epochs=1"]), out=tmp_path / "one").folder
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    two = train(recipe.with_settings(["training.epochs=1"]), out=tmp_path / "two").folder
    assert equal(one, two)


def test_a_run_with_an_instance_says_so_when_it_is_repeated(recipe: Recipe, tmp_path: Path) -> None:
    run = train(noisy(recipe), out=tmp_path / "run", streams={"n": Noisy()}).folder
    for again in ({"out": tmp_path / "again"}, {"resume": run}):
        with pytest.raises(UsageError, match=r"n was given as a Python object.*streams=\{'n': \.\.\.\}"):
            train(Recipe.load(run), **again)
    assert train(Recipe.load(run), out=tmp_path / "again", streams={"n": Noisy()}).epochs == 1
    assert train(Recipe.load(run), resume=run, streams={"n": Noisy()}).epochs == 1


def test_photos_that_moved_are_the_same_photos(recipe: Recipe, photos: Path, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    shutil.copytree(photos, old)
    recipe = recipe.updated({"data": {"source": str(old)}, "training": {"epochs": 1}})
    run = train(recipe, out=tmp_path / "run").folder
    old.rename(new)
    with pytest.raises(CannotResume, match=r"no longer at .*old.*--data") as error:
        train(Recipe(), resume=run)
    assert error.value.exit_code == 78
    moved = Recipe.load(run).updated({"data": {"source": str(new)}, "training": {"epochs": 2}})
    assert train(moved, resume=run).epochs == 2
    shutil.copy(new / "awe" / "1.png", new / "awe" / "2.png")
    with pytest.raises(CannotResume, match="1 photos have changed"):
        train(moved, resume=run)


def test_a_damaged_log_is_written_again_from_the_checkpoint(recipe: Recipe, tmp_path: Path) -> None:
    from multistream import runs

    run = train(recipe, out=tmp_path / "run").folder
    whole = (run / runs.METRICS).read_text()
    (run / runs.METRICS).write_bytes(whole.encode().replace(b"loss", b"lo\xaes", 1))
    train(Recipe.load(run).with_settings(["training.epochs=4"]), resume=run)
    lines = (run / runs.METRICS).read_text().splitlines()
    assert lines[:3] == whole.splitlines()
    assert len(lines) == 4


def test_every_photo_is_hashed_once(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from multistream.data import file_hashes

    counts: dict[str, int] = {}
    hashed = file_hashes._sha256

    def count(path: str) -> bytes:
        counts[path] = counts.get(path, 0) + 1
        return hashed(path)

    monkeypatch.setattr(file_hashes, "_sha256", count)
    train(recipe.with_settings(["training.epochs=1"]), out=tmp_path / "run")
    assert set(counts.values()) == {1}
    assert len(counts) == 60
