"""The commands train, evaluate, predict and compare: output and errors."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from multistream import evaluate, load
from multistream.data.layouts.data_source import open_table
from multistream.recipe import Recipe
from multistream.training.train import train
from tests.cli.in_process import call


def options(photos: Path) -> list[str]:
    text = "--data {} --streams object --weights object=random --freeze streams --epochs 2 --batch-size 8 --device cpu"
    return [*text.format(photos).split(), "--set", "data.image_size=32", "--set", "data.split=60/20/20"]


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("home")
    out, _ = call("train", *options(photos), "--out", "run", "--json", cwd=folder)
    assert json.loads(out)["test"]["n"] == 12
    return folder / "run"


def test_train_prints_choices_and_next_commands(photos: Path, tmp_path: Path) -> None:
    out, err = call("train", *options(photos), cwd=tmp_path)
    assert "accuracy" in out
    assert (tmp_path / "runs" / "object-1" / "model.safetensors").is_file()
    assert "60 images, 3 classes" in err
    assert "fusion:" not in err
    assert err.strip().splitlines()[-3:] == [
        "  multistream evaluate runs/object-1",
        "  multistream explain runs/object-1",
        "  multistream predict runs/object-1 PHOTO...",
    ]
    _, quiet = call("train", *options(photos), "--quiet", cwd=tmp_path)
    assert quiet == ""
    assert (tmp_path / "runs" / "object-2").is_dir()


def test_a_fusion_of_one_stream_is_said_to_have_no_effect(photos: Path, tmp_path: Path) -> None:
    _, err = call("train", *options(photos), "--fusion", "gated", cwd=tmp_path)
    assert "fusion: gated is not used, because the network has one stream" in err


def test_next_commands_work_for_a_run_with_vectors(photos: Path, tmp_path: Path) -> None:
    """New photos have no vectors: the commands that train suggests must work without them."""
    ids = [str(path.relative_to(photos)) for path in sorted(photos.glob("*/*"))]
    features = np.random.default_rng(0).normal(size=(len(ids), 3)).astype(np.float32)
    np.savez(tmp_path / "anp.npz", ids=ids, features=features)
    command = ["train", *options(photos), "--input", f"anp={tmp_path / 'anp.npz'}", "--out", "mein Lauf ä"]
    command[command.index("object")] = "object,anp"
    _, err = call(*command, cwd=tmp_path)
    proposed = [shlex.split(line) for line in err.splitlines() if line.startswith("  multistream ")]
    assert [words[1] for words in proposed] == ["evaluate", "explain", "predict"]
    (tmp_path / "new.png").write_bytes(next(photos.glob("*/*")).read_bytes())
    for _, *words in proposed:
        out, _ = call(*[str(tmp_path / "new.png") if word == "PHOTO..." else word for word in words], cwd=tmp_path)
        assert out


def test_printed_recipe_can_be_loaded_again(photos: Path, tmp_path: Path) -> None:
    out, _ = call("train", *options(photos), "--print-recipe", cwd=tmp_path)
    (tmp_path / "mine.toml").write_text(out)
    again, _ = call("train", "--recipe", "mine.toml", "--print-recipe", cwd=tmp_path)
    assert again == out
    assert Recipe.loads(out).training.epochs == 2


def test_evaluate_reproduces_the_test_metrics(run: Path, tmp_path: Path) -> None:
    out, _ = call("evaluate", run, "--device", "cpu", "--json", "--predictions", tmp_path / "p.csv", cwd=tmp_path)
    found, summary = json.loads(out), json.loads((run / "summary.json").read_text())
    for name in ("accuracy", "n", "confusion", "classes"):
        assert found[name] == summary["test"][name]
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 13
    text, _ = call("evaluate", run, cwd=tmp_path)
    assert "balanced accuracy" in text


def test_evaluate_leaves_out_training_photos(run: Path, photos: Path) -> None:
    found = evaluate(run, data=str(photos), device="cpu")
    assert found.left_out == {"in the run's training": 48}
    assert found.metrics.n == 12


def test_predict_and_python_agree_bit_for_bit(run: Path, photos: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no picture")
    paths = [*sorted((photos / "awe").glob("*.png"))[:5], bad, photos / "joy" / "2.png"]
    out, err = call("predict", run, *paths, "--device", "cpu", "--json", cwd=tmp_path)
    lines = [json.loads(line) for line in out.splitlines()]
    ours = [prediction.to_dict() for prediction in load(run).predict(paths, device="cpu")]
    assert [line["path"] for line in lines] == [str(path) for path in paths]
    assert lines[5]["status"] == "not an image"
    assert lines[5]["label"] is None
    assert "1 of 7 photos could not be used" in err
    assert [line["probabilities"] for line in lines] == [line["probabilities"] for line in ours]


def test_predict_reads_folders_lists_and_files(run: Path, photos: Path, tmp_path: Path) -> None:
    out, _ = call("predict", run, photos / "fear", "--json", cwd=tmp_path)
    assert len(out.splitlines()) == 20
    listed = "\n".join(str(path) for path in sorted((photos / "fear").glob("*.png"))[:3])
    out, _ = call("predict", run, "-", "--json", cwd=tmp_path, stdin=listed)
    assert len(out.splitlines()) == 3
    path = photos / "fear" / "1.png"
    with Image.open(path) as picture:
        (of_picture,) = load(run).predict([picture], device="cpu")
    (of_file,) = load(run).predict([path], device="cpu")
    assert of_picture.probabilities == of_file.probabilities


def test_compare_prints_a_row_per_run(run: Path, photos: Path, tmp_path: Path) -> None:
    call("train", *options(photos), "--tap", "last", "--out", "last", cwd=tmp_path)
    out, _ = call("compare", run, "last", cwd=tmp_path)
    assert "gap:64" in out
    assert "McNemar" in out
    assert len(json.loads(call("compare", run, "last", "--json", cwd=tmp_path)[0])) >= 1


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["train"], 2, "At least one is needed"),
        (["train", "--streams", "objekt"], 2, "streams: 'objekt' is unknown. Did you mean 'object'?"),
        (["train", "--streams", "object", "--data", "nowhere"], 65, "nowhere"),
        (["train", "--streams", "object", "--set", "training.epoch=3"], 2, "Did you mean 'training.epochs'?"),
        (["train", "--streams", "object", "--weights", "object"], 2, "Write KEY=VALUE"),
        (["train", "--streams", "object", "--weights", "object=missing.pth"], 69, "no such file"),
        (["train", "--streams", "object", "--device", "tpu"], 2, "device"),
        (["train", "--resume", "nowhere"], 2, "no run"),
        (["evaluate", "nowhere"], 69, "no model found"),
        (["train", "--data", "nowhere", "--streams", "object", "--device", "cuda:99"], 2, "cuda:99 does not exist"),
        (["train", "--data", "nowhere", "--streams", "object", "--out", __file__], 2, "is not empty"),
        (["predict", "nowhere", "a.jpg"], 69, "no model found"),
        (["weights", "inspect", "nowhere.pth"], 69, "no such file"),
    ],
)
def test_errors_give_one_line_and_an_exit_code(words: list[str], code: int, said: str, tmp_path: Path) -> None:
    out, err = call(*words, cwd=tmp_path, code=code)
    assert out == ""
    assert said in err
    assert "Traceback" not in err


def test_help_and_version_import_no_torch(tmp_path: Path) -> None:
    code = "import sys; sys.argv = ['multistream', sys.argv[1]]; from multistream.cli import app; "
    code += "app(standalone_mode=False); assert not {'torch', 'numpy', 'timm', 'PIL'} & set(sys.modules), sys.modules"
    for option in ("--help", "--version"):
        done = subprocess.run([sys.executable, "-c", code, option], cwd=tmp_path, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()


def test_several_processes_raise(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(Exception, match="Start it with torchrun"):
        train(recipe, out=tmp_path / "run")


def test_ctrl_c_saves_and_prints_how_to_resume(photos: Path, tmp_path: Path) -> None:
    import signal
    import time

    environment = {**os.environ, "MULTISTREAM_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "multistream", "train", *options(photos), "--epochs", "100000", "--out", "Lauf 1"]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "Lauf 1" / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "multistream train --resume 'Lauf 1'" in err
    assert any((tmp_path / "Lauf 1" / "checkpoints").glob("step-*"))
    for command in (["evaluate", "Lauf 1"], ["predict", "Lauf 1", photos], ["explain", "Lauf 1"], ["report", "Lauf 1"]):
        _, err = call(*command, cwd=tmp_path, code=69)
        assert "multistream train --resume 'Lauf 1'" in err


def test_data_scan_and_split(photos: Path, tmp_path: Path) -> None:
    copied = tmp_path / "photos"
    shutil.copytree(photos, copied)
    (copied / "awe" / "bad.jpg").write_bytes(b"nothing")
    shutil.copy(copied / "awe" / "1.png", copied / "joy" / "twin.png")
    out, _ = call("data", "scan", copied, cwd=tmp_path)
    assert "awe/bad.jpg: not an image" in out
    assert "awe/1.png, joy/twin.png" in out
    assert "check these before training" in out
    found = json.loads(call("data", "scan", photos, "--json", cwd=tmp_path)[0])
    assert found["images"] == 60
    out, _ = call("data", "split", photos, "split.csv", "--fractions", "60/20/20", cwd=tmp_path)
    assert out.strip() == "train 36, val 12, test 12"
    assert len((tmp_path / "split.csv").read_text().splitlines()) == 61


@pytest.mark.parametrize("out", ["split.csv", "photos/split.csv", "elsewhere/split.csv"])
def test_csv_of_a_split_is_a_data_set_in_any_folder(photos: Path, tmp_path: Path, out: str) -> None:
    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "elsewhere").mkdir()
    _, err = call("data", "split", "photos", out, cwd=tmp_path)
    outside = out.startswith("elsewhere")
    assert ("data.allow_outside=true" in err) == outside
    table = open_table(str(tmp_path / out), allow_outside=outside)
    assert len(table) == 60
    assert all(table.path(i).is_file() for i in range(60))
    assert table.parts is not None


def test_sigterm_saves_and_exits_with_143(photos: Path, tmp_path: Path) -> None:
    """Interruption in the middle of an epoch on photos; the run resumes from there."""
    import signal
    import time

    environment = {**os.environ, "MULTISTREAM_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    words = [*options(photos), "--freeze", "", "--epochs", "500", "--set", "training.patience=0"]
    command = [sys.executable, "-m", "multistream", "train", *words, "--out", "run"]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    began = time.monotonic()
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM == 143, err
    assert time.monotonic() - began < 10
    assert "multistream train --resume run" in err
    assert "freeze: none (no stream has pretrained weights; --freeze streams freezes them)" in err
    epochs = len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    out, _ = call("train", "--resume", "run", "--epochs", str(epochs + 1), "--json", cwd=tmp_path)
    assert json.loads(out)["epochs"] == epochs + 1


def test_batch_size_auto(photos: Path, tmp_path: Path) -> None:
    _, err = call("train", *options(photos), "--batch-size", "auto", "--out", "run", cwd=tmp_path)
    assert "64 images fit at once; 1 batches per step" in err
    recipe = Recipe.load(tmp_path / "run")
    assert (recipe.training.batch_size, recipe.runtime.fit_batch) == (64, False)
    _, err = call("train", *options(photos), "--batch-size", "many", cwd=tmp_path, code=2)
    assert "It must be a number of images, or auto" in err


def test_evaluate_matches_classes_by_name(run: Path, photos: Path, tmp_path: Path) -> None:
    """Class folders with renamed, missing, additional and reordered classes."""

    def laid(name: str, **classes: str) -> Path:
        for folder, source in classes.items():
            (tmp_path / name / folder).mkdir(parents=True)
            for path in sorted((photos / source).glob("*.png"))[:6]:
                pixels = Image.open(path).transpose(Image.Transpose.FLIP_TOP_BOTTOM)  # not a training photo
                pixels.save(tmp_path / name / folder / path.name)
        return tmp_path / name

    same = evaluate(run, data=str(laid("same", awe="awe", fear="fear", joy="joy")), device="cpu").metrics
    renamed = laid("renamed", a_joy="joy", b_fear="fear", c_awe="awe")  # and in another order
    _, err = call("evaluate", run, "--data", renamed, "--device", "cpu", cwd=tmp_path, code=65)
    assert "the photos have a_joy, b_fear, c_awe, but the run does not" in err
    (tmp_path / "map.toml").write_text('awe = "c_awe"\nfear = "b_fear"\njoy = "a_joy"\n')
    words = ["evaluate", run, "--data", renamed, "--device", "cpu", "--json", "--class-map", "map.toml"]
    found = json.loads(call(*words, cwd=tmp_path)[0])
    assert found["accuracy"] == same.accuracy
    assert found["classes"] == ["a_joy", "b_fear", "c_awe"]
    assert found["confusion"] == [list(row)[::-1] for row in np.array(same.confusion)[::-1].tolist()]
    missing = evaluate(run, data=str(laid("missing", awe="awe", joy="joy")), device="cpu").metrics
    assert missing.n == 12
    assert missing.per_class["awe"]["recall"] == same.per_class["awe"]["recall"]
    extra = laid("extra", awe="awe", fear="fear", joy="joy", love="joy")
    _, err = call("evaluate", run, "--data", extra, "--device", "cpu", cwd=tmp_path, code=65)
    assert "the photos have love" in err
    assert "--class-map" in err


def test_predict_prints_unusual_file_names(run: Path, photos: Path, tmp_path: Path) -> None:
    """Names that are not text, contain line breaks or are formulas, as arguments, in a folder and on stdin."""
    folder = tmp_path / "odd"
    folder.mkdir()
    names = [b"=cmd().png", b"two\nlines.png", b"\xff\xfe.png", "é.png".encode()]
    for name in names:
        (folder / os.fsdecode(name)).write_bytes((photos / "awe" / "1.png").read_bytes())
    out, _ = call("predict", run, folder, "--json", "--device", "cpu", cwd=tmp_path)
    found = [json.loads(line) for line in out.splitlines()]
    assert {os.fsencode(Path(each["path"]).name) for each in found} == set(names)
    assert {each["status"] for each in found} == {"ok"}
    out, _ = call("predict", run, folder, "--device", "cpu", cwd=tmp_path)
    assert len(out.splitlines()) == len(names)
    command = [sys.executable, "-m", "multistream", "predict", str(run), "-", "--json", "--device", "cpu"]
    listed = b"".join(bytes(folder) + b"/" + name + b"\n" for name in names if b"\n" not in name)
    done = subprocess.run(command, cwd=tmp_path, input=listed, capture_output=True, check=True)
    assert len(done.stdout.splitlines()) == 3
