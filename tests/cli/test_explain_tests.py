"""multistream gallery and test-explanation: tests on photos, and the self-test's exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from multistream.cli import app
from multistream.explaining import selftest
from multistream.explaining.selftest import SelfTest, SelfTestCheck
from multistream.recipe import Recipe
from multistream.training.train import train
from tests.cli.in_process import call


@pytest.fixture
def run(recipe: Recipe, vectors: Path, tmp_path: Path) -> Path:
    changes = {"streams": {"object": "object", "anp": "anp"}, "inputs": {"anp": str(vectors)}, "fusion": "early"}
    return train(recipe.updated({"network": changes}), out=tmp_path / "run").folder


def test_photos_are_tested_in_one_pass(run: Path, photos: Path, tmp_path: Path) -> None:
    boxes = ["path,left,top,right,bottom"]
    boxes += [f"{path.relative_to(photos)},0,0,16,32" for path in sorted(photos.rglob("*.png"))]
    (tmp_path / "boxes.csv").write_text("\n".join(boxes))
    words = ["test-explanation", run, "--faithfulness", "--masks", "boxes.csv", "--device", "cpu"]
    out, _ = call(*words, "--json", cwd=tmp_path)
    found = json.loads(out)
    assert found["self_test"] is None
    found = found["photos"]
    assert (found["n"], found["left_out"], found["method"]) == (6, 0, "decomposition")
    (measured,) = found["faithfulness"]
    assert measured["name"] == "object"
    for area in (measured["deletion"], measured["insertion"]):
        assert 0 <= area["value"] <= 1
        low, high = area["difference_ci95"]
        assert low <= area["difference"] <= high
        assert area["difference"] == pytest.approx(area["value"] - area["noise"])
    (row,) = found["localisation"]
    assert row["chance"] == 0.5
    assert row["stream"] == "object"
    out, _ = call(*words, "--quiet", cwd=tmp_path)
    for said in (
        "6 photos; attribution maps: decomposition",
        "deletion",
        "lower than the random map is better",
        "50.0 %",
    ):
        assert said in out


def test_galleries_are_written_to_the_run_or_to_out(run: Path, tmp_path: Path) -> None:
    out, err = call("gallery", run, "--device", "cpu", "--json", cwd=tmp_path)
    found = json.loads(out)
    assert sum(found["outcomes"].values()) == found["n"] == 6
    assert {"mean-maps.png", "anp.png"} < {path.name for path in (run / "gallery").iterdir()}
    assert str(run / "gallery" / "mean-maps.png") in err
    out, _ = call("gallery", run, "--out", "pictures", "--format", "pdf", "--device", "cpu", "--quiet", cwd=tmp_path)
    assert "photos classified correctly by all streams:" in out
    assert {path.suffix for path in (tmp_path / "pictures").iterdir()} == {".pdf"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["test-explanation", "RUN", "--target", "awe"], "--target: the self-test reads no photos"),
        (["test-explanation", "RUN", "--masks", "no.csv"], "No such file"),
        (["gallery", "RUN", "elsewhere.png"], "these photos have none"),
        (["gallery", "RUN", "--format", "gif"], "png, pdf or svg"),
    ],
)
def test_wrong_options_raise(run: Path, tmp_path: Path, words: list[str], said: str) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "elsewhere.png")
    code = 65 if "no.csv" in words else 2
    words = [str(run) if word == "RUN" else word for word in words]
    _, err = call(*words, "--device", "cpu", cwd=tmp_path, code=code)
    assert said in err


@pytest.mark.parametrize(("value", "code"), [(0.99, 0), (0.5, 1)])
def test_self_test_sets_the_exit_code(run: Path, monkeypatch: pytest.MonkeyPatch, value: float, code: int) -> None:
    """The test itself takes a minute: tests/explaining/test_selftest.py runs it."""
    made = SelfTest(
        "decomposition", (SelfTestCheck("pointing game in the stream", "object", value, 0.95, at_least=True),), 1.0
    )
    monkeypatch.setattr(selftest, "self_test", lambda *_, **__: made)
    done = CliRunner().invoke(app, ["test-explanation", str(run), "--self-test", "--device", "cpu"])
    assert done.exit_code == code
    assert ("FAIL" in done.stdout) == bool(code)
    assert ">= 0.95" in done.stdout
