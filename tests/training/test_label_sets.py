"""Images that may have several labels: what is trained, measured, written, predicted and explained; what is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score

from multistream import compare, evaluate, explain, load
from multistream.cli.train import folds_described
from multistream.errors import MultistreamError, UsageError
from multistream.recipe import Recipe
from multistream.runs.predictions_file import read_predictions
from multistream.training.folds import train as train_on_folds
from multistream.training.solver import fit_probe
from multistream.training.train import train

CLASSES = ("blue", "green", "red")
LBFGS = ["training.solver=lbfgs", "training.penalties=[0.1,0.01]"]
ADAMW = ["training.learning_rate=0.02", "training.epochs=12"]


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """90 pictures whose bright channels are their tags, in one column and in one column each."""
    root = tmp_path_factory.mktemp("tagged")
    chance = np.random.default_rng(0)
    lines = ["path,tags,red,green,blue"]
    for number in range(90):
        red, green, blue = has = [bool((1 + number % 7) >> bit & 1) for bit in range(3)]
        colour = np.where(has, 170, 60)
        pixels = np.clip(colour + chance.normal(0, 50, (32, 32, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(root / f"{number}.png")
        tags = ";".join(name for name, own in zip(("red", "green", "blue"), has, strict=True) if own)
        lines.append(f"{number}.png,{tags},{int(red)},{int(green)},{int(blue)}")
    (root / "tags.csv").write_text("\n".join(lines))
    return root / "tags.csv"


@pytest.fixture(scope="module")
def tag_recipe(tagged: Path) -> Recipe:
    return Recipe().updated(
        {
            "data": {"source": str(tagged), "label": "tags[;]", "image_size": 32, "split": "60/10/30"},
            "network": {"streams": {"object": "object"}, "weights": {"object": "random"}, "freeze": ["streams"]},
            "training": {"batch_size": 8, "patience": 0},
            "runtime": {"device": "cpu", "precision": "fp32", "workers": 0},
        }
    )


@pytest.fixture(scope="module")
def trained(tag_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each solver."""
    folder = tmp_path_factory.mktemp("runs")
    for name, settings in (("lbfgs", LBFGS), ("gradient", ADAMW)):
        train(tag_recipe.with_settings(settings), out=folder / name)
    return {name: folder / name for name in ("lbfgs", "gradient")}


def test_lbfgs_on_label_sets_is_a_scikit_learn_regression_of_each_class() -> None:
    """With fewer and with more features than rows."""
    chance = np.random.default_rng(0)
    sets = chance.random((60, 3)) < (0.5, 0.3, 0.1)
    for width in (8, 90):
        x = chance.normal(size=(60, width)) + np.pad(sets, ((0, 0), (0, width - 3)))
        own = fit_probe({"toy": x}, sets, penalties={"toy": 0.05}, label_sets=True).probabilities({"toy": x})
        standardised = (x - x.mean(0)) / x.std(0)
        for k in range(3):
            oracle = LogisticRegression(C=1 / (0.05 * 60), tol=1e-10, max_iter=10_000).fit(standardised, sets[:, k])
            assert np.abs(own[:, k] - oracle.predict_proba(standardised)[:, 1]).max() < 1e-4


@pytest.mark.parametrize("solver", ["lbfgs", "gradient"])
def test_a_run_learns_the_tags_and_measures_them_as_scikit_learn(solver: str, trained: dict[str, Path]) -> None:
    run = trained[solver]
    held = read_predictions(run / "predictions.csv")
    sets, probabilities = held.label_sets, held.probabilities
    assert sets is not None
    assert sets.sum(1).max() == 3
    assert held.classes == CLASSES
    found = json.loads((run / "summary.json").read_text())["test"]
    assert found["map"] > 0.9
    assert found["map"] == pytest.approx(average_precision_score(sets, probabilities))
    assert found["micro_f1"] == pytest.approx(f1_score(sets, probabilities >= 0.5, average="micro"))
    assert found["macro_f1"] == pytest.approx(f1_score(sets, probabilities >= 0.5, average="macro"))
    assert found["accuracy"] == pytest.approx(((probabilities >= 0.5) == sets).all(1).mean())
    assert found["map_ci95"][0] <= found["map"] <= found["map_ci95"][1]
    assert evaluate(run).metrics.accuracy == found["accuracy"]
    assert load(run).recipe.training.loss == "binary_cross_entropy"


def test_columns_of_0_and_1_are_the_same_sets(tagged: Path, trained: dict[str, Path]) -> None:
    one, each = (evaluate(trained["lbfgs"], data=str(tagged), label=label) for label in ("tags[;]", "red,green,blue"))
    assert one.metrics == each.metrics


def test_all_tags_of_a_photo_are_predicted(tagged: Path, trained: dict[str, Path]) -> None:
    with tagged.open() as text:
        rows = list(csv.DictReader(text))[:21]
    found = list(load(trained["lbfgs"]).predict([str(tagged.parent / row["path"]) for row in rows]))
    hits = [set(each.labels or ()) == set(row["tags"].split(";")) for each, row in zip(found, rows, strict=True)]
    assert sum(hits) >= 18
    assert found[6].to_dict()["labels"] == list(CLASSES)
    assert found[6].label == "blue|green|red"
    assert sum(found[6].probabilities.values()) > 1.5


def test_compare_tests_average_precision_and_shows_exact_matches(trained: dict[str, Path]) -> None:
    runs = [trained["lbfgs"], trained["gradient"]]
    found, rows = json.loads((runs[0] / "summary.json").read_text())["test"], compare(runs).rows
    assert rows[0].label_sets == pytest.approx({"map": found["map"], "micro_f1": found["micro_f1"]})
    assert (rows[0].accuracy, rows[0].macro_f1) == pytest.approx((found["accuracy"], found["macro_f1"]))
    assert rows[0].balanced_accuracy is None
    assert (rows[0].measure, rows[0].score) == ("map", pytest.approx(found["map"]))
    assert rows[0].score_ci95 == pytest.approx(found["map_ci95"]), "as evaluate has it"
    assert rows[1].difference is not None
    assert rows[1].difference.test == "bootstrap"
    assert rows[1].difference.value == pytest.approx(rows[1].score - rows[0].score)
    exact = compare(runs, measure="accuracy").rows[1].difference
    assert exact is not None
    assert exact.test == "mcnemar"


def test_a_logit_is_explained_as_ever(trained: dict[str, Path]) -> None:
    held = read_predictions(trained["lbfgs"] / "predictions.csv")
    found = next(iter(explain(trained["lbfgs"], target="red")))
    row = held.paths.index(found.path)
    assert held.labels is not None
    assert found.label == held.labels[row]
    assert found.probability == pytest.approx(held.probabilities[row, CLASSES.index("red")], abs=1e-4)
    parts = sum(sum(stages.values()) for stages in found.stages.values())
    assert parts + sum(found.bias.values()) == pytest.approx(sum(found.logits.values()), abs=1e-3)


def test_folds_hold_out_every_photo(tag_recipe: Recipe, tmp_path: Path) -> None:
    run = train_on_folds(tag_recipe.with_settings([*LBFGS, "data.folds=2"]), out=tmp_path / "run")
    held = read_predictions(tmp_path / "run" / "predictions.csv")
    assert held.label_sets is not None
    assert len(held) == 90
    assert run.test.accuracy == pytest.approx(held.correct.mean())
    for fold in run.folds:
        own = read_predictions(tmp_path / "run" / fold["run"] / "predictions.csv")
        assert fold["map"] == pytest.approx(average_precision_score(own.label_sets, own.probabilities))
    assert run.scores == (pytest.approx(average_precision_score(held.label_sets, held.probabilities)),)
    printed = dict(line.split(maxsplit=1) for line in folds_described(run).splitlines())
    assert printed["folds"] == ", ".join(f"{100 * fold['map']:.1f}" for fold in run.folds), "as the line above: mAP"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["training.label_smoothing=0.1"], "training.label_smoothing"),
        (["training.class_weights=balanced"], "training.class_weights"),
        (["training.calibration=temperature"], "training.calibration"),
        (["training.loss=focal"], "several labels"),
        (["data.label=nothing[;]"], "no column 'nothing'"),
        (["data.label=tags[]"], "not a list"),
        (["data.label=tags,red"], "tags is"),
    ],
    ids=str,
)
def test_what_needs_one_label_is_refused(settings: list[str], says: str, tag_recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(MultistreamError, match=says.replace("[", r"\[")):
        train(tag_recipe.with_settings(settings), out=tmp_path / "run")


def test_late_fusion_is_refused(tag_recipe: Recipe, tmp_path: Path) -> None:
    streams = {"streams": {"a": "object", "b": "object"}, "weights": {"a": "random", "b": "random"}, "fusion": "late"}
    with pytest.raises(UsageError, match="sum to 1"):
        train(tag_recipe.updated({"network": streams}), out=tmp_path / "run")


def test_commands_that_need_one_label_say_so(trained: dict[str, Path], photos: Path) -> None:
    with pytest.raises(UsageError, match="one label per image"):
        evaluate(trained["lbfgs"], data=str(photos))
    with pytest.raises(UsageError, match="added up"):
        evaluate(trained["lbfgs"], class_map="fi-polarity")
    with pytest.raises(UsageError, match="Name a class"):
        list(explain(trained["lbfgs"], target="true"))
