"""The page's pieces: what is chosen, packed, drawn, escaped."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from multistream.explaining.pointing import density, points_into
from multistream.reporting.ablations import pareto
from multistream.reporting.choosing import choose, shown_classes
from multistream.reporting.figures import axis
from multistream.reporting.markup import embedded_json, join, tag
from multistream.reporting.packing import affordable_side, block_sums, pack
from multistream.reporting.results import reliability
from multistream.runs.predictions_file import Predictions


@given(st.text())
def test_text_cannot_leave_its_place(text: str) -> None:
    made = tag("p", text, attributes={"title": text})
    assert made.count("<") == 2
    assert made.count('"') == 2
    made.encode()
    assert json.loads(embedded_json({"name": text})) == {"name": text}
    assert "<" not in embedded_json({text: text})
    assert join([made]) == made


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 30))
def test_blocks_keep_the_sum(height: int, width: int, side: int) -> None:
    maps = torch.randn(2, height, width, generator=torch.Generator().manual_seed(0))
    small = block_sums(maps, side=side)
    assert small.shape == (2, min(height, side), min(width, side))
    assert small.sum((1, 2)).tolist() == pytest.approx(maps.double().sum((1, 2)).tolist(), abs=1e-9)


def test_packing_costs_half_a_step() -> None:
    maps = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(0))
    packed = pack(maps, side=28)
    assert (packed.rows, packed.columns) == (7, 5)
    assert packed.error <= 0.5 / 127 + 1e-9
    assert pack(torch.zeros(1, 2, 2), side=4).error == 0
    assert affordable_side([(56, 56), (7, 7)], classes=8, budget=8 * (400 + 49)) == 20


def told(n: int, wrong: int) -> Predictions:
    labels = tuple("ab"[i % 2] for i in range(n))
    predicted = [1 - i % 2 if i < wrong else i % 2 for i in range(n)]
    hashes = tuple(f"{(7919 * i) % n:04d}" for i in range(n))
    return Predictions(tuple(f"{i}.png" for i in range(n)), hashes, labels, np.eye(2)[predicted], ("a", "b"))


def test_half_of_the_photos_are_wrong_and_chance_has_drawn_them() -> None:
    predictions = told(100, 40)
    chosen = choose(predictions, photos=24)
    assert len(set(chosen)) == 24
    assert sum(predictions.correct[i] for i in chosen) == 12
    labels = predictions.labels or ()
    assert sorted(labels[i] for i in chosen) == ["a"] * 12 + ["b"] * 12
    assert chosen == choose(predictions, photos=24)
    assert len(choose(told(100, 3), photos=24)) == 24
    assert len(choose(told(10, 9), photos=24)) == 10


def test_the_label_is_always_explained() -> None:
    assert shown_classes(np.array([0.1, 0.2, 0.6, 0.05, 0.05]), 4, most=3) == [1, 2, 4]


def test_pareto() -> None:
    rows = [{"macs": m, "accuracy": a} for m, a in ((3, 0.7), (1, 0.5), (2, 0.4), (4, 0.7), (5, 0.9), (None, 1.0))]
    assert pareto(rows) == [1, 0, 4]


def test_bins_hold_all_photos() -> None:
    bins = reliability(told(50, 10))
    assert sum(each.n for each in bins) == 50
    assert bins[-1].accuracy == pytest.approx(0.8)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=5))
def test_axes_hold_their_values(values: list[float]) -> None:
    made = axis("x", values)
    slack = 1e-6 * max(1, *(abs(v) for v in values))
    assert made.low <= min(values) + slack
    assert made.high >= max(values) - slack
    assert 2 <= len(made.ticks) <= 8


def test_pointing_weighs_evidence_by_area() -> None:
    coarse, fine = torch.zeros(1, 2, 2), torch.zeros(1, 8, 8)
    coarse[0, 0, 0], fine[0, 7, 7] = 1.0, 0.5  # the coarse cell gives more, but on 16 times the area
    mask = torch.zeros(1, 16, 16, dtype=torch.bool)
    mask[0, 12:, 12:] = True
    assert points_into(density([coarse, fine], size=16), mask).tolist() == [True]
    assert points_into(density([coarse], size=16), mask).tolist() == [False]
    with pytest.raises(ValueError, match="one shape"):
        points_into(torch.zeros(1, 2, 2), mask)
