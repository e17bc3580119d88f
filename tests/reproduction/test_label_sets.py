"""reproduce on photos with several labels: the mean average precision, and no rows with late fusion."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score
from typer.testing import CliRunner

from multistream.cli import app
from multistream.label_set_metrics import label_set_cells
from multistream.reproduction.paper import the_paper
from multistream.runs.predictions_file import read_predictions


@pytest.fixture(scope="module")
def command(tagged: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Vector streams that are informative about the tags, in the roles of all three streams."""
    tags = dict(line.split(",") for line in tagged.read_text().splitlines()[1:])
    has = np.array([[name in own.split(";") for name in ("red", "green", "blue")] for own in tags.values()])
    vectors = (has + np.random.default_rng(0).normal(0, 0.5, has.shape)).astype(np.float32)
    root = tmp_path_factory.mktemp("reproduced")
    np.savez(root / "v.npz", ids=np.array(list(tags)), features=vectors, vocabulary=np.array(["a", "b", "c"]))
    settings = ["training.epochs=2", "runtime.device=cpu", "runtime.precision=fp32", "runtime.workers=0"]
    return [
        *("reproduce", "table1", "fig3", "fig5", "--data", str(tagged), "--label", "tags[;]", "--folds", "2"),
        *("--out", str(root / "out"), "--streams", "object=anp,places=anp,anp=anp", "--quiet"),
        *(word for key in ("object", "places", "anp") for word in ("--input", f"{key}={root / 'v.npz'}")),
        *(word for setting in settings for word in ("--set", setting)),
    ]


@pytest.fixture(scope="module")
def out(command: list[str]) -> Path:
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0
    return Path(command[command.index("--out") + 1])


def test_table_scores_equal_scikit_learn_average_precision(out: Path) -> None:
    found = json.loads((out / "reproduction.json").read_text())
    assert [row["key"] for row in found["rows"]] == [
        *("mg_object", "mg_places", "mlp_anp", "bigru_object", "att_object", "att_places", "early_all")
    ]
    for row in found["rows"]:
        own = read_predictions(out / "runs" / row["key"] / "split-18-seed-0" / "predictions.csv")
        assert row["score"] == pytest.approx(average_precision_score(own.label_sets, own.probabilities))
        assert row["score_ci95"][0] < row["score"] < row["score_ci95"][1]
        assert row["published"] is None
    tested = [row["difference"] for row in found["rows"] if row["difference"]]
    assert {each["test"] for each in tested} == {"bootstrap"}
    assert all(each["p_holm"] >= each["p_value"] for each in tested)
    table = (out / "table1.md").read_text()
    assert "| mAP % | 95 % | macro-F1 % | micro-F1 % | difference |" in table
    assert "published %" not in table
    assert "p: difference over its standard error" in table
    assert "late fusion, which gives each photo one label" in table
    assert "rows omitted" not in table
    assert r"mAP \%" in (out / "table1.tex").read_text()


def test_figure_3_counts_wrongly_added_labels(out: Path) -> None:
    own = read_predictions(out / "runs" / "early_all" / "split-18-seed-0" / "predictions.csv")
    assert own.label_sets is not None
    counts, totals = label_set_cells(own.probabilities, own.label_sets)
    predicted = own.probabilities >= 0.5
    for i, j in np.ndindex(3, 3):
        photos = [n for n, sets in enumerate(own.label_sets) if sets[i] and (i == j or not sets[j])]
        assert (counts[i, j], totals[i, j]) == (sum(predicted[n, j] for n in photos), len(photos))
    kept = json.loads((out / "reproduction.json").read_text())["confusion"]
    assert (kept["counts"], kept["totals"]) == (counts.tolist(), totals.tolist())
    assert (out / "fig3.pdf").read_bytes().startswith(b"%PDF")


def test_a_second_call_trains_and_draws_nothing(command: list[str], out: Path) -> None:
    drawn = {path: path.stat().st_mtime_ns for path in (out / "fig5").iterdir()}
    assert any(path.name == "by-class.pdf" for path in drawn)
    again = json.loads(CliRunner().invoke(app, [*command, "--json"], catch_exceptions=False).stdout)
    assert again["trained"] == 0
    assert drawn == {path: path.stat().st_mtime_ns for path in (out / "fig5").iterdir()}
    listed = json.loads(CliRunner().invoke(app, [*command, "--json", "--plan"], catch_exceptions=False).stdout)
    assert {each["state"] for each in listed} == {"finished"}
    assert len(listed) == 7


def test_paper_for_label_sets_has_no_late_fusion_and_no_published_numbers() -> None:
    paper = the_paper().for_label_sets()
    assert {row.fusion for row in paper.rows.values()} == {"", "early"}
    assert all(curve.published == () for curve in paper.curves)
    assert the_paper().rows["late_all"].published == 63.48
