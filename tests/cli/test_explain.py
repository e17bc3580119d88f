"""multistream explain on a run: sums, files, overlays, and the output without an exact sum."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import nn

import multistream
from multistream import Image as Photo
from multistream import Stream, compose
from multistream.cli.explain_text import explanation_text
from multistream.explaining import Explainer, explain
from multistream.explaining.npz import NpzColumn
from multistream.inference.model import load
from multistream.recipe import Recipe
from multistream.runs.model_file import save_model
from multistream.training.train import train
from tests.cli.in_process import call


def made(recipe: Recipe, vectors: Path, out: Path, fusion: str, **network: object) -> Path:
    changes = {"streams": {"object": "object", "anp": "anp"}, "inputs": {"anp": str(vectors)}, "fusion": fusion}
    return train(recipe.updated({"network": {**changes, **network}}), out=out).folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def early(recipe: Recipe, vectors: Path, folder: Path) -> Path:
    """A run with exact sums, trained once for all tests."""
    return folder / "early" if (folder / "early").exists() else made(recipe, vectors, folder / "early", "early")


@pytest.fixture
def late(recipe: Recipe, vectors: Path, folder: Path) -> Path:
    return folder / "late" if (folder / "late").exists() else made(recipe, vectors, folder / "late", "late")


@pytest.fixture
def recurrent(recipe: Recipe, vectors: Path, folder: Path) -> Path:
    out = folder / "recurrent"
    return out if out.exists() else made(recipe, vectors, out, "early", temporal="bigru+att")


def explained(*words: str | Path, cwd: Path) -> list[dict[str, Any]]:
    out, _ = call("explain", *words, "--json", "--device", "cpu", cwd=cwd)
    found: list[dict[str, Any]] = json.loads(out)
    return found


def total(arrays: np.lib.npyio.NpzFile, key: str) -> np.ndarray:
    maps = sum(arrays[name].sum((2, 3)) for name in arrays.files if name.startswith(f"map/{key}"))
    return maps + sum(arrays[name].sum(2) for name in arrays.files if name.startswith(f"vector/{key}"))


def test_contributions_of_early_fusion_sum_to_the_logit(
    early: Path, vectors: Path, photos: Path, tmp_path: Path
) -> None:
    """Check E3, on the written .npz file."""
    words = [early, photos / "awe", "--input", f"anp={vectors}", "--npz", "e.npz"]
    found = explained(*words, cwd=tmp_path)
    assert len(found) == 20
    assert all(each["residual"] < 1e-5 and all(each["exact"].values()) for each in found)
    arrays = np.load(tmp_path / "e.npz")
    logits = arrays["logits"]
    assert logits.shape == (20, 3)
    assert arrays["bias"].shape == (20, 3)
    explained(*words, "--classes", "target", cwd=tmp_path)  # the same axes for one class
    assert [np.load(tmp_path / "e.npz")[name].shape for name in ("logits", "bias")] == [(20, 1), (20, 1)]
    difference = np.abs(total(arrays, "") + arrays["bias"] - logits)
    assert (difference <= 1e-5 * np.maximum(1, np.abs(logits))).all()
    assert arrays["shapley/streams"].shape == (20, 3, 2)
    assert arrays["interactions"].shape == (20, 3, 2, 2)
    stages = arrays["shapley/stages/object"]
    assert stages.shape == (20, 3, len(arrays["stages/object"]))
    assert np.allclose(stages.sum(2), arrays["shapley/streams"][:, :, 0], atol=1e-5)
    text, _ = call(
        "explain", early, photos / "awe" / "1.png", "--input", f"anp={vectors}", "--device", "cpu", cwd=tmp_path
    )
    assert "Shapley" in text
    assert "interaction" not in text  # logits that are sums over streams have none
    said = {name: str(arrays[name]) for name in ("method", "flow", "scale", "baseline")}
    assert said == {"method": "decomposition", "flow": "direct", "scale": "logit", "baseline": "mean"}


def test_contributions_of_late_fusion_sum_per_stream(late: Path, vectors: Path, photos: Path, tmp_path: Path) -> None:
    words = ["explain", late, photos / "joy", "--input", f"anp={vectors}", "--npz", "e.npz", "--target", "fear"]
    out, _ = call(*words, "--device", "cpu", cwd=tmp_path)
    assert "gradient x input: the head is not linear, so there is no exact sum" in out  # the MLP on the vectors
    assert "remainder" in out
    arrays = np.load(tmp_path / "e.npz")
    assert np.allclose(total(arrays, "object") + arrays["bias/object"], arrays["logits/object"], atol=1e-5)
    assert bool(arrays["exact/object"])
    assert str(arrays["kind/anp"]) == "local"
    assert "bias/anp" not in arrays.files
    assert "remainder/anp" in arrays.files
    own = [np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (arrays["logits/object"], arrays["logits/anp"])]
    assert np.allclose([arrays["probability/object"], arrays["probability/anp"]], own, atol=1e-6)


def test_without_paths_the_test_split_is_explained(early: Path, tmp_path: Path) -> None:
    found = explained(early, "--target", "true", cwd=tmp_path)
    assert [each["target"] for each in found] == [each["label"] for each in found]
    assert len(found) == 6
    assert {each["label"] for each in found} == {"awe", "fear", "joy"}


def test_only_photos_of_the_run_get_its_labels_and_inputs(early: Path, photos: Path, tmp_path: Path) -> None:
    (own,) = explained(early, photos / "fear" / "3.png", "--target", "true", cwd=tmp_path)
    assert own["label"] == "fear"
    elsewhere = tmp_path / "3.png"
    elsewhere.write_bytes((photos / "fear" / "3.png").read_bytes())
    _, err = call("explain", early, elsewhere, "--target", "true", cwd=tmp_path, code=2)
    assert "labels" in err
    _, err = call("explain", early, elsewhere, cwd=tmp_path, code=65)
    assert "--input anp=FILE" in err


def test_another_labelled_data_set_can_be_explained(early: Path, photos: Path, vectors: Path, tmp_path: Path) -> None:
    found = explained(early, "--data", photos, "--input", f"anp={vectors}", "--target", "true", cwd=tmp_path)
    assert len(found) == 60
    assert all(each["label"] in each["path"] for each in found)


def test_contrast_is_the_difference_of_two_classes(early: Path, photos: Path, tmp_path: Path) -> None:
    paths = [photos / "awe" / f"{number}.png" for number in range(3)]
    fear, awe = (explained(early, *paths, "--target", name, cwd=tmp_path) for name in ("fear", "awe"))
    both = explained(early, *paths, "--target", "fear", "--against", "awe", "--npz", "e.npz", cwd=tmp_path)
    for one, other, contrast in zip(fear, awe, both, strict=True):
        for key in ("logits", "bias", "shapley", "vectors"):
            for name, value in contrast[key].items():
                assert value == pytest.approx(one[key][name] - other[key][name], abs=1e-5)
        parts = [value for stages in contrast["stages"].values() for value in stages.values()]
        everything = sum([*parts, *contrast["vectors"].values()]) + contrast["bias"]["fused"]
        assert everything == pytest.approx(contrast["value"], abs=1e-4)
    arrays = np.load(tmp_path / "e.npz")
    assert list(arrays["target"]) == [1, 1, 1]
    assert list(arrays["against"]) == [0, 0, 0]


def test_without_an_exact_sum_gradients_are_printed(recurrent: Path, photos: Path, tmp_path: Path) -> None:
    photo = photos / "awe" / "1.png"
    out, _ = call("explain", recurrent, photo, "--device", "cpu", "--npz", "e.npz", cwd=tmp_path)
    assert "method: grad-cam (gradient through each stage's own tap); scale: logit" in out
    assert "no exact sum" in out
    assert "attention  object:" in out
    arrays = np.load(tmp_path / "e.npz")
    assert "bias" not in arrays.files
    assert arrays["logits"].shape == (1, 1)
    assert arrays["attention/object"].shape == (1, len(arrays["stages/object"]))
    _, err = call("explain", recurrent, photo, "--method", "decomposition", cwd=tmp_path, code=2)
    assert "the temporal module bigru+att of object is not linear" in err


def test_fused_probability_is_explained_by_gradients_and_shapley_values(
    late: Path, photos: Path, tmp_path: Path
) -> None:
    words = [late, photos / "awe" / "1.png", "--target", "awe", "--scale", "probability", "--baseline", "drop"]
    (found,) = explained(*words, cwd=tmp_path)
    assert found["method"] == "grad-cam"
    assert found["value"] == pytest.approx(found["probability"], abs=1e-6)
    assert found["residual"] is None
    assert sum(found["shapley"].values()) == pytest.approx(found["value"] - 1 / 3, abs=1e-5)  # the classes' prior
    assert found["shapley_stages"] == {}
    _, err = call("explain", *words, "--method", "decomposition", cwd=tmp_path, code=2)
    assert "a probability is not a linear function" in err


def test_calibrated_network_has_the_same_probability_everywhere(early: Path, photos: Path) -> None:
    model, photo = load(early), photos / "awe" / "1.png"
    model.network.calibrate(0.25)
    (predicted,) = model.predict([photo], precision="fp32")
    (plain,) = explain(model, [photo], target="awe")
    (found,) = explain(model, [photo], target="awe", scale="probability", baseline="drop")
    expected = predicted.probabilities["awe"]
    assert found.probability == plain.probability == pytest.approx(expected, abs=1e-6)
    assert found.value == pytest.approx(expected, abs=1e-6)
    assert sum(found.shapley.values()) == pytest.approx(expected - 1 / 3, abs=1e-5)  # the classes' prior
    assert plain.temperature == 0.25
    assert "% at temperature 0.25)" in explanation_text(plain)
    model.network.calibrate(1.0)
    (other,) = explain(model, [photo], target="awe")
    assert other.logits == plain.logits
    assert other.probability != pytest.approx(plain.probability, abs=1e-3)
    assert "temperature" not in explanation_text(other)


def test_integrated_gradients_sum_to_the_difference_from_the_training_mean(
    recurrent: Path, photos: Path, tmp_path: Path
) -> None:
    words = [recurrent, photos / "awe" / "1.png", "--method", "integrated-gradients", "--npz", "e.npz"]
    (found,) = explained(*words, cwd=tmp_path)
    assert found["gap"] < 1e-4
    parts = sum(value for stages in found["stages"].values() for value in stages.values())
    everything = parts + sum(found["vectors"].values())
    assert everything == pytest.approx(sum(found["shapley"].values()), abs=1e-4)  # both: v(all) - v(the average)
    arrays = np.load(tmp_path / "e.npz")
    carried = sum(arrays[name].sum() for name in arrays.files if name.startswith("map/object"))
    assert carried == pytest.approx(arrays["tokens/object"].sum(), abs=1e-4)


def test_flows_differ_below_the_last_stage_and_are_named(early: Path, photos: Path, tmp_path: Path) -> None:
    """Check E12, in the command's output."""
    words = [early, photos / "awe" / "1.png", "--method"]
    (direct,), (through,) = (explained(*words, name, cwd=tmp_path) for name in ("grad-cam", "grad-cam-total"))
    assert (direct["flow"], through["flow"]) == ("direct", "total")
    stages = list(direct["stages"]["object"])
    one, other = direct["stages"]["object"], through["stages"]["object"]
    assert one[stages[-1]] == pytest.approx(other[stages[-1]], rel=1e-4)
    assert one[stages[0]] != pytest.approx(other[stages[0]], rel=0.05)
    (last,) = explained(early, photos / "awe" / "1.png", "--method", "grad-cam-last", cwd=tmp_path)
    assert last["stages"]["object"] == {stages[-1]: pytest.approx(one[stages[-1]], rel=1e-4)}


def test_many_photos_keep_only_the_target_and_damaged_ones_a_status(
    recipe: Recipe, photos: Path, tmp_path: Path
) -> None:
    run = train(recipe, out=tmp_path / "run").folder
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"")
    found = explained(run, photos / "awe", bad, photos / "fear", "--npz", "e.npz", cwd=tmp_path)
    assert [each["status"] for each in found] == ["ok"] * 20 + ["empty"] + ["ok"] * 20
    arrays = np.load(tmp_path / "e.npz")
    assert arrays["logits"].shape == (41, 1)
    assert np.isnan(arrays["logits"][20]).all()
    assert arrays["target"][20] == -1
    assert arrays["ids"][21].endswith("fear/0.png")
    known = {each["path"]: each["logits"]["fused"] for each in found if each["status"] == "ok"}
    for name, logit in zip(arrays["ids"], arrays["logits"][:, 0], strict=True):
        assert str(name) == str(bad) or known[str(name)] == pytest.approx(logit, abs=1e-5)
    explained(run, photos, "--npz", "all.npz", "--classes", "all", cwd=tmp_path)
    assert np.load(tmp_path / "all.npz")["logits"].shape == (60, 3)


@pytest.mark.parametrize("scale", ["shared", "map"])
def test_overlays_are_png_files(early: Path, photos: Path, tmp_path: Path, scale: str) -> None:
    words = [early, photos / "awe" / "1.png", photos / "fear" / "2.png", "--overlays", "pictures"]
    explained(*words, "--colour-scale", scale, cwd=tmp_path)
    files = sorted((tmp_path / "pictures").iterdir())
    assert [file.name for file in files] == ["00000-1.png", "00001-2.png"]
    with Image.open(files[0]) as picture:
        assert picture.width > 800
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 100


def test_python_and_command_give_equal_results(early: Path, photos: Path, tmp_path: Path) -> None:
    (said,) = explained(early, photos / "awe" / "1.png", cwd=tmp_path)
    (found,) = multistream.explain(early, [photos / "awe" / "1.png"], device="cpu")
    assert found.to_dict()["shapley"] == pytest.approx(said["shapley"], abs=1e-5)
    assert found.arrays is not None
    assert set(found.arrays.maps["object"]) == set(said["stages"]["object"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--target", "aw"], "Did you mean 'awe'"),
        (["--target", "awe", "--against", "awe"], "the target itself, so the difference is zero"),
        (["--baseline", "none"], "mean, zero or drop"),
        (["--classes", "x"], "auto"),
        (["--method", "x"], "integrated-gradients"),
        (["--flow", "total"], "Type --method grad-cam or --method grad-cam-total"),
        (["--self-test"], "Type multistream test-explanation RUN --self-test"),
        (["--gallery=here"], "Type multistream gallery RUN --out FOLDER"),
        (["--scale", "x"], "logit or probability"),
        (["--data", "here"], "PATHS were given too"),
    ],
)
def test_wrong_options_raise(early: Path, photos: Path, tmp_path: Path, words: list[str], said: str) -> None:
    _, err = call("explain", early, photos / "awe", *words, cwd=tmp_path, code=2)
    assert said in err


@pytest.mark.parametrize("words", [["--npz", "{}/e.npz"], ["--overlays", "{}/pictures"]])
def test_unwritable_output_raises_before_explaining(
    early: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    """A file in place of the output folder raises before any photo is explained."""
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(Explainer, "explanations", lambda _: pytest.fail("photos were explained"))
    options = [word.format(tmp_path / "file") for word in words]
    _, err = call("explain", early, photos / "awe" / "1.png", *options, "--device", "cpu", cwd=tmp_path, code=74)
    assert "cannot be written" in err.splitlines()[-1]


def test_unwritable_gallery_gives_one_line(early: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    _, err = call("gallery", early, "--out", tmp_path / "file" / "x", "--device", "cpu", cwd=tmp_path, code=74)
    assert "cannot be written" in err.splitlines()[-1]


def test_full_disk_leaves_no_partial_file(early: Path, photos: Path, tmp_path: Path) -> None:
    """Rows are written without memory mapping: a full disk raises an error instead of a signal."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NpzColumn, "put", full)
        words = [early, photos / "awe" / "1.png", "--npz", "e.npz", "--device", "cpu"]
        _, err = call("explain", *words, cwd=tmp_path, code=74)
    assert "the disk is full" in err
    assert [path.name for path in tmp_path.iterdir() if "npz" in path.name] == []


def test_streams_given_as_instances_must_be_given_again(photos: Path, tmp_path: Path) -> None:
    class Colour(Stream):
        def __init__(self) -> None:
            super().__init__({"one": nn.Conv2d(3, 4, 3, stride=4)}, channels={"one": 4}, input=Photo(size=32))

    network = compose({"mine": Colour()}, classes=["awe", "fear", "joy"]).eval()
    network.mark_trained()
    save_model(network, tmp_path / "model.safetensors", recipe=Recipe())
    (found,) = multistream.explain(
        tmp_path / "model.safetensors", [photos / "awe" / "1.png"], streams={"mine": Colour()}, device="cpu"
    )
    assert list(found.stages["mine"]) == ["one"]
    assert found.exact == {"mine": True}
