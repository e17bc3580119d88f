"""Model: what multistream.load returns."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import multistream as ms
from multistream.errors import UsageError
from multistream.recipe import Recipe
from multistream.runs.model_file import save_model


def test_a_model_pickles(photos: Path, recipe: Recipe, tmp_path: Path) -> None:
    network = ms.compose(
        {"object": "object:mobilenetv2", "mini": "object:mobilenetv2"},
        classes=("awe", "fear", "joy"),
        temporal="bigru+att",
        image_size=32,
    )
    network.mark_trained()
    save_model(network, tmp_path / "model.safetensors", recipe=recipe)
    model = ms.load(tmp_path / "model.safetensors")
    again = pickle.loads(pickle.dumps(model))
    assert (again.classes, again.recipe, again.sha256) == (model.classes, model.recipe, model.sha256)
    photo = photos / "awe" / "0.png"
    (one,), (other,) = model.predict([photo]), again.predict([photo])
    assert np.array_equal(list(one.probabilities.values()), list(other.probabilities.values()))
    assert not again.network.truncate({"object": 2}).trained  # a copy makes new temporals and fusions too


class Own(ms.Stream):
    """A stream that no registry knows."""

    def __init__(self) -> None:
        stages = {"edges": nn.Conv2d(3, 4, 3, stride=2), "shapes": nn.Conv2d(4, 6, 3, stride=2)}
        super().__init__(stages, channels={"edges": 4, "shapes": 6}, input=ms.Image(size=32))


def in_memory() -> ms.MultiStream:
    return ms.compose({"object": "object", "own": Own()}, classes=("awe", "fear", "joy"), image_size=32, seed=0)


def test_a_network_from_an_own_loop_predicts_explains_and_is_saved(photos: Path, tmp_path: Path) -> None:
    network, photo = in_memory(), photos / "awe" / "0.png"
    model = ms.Model.of(network, prior=torch.tensor([0.5, 0.3, 0.2]))
    assert model.save(tmp_path / "mine") == tmp_path / "mine" / "model.safetensors"
    assert model.save(tmp_path / "b.safetensors") == tmp_path / "b.safetensors"
    (before,) = model.predict(photo)
    for place in ("mine", "b.safetensors"):
        again = ms.load(tmp_path / place, streams={"own": Own()})
        assert list(again.predict(photo)) == [before]
        assert again.recipe == model.recipe
        assert again.recipe.network.streams == {"object": "object", "own": "<instance>"}
    (found,) = ms.explain(model, photo)
    (same,) = ms.explain(network, photo)
    (loaded,) = ms.explain(tmp_path / "mine", photo, streams={"own": Own()})
    assert found == same == loaded
    assert found.predicted == before.label


def test_a_network_that_is_not_marked_as_trained_names_what_to_call(photos: Path) -> None:
    with pytest.raises(UsageError, match=r"not marked as trained.*multistream.Model.of\(network\)"):
        ms.explain(in_memory(), photos / "awe" / "0.png")


def test_what_needs_a_run_says_how_a_network_becomes_one() -> None:
    for command in (ms.load, ms.evaluate):
        with pytest.raises(UsageError, match=r"a MultiStream was given.*Model.of\(network\).save\(folder\)"):
            command(in_memory())  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="a Linear was given"):
        ms.Model.of(nn.Linear(1, 1))  # type: ignore[arg-type]


def test_a_network_from_an_own_loop_has_no_photos_of_its_own() -> None:
    with pytest.raises(UsageError, match=r"has no split.csv"):
        ms.explain(ms.Model.of(in_memory()))


def test_the_model_of_a_run_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(UsageError, match="is a run"):
        ms.Model.of(in_memory()).save(tmp_path)
    assert not (tmp_path / "model.safetensors").exists()


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ms.MultistreamError):
        ms.Model.of(in_memory()).save(tmp_path / "file" / "mine")
