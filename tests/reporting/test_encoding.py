"""Compact encoding of maps and thumbnails: sums are kept, errors are bounded."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from multistream.reporting.encoding import affordable_side, block_sums, encode_maps


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 30))
def test_block_sums_keep_the_total(height: int, width: int, side: int) -> None:
    maps = torch.randn(2, height, width, generator=torch.Generator().manual_seed(0))
    small = block_sums(maps, side=side)
    assert small.shape == (2, min(height, side), min(width, side))
    assert small.sum((1, 2)).tolist() == pytest.approx(maps.double().sum((1, 2)).tolist(), abs=1e-9)


def test_rounding_is_at_most_half_a_step() -> None:
    maps = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(0))
    encoded = encode_maps(maps, side=28)
    assert (encoded.rows, encoded.columns) == (7, 5)
    assert encoded.error <= 0.5 / 127 + 1e-9
    assert encode_maps(torch.zeros(1, 2, 2), side=4).error == 0
    assert affordable_side([(56, 56), (7, 7)], classes=8, budget=8 * (400 + 49)) == 20
