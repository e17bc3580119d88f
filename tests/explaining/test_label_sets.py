"""Explanations and galleries of images with several labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from multistream import Recipe, explain, train
from multistream.errors import DataError
from multistream.explaining import Explainer, ExplanationRequest
from multistream.explaining.gallery import MostProbable, make_gallery
from multistream.inference.model import load
from multistream.runs.predictions_file import read_predictions


@pytest.fixture(scope="module")
def run(tagged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two streams with early fusion on 90 images whose bright channels are their tags."""
    recipe = Recipe().updated(
        {
            "data": {"source": str(tagged), "label": "tags[;]", "image_size": 32, "split": "60/10/30"},
            "network": {
                "streams": {"one": "object", "two": "object:mobilenetv1"},
                "weights": {"one": "random", "two": "random"},
                "depth": {"one": 2, "two": 2},
                "freeze": ["streams"],
            },
            "training": {"solver": "lbfgs", "penalties": [0.1]},
            "runtime": {"device": "cpu", "precision": "fp32", "workers": 0},
        }
    )
    return train(recipe, out=tmp_path_factory.mktemp("run") / "run").folder


def explainer(run: Path, **options: str) -> Explainer:
    request = ExplanationRequest(method="fused", every_class=False)
    return Explainer(load(run), request=request, labelled=True, device="cpu", **options)


def test_gallery_counts_streams_whose_class_is_a_label(run: Path, tmp_path: Path) -> None:
    explained = list(explain(run, device="cpu"))
    right = [sum(name in each.labels for name in each.decisions.values()) for each in explained]
    found = make_gallery(explainer(run), tmp_path)
    assert found.outcomes == {"all": right.count(2), "some": right.count(1), "none": right.count(0)}
    assert {"by-class.png", "mean-maps.png"} < {path.name for path in found.files}
    assert all(path.is_file() for path in found.files)
    several = [each for each in explained if len(each.labels) > 1]
    assert several
    assert all(each.label == "|".join(each.labels) for each in explained)


def test_most_probable_photos_of_a_class_are_explained_for_it(run: Path) -> None:
    about, probable = explainer(run), MostProbable(("blue", "green", "red"), each=2)
    for batch in about.batches():
        probable.add(batch.rows, batch.forward.probabilities)
    kept = read_predictions(run / "predictions.csv")
    for k, (name, photos) in enumerate(probable.photos(about).items()):
        shown = [photo.explanation for photo in photos]
        assert [each.path for each in shown] == [kept.paths[i] for i in np.argsort(-kept.probabilities[:, k])[:2]]
        assert {each.target for each in shown} == {name}
        assert [each.probability for each in shown] == pytest.approx(sorted(kept.probabilities[:, k])[:-3:-1], abs=1e-5)


def test_labels_unknown_to_the_run_are_counted(run: Path, tagged: Path) -> None:
    other = tagged.with_name("others.csv")
    other.write_text("path,tags\n0.png,red;grey\n1.png,blue\n2.png,grey;black\n")
    with pytest.raises(DataError, match="3 labels are not classes of the run"):
        explainer(run, data=str(other), label="tags[;]")
