"""Training on folds: every photo is predicted by a network that has not seen it; what is there is not done again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from multistream import Image, Stream, compare, load
from multistream.errors import CannotResume, UsageError, WeightsError
from multistream.recipe import Recipe
from multistream.runs.folder import check_unused
from multistream.runs.predictions_file import read_predictions
from multistream.runs.split_file import read_split
from multistream.training.folds import FoldsRun, fold_recipes, train, train_folds


@pytest.fixture(scope="module")
def vector_recipe(photos: Path, vectors: Path) -> Recipe:
    """A head on vectors alone: trained in no time."""
    return Recipe().updated(
        {
            "data": {"source": str(photos), "folds": 3},
            "network": {"streams": {"anp": "anp"}, "inputs": {"anp": str(vectors)}},
            "options": {"streams": {"anp": {"hidden": []}}},
            "training": {"epochs": 2, "batch_size": 16},
            "runtime": {"device": "cpu", "precision": "fp32", "workers": 0, "threads": 1},
        }
    )


@pytest.fixture(scope="module")
def trained(vector_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> FoldsRun:
    run = train(vector_recipe, out=tmp_path_factory.mktemp("runs") / "anp")
    assert isinstance(run, FoldsRun)
    return run


def test_a_run_in_memory_is_accepted_as_its_path(trained: FoldsRun) -> None:
    assert compare([trained]).rows == compare([str(trained.folder)]).rows
    with pytest.raises(WeightsError, match="cross-validation run"):
        load(trained)


def test_every_photo_is_predicted_once_by_a_network_that_has_not_seen_it(trained: FoldsRun) -> None:
    found = read_predictions(trained.folder / "predictions.csv")
    assert len(found) == len(set(found.paths)) == 60
    for fold in trained.folds:
        folder = trained.folder / fold["run"]
        own = read_predictions(folder / "predictions.csv")
        tested = {row.path for row in read_split(folder / "split.csv") if row.part == "test"}
        assert set(own.paths) == tested
    assert trained.test.n == 60
    assert trained.test.accuracy == pytest.approx(float(found.correct.mean()))
    summary = json.loads((trained.folder / "summary.json").read_text())
    assert [fold["n"] for fold in summary["folds"]] == [20, 20, 20]


def test_a_run_on_folds_has_no_model_and_says_where_they_are(trained: FoldsRun) -> None:
    with pytest.raises(
        WeightsError,
        match=r"cross-validation run, which has no single model\. Each fold has a model, for example .*folds/1-1",
    ):
        load(trained.folder)
    assert len(load(trained.folder / "folds" / "1-1").classes) == 3


def test_what_is_there_is_not_done_again(trained: FoldsRun, vector_recipe: Recipe) -> None:
    fold = trained.folder / "folds" / "1-2"
    kept = (trained.folder / "folds" / "1-1" / "model.safetensors").stat().st_mtime_ns
    before = read_predictions(trained.folder / "predictions.csv")
    for name in ("summary.json", "model.safetensors", "predictions.csv"):
        (fold / name).unlink()
    again = train_folds(vector_recipe, resume=trained.folder)
    assert (trained.folder / "folds" / "1-1" / "model.safetensors").stat().st_mtime_ns == kept
    assert (fold / "model.safetensors").is_file()
    assert again.test.accuracy == trained.test.accuracy
    after = read_predictions(trained.folder / "predictions.csv")
    assert np.array_equal(after.probabilities, before.probabilities), "the fold went on from its checkpoint"
    with pytest.raises(CannotResume, match=r"training\.epochs"):
        train_folds(vector_recipe.updated({"training": {"epochs": 5}}), resume=trained.folder)


def test_repeats_draw_other_folds_and_compare_counts_a_photo_once(
    trained: FoldsRun, vector_recipe: Recipe, tmp_path: Path
) -> None:
    recipes = fold_recipes(vector_recipe.updated({"data": {"repeats": 2}}))
    assert list(recipes) == ["1-1", "1-2", "1-3", "2-1", "2-2", "2-3"]
    assert [recipe.data.split_seed for recipe in recipes.values()] == [18, 18, 18, 19, 19, 19]
    run = train_folds(vector_recipe.updated({"data": {"repeats": 2}}), out=tmp_path / "twice")
    assert len(run.scores) == 2
    assert run.test.n == 60
    other = train_folds(
        vector_recipe.updated({"data": {"repeats": 2}, "training": {"seed": 1}}), out=tmp_path / "other"
    )
    rows = compare([run.folder, trained.folder]).rows
    assert rows[1].difference is not None
    assert rows[1].difference.n == 60
    assert [row.n for row in rows] == [(60,), (60,)]
    assert len(compare([run.folder, other.folder]).rows) == 1, "they differ only in seeds"


def test_branches_of_a_run_on_folds_are_those_of_the_same_fold(
    trained: FoldsRun, vector_recipe: Recipe, tmp_path: Path
) -> None:
    recipe = vector_recipe.updated({"network": {"streams": {"anp": str(trained.folder)}, "fusion": "late"}})
    own = fold_recipes(recipe)["1-3"]
    assert own.network.streams["anp"] == str(trained.folder / "folds" / "1-3")
    run = train_folds(recipe, out=tmp_path / "again")
    assert run.test.accuracy == trained.test.accuracy, "nothing is trained: each fold evaluates its own branch"
    with pytest.raises(UsageError, match="has no fold 1-4"):
        fold_recipes(recipe.updated({"data": {"folds": 4}}))


class Scaled(Stream):
    """One trained layer, the same at each construction."""

    def __init__(self) -> None:
        super().__init__({"one": nn.Conv2d(3, 2, 3, stride=2)}, channels={"one": 2}, input=Image(size=16))
        nn.init.constant_(self.stages["one"].weight, 0.1)
        nn.init.zeros_(self.stages["one"].bias)


def test_no_fold_starts_with_the_weights_that_another_has_trained(photos: Path, tmp_path: Path) -> None:
    """A fold that did so would have seen its own test photos."""
    recipe = Recipe().updated(
        {
            "data": {"source": str(photos), "folds": 2, "image_size": 16},
            "network": {"streams": {"own": "<instance>"}},
            "training": {"epochs": 2, "batch_size": 16, "learning_rate": 0.01},
            "runtime": {"device": "cpu", "precision": "fp32", "workers": 0, "threads": 1},
        }
    )
    mine = Scaled()
    folds = train(recipe, out=tmp_path / "folds", streams={"own": mine})
    last = folds.folder / "folds" / "1-2"
    alone = train(Recipe.load(str(last)), out=tmp_path / "alone", streams={"own": Scaled()})
    expected = load(alone.folder, streams={"own": Scaled()}).network.state_dict()
    found = load(last, streams={"own": Scaled()}).network.state_dict()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    assert torch.equal(mine.stages["one"].weight, Scaled().stages["one"].weight)


def test_a_run_whose_first_fold_cannot_start_leaves_its_folder_usable(vector_recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"data\.folds"):
        train_folds(vector_recipe.updated({"data": {"folds": 50}}), out=tmp_path / "run")
    check_unused(tmp_path / "run")
