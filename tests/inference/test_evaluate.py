"""Metrics against scikit-learn and slow loops; classes met by name."""

from __future__ import annotations

import json
import math
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics as oracle
from numpy.typing import NDArray

from multistream.errors import DataError, MultistreamError, UsageError
from multistream.inference.class_maps import SHIPPED, match_classes, polarities, read_class_map
from multistream.inference.metrics import balanced_accuracy, macro_f1, metrics

FI = ("amusement", "anger", "awe", "contentment", "disgust", "excitement", "fear", "sadness")
WEBEMO = ("anger", "confusion", "fear", "joy", "love", "sadness", "surprise")


def normalised(n: int = 700, k: int = 8, seed: int = 0) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Probabilities that are right more often than by chance, of classes that are not equally frequent."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(k, size=n, p=np.arange(1, k + 1) / np.arange(1, k + 1).sum())
    scores = rng.normal(size=(n, k)) + 1.5 * np.eye(k)[labels]
    return np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True), labels


def slow_ece(probabilities: NDArray[Any], labels: NDArray[np.int64], bins: int = 15) -> float:
    """Guo et al. 2017, equation 3, photo by photo."""
    total = 0.0
    for b in range(bins):
        inside = [i for i, row in enumerate(probabilities) if b / bins < row.max() <= (b + 1) / bins]
        if inside:
            accuracy = np.mean([probabilities[i].argmax() == labels[i] for i in inside])
            confidence = np.mean([probabilities[i].max() for i in inside])
            total += len(inside) / len(labels) * abs(accuracy - confidence)
    return total


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k", [2, 3, 8])
def test_metrics_are_scikit_learns(k: int, seed: int) -> None:
    probabilities, labels = normalised(k=k, seed=seed)
    ours, predicted = metrics(probabilities, labels, FI[:k]), probabilities.argmax(axis=1)
    assert ours.accuracy == pytest.approx(oracle.accuracy_score(labels, predicted))
    assert ours.macro_f1 == pytest.approx(oracle.f1_score(labels, predicted, average="macro"))
    assert ours.balanced_accuracy == pytest.approx(oracle.balanced_accuracy_score(labels, predicted))
    assert ours.nll == pytest.approx(oracle.log_loss(labels, probabilities))
    brier = oracle.brier_score_loss(labels, probabilities, labels=range(k), scale_by_half=False)
    assert ours.brier == pytest.approx(brier)
    assert ours.ece == pytest.approx(slow_ece(probabilities, labels), abs=1e-12)
    report = oracle.classification_report(labels, predicted, target_names=FI[:k], output_dict=True)
    for name in FI[:k]:
        row = report[name]
        assert ours.per_class[name]["n"] == row["support"]
        assert ours.per_class[name]["f1"] == pytest.approx(row["f1-score"])
        assert ours.per_class[name]["precision"] == pytest.approx(row["precision"])
        assert ours.per_class[name]["recall"] == pytest.approx(row["recall"])
    assert ours.majority == pytest.approx(np.bincount(labels).max() / len(labels))
    assert np.array_equal(ours.confusion, oracle.confusion_matrix(labels, predicted))


def test_every_estimate_lies_in_its_interval() -> None:
    ours = metrics(*normalised(), FI)
    for name in ("accuracy", "macro_f1", "balanced_accuracy", "nll", "brier", "ece", "polarity_accuracy"):
        low, high = getattr(ours, f"{name}_ci95")
        assert low < getattr(ours, name) < high, name


@pytest.mark.parametrize(
    ("name", "function"), [("macro_f1", "f1_score"), ("balanced_accuracy", "balanced_accuracy_score")]
)
def test_intervals_over_classes_are_scipys_bootstrap(name: str, function: str) -> None:
    probabilities, labels = normalised(n=300, k=3)
    predicted = probabilities.argmax(axis=1)
    options = {"average": "macro"} if function == "f1_score" else {}

    def statistic(rows: NDArray[Any]) -> float:
        return float(getattr(oracle, function)(labels[rows.astype(int)], predicted[rows.astype(int)], **options))

    peer = scipy.stats.bootstrap(
        (np.arange(300),), statistic, n_resamples=1000, method="percentile", vectorized=False, rng=5
    ).confidence_interval
    ours = getattr(metrics(probabilities, labels, FI[:3]), f"{name}_ci95")
    assert ours == pytest.approx((peer.low, peer.high), abs=0.12 * (peer.high - peer.low))


def test_the_intervals_cover() -> None:
    """Of 100 samples from a known truth, some 95 % have an interval of the log-likelihood that holds it."""
    rng = np.random.default_rng(0)
    table = rng.dirichlet(np.ones(3), size=50)
    truth = -np.mean(np.sum(table * np.log(table), axis=1))  # labels drawn from the probabilities themselves
    held = 0
    for seed in range(100):
        rows = table[rng.integers(50, size=250)]
        labels = (rows.cumsum(axis=1) < rng.random((250, 1))).sum(axis=1).clip(max=2)
        low, high = metrics(rows, labels, FI[:3], seed=seed).nll_ci95
        held += low <= truth <= high
    assert 88 <= held <= 99  # binomial limits: 99.8 % of the cases, if 95 % hold it


def test_json_has_the_designs_keys_and_no_tuples() -> None:
    data = metrics(*normalised(), FI).to_dict()
    wanted = {"accuracy", "accuracy_ci95", "macro_f1", "balanced_accuracy", "nll", "ece", "n", "classes", "confusion"}
    assert wanted | {"per_class"} <= set(data)
    assert {"n", "precision", "recall", "f1"} <= set(data["per_class"]["awe"])
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert metrics(*normalised(), FI).to_dict() == data, "the same every time"


def test_classes_that_do_not_occur_are_left_out_of_means() -> None:
    labels = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.9, 0.1, 0, 0], [0.2, 0.1, 0.7, 0], [0.1, 0.9, 0, 0], [0.1, 0.9, 0, 0]])
    ours = metrics(probabilities, labels, ("a", "b", "c", "d"))
    assert ours.balanced_accuracy == pytest.approx((1 / 2 + 1) / 2)
    assert ours.macro_f1 == pytest.approx((2 / 3 + 1 + 0) / 3), "c was predicted and counts, d does not occur at all"
    assert ours.macro_f1 == pytest.approx(oracle.f1_score(labels, probabilities.argmax(1), average="macro"))
    assert ours.per_class["d"] == {"n": 0, "precision": 0.0, "recall": 0.0, "recall_ci95": (0.0, 1.0), "f1": 0.0}
    assert ours.polarity_accuracy is None
    assert "polarity_accuracy" not in ours.to_dict()


def test_a_stack_of_confusions_is_measured_one_by_one() -> None:
    stack = np.random.default_rng(0).integers(9, size=(4, 3, 3))
    assert macro_f1(stack) == pytest.approx([macro_f1(each) for each in stack])
    assert balanced_accuracy(stack) == pytest.approx([balanced_accuracy(each) for each in stack])


def test_certain_and_right_is_perfect_and_certain_and_wrong_is_finite() -> None:
    labels = np.array([0, 1, 1])
    perfect = metrics(np.eye(2)[labels], labels, ("joy", "fear"))
    assert (perfect.accuracy, perfect.macro_f1, perfect.ece, perfect.brier) == (1, 1, 0, 0)
    assert perfect.nll == pytest.approx(0, abs=1e-12)
    wrong = metrics(np.eye(2)[1 - labels], labels, ("joy", "fear"))
    assert (wrong.ece, wrong.brier, wrong.polarity_accuracy) == (1, 2, 0)
    assert wrong.nll == pytest.approx(-math.log(np.finfo(float).eps))
    json.dumps(wrong.to_dict(), allow_nan=False)


def test_half_right_at_confidence_three_quarters_is_a_quarter_off() -> None:
    probabilities = np.array([[0.75, 0.25]] * 4)
    assert metrics(probabilities, np.array([0, 0, 1, 1]), ("a", "b")).ece == pytest.approx(0.25)


def test_float32_is_measured_in_float64() -> None:
    probabilities, labels = normalised()
    single = probabilities.astype(np.float32)
    exact = oracle.log_loss(labels, single.astype(np.float64) / single.astype(np.float64).sum(1, keepdims=True))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert metrics(single, labels, FI).nll == pytest.approx(exact, abs=1e-7)


def test_polarity_is_of_the_predicted_class() -> None:
    labels = np.array([FI.index(name) for name in ("awe", "awe", "fear", "anger")])
    said = [FI.index(name) for name in ("amusement", "fear", "sadness", "anger")]
    assert metrics(np.eye(8)[said], labels, FI).polarity_accuracy == pytest.approx(3 / 4)
    assert polarities(("joy", "dog")) is None


@pytest.mark.parametrize(
    ("probabilities", "labels", "said"),
    [
        (np.ones((2, 3)) / 3, [0, 1], "shape (2, 2), not (2, 3)"),
        (np.array([[np.nan, 1], [0.5, 0.5]]), [0, 1], "1 probabilities are not finite"),
        (np.ones((2, 2)) / 2, [0, 2], "labels run from 0 to 2"),
        (np.ones((2, 2)) / 2, [-1, 0], "labels run from -1"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(probabilities: NDArray[Any], labels: list[int], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        metrics(probabilities, np.array(labels), ("a", "b"))


def test_no_photo_is_the_users_matter() -> None:
    with pytest.raises(DataError, match="no photo"):
        metrics(np.empty((0, 2)), np.empty(0, dtype=np.int64), ("a", "b"))


# classes -----------------------------------------------------------------------------------------------------------


def test_reordered_classes_are_met_by_name() -> None:
    probabilities = np.array([[0.1, 0.2, 0.7]])
    match = match_classes(("awe", "fear", "joy"), ("joy", "awe", "fear"))
    assert match.classes == ("joy", "awe", "fear")
    assert match.apply(probabilities) == pytest.approx(np.array([[0.7, 0.1, 0.2]]))
    assert match.unreachable == match.lacking == ()


def test_a_class_that_the_photos_lack_can_still_be_said_and_is_wrong() -> None:
    match = match_classes(("awe", "fear", "joy"), ("joy", "awe"))
    assert match.classes == ("joy", "awe", "fear")
    assert match.lacking == ("fear",)
    measured = metrics(match.apply(np.array([[0.1, 0.8, 0.1], [0.8, 0.1, 0.1]])), np.array([1, 1]), match.classes)
    assert measured.accuracy == 0.5, "the first photo was called fear"


def test_an_extra_class_is_an_error_unless_a_map_is_given() -> None:
    with pytest.raises(DataError) as error:
        match_classes(("awe", "fear"), ("awe", "fear", "neutral"))
    assert "the photos have neutral, but the run does not. It knows awe, fear." in str(error.value)
    match = match_classes(("awe", "fear"), ("awe", "fear", "neutral"), mapping={"awe": "awe"})
    assert match.unreachable == ("neutral",)
    assert match.reachable(np.array([0, 2, 1])).tolist() == [True, False, True]


def test_renamed_classes_go_where_the_map_says_and_probabilities_sum() -> None:
    match = match_classes(
        ("amusement", "joy", "fear"),
        ("terror", "happy"),
        mapping={"amusement": "happy", "joy": "happy", "fear": "terror"},
    )
    assert match.apply(np.array([[0.3, 0.3, 0.4]])) == pytest.approx(np.array([[0.4, 0.6]]))


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        ({"amusment": "joy"}, "'amusment' is not a class of the run. Did you mean 'amusement'?"),
        ({"amusement": "jjoy"}, "'jjoy' is not a class of the photos. Did you mean 'joy'?"),
    ],
)
def test_misspelt_names_in_a_map_are_told(mapping: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError) as error:
        match_classes(FI, WEBEMO, mapping=mapping)
    assert said in str(error.value)


def test_fi_on_webemo_cannot_say_love_and_confusion() -> None:
    for name, awe in (("fi-webemo7", "surprise"), ("fi-webemo7-awe-joy", "joy")):
        match = match_classes(FI, WEBEMO, mapping=read_class_map(name))
        assert match.classes == WEBEMO
        assert set(match.unreachable) == {"love", "confusion"} | ({"surprise"} - {awe})
        assert match.classes[match.columns[FI.index("awe")]] == awe
    probabilities, _ = normalised()
    assert match.apply(probabilities).sum(axis=1) == pytest.approx(np.ones(len(probabilities)))


def test_shipped_maps_are_whole_and_agree() -> None:
    fine, coarse = SHIPPED["webemo25-webemo7"], SHIPPED["webemo7-polarity"]
    assert len(fine) == 25
    assert set(fine.values()) == set(WEBEMO) == set(coarse)
    assert {name: coarse[seven] for name, seven in fine.items()} == dict(SHIPPED["webemo25-polarity"])
    assert all(set(SHIPPED[name]) == set(FI) for name in ("fi-webemo7", "fi-webemo7-awe-joy", "fi-polarity"))
    for name, emotions in (("fi-polarity", FI), ("webemo7-polarity", WEBEMO)):
        signs = dict(zip(emotions, polarities(emotions) or (), strict=True))
        assert {each: "positive" if signs[each] else "negative" for each in emotions} == dict(SHIPPED[name])


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("map.toml", 'amusement = "joy"\n"sad ness" = "sadness"\n'),
        ("map.json", '{"amusement": "joy", "sad ness": "sadness"}'),
        ("map.csv", "amusement,joy\nsad ness, sadness\n"),
        ("MAP.CSV", "\ufeffamusement;joy\r\nsad ness;sadness"),
    ],
)
def test_maps_are_read(tmp_path: Path, file: str, text: str) -> None:
    (tmp_path / file).write_text(text, encoding="utf-8", newline="")
    assert read_class_map(str(tmp_path / file)) == {"amusement": "joy", "sad ness": "sadness"}


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("map.toml", "amusement = ", "this is not valid TOML"),
        ("map.toml", "amusement = 3", "this is not a class map"),
        ("map.toml", '[a]\nb = "c"', "this is not a class map"),
        ("map.json", "[1", "this is not valid JSON"),
        ("map.json", "[1]", "this is not a class map"),
        ("map.json", '{"a": "b", "a": "c"}', "'a' is mapped twice"),
        ("map.csv", "a,b\na,c\n", "'a' is mapped twice"),
        ("map.csv", "a,b\nc\n", "map.csv:2: it has 1 cells"),
        ("map.txt", "a b", "this is not a class map. It must end in .toml, .json, .csv."),
        ("", "", "Did you mean 'fi-webemo7'?"),
    ],
)
def test_maps_that_are_none_are_told(tmp_path: Path, file: str, text: str, said: str) -> None:
    if file:
        (tmp_path / file).write_text(text)
    with pytest.raises(MultistreamError) as error:
        read_class_map(tmp_path / file if file else "fi-webemo")
    assert said in str(error.value)
