"""The temperature: scipy's and scikit-learn's minimum, kept in the model file, applied where photos are predicted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from multistream import Recipe, compose, evaluate, load, streams
from multistream.errors import UsageError, WeightsError
from multistream.inference.metrics import metrics, without_temperature
from multistream.reporting import report
from multistream.runs.model_file import MODEL_FILE, load_model, save_model
from multistream.runs.predictions_file import read_predictions
from multistream.training.calibration import fit_temperature, settle_calibration
from multistream.training.folds import train as train_on_folds
from multistream.training.solver import fit_probe
from multistream.training.train import train

CHANCE = np.random.default_rng(0)
LABELS = CHANCE.integers(3, size=200)
LOGITS = 4 * CHANCE.normal(size=(200, 3)) + 3 * np.eye(3)[LABELS]
VOTES = (np.eye(3)[LABELS] + CHANCE.dirichlet(np.ones(3), 200)) / 2
TWO = ["network.streams.other=object", "network.weights.other=random"]
LBFGS = ["training.solver=lbfgs", "training.penalties=[0.001]", "training.calibration=temperature"]


@pytest.mark.parametrize("targets", [LABELS, VOTES], ids=["labels", "votes"])
def test_it_is_scipys_minimum(targets: np.ndarray) -> None:
    shares = targets if targets.ndim == 2 else np.eye(3)[targets]

    def loss(temperature: np.ndarray) -> float:
        return float(-(shares * log_softmax(LOGITS / temperature[0], axis=1)).sum(1).mean())

    oracle = minimize(loss, [1.0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-14})
    assert fit_temperature(LOGITS, targets) == pytest.approx(oracle.x[0], rel=1e-5)


def test_it_is_scikit_learns() -> None:
    x = LOGITS + 3 * CHANCE.normal(size=LOGITS.shape)
    classifier = LogisticRegression(C=100).fit(x[:60], LABELS[:60])
    oracle = CalibratedClassifierCV(FrozenEstimator(classifier), method="temperature").fit(x[60:], LABELS[60:])
    logits = classifier.decision_function(x[60:])
    own = np.exp(log_softmax(logits / fit_temperature(logits, LABELS[60:]), axis=1))
    np.testing.assert_allclose(own, oracle.predict_proba(x[60:]), atol=1e-4)


@pytest.mark.parametrize(
    ("fusion", "validation", "label_sets", "chosen"),
    [
        ("early", 100, False, "temperature"),
        ("early", 99, False, "none"),
        ("late", 100, False, "none"),
        ("early", 100, True, "none"),
    ],
)
def test_auto_needs_photos_one_decision_and_one_label(
    fusion: str, validation: int, label_sets: bool, chosen: str
) -> None:
    anp = streams["anp"]
    network = compose(
        {"one": anp(width=3), "two": anp(width=3)}, classes=["a", "b"], fusion=fusion, label_sets=label_sets
    )
    settled = settle_calibration(Recipe(), network, validation=validation)
    assert settled.training.calibration == chosen


def test_photos_that_are_all_right_have_a_bounded_one() -> None:
    assert 0.01 <= fit_temperature(np.eye(3)[LABELS], LABELS) < 0.05  # below it the loss is 0 to the last bit
    assert fit_temperature(np.eye(3)[(LABELS + 1) % 3], LABELS) == pytest.approx(100, rel=1e-3)


def test_it_is_taken_back_from_probabilities() -> None:
    calibrated = np.exp(log_softmax(LOGITS / 1.7, axis=1))
    raw = without_temperature(calibrated, 1.7)
    assert raw is not None
    np.testing.assert_allclose(raw, np.exp(log_softmax(LOGITS, axis=1)), atol=1e-12)
    measured = metrics(calibrated, LABELS, ("a", "b", "c"), uncalibrated=raw)
    assert measured.ece_before == pytest.approx(metrics(raw, LABELS, ("a", "b", "c")).ece)
    assert "ece_before" not in metrics(raw, LABELS, ("a", "b", "c")).to_dict()


def test_out_of_fold_logits_are_those_of_fits_without_the_row() -> None:
    x = {"toy": CHANCE.normal(size=(60, 4))}
    folds = np.arange(60) % 3
    probe = fit_probe(x, LABELS[:60], penalties=[0.1, 0.01], folds=folds)
    assert probe.out_of_fold is not None
    kept = folds != 1
    other = fit_probe({"toy": x["toy"][kept]}, LABELS[:60][kept], penalties=probe.penalties)
    np.testing.assert_allclose(probe.out_of_fold[~kept], other.logits({"toy": x["toy"][~kept]}), atol=1e-3)


@pytest.fixture(scope="module")
def calibrated(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An overfitted probe with a temperature from 12 validation photos."""
    recipe = base(photos).with_settings([*LBFGS, "data.split=40/20/40"])
    return train(recipe, out=tmp_path_factory.mktemp("calibrated") / "run").folder


def base(photos: Path) -> Recipe:
    return Recipe().updated(
        {
            "data": {"source": str(photos), "image_size": 32},
            "network": {"streams": {"object": "object"}, "weights": {"object": "random"}, "freeze": ["streams"]},
            "runtime": {"device": "cpu", "precision": "fp32", "workers": 0},
        }
    )


def test_the_model_file_keeps_it_and_predictions_use_it(calibrated: Path) -> None:
    model, held = load(calibrated), read_predictions(calibrated / "predictions.csv")
    summary = json.loads((calibrated / "summary.json").read_text())
    assert model.network.temperature == summary["temperature"] != 1
    measured = evaluate(calibrated)
    assert measured.temperature == model.network.temperature
    assert measured.metrics.ece == pytest.approx(summary["test"]["ece"], abs=1e-6)
    assert measured.metrics.ece_before == pytest.approx(summary["test"]["ece_before"], abs=1e-6)
    root = Path(model.recipe.data.source)
    for photo, own in zip(model.predict([root / name for name in held.paths[:3]]), held.probabilities, strict=False):
        np.testing.assert_allclose([*photo.probabilities.values()], own, atol=1e-5)


def test_logits_are_as_they_were(calibrated: Path, photos: Path, tmp_path: Path) -> None:
    recipe = base(photos).with_settings([*LBFGS, "data.split=40/20/40", "training.calibration=none"])
    plain = train(recipe, out=tmp_path / "plain").folder
    own, other = (load(run).network for run in (calibrated, plain))
    assert all(torch.equal(a, b) for a, b in zip(own.state_dict().values(), other.state_dict().values(), strict=True))
    assert other.temperature == 1
    before = without_temperature(read_predictions(calibrated / "predictions.csv").probabilities, own.temperature)
    np.testing.assert_allclose(before, read_predictions(plain / "predictions.csv").probabilities, atol=1e-9)


def test_the_report_shows_it_and_agrees_with_the_predictions(calibrated: Path) -> None:
    written = report(calibrated, photos=2)
    assert "before calibration" in written.path.read_text()
    assert all(check.passed for check in written.checks)


def test_folds_have_one_each_out_of_fold(photos: Path, tmp_path: Path) -> None:
    recipe = base(photos).with_settings([*LBFGS, "data.split=100/0/0", "data.folds=2"])
    run = train_on_folds(recipe, out=tmp_path / "run")
    temperatures = {load(tmp_path / "run" / "folds" / name).network.temperature for name in ("1-1", "1-2")}
    assert len(temperatures) == 2
    assert run.test.ece_before is not None


def test_a_file_without_one_has_1_and_a_damaged_one_is_told(calibrated: Path, tmp_path: Path) -> None:
    loaded = load_model(calibrated)
    for temperature in (0.0, float("nan"), float("inf")):
        save_model(loaded.network.calibrate(temperature), tmp_path / MODEL_FILE, recipe=loaded.recipe)
        with pytest.raises(WeightsError, match="malformed"):
            load_model(tmp_path)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["data.split=80/0/20"], "there is no validation split"),
        (
            ["network.fusion=late", "network.streams.other=object", "network.weights.other=random"],
            "late fusion averages",
        ),
    ],
)
def test_where_it_cannot_be_had(settings: list[str], says: str, photos: Path, tmp_path: Path) -> None:
    recipe = base(photos).with_settings([*settings, "training.calibration=temperature"])
    with pytest.raises(UsageError, match=says):
        train(recipe, out=tmp_path / "run")
