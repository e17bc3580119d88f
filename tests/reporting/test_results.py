"""Calibration bins."""

from __future__ import annotations

import numpy as np
import pytest

from multistream.reporting.results import calibration_bins
from multistream.runs.predictions_file import Predictions


def test_calibration_bins_contain_all_images() -> None:
    """The highest probability is 1 for all; 10 of 50 are wrong."""
    labels = tuple("ab"[i % 2] for i in range(50))
    predicted = [1 - i % 2 if i < 10 else i % 2 for i in range(50)]
    names = tuple(f"{i}.png" for i in range(50))
    bins = calibration_bins(Predictions(names, names, labels, np.eye(2)[predicted], ("a", "b")))
    assert sum(each.n for each in bins) == 50
    assert bins[-1].accuracy == pytest.approx(0.8)
