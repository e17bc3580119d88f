"""What a GPU computes is what the CPU computes, within the tolerances stated here; float32 without TF32."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import multistream as ms
from multistream import Image, Stream
from multistream.recipe import Recipe, RuntimeSettings
from multistream.runs import read_lines
from multistream.runtime.cuda_graphs import GraphedStreams
from multistream.runtime.device import resolve

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")]

FINE_TUNED = ["network.freeze=['none']", "training.optimizer='sgd'", "training.flips=[]"]
ONE_STEP = [*FINE_TUNED, "training.epochs=1", "training.batch_size=48"]
"""All 48 training photos at once: rounding has no second step in which batch norm could amplify it."""


def on(recipe: Recipe, device: str, *settings: str) -> Recipe:
    """The recipe on a device."""
    return recipe.with_settings([f"runtime.device='{device}'", *settings])


def probabilities(run: Path, photos: Path, *, device: str) -> np.ndarray:
    """(N, K) of all photos, in the order of their names."""
    predictions = ms.load(run).predict(sorted(photos.rglob("*.png")), device=device, precision="fp32")
    return np.array([list(each.probabilities.values()) for each in predictions])


@pytest.mark.parametrize("settings", [[], ONE_STEP], ids=["frozen", "fine-tuned"])
def test_training(recipe: Recipe, photos: Path, tmp_path: Path, settings: list[str]) -> None:
    """Losses to 1e-3 and probabilities to 2e-3, after three epochs of a head or one step of the whole network."""
    runs = {device: ms.train(on(recipe, device, *settings), out=tmp_path / device).folder for device in ("cpu", "cuda")}
    for name in ("train_loss", "val_loss"):
        losses = {device: [line[name] for line in read_lines(run / "metrics.jsonl")] for device, run in runs.items()}
        np.testing.assert_allclose(losses["cuda"], losses["cpu"], rtol=1e-3, err_msg=name)
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
    """Half formats train: losses stay finite, and four epochs take off a third, as they do in float32.

    Final losses of two formats are not compared: with 48 photos, batch norm turns rounding into differences of .2.
    """
    longer = ["network.freeze=['none']", "training.epochs=4", f"runtime.precision='{precision}'"]
    run = ms.train(on(recipe, "cuda", *longer), out=tmp_path / "run").folder
    losses = [line["train_loss"] for line in read_lines(run / "metrics.jsonl")]
    assert all(np.isfinite(losses))
    assert losses[-1] < losses[0] * 2 / 3


@pytest.mark.parametrize("setting", ["runtime.compile", "runtime.cuda_graphs"])
def test_faster_kernels_train_alike(recipe: Recipe, tmp_path: Path, setting: str) -> None:
    """Compiled kernels, and kernels replayed from a graph, give the losses of plain ones to 1e-3, here in one step."""
    losses = {}
    for switch in ("off", "on"):
        run = ms.train(on(recipe, "cuda", *ONE_STEP, f"{setting}='{switch}'"), out=tmp_path / switch).folder
        (line,) = read_lines(run / "metrics.jsonl")
        losses[switch] = [line["train_loss"], line["val_loss"]]
    np.testing.assert_allclose(losses["on"], losses["off"], rtol=1e-3)


@pytest.mark.parametrize("graphs", ["off", "on"])
def test_resumed_training(recipe: Recipe, tmp_path: Path, graphs: str) -> None:
    """A training of two epochs, and one extended from one to two, end with the same bits."""
    settings = [*FINE_TUNED, "training.schedule='constant'", f"runtime.cuda_graphs='{graphs}'"]
    whole = ms.train(on(recipe, "cuda", *settings, "training.epochs=2"), out=tmp_path / "whole").folder
    part = ms.train(on(recipe, "cuda", *settings, "training.epochs=1"), out=tmp_path / "part").folder
    ms.train(Recipe.load(part).with_settings(["training.epochs=2"]), resume=part)
    losses = [[line["train_loss"] for line in read_lines(run / "metrics.jsonl")] for run in (whole, part)]
    assert losses[0] == losses[1]
    weights = [ms.load(run).network.state_dict() for run in (whole, part)]
    assert max(float((weights[0][name] - weights[1][name]).abs().max()) for name in weights[0]) == 0


class Moody(Stream):
    """A stream that draws from Python's generator, which no graph records."""

    def __init__(self) -> None:
        super().__init__({"only": nn.Conv2d(3, 4, 3)}, channels={"only": 4}, input=Image(size=32))

    def to_map(self, state: Tensor, stage: str) -> Tensor:
        del stage
        return state * random.uniform(1, 2)


def test_a_stream_that_cannot_be_replayed_is_not() -> None:
    random.seed(0)
    told: list[str] = []
    runtime = resolve(RuntimeSettings(device="cuda", precision="fp32"))
    network = runtime.place(ms.compose({"moody": Moody()}, classes=["awe", "fear"])).train()
    graphs = GraphedStreams(network, runtime, batch_size=4, say=told.append)
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, device="cuda")
    assert graphs.pool({"image": images})["moody"]["only"].shape == (4, 4)
    assert "moody not used" in told[0]


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
        rows[device] = [row.score for row in found.rows]
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
