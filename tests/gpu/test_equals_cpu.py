"""What a GPU computes is what the CPU computes, within the tolerances stated here; float32 without TF32."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import multistream as ms
from multistream.recipe import Recipe
from multistream.runs import read_lines

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")]

FINE_TUNED = ["network.freeze=['none']", "training.epochs=1", "training.optimizer='sgd'"]


@pytest.fixture(autouse=True)
def exact_float32() -> Iterator[None]:
    """cuDNN's convolutions in float32, not in TF32, whose 10 bits of mantissa are 1e-3 off."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def on(recipe: Recipe, device: str, *settings: str) -> Recipe:
    """The recipe on a device."""
    return recipe.with_settings([f"runtime.device='{device}'", *settings])


def probabilities(run: Path, photos: Path, *, device: str) -> np.ndarray:
    """(N, K) of all photos, in the order of their names."""
    predictions = ms.load(run).predict(sorted(photos.rglob("*.png")), device=device, precision="fp32")
    return np.array([list(each.probabilities.values()) for each in predictions])


@pytest.mark.parametrize("settings", [[], FINE_TUNED], ids=["frozen", "fine-tuned"])
def test_training(recipe: Recipe, photos: Path, tmp_path: Path, settings: list[str]) -> None:
    """Losses to 1e-3 and probabilities to 2e-3, after three epochs of a head or one of the whole network."""
    runs = {device: ms.train(on(recipe, device, *settings), out=tmp_path / device).folder for device in ("cpu", "cuda")}
    losses = {device: [line["val_loss"] for line in read_lines(run / "metrics.jsonl")] for device, run in runs.items()}
    np.testing.assert_allclose(losses["cuda"], losses["cpu"], rtol=1e-3)
    found = {device: probabilities(run, photos, device=device) for device, run in runs.items()}
    np.testing.assert_allclose(found["cuda"], found["cpu"], atol=2e-3)


def test_prediction(recipe: Recipe, photos: Path, tmp_path: Path) -> None:
    """One model's probabilities on both devices to 1e-4."""
    run = ms.train(on(recipe, "cpu"), out=tmp_path / "run").folder
    np.testing.assert_allclose(
        probabilities(run, photos, device="cuda"), probabilities(run, photos, device="cpu"), atol=1e-4
    )


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_learns(recipe: Recipe, tmp_path: Path, precision: str) -> None:
    """Half formats train: losses are finite, fall, and end within 0.1 of float32's."""
    longer = ["network.freeze=['none']", "training.epochs=4"]
    losses = {}
    for name in ("fp32", precision):
        run = ms.train(on(recipe, "cuda", f"runtime.precision='{name}'", *longer), out=tmp_path / name).folder
        losses[name] = [line["train_loss"] for line in read_lines(run / "metrics.jsonl")]
    assert all(np.isfinite(losses[precision]))
    assert losses[precision][-1] < losses[precision][0]
    assert abs(losses[precision][-1] - losses["fp32"][-1]) < 0.1


def test_compiled_training(recipe: Recipe, tmp_path: Path) -> None:
    """Compiled and plain training agree to 1e-3 in their losses."""
    losses = {}
    for compiled in ("off", "on"):
        settings = [*FINE_TUNED, f"runtime.compile='{compiled}'"]
        run = ms.train(on(recipe, "cuda", *settings), out=tmp_path / compiled).folder
        losses[compiled] = [line["train_loss"] for line in read_lines(run / "metrics.jsonl")]
    np.testing.assert_allclose(losses["on"], losses["off"], rtol=1e-3)


def test_resumed_training(recipe: Recipe, tmp_path: Path) -> None:
    """A training of two epochs, and one extended from one to two, end alike to 1e-3."""
    constant = ["network.freeze=['none']", "training.schedule='constant'"]
    whole = ms.train(on(recipe, "cuda", *constant, "training.epochs=2"), out=tmp_path / "whole").folder
    part = ms.train(on(recipe, "cuda", *constant, "training.epochs=1"), out=tmp_path / "part").folder
    ms.train(Recipe.load(part).with_settings(["training.epochs=2"]), resume=part)
    losses = [[line["train_loss"] for line in read_lines(run / "metrics.jsonl")] for run in (whole, part)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)


def test_explanation(recipe: Recipe, photos: Path, tmp_path: Path) -> None:
    """Maps equal the CPU's to 1e-4 of their largest value; the sum leaves 1e-5."""
    run = ms.train(on(recipe, "cpu"), out=tmp_path / "run").folder
    named = sorted(photos.rglob("*.png"))[:4]
    explained = {device: list(ms.explain(run, named, device=device)) for device in ("cpu", "cuda")}
    for ours, theirs in zip(explained["cuda"], explained["cpu"], strict=True):
        assert ours.arrays is not None
        assert theirs.arrays is not None
        for key, logits in ours.arrays.logits.items():
            np.testing.assert_allclose(logits, theirs.arrays.logits[key], atol=1e-4)
        for stage, values in ours.arrays.maps["object"].items():
            expected = theirs.arrays.maps["object"][stage]
            assert (values - expected).abs().max() < 1e-4 * expected.abs().max()
        assert ours.residual is not None
        assert ours.residual < 1e-5


def test_ablation(recipe: Recipe, tmp_path: Path) -> None:
    """Each row's accuracy is the CPU's, but for one photo at most."""
    run = ms.train(on(recipe, "cpu"), out=tmp_path / "run").folder
    rows = {}
    for device in ("cpu", "cuda"):
        found = ms.ablate(on(Recipe.load(run), device), axis="depth")
        rows[device] = [row.accuracy for row in found.rows]
    np.testing.assert_allclose(rows["cuda"], rows["cpu"], atol=0.2)


def test_command_line(photos: Path, tmp_path: Path) -> None:
    """`train` and `evaluate` as a user types them."""
    words = "--streams object --weights object=random --freeze none --epochs 1 --batch-size 16 --device cuda --json"
    train = [*words.split(), "--data", str(photos), "--set", "data.image_size=32", "--out", "run"]
    done = subprocess.run(
        [sys.executable, "-m", "multistream", "train", *train],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    again = subprocess.run(
        [sys.executable, "-m", "multistream", "evaluate", "run", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["n"] == json.loads(done.stdout)["test"]["n"]
