"""Scores compared with values by hand and other libraries: McNemar, Pareto front, probes and Shapley values."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from multistream.ablation.scores import AccuracyTally, RowScores
from multistream.ablation.statistics import complement, tap_values
from multistream.ablation.variants import Variant
from multistream.data.splits import Parts
from multistream.statistics import pareto, wilson
from multistream.training.ridge import RidgeProbes

STAGES = ("a", "b", "c")


def tally(*trainings: tuple[list[int], list[list[int]]], labels: Sequence[int] = (0,) * 10) -> RowScores:
    """Makes a tally of (photos, whether each variant is correct)."""
    found = AccuracyTally(len(trainings[0][1]), np.array(labels))
    for rows, correct in trainings:
        own = np.eye(3)[np.array(labels)[rows]]
        found.add(np.array(rows), np.where(np.array(correct, dtype=bool)[..., None], own, 1 - own))
    return found.scores()


def test_single_training_run_gives_its_own_accuracy() -> None:
    scores = tally(([0, 1, 2, 3, 4], [[1, 1, 0, 0, 0], [1, 0, 1, 1, 1]]))
    assert scores.score.tolist() == [0.4, 0.8]
    assert scores.interval(0) == wilson(2, 5)
    assert scores.p_value(0, 1) == pytest.approx(binomtest(1, 4).pvalue)


def test_photo_counts_once_for_any_number_of_training_runs() -> None:
    """Ten seeds that differ on one photo are one difference: p is that of a single photo."""
    once = ([0, 1], [[0, 1], [1, 1]])
    scores = tally(*[once] * 10)
    assert scores.score.tolist() == [0.5, 1.0]
    assert scores.p_value(0, 1) == 1.0
    assert scores.scores.tolist() == [[0.5] * 10, [1.0] * 10]


def test_photos_of_all_splits_count() -> None:
    scores = tally(([0, 1], [[1, 1], [0, 1]]), ([1, 2], [[0, 1], [1, 1]]))
    assert scores.tried[:3].tolist() == [1, 2, 1]
    assert scores.score.tolist() == [0.75, 0.75]
    low, high = scores.interval(0)
    assert low < 0.75 < high
    assert scores.p_value(0, 1) == 1.0  # photo 0 favours the first, photo 1 the second


def test_each_class_has_accuracy_and_delta() -> None:
    scores = tally(([0, 1, 2, 3], [[1, 0, 0, 0], [1, 1, 1, 0]]), labels=(0, 0, 1, 1, 2, 2, 2, 2, 2, 2))
    assert scores.per_class(0, 1, ["x", "y", "z"]) == {
        "x": {"score": 0.5, "delta": -0.5},
        "y": {"score": 0.0, "delta": -0.5},
    }


def test_pareto_front_keeps_ties_and_drops_dominated_rows() -> None:
    assert pareto([0.5, 0.5, 0.6, 0.4], [10, 10, 20, 9]) == [True, True, True, True]
    assert pareto([0.5, 0.5, 0.4], [10, 11, 10]) == [True, False, False]


def test_complementarity_equals_counts_by_hand() -> None:
    """Four photos: p is correct on the first two, q on the middle two, early fusion on the first three."""
    names = [({"p": ("x",)}, "early"), ({"q": ("x",)}, "early"), ({"p": ("x",), "q": ("x",)}, "late")]
    found = [Variant(keep, fusion) for keep, fusion in (*names, ({"p": ("x",), "q": ("x",)}, "early"))]
    correct = [[1, 1, 0, 0], [0, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 0]]
    both = complement(found, tally(([0, 1, 2, 3], correct)))
    (pair,) = both.pairs
    assert (pair.first, pair.second) == ("p", "q")
    assert (pair.disagreement, pair.double_fault, pair.oracle) == (0.5, 0.25, 0.75)
    assert both.oracle_any == 0.75
    left = {(each.fusion, each.stream): (each.score, each.delta) for each in both.leave_one_out}
    assert left == {
        ("late", "p"): (0.5, 0.0),
        ("late", "q"): (0.5, 0.0),
        ("early", "p"): (0.5, -0.25),
        ("early", "q"): (0.5, -0.25),
    }


def subsets() -> list[tuple[str, ...]]:
    return [chosen for size in (1, 2, 3) for chosen in combinations(STAGES, size)]


def test_shapley_values_sum_to_the_gain_of_the_complete_network() -> None:
    """A1, for each of two training runs; the empty coalition predicts the training split's most frequent class."""
    found = [Variant({"p": chosen}, "early", about="p" if len(chosen) < 3 else "") for chosen in subsets()]
    chance = np.random.default_rng(2)
    seen = [(list(range(10)), chance.integers(0, 2, (7, 10)).tolist()) for _ in range(2)]
    labels = (0, 0, 1, 1, 1, 0, 1, 1, 1, 1)
    parts = Parts(np.arange(5), np.arange(0), np.arange(10))
    scores = tally(*seen, labels=labels)
    given = tap_values(found, scores, splits=[parts], seeds=2)
    assert [tap.stage for tap in given] == list(STAGES)
    assert sum(tap.value for tap in given) == pytest.approx(scores.scores[-1].mean() - 0.7, abs=1e-12)


def test_tap_without_effect_has_value_zero() -> None:
    found = [Variant({"p": chosen}, "early", about="p" if len(chosen) < 3 else "") for chosen in subsets()]
    correct = [[int(photo < 5 + 2 * ("a" in chosen) + ("b" in chosen)) for photo in range(10)] for chosen in subsets()]
    scores = tally((list(range(10)), correct), labels=[0] * 5 + [1] * 5)
    parts = Parts(np.array([0, 1, 2, 5]), np.arange(0), np.arange(10))
    given = tap_values(found, scores, splits=[parts], seeds=1)
    assert [tap.value for tap in given] == pytest.approx([0.2, 0.1, 0.0], abs=1e-12)
    assert [tap.deviation for tap in given] == [None] * 3


def test_probes_of_every_subset_equal_least_squares() -> None:
    """B4: probes from one Gram matrix equal torch's least squares and normal equations in float64, to 1e-8."""
    chance = torch.Generator().manual_seed(0)
    pooled = {stage: torch.randn(60, width, generator=chance) for stage, width in zip(STAGES, (4, 7, 9), strict=True)}
    labels = torch.randint(3, (60,), generator=chance)
    probes = RidgeProbes.of(pooled, labels, classes=3)
    weights = probes.solve_all(subsets())
    for chosen, own in zip(subsets(), weights, strict=True):
        features = torch.cat([pooled[stage] for stage in chosen], 1).double()
        features = features - features.mean(0)
        targets = torch.nn.functional.one_hot(labels, 3).double()
        targets = targets - targets.mean(0)
        width = features.shape[1]
        rows = torch.cat([features, (0.01 * 60) ** 0.5 * torch.eye(width, dtype=torch.float64)])
        direct = torch.linalg.lstsq(rows, torch.cat([targets, torch.zeros(width, 3, dtype=torch.float64)])).solution
        assert (own - direct).abs().max() < 1e-8
    checked, largest = probes.certify(subsets(), weights)
    assert checked == 7
    assert 0 < largest < 1e-8


def test_certificate_detects_a_wrong_weight() -> None:
    chance = torch.Generator().manual_seed(0)
    probes = RidgeProbes.of({"a": torch.randn(30, 4, generator=chance)}, torch.arange(30) % 2, classes=2)
    (own,) = probes.solve_all([("a",)])
    assert probes.certify([("a",)], [own + 1e-3])[1] == pytest.approx(1e-3, rel=1e-3)
