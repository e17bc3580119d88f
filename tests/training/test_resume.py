"""A run that is stopped goes on to the same weights, bit by bit (faults, promises 1 and 2)."""

from __future__ import annotations

import contextlib
import shutil
import signal
from pathlib import Path

import pytest
import torch

from multistream.errors import CannotResume, DiskFull, PluginError
from multistream.inference.model import load
from multistream.network.compose import plan_of
from multistream.recipe import Recipe
from multistream.runs.model_file import distributions_of
from multistream.training import run_folder
from multistream.training.stop import Interrupted
from multistream.training.train import train
from tests.training.test_train import equal, weights_of

EVERY_STEP = ["training.checkpoint_minutes=0", "training.epochs=2", "network.freeze=['none']"]


def interrupted_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Lets a training be told to stop after so many looks."""
    from multistream.training.stop import Stop

    looks = iter(range(10**6))

    def asked(self: Stop) -> bool:
        self.signal = signal.SIGINT if next(looks) >= steps else 0
        return self.signal != 0

    monkeypatch.setattr(Stop, "__call__", asked)


@pytest.mark.parametrize(
    "steps", [pytest.param(0, marks=pytest.mark.slow), 3, pytest.param(7, marks=pytest.mark.slow), 10]
)
@pytest.mark.parametrize("extra", [[], ["training.accumulation=2"], ["network.freeze=['streams']"]])
def test_resumed_equals_uninterrupted(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int, extra: list[str]
) -> None:
    recipe = recipe.with_settings([*EVERY_STEP, *extra])
    whole = train(recipe, out=tmp_path / "whole").folder
    with monkeypatch.context() as patch:
        interrupted_after(patch, steps)
        with contextlib.suppress(Interrupted):  # the last instant lies behind the end
            train(recipe, out=tmp_path / "halved")
    resumed = train(Recipe(), resume=tmp_path / "halved").folder
    assert equal(whole, resumed)
    assert (whole / "metrics.jsonl").read_text().count("\n") == (resumed / "metrics.jsonl").read_text().count("\n")


def test_another_recipe_is_refused_with_the_difference(recipe: Recipe, tmp_path: Path) -> None:
    run = train(recipe.with_settings(["training.epochs=1"]), out=tmp_path / "run").folder
    with pytest.raises(CannotResume, match=r"training\.learning_rate \(0\.001 -> 0\.5\)") as error:
        train(Recipe.load(run).with_settings(["training.learning_rate=0.5"]), resume=run)
    assert error.value.exit_code == 78


def test_a_finished_run_can_be_extended(recipe: Recipe, tmp_path: Path) -> None:
    run = train(recipe.with_settings(["training.epochs=1"]), out=tmp_path / "run").folder
    longer = train(Recipe.load(run).with_settings(["training.epochs=3"]), resume=run)
    assert longer.epochs == 3


def test_a_damaged_checkpoint_is_passed_over_aloud(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = recipe.with_settings(EVERY_STEP)
    run = train(recipe, out=tmp_path / "run").folder
    newest = max((run / "checkpoints").iterdir(), key=lambda path: path.stat().st_mtime)
    damaged = newest / "model.safetensors"
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    before = weights_of(run)
    resumed = train(Recipe(), resume=run).folder
    assert "warning" in capsys.readouterr().err
    after = weights_of(resumed)
    assert all((before[name] == after[name]).all() for name in before)


def test_a_line_told_before_the_kill_is_not_told_twice(recipe: Recipe, tmp_path: Path) -> None:
    """The instant between an epoch's line and the next checkpoint: the checkpoint is of that epoch's last step."""
    from multistream import runs

    recipe = recipe.with_settings(EVERY_STEP)
    run = train(recipe, out=tmp_path / "run").folder
    whole = runs.read_lines(run / "metrics.jsonl")
    newest = max((run / "checkpoints").iterdir(), key=lambda path: path.stat().st_mtime)
    shutil.rmtree(newest)  # it says "finished"; the one before is of the last step, its epoch not yet closed
    train(Recipe(), resume=run)
    again = runs.read_lines(run / "metrics.jsonl")
    assert [line["epoch"] for line in again] == [line["epoch"] for line in whole] == [0, 1]


@pytest.mark.parametrize("patience", [0, 5])
def test_a_run_that_did_not_improve_can_be_extended_too(recipe: Recipe, tmp_path: Path, patience: int) -> None:
    """The last epoch was no better than the one before: without patience that means nothing."""
    stuck = recipe.with_settings(["training.epochs=3", "training.learning_rate=1e-12", f"training.patience={patience}"])
    stuck = stuck.with_settings(["training.monitor=accuracy"])
    run = train(stuck, out=tmp_path / "run").folder
    longer = train(Recipe.load(run).with_settings(["training.epochs=5"]), resume=run)
    assert longer.epochs == 5


def test_other_photos_are_refused_every_time(recipe: Recipe, photos: Path, tmp_path: Path) -> None:
    copied = tmp_path / "photos"
    shutil.copytree(photos, copied)
    run = train(recipe.updated({"data": {"source": str(copied)}, "training": {"epochs": 1}}), out=tmp_path / "run")
    before = (run.folder / "split.csv").read_bytes()
    shutil.copy(copied / "awe" / "1.png", copied / "awe" / "2.png")
    for _ in range(2):
        with pytest.raises(CannotResume, match=r"1 photos have changed since the run started, for example awe/2\.png"):
            train(Recipe(), resume=run.folder)
    assert (run.folder / "split.csv").read_bytes() == before


def test_another_version_of_a_plugin_is_refused(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Faults, training: exit 69, distribution and version named."""
    run = train(recipe.with_settings(["training.epochs=1"]), out=tmp_path / "run").folder
    (name, version), *_ = distributions_of(plan_of(load(run).network)).items()
    monkeypatch.setattr(run_folder, "distributions_of", lambda _: {name: "9.9"})
    with pytest.raises(PluginError, match=rf"trained with {name} {version}, and {name} 9\.9 is installed") as error:
        train(Recipe(), resume=run)
    assert error.value.exit_code == 69


def test_another_number_of_threads_is_told(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(recipe.with_settings(["training.epochs=1"]), out=tmp_path / "run").folder
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    train(Recipe(), resume=run)
    assert f"threads {threads} -> {threads + 1}" in capsys.readouterr().err


def test_the_precision_is_settled_and_stays(recipe: Recipe, tmp_path: Path) -> None:
    run = train(recipe.with_settings(["runtime.precision=auto", "training.epochs=1"]), out=tmp_path / "run")
    assert run.recipe.runtime.precision in ("fp32", "bf16")
    other = "bf16" if run.recipe.runtime.precision == "fp32" else "fp32"
    with pytest.raises(CannotResume, match=r"runtime\.precision"):
        train(run.recipe.with_settings([f"runtime.precision={other}"]), resume=run.folder)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_told_by_every_line(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise 4 for the one file that grows: no traceback, and the run goes on when there is room again."""
    from multistream import runs

    recipe = recipe.with_settings(["training.epochs=2"])
    with monkeypatch.context() as patch:
        patch.setattr(runs, "METRICS", "full")
        (tmp_path / "run").mkdir()
        patch.setattr(runs, "new_run", lambda out, _: Path(out))
        patch.setattr(runs, "check_unused", lambda _: None)
        (tmp_path / "run" / "full").symlink_to("/dev/full")
        with pytest.raises(DiskFull, match="the disk is full") as error:
            train(recipe, out=tmp_path / "run")
    assert error.value.exit_code == 74
    assert train(Recipe(), resume=tmp_path / "run").epochs == 2
