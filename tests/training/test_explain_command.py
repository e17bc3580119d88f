"""multistream explain on a run: the sum, the file, the pictures, and what is said where no sum exists."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from multistream.recipe import Recipe
from multistream.training import train
from tests.training.test_commands import call


def made(recipe: Recipe, vectors: Path, out: Path, fusion: str) -> Path:
    changes = {"streams": {"object": "object", "anp": "anp"}, "inputs": {"anp": str(vectors)}, "fusion": fusion}
    return train(recipe.updated({"network": changes}), out=out).folder


def total(arrays: np.lib.npyio.NpzFile, key: str) -> np.ndarray:
    maps = sum(arrays[name].sum((2, 3)) for name in arrays.files if name.startswith(f"map/{key}"))
    return maps + sum(arrays[name].sum(2) for name in arrays.files if name.startswith(f"vector/{key}"))


def test_early_everything_sums_to_the_logit(recipe: Recipe, vectors: Path, photos: Path, tmp_path: Path) -> None:
    """Check E3, through the file that others build on."""
    run = made(recipe, vectors, tmp_path / "run", "early")
    words = ["explain", run, photos / "awe", "--input", f"anp={vectors}", "--npz", "e.npz", "--overlays", "pictures"]
    out, _ = call(*words, "--json", "--device", "cpu", cwd=tmp_path)
    found = json.loads(out)
    assert len(found) == 20
    assert all(each["residual"] < 1e-5 and all(each["exact"].values()) for each in found)
    arrays = np.load(tmp_path / "e.npz")
    logits = arrays["logits"]
    assert logits.shape == (20, 3)
    difference = np.abs(total(arrays, "") + arrays["bias"] - logits)
    assert (difference <= 1e-5 * np.maximum(1, np.abs(logits))).all()
    assert arrays["shapley/streams"].shape == (20, 3, 2)
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 20


def test_late_sums_per_stream_and_fuses_by_the_mean(
    recipe: Recipe, vectors: Path, photos: Path, tmp_path: Path
) -> None:
    run = made(recipe, vectors, tmp_path / "run", "late")
    words = ["explain", run, photos / "joy", "--input", f"anp={vectors}", "--npz", "e.npz", "--target", "fear"]
    out, _ = call(*words, "--device", "cpu", cwd=tmp_path)
    assert "no exact sum exists" in out  # the MLP on the vectors
    arrays = np.load(tmp_path / "e.npz")
    assert np.allclose(total(arrays, "object") + arrays["bias/object"], arrays["logits/object"], atol=1e-5)
    assert bool(arrays["exact/object"])
    assert not bool(arrays["exact/anp"])
    own = [np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (arrays["logits/object"], arrays["logits/anp"])]
    assert np.allclose([arrays["probability/object"], arrays["probability/anp"]], own, atol=1e-6)


def test_many_photos_keep_the_target_and_damaged_ones_a_status(recipe: Recipe, photos: Path, tmp_path: Path) -> None:
    run = train(recipe, out=tmp_path / "run").folder
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"")
    out, _ = call("explain", run, photos, bad, "--npz", "e.npz", "--json", "--device", "cpu", cwd=tmp_path)
    found = json.loads(out)
    assert [each["status"] for each in found] == ["ok"] * 60 + ["empty"]
    arrays = np.load(tmp_path / "e.npz")
    assert arrays["logits"].shape == (61, 1)
    assert np.isnan(arrays["logits"][60]).all()
    assert arrays["target"][60] == -1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--target", "aw"], "Did you mean 'awe'"),
        (["--baseline", "none"], "mean, zero or drop"),
        (["--classes", "x"], "auto"),
    ],
)
def test_mistakes_are_told(recipe: Recipe, photos: Path, tmp_path: Path, words: list[str], said: str) -> None:
    run = train(recipe, out=tmp_path / "run").folder
    _, err = call("explain", run, photos / "awe", *words, cwd=tmp_path, code=2)
    assert said in err
