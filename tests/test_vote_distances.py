"""The six measures of label distribution learning, against scipy, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import distance
from scipy.stats import entropy

from multistream.inference.metrics import metrics
from multistream.vote_distances import VOTE_MEASURES, vote_distances, vote_metrics

CHANCE = np.random.default_rng(0)
PREDICTED, VOTES = CHANCE.dirichlet(np.ones(7), 50), CHANCE.dirichlet(np.full(7, 0.4), 50)
VOTES[0] = [0, 0, 1, 0, 0, 0, 0]  # most images of Emotion6 have classes that nobody voted for
PREDICTED[1], VOTES[1] = [0.5, 0.5, 0, 0, 0, 0, 0], [0.5, 0.25, 0.25, 0, 0, 0, 0]


def test_they_are_scipys() -> None:
    found = vote_distances(PREDICTED, VOTES)
    assert list(found) == list(VOTE_MEASURES)
    pairs = list(zip(PREDICTED, VOTES, strict=True))
    np.testing.assert_allclose(found["chebyshev"], [distance.chebyshev(p, v) for p, v in pairs])
    np.testing.assert_allclose(found["canberra"], [distance.canberra(p, v) for p, v in pairs])
    np.testing.assert_allclose(found["cosine"], [1 - distance.cosine(p, v) for p, v in pairs])
    apart = np.arange(50) != 1  # where a predicted 0 meets votes scipy's divergence is infinite
    np.testing.assert_allclose(found["kl"][apart], [entropy(v, p) for p, v in pairs if p.min() > 0])
    np.testing.assert_allclose(found["intersection"], [1 - distance.cityblock(p, v) / 2 for p, v in pairs])


def test_by_hand() -> None:
    found = {name: each[0] for name, each in vote_distances(PREDICTED[1:2], VOTES[1:2]).items()}
    assert found["chebyshev"] == found["intersection"] - 0.5 == 0.25
    assert found["clark"] == pytest.approx(np.sqrt((0.25 / 0.75) ** 2 + 1))
    assert found["canberra"] == pytest.approx(0.25 / 0.75 + 1)
    assert found["kl"] == pytest.approx(0.25 * np.log(0.5) + 0.25 * np.log(0.25 / np.finfo(float).eps))


def test_intervals_hold_the_mean_and_metrics_have_them() -> None:
    found = vote_metrics(PREDICTED, VOTES)
    for name in VOTE_MEASURES:
        low, high = found[f"{name}_ci95"]
        assert low < found[name] < high
    labels = VOTES.argmax(1)
    names = tuple("abcdefg")
    measured = metrics(PREDICTED, labels, names, votes=VOTES).to_dict()
    assert measured["votes"] == {k: list(v) if isinstance(v, tuple) else v for k, v in found.items()}
    assert "votes" not in metrics(PREDICTED, labels, names).to_dict()
