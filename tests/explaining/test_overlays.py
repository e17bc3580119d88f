"""Overlays: shared and separate colour scales, and the colours of the caption."""

from __future__ import annotations

import numpy as np
import torch

from multistream.explaining.overlays import AGAINST, FOR, blended, limits_of

DENSE = {"left": {"low": torch.full((8, 8), 2.0), "high": torch.full((2, 2), -0.5)}, "right": {"low": torch.ones(4, 4)}}


def test_colour_scale_is_shared_or_separate_for_each_map() -> None:
    assert limits_of(DENSE, colour_scale="shared") == {"left": {"low": 2.0, "high": 2.0}, "right": {"low": 2.0}}
    assert limits_of(DENSE, colour_scale="map") == {"left": {"low": 2.0, "high": 0.5}, "right": {"low": 1.0}}


def test_positive_is_orange_negative_is_blue_and_zero_is_grey() -> None:
    photo = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    speaks = {value: blended(photo, torch.full((4, 4), value), limit=1.0) for value in (-1.0, 0.0, 1.0)}
    grey = speaks[0.0]
    assert np.allclose(grey, grey.mean(2, keepdims=True), atol=1e-6)
    for value, colour in ((1.0, FOR), (-1.0, AGAINST)):
        to_colour = np.abs(speaks[value] - np.array(colour)).mean()
        assert to_colour < 0.1 * np.abs(grey - np.array(colour)).mean() + 0.05


def test_zero_map_is_drawn_uniform() -> None:
    """There is no division by zero, and noise is not amplified to full colour."""
    limits = limits_of({"left": {"low": torch.zeros(4, 4)}}, colour_scale="map")
    drawn = blended(None, torch.zeros(4, 4), limit=limits["left"]["low"])
    assert np.allclose(drawn, 0.92)
