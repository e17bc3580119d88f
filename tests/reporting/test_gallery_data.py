"""The gallery's selection of images and explained classes."""

from __future__ import annotations

import numpy as np
import pytest

from multistream.reporting.gallery_data import explained_classes, select_images
from multistream.runs.predictions_file import Predictions


def predictions_of(n: int, wrong: int) -> Predictions:
    labels = tuple("ab"[i % 2] for i in range(n))
    predicted = [1 - i % 2 if i < wrong else i % 2 for i in range(n)]
    hashes = tuple(f"{(7919 * i) % n:04d}" for i in range(n))
    return Predictions(tuple(f"{i}.png" for i in range(n)), hashes, labels, np.eye(2)[predicted], ("a", "b"))


def test_half_of_the_images_are_misclassified_and_all_labels_appear() -> None:
    predictions = predictions_of(100, 40)
    chosen = select_images(predictions, photos=24)
    assert len(set(chosen)) == 24
    assert sum(predictions.correct[i] for i in chosen) == 12
    labels = predictions.labels or ()
    assert sorted(labels[i] for i in chosen) == ["a"] * 12 + ["b"] * 12
    assert chosen == select_images(predictions, photos=24)
    assert len(select_images(predictions_of(100, 3), photos=24)) == 24
    assert len(select_images(predictions_of(10, 9), photos=24)) == 10


def test_predictions_are_compared_with_their_labels_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compared again for each photo, the selection took minutes with 15,000 test photos."""
    calls, plain = [], Predictions.correct.fget
    assert plain is not None
    monkeypatch.setattr(Predictions, "correct", property(lambda self: calls.append(self) or plain(self)))
    select_images(predictions_of(100, 40), photos=24)
    assert len(calls) == 1


def test_the_label_is_always_explained() -> None:
    assert explained_classes(np.array([0.1, 0.2, 0.6, 0.05, 0.05]), np.arange(5) == 4, most=3) == [1, 2, 4]
