"""The convex probe against scikit-learn, which solves the same objective; and the choice of its penalties."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from multistream.training.probe_data import as_distributions, inner_folds
from multistream.training.solver import fit_probe

Array = NDArray[np.float64]


def toy(rows: int, width: int, *, classes: int = 4, seed: int = 0) -> tuple[Array, NDArray[np.int64]]:
    """Correlated features of which the first few tell a little about the class; one never changes."""
    chance = np.random.default_rng(seed)
    labels = chance.integers(classes, size=rows)
    hidden = chance.normal(size=(rows, 12))
    hidden[:, :classes] += 1.2 * np.eye(classes)[labels]
    features = hidden @ chance.normal(size=(12, width)) + 0.5 * chance.normal(size=(rows, width))
    features[:, -1] = 3.0
    return features, labels


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("width", [20, 150])
@pytest.mark.parametrize("penalty", [1.0, 1e-3])
def test_the_optimum_is_scikit_learns(classes: int, width: int, penalty: float) -> None:
    """With fewer and with more features than rows; scikit-learn has one vector for two classes, a softmax two."""
    x, y = toy(100, width, classes=classes)
    weights = np.random.default_rng(1).uniform(0.5, 2, len(y))
    probe = fit_probe({"toy": x}, y, penalties={"toy": penalty}, sample_weights=weights)
    c = (2 if classes == 2 else 1) / (penalty * weights.sum())
    standardised = probe.standardisation["toy"](x)
    oracle = LogisticRegression(C=c, tol=1e-10, max_iter=50_000).fit(standardised, y, sample_weight=weights)
    assert np.abs(oracle.predict_proba(standardised) - probe.probabilities({"toy": x})).max() < 1e-4


@pytest.mark.parametrize("width", [10, 80])
def test_a_penalty_a_stream_is_a_scale_a_stream(width: int) -> None:
    x, y = toy(90, 2 * width)
    probe = fit_probe({"a": x[:, :width], "b": x[:, width:]}, y, penalties={"a": 0.4, "b": 0.01})
    scaled = [
        probe.standardisation[k](v) / np.sqrt(p) for k, v, p in (("a", x[:, :width], 0.4), ("b", x[:, width:], 0.01))
    ]
    joined = np.concatenate(scaled, axis=1)
    oracle = LogisticRegression(C=1 / len(y), tol=1e-10, max_iter=50_000).fit(joined, y)
    own = probe.probabilities({"a": x[:, :width], "b": x[:, width:]})
    assert np.abs(oracle.predict_proba(joined) - own).max() < 1e-4


def test_distributions_are_rows_with_weights() -> None:
    """The cross entropy to a distribution is that of one row a class, weighted by its probability."""
    x, _ = toy(60, 8)
    votes = np.random.default_rng(3).dirichlet(np.ones(4), size=60)
    soft = fit_probe({"toy": x}, 7 * votes, penalties={"toy": 0.1})
    hard = fit_probe(
        {"toy": np.repeat(x, 4, axis=0)},
        np.tile(np.arange(4), 60),
        penalties={"toy": 0.1},
        sample_weights=votes.ravel(),
    )
    assert np.abs(soft.probabilities({"toy": x}) - hard.probabilities({"toy": x})).max() < 1e-4
    assert np.allclose(as_distributions(votes), votes)


def test_rows_that_are_held_out_choose_and_are_not_fitted() -> None:
    x, y = toy(120, 10)
    held_out = np.arange(0, 120, 4)
    chosen = fit_probe({"toy": x}, y, validation=held_out)
    rest = np.setdiff1d(np.arange(120), held_out)
    alone = fit_probe({"toy": x[rest]}, y[rest], penalties=chosen.penalties)
    assert np.abs(chosen.logits({"toy": x}) - alone.logits({"toy": x})).max() < 1e-4
    rows = chosen.probabilities({"toy": x})[held_out, y[held_out]]
    assert chosen.held_out_loss == pytest.approx(-np.log(rows).mean(), abs=1e-4)
    grid = (10.0, 1.0, 0.1, 0.01)
    losses = {}
    for penalty in grid:
        fitted = fit_probe({"toy": x[rest]}, y[rest], penalties={"toy": penalty})
        losses[penalty] = -np.log(fitted.probabilities({"toy": x})[held_out, y[held_out]]).mean()
    best = min(losses, key=losses.__getitem__)
    assert fit_probe({"toy": x}, y, penalties=grid, validation=held_out).penalties == {"toy": best}


def test_a_stream_of_noise_gets_a_stronger_penalty() -> None:
    x, y = toy(200, 10)
    noise = np.random.default_rng(5).normal(size=(200, 60))
    both = fit_probe({"toy": x, "noise": noise}, y)
    assert both.penalties["noise"] > 3 * both.penalties["toy"]
    assert both.held_out_loss < fit_probe({"toy": x, "noise": noise}, y, per_stream=False).held_out_loss


def test_it_is_the_same_each_time_and_from_each_start() -> None:
    x, y = toy(100, 15)
    first, second = (fit_probe({"toy": x}, y) for _ in range(2))
    assert np.array_equal(first.logits({"toy": x}), second.logits({"toy": x}))
    penalties = {"toy": 0.02}
    cold = fit_probe({"toy": x}, y, penalties=penalties)
    warm = fit_probe({"toy": x}, y, penalties=penalties, start=first)
    assert np.abs(cold.probabilities({"toy": x}) - warm.probabilities({"toy": x})).max() < 1e-5
    assert fit_probe({"toy": x}, y, penalties=penalties, start=cold).optimum.iterations < cold.optimum.iterations


def test_folds_hold_each_row_out_once_and_keep_groups() -> None:
    targets = as_distributions(np.arange(20) % 2, classes=3)
    held_out = [part[1] for part in inner_folds(targets, 5)]
    assert sorted(np.concatenate(held_out)) == list(range(20))
    assert all(targets[rows].argmax(1).tolist().count(0) == 2 for rows in held_out)
    groups = np.repeat(np.arange(4), 5)
    assert [np.unique(groups[rows]).tolist() for _, rows in inner_folds(targets, groups)] == [[0], [1], [2], [3]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"penalties": {"other": 1.0}}, "penalties are given for"),
        ({"penalties": (1.0, 0.0)}, "must be above 0"),
        ({"folds": 1}, "folds=1"),
        ({"folds": np.zeros(12, int)}, "at least two folds"),
        ({"sample_weights": -np.ones(12)}, "sample_weights"),
        ({"targets": np.full((12, 2), -1.0)}, "negative"),
        ({"features": {"toy": np.full((12, 2), np.nan)}}, "not all finite"),
        ({"features": {"toy": np.zeros((11, 2))}}, r"must be \(12, D\)"),
        ({"features": {}}, "no stream"),
    ],
    ids=str,
)
def test_what_cannot_be_fitted_is_refused(changes: dict[str, object], message: str) -> None:
    given: dict[str, object] = {"features": {"toy": np.ones((12, 2))}, "targets": np.arange(12) % 2, **changes}
    with pytest.raises(ValueError, match=message):
        fit_probe(given.pop("features"), given.pop("targets"), **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("rows", [100, 25])
def test_a_fit_of_fewer_features_takes_the_products_of_a_larger_one(rows: int) -> None:
    """With fewer and with more features than rows; from other rows nothing is taken."""
    x, y = toy(rows, 40)
    features = {name: x[:, start : start + 20] for name, start in (("a", 0), ("b", 20))}
    whole = fit_probe(features, y, validation=np.arange(5))
    for key in features:
        own = {key: features[key]}
        cold, warm = (fit_probe(own, y, validation=np.arange(5), penalties=(1.0, 0.1), start=s) for s in (None, whole))
        assert np.abs(cold.probabilities(own) - warm.probabilities(own)).max() < 1e-4
    moved = {"a": features["a"][::-1].copy()}
    cold, warm = (fit_probe(moved, y, penalties={"a": 0.1}, start=start) for start in (None, whole))
    assert np.abs(cold.probabilities(moved) - warm.probabilities(moved)).max() < 1e-4
