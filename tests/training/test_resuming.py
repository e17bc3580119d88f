"""A run that is stopped goes on to the same weights, bit by bit (faults, promises 1 and 2)."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from multistream import checkpoint
from multistream.errors import CannotResume
from multistream.recipe import Recipe
from multistream.training import Interrupted, train
from tests.training.test_training import equal, weights_of

EVERY_STEP = ["training.checkpoint_minutes=0", "training.epochs=2", "network.freeze=['none']"]


def interrupted_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Lets a training be told to stop after so many looks."""
    from multistream.training.stopping import Stop

    looks = iter(range(10**6))

    def asked(self: Stop) -> bool:
        self.signal = signal.SIGINT if next(looks) >= steps else 0
        return self.signal != 0

    monkeypatch.setattr(Stop, "__call__", asked)


@pytest.mark.parametrize("steps", [0, 3, 7, 10])
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


CHILD = """
import sys
from multistream.recipe import Recipe
from multistream.training import train
import torch
torch.set_num_threads(1)
train(Recipe.load(sys.argv[1]), out=sys.argv[2]) if sys.argv[3] == "new" else train(Recipe(), resume=sys.argv[2])
"""


@pytest.mark.slow
def test_killed_at_twenty_instants_it_ends_the_same(recipe: Recipe, tmp_path: Path) -> None:
    """Promise 2 with SIGKILL: 20 kills, each followed by a resumption, and the same weights at the end."""
    recipe = recipe.with_settings([*EVERY_STEP, "training.epochs=12", "runtime.threads=1"])
    recipe.save(tmp_path / "recipe.toml")

    def child(out: Path, how: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path / "recipe.toml"), str(out), how])

    assert child(tmp_path / "whole", "new").wait() == 0
    chance, killed, how = random.Random(0), 0, "new"
    out = tmp_path / "killed"
    while True:
        process = child(out, how)
        deadline = time.monotonic() + 60
        while process.poll() is None and not any((out / "checkpoints").glob("step-*")) and time.monotonic() < deadline:
            time.sleep(0.01)
        if killed < 20:
            time.sleep(2.5 + chance.uniform(0, 2.0) if how == "resume" else chance.uniform(0, 0.5))
            process.kill()
        code = process.wait()
        if code == 0:
            break
        killed += 1
        assert checkpoint.latest(out / "checkpoints", warn=print) is not None
        how = "resume"
    assert killed >= 1
    assert equal(tmp_path / "whole", out)
