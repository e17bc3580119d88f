"""Taps: modules that turn a feature map into a token."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from multistream.interfaces import Tap


class GlobalAverage(Tap):
    """Multi-GAP's tap, `gap:64`: global average, then the 1x1 convolution, here a linear layer (paper eq. 1).

    It has a bias, no activation, and Glorot uniform initialisation (paper section 2).

    >>> import torch
    >>> GlobalAverage(24, width=64)(torch.ones(2, 24, 7, 7)).shape
    torch.Size([2, 64])
    """

    linear: ClassVar[bool] = True

    def __init__(self, channels: int, *, width: int = 64) -> None:
        super().__init__(channels, width=width)
        self.projection = nn.Linear(channels, width)
        nn.init.xavier_uniform_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)

    @property
    def affine_layer(self) -> nn.Linear:
        """The 1x1 convolution, as a linear layer."""
        return self.projection

    def project(self, pooled_BP: Tensor) -> Tensor:
        """(B, P) -> (B, width)."""
        projected: Tensor = self.projection(self.standardise(pooled_BP))
        return projected


class LastStage(Tap):
    """`last`: the pooled last stage, without projection: the usual classifier, the baseline for Multi-GAP."""

    linear: ClassVar[bool] = True
    last_only: ClassVar[bool] = True

    def __init__(self, channels: int) -> None:
        super().__init__(channels, width=channels)


class ClassToken(LastStage):
    """`cls`: the model's class token, or its attention pool if it has one, without projection: the usual linear probe.

    The stream returns it as a last stage `cls` with a map of 1 x 1, so its contribution is exact for the whole photo
    but has no location in it. Integrated gradients and Grad-CAM with `flow="total"` locate it approximately, at the
    earlier stages.
    """

    reads: ClassVar[str] = "cls"


class ModelEmbedding(LastStage):
    """`embed`: the model's own pooled and projected image embedding (CLIP, SigLIP), from a last stage `embed`."""

    reads: ClassVar[str] = "embed"


class VectorTap(Tap):
    """The tap of a stream whose output is a vector: both pooled feature and token (paper: EF uses it unchanged).

    `raw_mean` (D,) is the mean of the training photos' vectors before any scaling. It replaces a missing vector if
    `data.missing_vectors` is mean.
    """

    linear: ClassVar[bool] = True

    raw_mean: Tensor

    def __init__(self, width: int) -> None:
        super().__init__(width, width=width)
        self.register_buffer("raw_mean", torch.zeros(width))

    def pool(self, map_BChw: Tensor) -> Tensor:
        """(B, D) -> (B, D) float32, the same values."""
        return map_BChw.float()


class MaskedTap(Tap):
    """A tap that ignores its input and projects the training mean (`MultiStream.mask`)."""

    def __init__(self, tap: Tap) -> None:
        super().__init__(tap.pooled_width, width=tap.width)
        self.tap = tap
        self.linear, self.cacheable = tap.linear, tap.cacheable  # type: ignore[misc]

    def pool(self, map_BChw: Tensor) -> Tensor:
        """As in the tap that it masks."""
        return self.tap.pool(map_BChw)

    def locate(self, weights: Tensor, map_BChw: Tensor) -> Tensor:
        """As in the tap that it masks."""
        return self.tap.locate(weights, map_BChw)

    def project(self, pooled_BP: Tensor) -> Tensor:
        """(B, P) -> (B, width), the same row B times."""
        return self.tap.project(self.tap.baseline.expand_as(pooled_BP))
