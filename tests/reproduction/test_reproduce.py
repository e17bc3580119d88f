"""reproduce: a table of runs that are trained once; a second call trains nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from multistream.cli import app
from multistream.errors import UsageError
from multistream.recipe import Recipe
from multistream.reproduction.paper import the_paper
from multistream.reproduction.plan import Request, planned, rows_needed, stream_places
from multistream.runs.predictions_file import read_predictions
from multistream.training import engines
from multistream.training.folds import train


@pytest.fixture(scope="module")
def command(photos: Path, vectors: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A command with two vector streams in the roles of object and anp: training without images."""
    out = tmp_path_factory.mktemp("reproduced") / "out"
    settings = ["training.epochs=2", "runtime.device=cpu", "runtime.precision=fp32", "runtime.workers=0"]
    return [
        *("reproduce", "table1", "fig3", "--data", str(photos), "--folds", "2", "--out", str(out)),
        *("--streams", "object=anp,places=anp,anp=anp", "--quiet"),
        *(word for key in ("object", "places", "anp") for word in ("--input", f"{key}={vectors}")),
        *(word for setting in settings for word in ("--set", setting)),
    ]


def test_one_command_makes_table_and_figures_and_a_second_trains_nothing(command: list[str]) -> None:
    out = Path(command[command.index("--out") + 1])
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert "| MG EF O+P+ANP | 64.30 |" in done.stdout
    assert (out / "fig3.pdf").read_bytes().startswith(b"%PDF")
    assert r"\begin{tabular}" in (out / "table1.tex").read_text()
    first = json.loads((out / "reproduction.json").read_text())
    assert first["trained"] == 20, "10 rows, 2 folds"
    assert first["n"] == 60
    row = next(row for row in first["rows"] if row["key"] == "late_images")
    assert row["published"] == pytest.approx(0.64)
    again = CliRunner().invoke(app, [*command, "--json"], catch_exceptions=False)
    second = json.loads(again.stdout)
    assert second["trained"] == 0
    assert [r["accuracy"] for r in second["rows"]] == [r["accuracy"] for r in first["rows"]]


def test_engine_trains_the_same_table(command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All folds of all rows are one list, and rows that fuse others come after them. Processes are calls here."""
    order: list[str] = []

    def here(recipe: str, folder: str, cwd: str, **_: object) -> tuple[int, str]:
        del cwd
        order.append(folder)
        train(Recipe.loads(recipe), out=folder)
        return 0, ""

    monkeypatch.setattr(engines, "train_in_process", here)
    CliRunner().invoke(app, command, catch_exceptions=False)
    first = json.loads((Path(command[command.index("--out") + 1]) / "reproduction.json").read_text())
    words = [*command, "--out", str(tmp_path / "out"), "--json", "--engine", "local", "--engine-option", "parallel=1"]
    listed = json.loads(CliRunner().invoke(app, [*words, "--plan"], catch_exceptions=False).stdout)
    assert [each["trainings"] for each in listed] == [2] * 10
    found = json.loads(CliRunner().invoke(app, words, catch_exceptions=False).stdout)
    assert [row["accuracy"] for row in found["rows"]] == [row["accuracy"] for row in first["rows"]]
    assert len(order) == len(set(order)) == 20
    joined = [Recipe.load(Path(folder)).network.freeze == ("branches",) for folder in order]
    assert joined == sorted(joined), "branches first"
    assert any(joined)


def test_late_fusion_is_the_mean_of_the_branches_of_the_same_fold(command: list[str]) -> None:
    CliRunner().invoke(app, command, catch_exceptions=False)
    runs = Path(command[command.index("--out") + 1]) / "runs"
    own = [read_predictions(runs / key / "split-18-seed-0" / "predictions.csv") for key in ("mg_object", "mg_places")]
    late = read_predictions(runs / "late_images" / "split-18-seed-0" / "predictions.csv")
    assert late.paths == own[0].paths == own[1].paths
    assert np.mean([each.probabilities for each in own], axis=0) == pytest.approx(late.probabilities, abs=1e-6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--folds", "1"], "--folds: 1 is not possible"),
        (["--folds", "5", "--splits", "3"], "--splits: 3 random splits cannot be combined with folds"),
    ],
)
def test_invalid_folds_and_splits_raise(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        CliRunner().invoke(app, ["reproduce", "table1", *words], catch_exceptions=False)


def test_figure_5_is_drawn_once(command: list[str]) -> None:
    out = Path(command[command.index("--out") + 1])
    asked = ["reproduce", "fig5", *command[3:], "--json"]
    first = json.loads(CliRunner().invoke(app, asked, catch_exceptions=False).stdout)["gallery"]
    assert sum(first["outcomes"].values()) == first["n"] == 30, "the photos of one of two folds"
    assert {"anp.pdf", "places.pdf", "object.pdf"} < set(first["files"])
    drawn = {path: path.stat().st_mtime_ns for path in (out / "fig5").iterdir()}
    assert all(path.read_bytes().startswith(b"%PDF") for path in drawn if path.suffix == ".pdf")
    assert json.loads(CliRunner().invoke(app, asked, catch_exceptions=False).stdout)["gallery"] == first
    assert drawn == {path: path.stat().st_mtime_ns for path in (out / "fig5").iterdir()}


def test_figures_with_missing_streams_are_noted(command: list[str], vectors: Path, tmp_path: Path) -> None:
    asked = ["reproduce", "fig3", "fig5", *command[3:9], "--json", "--quiet", "--streams", "anp=anp", *command[-8:]]
    asked += ["--input", f"anp={vectors}", "--out", str(tmp_path / "other")]
    found = json.loads(CliRunner().invoke(app, asked, catch_exceptions=False).stdout)
    assert found["gallery"] is None
    assert any("fig3 and fig5 are left out: MG EF O+P+ANP needs object, places, anp" in n for n in found["notes"])


def test_other_settings_need_another_folder(command: list[str]) -> None:
    CliRunner().invoke(app, command, catch_exceptions=False)
    with pytest.raises(UsageError, match=r"other settings: training\.learning_rate"):
        CliRunner().invoke(app, [*command, "--set", "training.learning_rate=0.1"], catch_exceptions=False)


def test_rows_without_their_streams_are_left_out(tmp_path: Path) -> None:
    paper = the_paper()
    rows = rows_needed(["table1"], paper, {"object": "object", "places": "scenes"})
    assert [row.name for row in rows if row.fusion] == ["MG LF O+P", "MG+Bi-GRU+Att LF O+P"]
    request = Request(Recipe(), {"object": "object", "places": "scenes"}, {}, {}, tmp_path, splits=3, seeds=2)
    plan = planned(request, paper, rows)
    assert len(plan) == 7 * 6
    last = plan[-1]
    assert last.recipe.data.split_seed == 20
    assert last.recipe.training.seed == 1
    assert last.recipe.network.streams["places"].endswith("runs/att_places/split-20-seed-1")
    assert last.recipe.network.freeze == ("branches",)


def test_unknown_streams_and_targets_raise(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'scenes' is not a stream of the paper"):
        stream_places("scenes=scenes", the_paper())
    with pytest.raises(UsageError, match="no row of table1"):
        rows_needed(["table1"], the_paper(), {})
    with pytest.raises(UsageError, match="'table9' is unknown"):
        CliRunner().invoke(app, ["reproduce", "table9", "--out", str(tmp_path)], catch_exceptions=False)
