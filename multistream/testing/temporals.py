"""The contract of temporal modules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from multistream.interfaces import Temporal
from multistream.registry import Kind
from multistream.testing.base import Contract, is_affine

WIDTH, STEPS = 64, 4
"""The width of tokens of `gap:64`, divisible by 2, 4, 8, ... attention heads."""


class TemporalContract(Contract):
    """The requirements of a `multistream.Temporal`: its width, its linearity, dependence on every step."""

    kind: ClassVar[Kind] = "temporal"

    def given(self) -> Mapping[str, Any]:
        return {"width": WIDTH, "steps": STEPS}

    def tokens(self) -> Tensor:
        """Draws random tokens (2, T, W)."""
        return torch.randn(2, STEPS, WIDTH, generator=torch.Generator().manual_seed(1))

    def test_is_a_temporal(self) -> None:
        """it is a multistream.Temporal"""
        temporal = self.made()
        assert isinstance(temporal, Temporal), f"it is a {type(temporal).__name__}; it must be a multistream.Temporal"

    @torch.no_grad()
    def test_output_has_the_declared_width(self) -> None:
        """tokens (B, T, W) give (B, out_width), for one step too"""
        temporal = self.made().eval()
        shape = tuple(temporal(self.tokens()).shape)
        assert shape == (2, temporal.out_width), f"it gives {shape}, out_width is {temporal.out_width}"

    def test_result_depends_on_every_step(self) -> None:
        """the result depends on every step's token"""
        tokens = self.tokens().requires_grad_()
        result = self.made().eval()(tokens)
        weights = torch.randn(result.shape, generator=torch.Generator().manual_seed(2))
        (gradient,) = torch.autograd.grad((result * weights).sum(), tokens)
        silent = [step for step in range(STEPS) if float(gradient[:, step].abs().sum()) == 0]
        assert not silent, f"steps {silent} do not affect the result"

    @torch.no_grad()
    def test_rows_are_independent(self) -> None:
        """an image's vector does not depend on the others in the batch"""
        temporal, tokens = self.trained().eval(), self.tokens()
        assert torch.allclose(temporal(tokens)[:1], temporal(tokens[:1]), atol=1e-6), "rows are mixed"

    @torch.no_grad()
    def test_attention_has_one_weight_per_step(self) -> None:
        """attention, if it returns weights, is (B, T)"""
        weights = self.made().eval().attention(self.tokens())
        shape = None if weights is None else tuple(weights.shape)
        assert shape in (None, (2, STEPS)), f"attention gives {shape}, it must be (2, {STEPS})"

    def test_linear_means_affine(self) -> None:
        """if `linear` is True, the vector is an affine function of the tokens"""
        temporal = self.trained().eval()
        affine = is_affine(temporal, 2, STEPS, WIDTH)
        assert affine or not temporal.linear, "linear is True, but the vector is not an affine function of the tokens"
