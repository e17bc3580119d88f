"""Linear probing before fine-tuning, and batch norms that keep their statistics."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from multistream.errors import UsageError
from multistream.recipe import Recipe
from multistream.runs import read_lines
from multistream.training.stop import Interrupted
from multistream.training.train import train
from tests.training.test_resume import interrupted_after
from tests.training.test_train import equal, weights_of

TUNED = ["network.freeze=['object:3']", "training.probe_epochs=2", "training.epochs=1", "training.batch_norm=fixed"]


def test_the_probe_is_the_frozen_training_run_and_fine_tuning_starts_from_it(recipe: Recipe, tmp_path: Path) -> None:
    frozen = train(recipe.with_settings(["training.epochs=2"]), out=tmp_path / "frozen").folder
    still = ["training.fine_tuning_rate=1e-30", "training.rates.object=1e-30"]
    tuned = train(recipe.with_settings([*TUNED, *still]), out=tmp_path / "tuned").folder
    assert equal(frozen, tuned / "probe")
    assert (frozen / "predictions.csv").read_text() == (tuned / "probe" / "predictions.csv").read_text()
    best = min(line["val_loss"] for line in read_lines(frozen / "metrics.jsonl"))
    (line,) = read_lines(tuned / "metrics.jsonl")
    assert line["val_loss"] == pytest.approx(best, rel=1e-5)


def test_the_probe_is_kept_where_fine_tuning_makes_it_worse(recipe: Recipe, tmp_path: Path) -> None:
    diverging = ["training.fine_tuning_rate=1", "training.learning_rate=1", "training.rates.object=3"]
    run = train(recipe.with_settings([*TUNED, *diverging]), out=tmp_path / "tuned")
    assert run.best_epoch == -1
    assert equal(run.folder, run.folder / "probe")


@pytest.mark.parametrize("steps", [4, 20])
def test_a_stopped_probe_and_a_stopped_fine_tuning_resume(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    recipe = recipe.with_settings([*TUNED, "training.checkpoint_minutes=0"])
    whole = train(recipe, out=tmp_path / "whole").folder
    with monkeypatch.context() as patch:
        interrupted_after(patch, steps)
        with pytest.raises(Interrupted, match=r"--resume \S*halved$"):
            train(recipe, out=tmp_path / "halved")
    reached = (tmp_path / "halved" / "checkpoints").is_dir()
    assert reached == (steps == 20), "one of the two must be stopped in the probe"
    with contextlib.chdir(tmp_path):
        assert equal(whole, train(Recipe(), resume="halved").folder)


def test_a_probe_needs_streams_that_are_trained_afterwards(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"training\.probe_epochs: all streams are frozen"):
        train(recipe.with_settings(["training.probe_epochs=2"]), out=tmp_path / "run")


@pytest.mark.parametrize("batch_norm", ["batch", "fixed"])
def test_batch_norms_keep_their_statistics_where_asked(recipe: Recipe, tmp_path: Path, batch_norm: str) -> None:
    settings = ["network.freeze=['none']", "training.epochs=1", f"training.batch_norm={batch_norm}"]
    weights = weights_of(train(recipe.with_settings(settings), out=tmp_path / "run").folder)
    means = [tensor for name, tensor in weights.items() if name.endswith("running_mean")]
    assert means
    assert any(bool(mean.any()) for mean in means) == (batch_norm == "batch")  # a new batch norm's mean is zero
