"""The contract of losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from multistream.interfaces import Loss
from multistream.registry import Kind
from multistream.testing.base import Contract

IMAGES, CLASSES = 6, 3


class LossContract(Contract):
    """The requirements of a `multistream.Loss`: a finite scalar that decreases along its gradient."""

    kind: ClassVar[Kind] = "loss"

    def given(self) -> Mapping[str, Any]:
        return {"weights": None, "label_smoothing": 0.0, "counts": torch.tensor([3.0, 2.0, 1.0])}

    def logits(self) -> Tensor:
        """Draws random logits (B, K)."""
        return torch.randn(IMAGES, CLASSES, generator=torch.Generator().manual_seed(1))

    def labels(self) -> Tensor:
        """Returns labels with every class twice, (B,)."""
        return torch.arange(IMAGES) % CLASSES

    def test_is_a_loss(self) -> None:
        """it is a multistream.Loss"""
        loss = self.made()
        assert isinstance(loss, Loss), f"it is a {type(loss).__name__}; it must be a multistream.Loss"

    @torch.no_grad()
    def test_gives_a_finite_scalar(self) -> None:
        """logits (B, K) and labels (B,) give a finite scalar, for logits of 1,000 and float16 too"""
        for logits in (self.logits(), 1000 * self.logits(), self.logits().half()):
            value = self.made()(logits, self.labels())
            assert value.shape == (), f"it gives {tuple(value.shape)}, it must be a scalar"
            assert bool(torch.isfinite(value)), f"it gives {float(value)} for logits up to {float(logits.max()):.0f}"

    @torch.no_grad()
    def test_accepts_distributions(self) -> None:
        """one-hot targets (B, K) give the same loss as labels (B,)"""
        loss, logits, labels = self.trained(), self.logits(), self.labels()
        one, other = loss(logits, labels), loss(logits, functional.one_hot(labels, CLASSES).float())
        assert torch.allclose(one, other, atol=1e-5), (
            f"labels give {float(one)}, the same as distributions {float(other)}"
        )

    def test_decreases_along_its_gradient(self) -> None:
        """a gradient step decreases it"""
        loss, logits = self.made(), self.logits().requires_grad_()
        before = loss(logits, self.labels())
        before.backward()
        assert logits.grad is not None, "no gradient reaches the logits"
        after = loss(logits.detach() - 0.01 * logits.grad, self.labels())
        found = float(before.detach()), float(after.detach())
        assert found[1] < found[0], f"it goes from {found[0]} to {found[1]}"
