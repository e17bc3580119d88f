"""The contract of taps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from multistream.interfaces import Tap
from multistream.registry import Kind
from multistream.testing.base import Contract, is_affine

CHANNELS = 6


class TapContract(Contract):
    """The requirements of a `multistream.Tap`: pool before project, float32, affine if declared so."""

    kind: ClassVar[Kind] = "tap"

    def given(self) -> Mapping[str, Any]:
        return {"channels": CHANNELS}

    def trained(self) -> Tap:
        """Builds a tap that is also fitted, so that `mean` and `scale` differ from the 0 and 1 of a new tap."""
        tap: Tap = super().trained()
        pooled = torch.randn(50, tap.pooled_width, generator=torch.Generator().manual_seed(5)) * 3 + 1
        tap.fit(pooled, standardise=True)
        return tap

    def map(self) -> Tensor:
        """Draws a random map (2, C, 5, 4)."""
        return torch.randn(2, CHANNELS, 5, 4, generator=torch.Generator().manual_seed(1))

    def test_is_a_tap(self) -> None:
        """it is a multistream.Tap"""
        assert isinstance(self.made(), Tap), f"it is a {type(self.made()).__name__}; it must be a multistream.Tap"

    @torch.no_grad()
    def test_outputs_have_the_declared_widths(self) -> None:
        """pool returns (B, pooled_width), project returns (B, width)"""
        tap = self.made().eval()
        pooled = tap.pool(self.map())
        assert tuple(pooled.shape) == (2, tap.pooled_width), f"pool gives {tuple(pooled.shape)}"
        token = tap.project(pooled)
        assert tuple(token.shape) == (2, tap.width), f"project gives {tuple(token.shape)}, width is {tap.width}"

    @torch.no_grad()
    def test_forward_is_pool_then_project(self) -> None:
        """tap(map) equals project(pool(map)), so that cached pooled features are sufficient"""
        tap = self.trained().eval()
        assert torch.equal(tap(self.map()), tap.project(tap.pool(self.map()))), (
            "forward does more than pool and project"
        )

    def test_cacheable_pooling_has_no_parameters(self) -> None:
        """if `cacheable` is True, pool uses no trainable parameter"""
        tap = self.made()
        learns = tap.pool(self.map()).requires_grad
        assert not (learns and tap.cacheable), "pool uses a parameter that trains: set cacheable = False"

    @torch.no_grad()
    def test_pooling_reduces_in_float32(self) -> None:
        """a bfloat16 map is pooled in float32"""
        pooled = self.made().pool(self.map().bfloat16())
        assert pooled.dtype == torch.float32, f"pooled features are {pooled.dtype}"

    def test_linear_means_affine(self) -> None:
        """if `linear` is True, the token is an affine function of the map"""
        tap = self.trained().eval()
        affine = is_affine(tap, 2, CHANNELS, 5, 4)
        assert affine or not tap.linear, "linear is True, but the token is not an affine function of the map"

    @torch.no_grad()
    def test_pixels_sum_to_the_pooled_feature(self) -> None:
        """locate distributes a weighted pooled feature over the pixels, which sum to it"""
        tap = self.trained()
        if tap.linear:
            weights = torch.randn(3, tap.pooled_width, generator=torch.Generator().manual_seed(2))
            located = tap.locate(weights, self.map())
            features = tap.pool(self.map()) @ weights.T
            assert torch.allclose(located.sum((2, 3)), features, atol=1e-4), (
                "the pixels of locate do not sum to the feature"
            )

    @torch.no_grad()
    def test_fit_standardises_features_and_zeroes_constant_ones(self) -> None:
        """fit standardises pooled features; a constant channel gets scale 0"""
        tap = self.made()
        pooled = torch.randn(50, tap.pooled_width, generator=torch.Generator().manual_seed(3)) * 3 + 1
        pooled[:, 0] = 2.0
        tap.fit(pooled, standardise=True)
        standardised = tap.standardise(pooled)
        assert float(tap.scale[0]) == 0, "a constant channel must get scale 0"
        assert torch.allclose(standardised[:, 1:].mean(0), torch.zeros(tap.pooled_width - 1), atol=1e-4), (
            "the mean is not 0"
        )
        assert torch.allclose(tap.baseline, pooled.mean(0), atol=1e-4), "baseline is not the mean"
