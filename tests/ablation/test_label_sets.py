"""Ablation on images with several labels: the mean average precision, compared with scikit-learn."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from multistream import Recipe, ablate, train
from multistream.ablation.figure import draw
from multistream.ablation.results import Ablation
from multistream.ablation.scores import LabelSetTally
from multistream.ablation.table import table
from multistream.data.splits import Parts
from multistream.reporting.ablations import read_ablations
from multistream.runs.predictions_file import read_predictions

CLASSES = ("blue", "green", "red")
SETS = np.random.default_rng(1).random((40, 3)) < (0.2, 0.5, 0.6)


def tally(*trainings: tuple[list[int], np.ndarray]) -> LabelSetTally:
    found = LabelSetTally(2, SETS)
    for rows, probabilities in trainings:
        found.add(np.array(rows), probabilities)
    return found


def guesses(seed: int, count: int) -> np.ndarray:
    """Returns the scores of two variants: noise, and the labels with less noise. Many scores are tied."""
    chance = np.random.default_rng(seed)
    noise = chance.random((2, count, 3))
    return np.round(noise, 1)


def test_scores_equal_scikit_learn() -> None:
    first, second = guesses(0, 30), guesses(1, 20)
    first[1] = 0.6 * first[1] + 0.3 * SETS[:30]
    scores = tally((list(range(30)), first), (list(range(20, 40)), second)).scores()
    pooled, sets = np.concatenate([first, second], axis=1), np.concatenate([SETS[:30], SETS[20:40]])
    for v in range(2):
        by_class = average_precision_score(sets, pooled[v], average=None)
        assert scores.score[v] == pytest.approx(by_class.mean())
        assert [own["score"] for own in scores.per_class(v, 1, CLASSES).values()] == pytest.approx(by_class.tolist())
        assert scores.scores[v] == pytest.approx(
            [average_precision_score(SETS[:30], first[v]), average_precision_score(SETS[20:40], second[v])]
        )
        low, high = scores.interval(v)
        assert low < scores.score[v] < high
    exact = ((first >= 0.5) == SETS[:30]).all(2).sum(1) + ((second >= 0.5) == SETS[20:40]).all(2).sum(1)
    assert scores.right.sum(1).tolist() == exact.tolist()
    assert scores.tried.tolist() == [1] * 20 + [2] * 10 + [1] * 10


def test_p_is_small_for_a_real_difference_and_1_for_none() -> None:
    probabilities = guesses(2, 40)
    probabilities[1] = 0.5 * probabilities[1] + 0.5 * SETS
    scores = tally((list(range(40)), probabilities)).scores()
    assert scores.p_value(0, 1) < 0.01
    assert scores.p_value(1, 1) == 1.0
    again = tally((list(range(40)), probabilities), (list(range(40)), probabilities)).scores()
    assert again.p_value(0, 1) == pytest.approx(scores.p_value(0, 1)), "a second seed is no further photo"


def test_classifier_without_inputs_scores_the_class_frequencies() -> None:
    scores = tally((list(range(40)), guesses(0, 40))).scores()
    parts = Parts(np.arange(10), np.arange(0), np.arange(10, 40))
    wanted = average_precision_score(SETS[10:], np.full((30, 3), 0.5))
    assert scores.constant(parts) == pytest.approx(wanted)


@pytest.fixture(scope="module")
def recipe(tagged: Path) -> Recipe:
    """90 images whose bright channels are their tags."""
    return Recipe().updated(
        {
            "data": {"source": str(tagged), "label": "tags[;]", "image_size": 32, "split": "60/10/30"},
            "network": {"streams": {"object": "object"}, "weights": {"object": "random"}, "freeze": ["streams"]},
            "training": {"batch_size": 8, "patience": 0, "epochs": 3, "learning_rate": 0.02, "penalties": [0.1, 0.01]},
            "runtime": {"device": "cpu", "precision": "fp32", "workers": 0},
        }
    )


@pytest.mark.parametrize("solver", ["gradient", "lbfgs"])
def test_complete_network_has_the_map_of_train(solver: str, recipe: Recipe, tmp_path: Path) -> None:
    recipe = recipe.updated({"training": {"solver": solver}})
    run = train(recipe, out=tmp_path / "run")
    result = ablate(recipe, axis="depth", run=run.folder)
    found = read_predictions(run.folder / "predictions.csv")
    wanted = average_precision_score(found.label_sets, found.probabilities)
    assert result.whole.score == pytest.approx(wanted, abs=1e-5)
    assert run.parts["test"].to_dict()["map"] == pytest.approx(result.whole.score, abs=1e-5)
    assert result.whole.masked_score == pytest.approx(result.whole.score, abs=1e-6)
    check_files(result, run.folder)


def test_gradient_rows_train_as_one_batch(recipe: Recipe) -> None:
    found = ablate(recipe, axis="depth", seeds=2, verify=True)
    assert found.stacked == 2 * len(found.rows)
    assert found.verified is not None
    assert max(found.verified.largest_difference, found.verified.difference_to_train) < 1e-5


def check_files(result: Ablation, run: Path) -> None:
    """Files, table and figure name the metric."""
    kept = json.loads((run / "ablations" / "depth-1.json").read_text())
    assert kept["metric"] == "map"
    assert [row["map"] for row in kept["rows"]] == [row.score for row in result.rows]
    assert set(kept["rows"][0]["per_class"]["red"]) == {"average_precision", "delta"}
    assert "accuracy" not in json.dumps(kept)
    header = (run / "ablations" / "depth-1.csv").read_text().splitlines()[0]
    assert header.startswith("keep,fusion,map,map_low,map_high,delta")
    assert "mAP" in table(result)
    assert "mAP" in draw(result).axes[0].get_ylabel()
    (read,) = read_ablations(run)
    assert read.metric.title == "mAP"
    assert [row.score for row in read.rows] == [row.score for row in result.rows]


def test_complementarity_of_stream_subsets(recipe: Recipe) -> None:
    two = {"streams": {"one": "object", "two": "object:mobilenetv1"}, "weights": {"one": "random", "two": "random"}}
    network = replace(recipe.network, **two)
    result = ablate(replace(recipe, network=network).updated({"training": {"solver": "lbfgs"}}), axis="streams")
    assert [tuple(row.keep) for row in result.rows][:2] == [("one",), ("two",)]
    assert len(result.rows) == 3, "late and gated give one class"
    assert result.streams is not None
    early = {left.stream: left.score for left in result.streams.leave_one_out if left.fusion == "early"}
    assert early == {"one": result.rows[1].score, "two": result.rows[0].score}


def test_taps_have_shapley_values_and_probes(recipe: Recipe) -> None:
    depth = recipe.updated({"network": {"depth": {"object": 2}}, "training": {"solver": "lbfgs"}})
    result = ablate(depth, axis="taps")
    assert len(result.rows) == 3
    assert all(row.ridge_score is not None for row in result.rows)
    assert result.whole.score - sum(tap.value for tap in result.shapley) == pytest.approx(4 / 7, abs=0.1)
    torch.testing.assert_close(torch.tensor(result.whole.scores), torch.tensor([result.whole.score]))
