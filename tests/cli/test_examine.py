"""multistream explain over many photos: faithfulness, masks, galleries, and the self-test's exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from multistream.cli import app
from multistream.explaining import selftest
from multistream.explaining.selftest import Check, SelfTest
from multistream.recipe import Recipe
from multistream.training.train import train
from tests.cli.test_train import call


@pytest.fixture
def run(recipe: Recipe, vectors: Path, tmp_path: Path) -> Path:
    changes = {"streams": {"object": "object", "anp": "anp"}, "inputs": {"anp": str(vectors)}, "fusion": "early"}
    return train(recipe.updated({"network": changes}), out=tmp_path / "run").folder


def test_all_at_once_on_the_runs_own_photos(run: Path, photos: Path, tmp_path: Path) -> None:
    boxes = ["path,left,top,right,bottom"]
    boxes += [f"{path.relative_to(photos)},0,0,16,32" for path in sorted(photos.rglob("*.png"))]
    (tmp_path / "boxes.csv").write_text("\n".join(boxes))
    words = ["--faithfulness", "--masks", "boxes.csv", "--gallery", "pictures", "--device", "cpu"]
    out, err = call("explain", run, *words, "--json", cwd=tmp_path)
    found = json.loads(out)
    assert (found["n"], found["left_out"], found["method"]) == (6, 0, "exact")
    (measured,) = found["faithfulness"]
    assert measured["name"] == "object"
    for area in (measured["deletion"], measured["insertion"]):
        assert 0 <= area["value"] <= 1
        low, high = area["difference_ci95"]
        assert low <= area["difference"] <= high
        assert area["difference"] == pytest.approx(area["value"] - area["noise"])
    (place,) = found["places"]
    assert place["chance"] == 0.5
    assert place["stream"] == "object"
    assert sum(found["outcomes"].values()) == 6
    written = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert {"mean-maps.png", "anp.png"} < written
    assert str(Path("pictures") / "mean-maps.png") in err
    out, _ = call("explain", run, *words, "--quiet", cwd=tmp_path)
    for said in ("6 photos; maps: exact", "deletion", "below noise is better", "50.0 %", "streams right by themselves"):
        assert said in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--faithfulness", "--npz", "x.npz"], "a call of its own"),
        (["--gallery", "pictures", "--method", "grad-cam", "--classes", "all"], "--method, --classes: they speak"),
        (["--self-test", "--target", "awe"], "--target would be without effect"),
        (["--faithfulness", "--against", "awe"], "one class's logit"),
        (["--masks", "no.csv"], "No such file"),
        (["elsewhere.png", "--gallery", "pictures"], "these photos have no labels"),
    ],
)
def test_mistakes_are_told(run: Path, tmp_path: Path, words: list[str], said: str) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "elsewhere.png")
    code = 65 if "no.csv" in words else 2
    _, err = call("explain", run, *words, "--device", "cpu", cwd=tmp_path, code=code)
    assert said in err


@pytest.mark.parametrize(("value", "code"), [(0.99, 0), (0.5, 1)])
def test_the_self_test_says_by_its_exit_code(
    run: Path, monkeypatch: pytest.MonkeyPatch, value: float, code: int
) -> None:
    """The test itself takes a minute: tests/explaining/test_selftest.py runs it."""
    made = SelfTest("exact", (Check("pointing game in the stream", "object", value, 0.95, at_least=True),), 1.0)
    monkeypatch.setattr(selftest, "self_test", lambda *_, **__: made)
    done = CliRunner().invoke(app, ["explain", str(run), "--self-test", "--device", "cpu"])
    assert done.exit_code == code
    assert ("FAIL" in done.stdout) == bool(code)
    assert ">= 0.95" in done.stdout
