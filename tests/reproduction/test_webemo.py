"""WebEMO's protocols on a small copy of its layout: folders of numbers below images/test25."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from multistream import evaluate
from multistream.cli import app
from multistream.data.layouts.webemo import SEVEN
from multistream.errors import UsageError
from multistream.recipe import Recipe
from multistream.reproduction.webemo import webemo_protocols
from multistream.training.train import train

FINE = sorted(fine for group in SEVEN.values() for fine in group)
FROM = {"horror": "fear", "surprise": "awe", "affection": "joy"}
"""The class of the run that each category's images look like; affection is love, unknown to the run."""
EACH = 10


@pytest.fixture(scope="module")
def web(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 photos that are not in the run's data: their bytes differ."""
    root = tmp_path_factory.mktemp("webemo")
    for fine, name in FROM.items():
        folder = root / "images" / "test25" / str(FINE.index(fine))
        folder.mkdir(parents=True)
        for number in range(EACH):
            with Image.open(photos / name / f"{number}.png") as picture:
                Image.fromarray(255 - (255 - np.asarray(picture)) // 4 * 4).save(folder / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def fi_run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two of FI's classes and another one."""
    folder = tmp_path_factory.mktemp("fi")
    shutil.copytree(photos, folder / "photos")
    (folder / "photos" / "joy").rename(folder / "photos" / "excitement")
    recipe = Recipe().updated(
        {
            "data": {"source": str(folder / "photos"), "image_size": 32},
            "network": {"streams": {"object": "object"}, "weights": {"object": "random"}, "freeze": ["streams"]},
            "training": {"solver": "lbfgs", "penalties": [0.1]},
            "runtime": {"device": "cpu", "precision": "fp32", "workers": 0},
        }
    )
    return train(recipe, out=folder / "run").folder


def test_the_four_protocols(fi_run: Path, web: Path) -> None:
    found = webemo_protocols(fi_run, f"webemo:{web}", device="cpu")
    rows = {row.protocol: row for row in found.rows}
    assert list(rows) == [
        *("strict, awe as surprise", "reachable, awe as surprise", "strict, awe as joy", "reachable, awe as joy"),
        *("polarity", "linear probe"),
    ]
    strict, reachable = rows["strict, awe as surprise"], rows["reachable, awe as surprise"]
    assert (strict.n, reachable.n) == (30, 20)
    assert strict.accuracy == pytest.approx(reachable.accuracy * 2 / 3), "love is always wrong"
    assert reachable.accuracy > 0.8
    assert rows["reachable, awe as joy"].n == 10, "then surprise cannot be reached either"
    assert rows["polarity"].majority == pytest.approx(2 / 3)
    assert rows["polarity"].accuracy > 0.8
    assert rows["linear probe"].n == 30
    assert rows["linear probe"].accuracy > strict.accuracy
    assert found.published == 0.4645


def test_strict_protocol_equals_evaluate_with_the_shipped_map(fi_run: Path, web: Path, tmp_path: Path) -> None:
    own = {"awe": "surprise", "excitement": "joy", "fear": "fear"}
    (tmp_path / "map.json").write_text(json.dumps(own))
    with_joy = web / "images" / "test25" / str(FINE.index("cheerfulness"))
    shutil.copytree(web / "images" / "test25" / str(FINE.index("horror")), with_joy)
    measured = evaluate(fi_run, data=f"webemo:{web}", class_map=str(tmp_path / "map.json"), device="cpu").metrics
    words = ["evaluate", str(fi_run), "--data", f"webemo:{web}", "--protocols", "--device", "cpu", "--json", "--quiet"]
    found = json.loads(CliRunner().invoke(app, words, catch_exceptions=False).stdout)
    shutil.rmtree(with_joy)
    assert found["protocols"][0]["accuracy"] == measured.accuracy
    assert found["protocols"][0]["n"] == measured.n == 40


def test_other_data_and_other_classes_raise(fi_run: Path, photos: Path) -> None:
    with pytest.raises(UsageError, match="webemo:PATH"):
        webemo_protocols(fi_run, str(photos))
