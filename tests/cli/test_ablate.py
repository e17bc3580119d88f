"""multistream ablate from the command line: JSON, table, CSV, figure, files in the run, and errors."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from multistream.reporting.ablations import read_ablations
from tests.cli.in_process import call


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a frozen stream."""
    folder = tmp_path_factory.mktemp("home")
    words = "--streams object --weights object=random --freeze streams --epochs 2 --batch-size 16 --device cpu --quiet"
    settings = ["--set", "data.image_size=32", "--set", "data.split=60/10/30"]
    call("train", "--data", photos, *words.split(), *settings, "--out", "run", cwd=folder)
    return folder / "run"


def test_run_is_ablated_and_result_is_saved_in_it(run: Path, tmp_path: Path) -> None:
    options = ["--seeds", "2", "--verify", "--json", "--csv", "rows.csv", "--plot", "figure.svg"]
    out, err = call("ablate", run, *options, cwd=tmp_path)
    found = json.loads(out)
    assert set(found) >= {"axis", "rows", "seconds"}
    assert set(found["rows"][0]) >= {"keep", "accuracy", "accuracy_ci95", "delta", "p_value", "params", "macs"}
    assert [len(row["keep"]["object"]) for row in found["rows"]] == [1, 2, 3, 4, 5]
    assert found["verified"]["largest_difference"] < 1e-5
    assert "saved to" in err
    rows = list(csv.DictReader((tmp_path / "rows.csv").open()))
    assert [float(row["accuracy"]) for row in rows] == [row["accuracy"] for row in found["rows"]]
    assert (tmp_path / "figure.svg").read_text().startswith("<?xml")
    (kept,) = read_ablations(run)
    assert [row.score for row in kept.rows] == [row["accuracy"] for row in found["rows"]]


def test_plan_lists_rows_without_training(run: Path, tmp_path: Path) -> None:
    words = ["ablate", run, "--seeds", "2", "--plan", "--json"]
    out, err = call(*words, cwd=tmp_path)
    listed = json.loads(out)
    assert "one pass over pooled features" in err
    assert [each["state"] for each in listed] == ["new"] * 10
    assert listed[-1]["run"] == "object, seed 1, split 18"
    assert not Path(listed[0]["folder"]).exists()

    out, _ = call(*words, "--set", "network.freeze=['none']", "--out", "kept", cwd=tmp_path)
    first, *others = json.loads(out)
    assert [Path(each["folder"]).name for each in others[:2]] == ["01-seed0-split18", "02-seed0-split18"]
    assert first["trainings"] == 1
    assert not (tmp_path / "kept").exists()


def test_plan_without_a_folder_raises(photos: Path, tmp_path: Path) -> None:
    words = ["ablate", "--streams", "object", "--weights", "object=random", "--data", photos, "--plan"]
    assert "Pass a RUN, or --out FOLDER" in call(*words, cwd=tmp_path, code=2)[1]


def test_wrong_options_give_one_line(run: Path, tmp_path: Path) -> None:
    for words, expected in (
        (["ablate", run, "--axis", "depht"], "depth"),
        (["ablate"], "pass a RUN"),
        (["ablate", run, "--cut", "objekt"], "Did you mean 'object'"),
        (["ablate", run, "--axis", "streams", "--cut", "object"], "cuts none"),
        (["ablate", tmp_path / "nothing"], "nothing"),
        (["ablate", run, "--axis", "streams"], "--axis streams needs several streams, but the composition has one"),
    ):
        out, err = call(*words, cwd=tmp_path, code=2)
        assert out == ""
        assert expected in err
        assert "Traceback" not in err
