"""The report on images with several labels, compared with scikit-learn and the run's predictions."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score

from multistream import Recipe, ablate, train
from multistream.reporting import Report, report
from multistream.runs.predictions_file import Predictions, read_predictions


@pytest.fixture(scope="module")
def run(tagged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two streams on 90 images whose bright channels are their tags."""
    recipe = Recipe().updated(
        {
            "data": {"source": str(tagged), "label": "tags[;]", "image_size": 32, "split": "60/10/30"},
            "network": {
                "streams": {"one": "object", "two": "object:mobilenetv1"},
                "weights": {"one": "random", "two": "random"},
                "freeze": ["streams"],
            },
            "training": {"solver": "lbfgs", "penalties": [0.1, 0.01]},
            "runtime": {"device": "cpu", "precision": "fp32", "workers": 0},
        }
    )
    made = train(recipe, out=tmp_path_factory.mktemp("run") / "run").folder
    ablate(recipe, axis="streams", run=made)
    return made


@pytest.fixture(scope="module")
def found(run: Path) -> Predictions:
    return read_predictions(run / "predictions.csv")


@pytest.fixture(scope="module")
def written(run: Path) -> Report:
    return report(run, photos=6)


@pytest.fixture(scope="module")
def page(written: Report) -> str:
    return written.path.read_text()


def test_average_precision_and_f1_equal_scikit_learn(page: str, found: Predictions) -> None:
    precisions = average_precision_score(found.label_sets, found.probabilities, average=None)
    scores = f1_score(found.label_sets, found.probabilities >= 0.5, average=None)
    table = page[page.index("<h3>Per class</h3>") :]
    for name, precision, f1 in zip(found.classes, precisions, scores, strict=True):
        cells = re.search(rf'<th scope="row" class="word">{name}</th>(.*?)</tr>', table)
        assert cells is not None
        numbers = re.findall(r'"number">([^<]*)<', cells[1])
        assert (numbers[1], numbers[-1]) == (f"{100 * precision:.1f} %", f"{f1:.3f}")
    assert f"{100 * precisions.mean():.1f} %" in page
    assert "Confusion matrix" not in page
    assert "Confidence bins" not in page


def test_images_are_correct_if_all_their_labels_are(page: str, written: Report, found: Predictions) -> None:
    assert written.results[0].accuracy == found.correct.mean()
    assert written.results[-1].name == "most frequent labels"
    content = json.loads(re.search(r'id="attribution-data">(.*?)</script>', page, re.DOTALL)[1])  # type: ignore[index]
    rows = {path: i for i, path in enumerate(found.paths)}
    for photo in content["photos"]:
        row = rows[photo["name"]]
        assert photo["labels"] == np.flatnonzero(found.label_sets[row]).tolist()  # type: ignore[index]
        assert photo["predicted"] == np.flatnonzero(found.probabilities[row] >= 0.5).tolist()
        assert photo["shown"] == found.probabilities[row].argmax()
    wrong = sum(photo["labels"] != photo["predicted"] for photo in content["photos"])
    assert page.count('class="photo wrong"') == wrong


def test_every_check_passes_and_the_ablation_is_shown(page: str, written: Report) -> None:
    assert [check.name for check in written.checks if not check.passed] == []
    assert any("sum to the logit" in check.name for check in written.checks)
    assert "for the logit of the true classes" in page
    assert '<th scope="col" class="number">mAP</th>' in page


def test_a_page_without_images_needs_no_network(run: Path, tmp_path: Path) -> None:
    page = report(run, photos=0, out=tmp_path / "page.html").path.read_text()
    assert "Mean average precision (mAP) on the 27 test images" in page
